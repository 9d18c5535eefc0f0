"""Caches by the ecosystem's names: grown, cropped, reordered, repeated, copied; seeds."""

from __future__ import annotations

import copy
import pickle
import random

import numpy as np
import pytest
import torch

import omniform
from cached import DECODERS, both, rows
from omniform import Cache, DynamicCache, EncoderDecoderCache, QuantizedCache, StaticCache, set_seed
from omniform.core.errors import InputError
from reference import transformers

IDS = torch.tensor([[1, 5, 9, 33, 7], [7, 8, 2, 3, 1]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = omniform.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return omniform.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("make", [DynamicCache, lambda: StaticCache(max_cache_len=9), lambda: None])
@torch.no_grad()
def test_a_cache_goes_in_and_comes_out(model, make):
    right = model(IDS).logits[:, 3:]
    given = make()
    cache = model(IDS[:, :3], past_key_values=given).past_key_values
    assert isinstance(cache, Cache) and (given is None or cache is given)
    assert cache.get_seq_length() == 3 and len(cache) == 2 and cache[1][0].shape == (2, 2, 3, 8)
    for again in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache)), DynamicCache(cache.to_legacy_cache())):
        torch.testing.assert_close(model(IDS[:, 3:], past_key_values=again).logits, right)
    assert cache.get_seq_length() == 3  # copies are apart
    model(IDS[:, 3:], past_key_values=cache)
    cache.crop(3)
    torch.testing.assert_close(model(IDS[:, 3:], past_key_values=cache).logits, right)
    cache.crop(-2)
    cache.reorder_cache(torch.tensor([1, 0]))
    torch.testing.assert_close(model(IDS[[1, 0], 3:], past_key_values=cache).logits, right[[1, 0]])
    cache.crop(3)
    cache.batch_repeat_interleave(2)
    torch.testing.assert_close(model(IDS[[1, 1, 0, 0], 3:], past_key_values=cache).logits, right[[1, 1, 0, 0]])
    cache.reset()
    assert cache.get_seq_length() == 0 and len(cache) == 2 and cache.layers[0].keys is None


def test_seeds():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    set_seed(5)
    first = draws()
    set_seed(5)
    assert draws() == first
    for wrong in (-1, 2**32, 1.5, "5", None, True, torch.tensor(5)):
        with pytest.raises(InputError, match="seed"):
            set_seed(wrong)


KINDS = {
    "dynamic": DynamicCache,
    "static": lambda: StaticCache(max_cache_len=12),
    "offloaded": lambda: DynamicCache(offloading=True),
    "offloaded static": lambda: StaticCache(max_cache_len=12, offloading=True),
    "quantized, all new": lambda: QuantizedCache(residual_length=64, q_group_size=512),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_every_cache_keeps_every_state(name, kind):
    """Windows, latents, convolutions and recurrent states, in pieces, and copied in every way that torch knows."""
    ours, _ = both(name)
    ids, cache = rows(2, 9), KINDS[kind]()
    right = ours(ids).logits
    assert ours(ids[:, :4], past_key_values=cache, use_cache=True).past_key_values is cache
    assert (
        cache.get_seq_length() == 4
        and cache.batch_size == 2
        and len(cache.layers) == len(cache) == len(ours.model.layers)
    )
    parts, shape = torch.utils._pytree.tree_flatten(cache)
    again = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache)), torch.utils._pytree.tree_unflatten(parts, shape)]
    for each in (cache, *again):
        assert type(each) is type(cache) and each.get_max_length() == cache.get_max_length()
        found = [ours(ids[:, at:stop], past_key_values=each).logits for at, stop in ((4, 7), (7, 8), (8, 9))]
        torch.testing.assert_close(torch.cat(found, 1), right[:, 4:], rtol=1e-4, atol=1e-4)
    assert cache.is_croppable == (name not in ("qwen3_next", "mamba2", "falcon_h1"))


def test_layers_are_the_references():
    """What scripts look at in a cache: layers, keys, lengths, windows; the reference's numbers."""
    for name in ("llama", "gemma2", "falcon_h1"):
        ours, theirs = both(name)
        with torch.no_grad():
            mine = ours(rows(2, 7)).past_key_values
            other = theirs(rows(2, 7), use_cache=True).past_key_values
        assert len(mine) == len(other) and mine.get_seq_length() == other.get_seq_length() == 7
        windows = [getattr(layer, "sliding_window", None) for layer in other.layers]
        assert [layer.sliding_window for layer in mine.layers] == windows
        for layer, there, (k, v, window) in zip(mine.layers, other.layers, mine, strict=True):
            seen = there.keys.shape[2]  # the reference lets go of what lies behind a window
            torch.testing.assert_close(layer.keys[:, :, -seen:], there.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(layer.values[:, :, -seen:], there.values, rtol=1e-4, atol=1e-4)
            assert k is not None and v is not None and (window is None) == (layer.sliding_window is None)
    assert (
        mine.has_previous_state(0)
        and mine.layers[0].recurrent_states[0].shape == other.layers[0].recurrent_states[0].shape
    )


@torch.no_grad()
def test_a_script_may_write_into_a_cache():
    ours, _ = both("llama")
    ids, right = rows(2, 6), both("llama")[0](rows(2, 6)).logits
    first = ours(ids[:, :4]).past_key_values
    loose = DynamicCache()
    for number, (k, v, _) in enumerate(first):
        assert loose.update(k[:, :, :3], v[:, :, :3], number)[0].shape[2] == 3
        loose.layers[number].update(k[:, :, 3:], v[:, :, 3:])
    assert loose.get_seq_length() == loose.get_seq_length(2) == 4
    torch.testing.assert_close(ours(ids[:, 4:], past_key_values=loose).logits, right[:, 4:], rtol=1e-4, atol=1e-4)
    for layer in first.layers:
        layer.keys, layer.values = layer.keys[:, :, :2], layer.values[:, :, :2]
    assert first.get_seq_length() == 2
    torch.testing.assert_close(ours(ids[:, 2:], past_key_values=first).logits, right[:, 2:], rtol=1e-4, atol=1e-4)
    static = StaticCache(ours.config, max_cache_len=5)
    assert len(static) == 3 and static.update(torch.ones(1, 2, 2, 8), torch.ones(1, 2, 2, 8), 0)[0].shape == (
        1,
        2,
        5,
        8,
    )
    assert static.layers[0].keys[0, 0, :, 0].tolist() == [1, 1, 0, 0, 0] and static.get_max_cache_shape() == 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: None, EncoderDecoderCache, DynamicCache,
        lambda: EncoderDecoderCache(StaticCache(max_cache_len=6), StaticCache(max_cache_len=9)),
        lambda: EncoderDecoderCache(QuantizedCache(residual_length=9, q_group_size=512), DynamicCache(offloading=True)),
    ],
)  # fmt: skip
@torch.no_grad()
def test_the_cache_of_an_encoder_decoder(make):
    ours, theirs = both("t5")
    ids, told, given = rows(2, 9), rows(2, 6, 1), make()
    right = theirs(ids, decoder_input_ids=told).logits
    cache = ours(ids, decoder_input_ids=told[:, :3], past_key_values=given, use_cache=True).past_key_values
    assert given is None or cache is given
    more = {"encoder_outputs": ours.get_encoder()(ids), "decoder_input_ids": told[:, 3:]}
    parts, shape = torch.utils._pytree.tree_flatten(cache)
    again = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache)), torch.utils._pytree.tree_unflatten(parts, shape)]
    if isinstance(cache, EncoderDecoderCache):
        other = theirs(ids, decoder_input_ids=told[:, :3], use_cache=True).past_key_values
        own = [(layer.keys, layer.values) for layer in other.cross_attention_cache.layers]
        assert cache.is_updated == other.is_updated and len(cache) == 2 and cache.get_seq_length() == 3
        assert [layer.length for layer in cache.cross_attention_cache.layers] == [9, 9]
        for (k, v), mine in zip(own, cache.to_legacy_cache(), strict=True):
            torch.testing.assert_close(mine[2], k, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(mine[3], v, rtol=1e-4, atol=1e-4)
        again.append(EncoderDecoderCache.from_legacy_cache(cache.to_legacy_cache()))
    for each in (*again, cache):
        torch.testing.assert_close(ours(**more, past_key_values=each).logits, right[:, 3:], rtol=1e-4, atol=1e-4)
    cache.crop(-3)
    cache.reorder_cache(torch.tensor([1, 0]))
    turned = {"encoder_outputs": (more["encoder_outputs"][0][[1, 0]],), "decoder_input_ids": told[[1, 0], 3:]}
    found = ours(**turned, past_key_values=cache).logits
    torch.testing.assert_close(found, right[[1, 0], 3:], rtol=1e-4, atol=1e-4)
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.cross(1) is None


def kept(how: dict[str, object], tokens: list[int], width: int = 64, dtype: torch.dtype = torch.bfloat16):
    """Keys and values that went through a quantized cache, and what they were."""
    cache, given = QuantizedCache(**how), []
    generator = torch.Generator().manual_seed(3)
    for count in tokens:
        pair = [torch.randn(2, 3, count, width, generator=generator).to(dtype) for _ in range(2)]
        given.append(pair)
        cache.update(*pair, 0)
    return cache, [torch.cat([pair[i] for pair in given], 2) for i in range(2)]


@pytest.mark.parametrize("axes", [("quanto", 0, 0), ("quanto", -1, 0), ("hqq", 1, 0), ("hqq", 0, 1)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_few_bits(bits, axes):
    backend, key, value = axes
    how = {"backend": backend, "nbits": bits, "axis_key": key, "axis_value": value, "q_group_size": 32}
    cache, given = kept({**how, "residual_length": 40}, [70, *[1] * 95], dtype=torch.float32)
    for found, right in zip(cache[0], given, strict=True):
        # Half a step of a group is the most that any number is off; groups span less than all numbers do.
        step, off = (right.max() - right.min()) / (2**bits - 1), (found - right).abs()
        assert found.shape == right.shape and 0 < off.max() < step / 2 and off.mean() < step / 5
    back = copy.deepcopy(cache)
    for length in (140, 101, 7):
        cache.crop(length)
        assert cache.get_seq_length() == length
        torch.testing.assert_close(cache[0][0], back[0][0][:, :, :length], atol=1e-6, rtol=0)
    cache.select(torch.tensor([1]))
    torch.testing.assert_close(cache[0][1], back[0][1][1:, :, :7])
    cache.update(given[0][1:, :, :90], given[1][1:, :, :90], 0)
    assert cache.get_seq_length() == 97 and cache.batch_size == 1


def test_constant_and_odd_numbers_in_few_bits():
    cache = QuantizedCache(nbits=2, q_group_size=8, residual_length=0)
    same = torch.full((1, 1, 8, 8), 3.5, dtype=torch.float16)
    cache.update(same, torch.zeros_like(same), 0)
    assert torch.equal(cache[0][0], same) and not cache[0][1].any()


def test_few_bits_take_little_memory():
    """What is held: at 4 bits less than a third of what it was in 16."""
    for how, share in (({}, 0.33), ({"nbits": 2}, 0.2), ({"nbits": 8}, 0.55), ({"backend": "fp8"}, 0.51)):
        cache, given = kept(how, [3000, *[1] * 20])
        assert cache.nbytes() < share * sum(x.numel() * 2 for x in given), how
        assert cache.get_seq_length() == 3020


@torch.no_grad()
def test_eight_bit_floats_are_the_references():
    ours, theirs = both("llama")
    ids, found = rows(2, 9), []
    for model, cache in ((ours, QuantizedCache("fp8")), (theirs, transformers.QuantizedCache("fp8", theirs.config))):
        model(ids[:, :6], past_key_values=cache, use_cache=True)
        found.append([model(ids[:, at : at + 1], past_key_values=cache).logits for at in range(6, 9)])
    torch.testing.assert_close(torch.cat(found[0]), torch.cat(found[1]), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_what_does_not_go_together_is_said():
    llama, gemma, t5 = (both(name)[0] for name in ("llama", "gemma2", "t5"))
    ids, cache = rows(2, 5), llama(rows(2, 5)).past_key_values
    for model, given, words in (
        (gemma, {"past_key_values": cache}, "another model.*2x12 and 2x12.*2x8 and 2x8"),
        (both("deepseek")[0], {"past_key_values": cache}, "another model.*1x18.*2x8"),
        (both("mamba2")[0], {"past_key_values": cache}, "another model"),
        (t5, {"past_key_values": cache, "decoder_input_ids": ids}, "another model"),
        (llama, {"past_key_values": t5(ids, decoder_input_ids=ids).past_key_values}, "another model.*4x8"),
        (llama, {"past_key_values": DynamicCache([(torch.ones(2, 2, 3, 8),) * 2] * 2)}, "another model.*2 of 2x8"),
        (llama, {"past_key_values": DynamicCache([(torch.ones(2, 2, 3, 8),) * 2] * 4)}, "keys for layer 3"),
        (llama, {"past_key_values": llama(ids[:1]).past_key_values}, "number of rows.*2.*1"),
        (llama, {"past_key_values": StaticCache(max_cache_len=4)}, "cache is full.*4.*5"),
    ):
        before = given["past_key_values"].get_seq_length()
        with pytest.raises(InputError, match=f"(?s)past_key_values: .*{words}"):
            model(ids, **given)
        assert given["past_key_values"].get_seq_length() == before
    recurrent = both("mamba2")[0](ids, use_cache=True).past_key_values
    with pytest.raises(InputError, match="taken back"):
        recurrent.crop(-1)
    recurrent.crop(0)
    for wrong, words in (
        ({"backend": "bnb"}, "backend"), ({"nbits": 3}, "nbits"), ({"axis_key": 1}, "axis_key"),
        ({"backend": "hqq", "axis_value": -1}, "axis_value"), ({"q_group_size": 3}, "q_group_size"),
        ({"residual_length": -1}, "residual_length"), ({"backend": "fp8", "nbits": 8}, "nbits"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            QuantizedCache(**wrong)
    for wrong in (None, 0, -3, 2.5, True):
        with pytest.raises(InputError, match="max_cache_len"):
            StaticCache(max_cache_len=wrong)
    with pytest.raises(InputError, match="EncoderDecoderCache"):
        EncoderDecoderCache(5)


@torch.no_grad()
def test_a_models_layers_may_be_cut():
    ours = copy.deepcopy(both("llama")[0])
    ours(rows(1, 4))
    ours.model.layers = ours.model.layers[:2]
    first = ours(rows(1, 4)).past_key_values
    assert len(first) == 2
    assert ours(rows(1, 2), past_key_values=first).logits.shape == (1, 2, 97)
