"""``generate(past_key_values=...)``: what was computed once goes on many ways, as a fresh run; beside the reference."""

from __future__ import annotations

import copy

import pytest
import torch

from cached import DECODERS, both, rows
from omniform import (
    DynamicCache,
    EncoderDecoderCache,
    Engine,
    GenerationConfig,
    QuantizedCache,
    StaticCache,
)
from omniform.core.errors import InputError
from omniform.engine.generate import Answers, prepare, stream
from reference import transformers

CALL = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
ENDLESS = {**CALL, "eos_token_id": None}


def ones(ids: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(ids)


def prefix(model, ids: torch.Tensor, make=DynamicCache, **more):
    with torch.no_grad():
        return model(ids, past_key_values=make(), use_cache=True, **more).past_key_values


@pytest.mark.parametrize("name", DECODERS)
def test_a_prefix_goes_on_many_ways(name):
    """The recipe of the ecosystem: a prompt's cache, copied for each continuation; the tokens of a fresh run."""
    ours, theirs = both(name)
    begin, whole = rows(2, 6), []
    kept = prefix(ours, begin)
    for seed in (1, 2):
        ids = torch.cat((begin, rows(2, 3, seed)), 1)
        fresh = ours.generate(ids, attention_mask=ones(ids), **CALL)
        right = theirs.generate(ids, attention_mask=ones(ids), **CALL)
        assert torch.equal(fresh.sequences, right.sequences)
        cache = copy.deepcopy(kept)
        again = ours.generate(ids, attention_mask=ones(ids), past_key_values=cache, **CALL)
        assert torch.equal(again.sequences, right.sequences) and again.past_key_values is cache
        assert cache.get_seq_length() == fresh.past_key_values.get_seq_length() == right.sequences.shape[1] - 1
        if name != "mamba2":  # whose cache cannot tell in the reference
            assert right.past_key_values.get_seq_length() == cache.get_seq_length()
        # Only what is new, and a mask over all: the ecosystem's other way to say the same.
        rest = ours.generate(ids[:, 6:], attention_mask=ones(ids), past_key_values=copy.deepcopy(kept), **CALL)
        assert torch.equal(rest.sequences, right.sequences[:, 6:])
        whole.append(again.sequences)
    assert kept.get_seq_length() == 6 and not torch.equal(*whole)


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_given_back_goes_on(name):
    """Padded rows, one of them longer than the other, turn after turn in one cache."""
    ours, _ = both(name)
    ids, mask = rows(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, :4] = 0
    found = ours.generate(ids.masked_fill(mask == 0, 0), attention_mask=mask, **ENDLESS)
    cache = found.past_key_values
    for turn in range(2):
        ids = torch.cat((found.sequences, rows(2, 3, 5 + turn)), 1)
        mask = torch.cat((mask, torch.ones(2, ids.shape[1] - mask.shape[1], dtype=torch.long)), 1)
        found = ours.generate(ids, attention_mask=mask, past_key_values=cache, **ENDLESS)
        fresh = ours.generate(ids, attention_mask=mask, **ENDLESS)
        assert torch.equal(found.sequences, fresh.sequences) and found.past_key_values is cache
        for mine, other in zip(cache.layers, fresh.past_key_values.layers, strict=True):
            if mine.keys is not None:
                # A window's cache has let go of more where more was behind it to begin with.
                last = 3 if name == "gemma2" else mine.keys.shape[2]
                torch.testing.assert_close(mine.keys[:, :, -last:], other.keys[:, :, -last:], rtol=1e-3, atol=1e-3)
            for slot, state in mine.recurrent_states.items():
                torch.testing.assert_close(state, other.recurrent_states[slot], rtol=1e-3, atol=1e-3)
        # And a plain forward goes on from there too.
        more = torch.cat((found.sequences[:, -1:], rows(2, 2, 9)), 1)
        seen = torch.cat((mask, torch.ones(2, found.sequences.shape[1] + 2 - mask.shape[1], dtype=torch.long)), 1)
        places = (seen.cumsum(1) - 1).clamp(min=0)
        whole = torch.cat((found.sequences, more[:, 1:]), 1)
        told = {"attention_mask": seen} if name == "mamba2" else {"attention_mask": seen, "position_ids": places}
        at = {} if name == "mamba2" else {"position_ids": places[:, -3:]}
        with torch.no_grad():
            right = ours(whole, **told).logits[:, -3:]
            logits = ours(more, past_key_values=copy.deepcopy(cache), **{**told, **at}).logits
        torch.testing.assert_close(logits, right, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen3_next"])
def test_a_conversation_in_one_cache(name):
    """A loop that passes one cache again and again, and expects it to grow; both libraries side by side."""
    found = []
    for model, kind in zip(both(name), (DynamicCache, transformers.DynamicCache), strict=True):
        cache, talk, lengths = kind(config=model.config), rows(1, 5), []
        for turn in range(3):
            out = model.generate(talk, attention_mask=ones(talk), past_key_values=cache, max_new_tokens=4)
            lengths.append(cache.get_seq_length())
            talk = torch.cat((out, rows(1, 2, turn)), 1)
        found.append((talk.tolist(), lengths))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek", "falcon_h1"])
def test_beams_and_draws_begin_with_a_cache(name):
    ours, theirs = both(name)
    ids = rows(2, 8)
    kept = prefix(ours, ids[:, :5])
    right = theirs.generate(ids, attention_mask=ones(ids), num_beams=3, num_return_sequences=2, **CALL)
    wide = copy.deepcopy(kept)
    wide.batch_repeat_interleave(3)
    for cache in (copy.deepcopy(kept), wide):
        found = ours.generate(ids, num_beams=3, num_return_sequences=2, past_key_values=cache, **CALL)
        assert torch.equal(found.sequences, right.sequences) and found.past_key_values is cache
        assert cache.batch_size == 6 and cache.get_seq_length() == right.past_key_values.get_seq_length()
    for mine, other in zip(cache.layers, right.past_key_values.layers, strict=True):
        if name == "llama":  # which beams would go on after the last step, ties decide
            torch.testing.assert_close(mine.keys[:, :, :9], other.keys[:, :, :9], rtol=1e-3, atol=1e-3)
    drawn = []
    for given in ({}, {"past_key_values": kept}):
        call = {**ENDLESS, "do_sample": True, "seed": 3, "num_return_sequences": 3}
        drawn.append(ours.generate(ids, **call, **given).sequences)
    assert torch.equal(*drawn) and kept.batch_size == 6
    more = torch.cat((drawn[0], rows(6, 2, 1)), 1)
    mask = ones(more)
    found = [
        ours.generate(more, attention_mask=mask, **ENDLESS, **g).sequences for g in ({}, {"past_key_values": kept})
    ]
    assert torch.equal(*found)


def test_rows_that_ended_are_read_on():
    """What a row that had ended did not compute is not in the cache, and is computed when it is needed."""
    ours, _ = both("llama")
    ids = rows(2, 6)
    longest = ours.generate(ids, **ENDLESS)
    ends = int(longest.sequences[0, 8])
    found = ours.generate(ids, **{**CALL, "eos_token_id": ends, "max_new_tokens": 9})
    assert found.sequences[0, 9:].eq(0).all() and found.sequences.shape[1] > 10
    cache, more = found.past_key_values, torch.cat((found.sequences, rows(2, 2, 3)), 1)
    cache = copy.deepcopy(cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    more = more[[1, 0]]
    again = [ours.generate(more, attention_mask=ones(more), **ENDLESS, **g) for g in ({}, {"past_key_values": cache})]
    assert torch.equal(again[0].sequences, again[1].sequences)


def test_rows_that_ended_talk_on():
    """A batch of conversations in one cache: padding stands between the turns of those that end before others."""
    found = []
    for model, kind in zip(both("llama"), (DynamicCache, transformers.DynamicCache), strict=True):
        cache, talk = kind(config=model.config), rows(3, 5)
        mask = ones(talk)
        for turn in range(3):
            call = {"past_key_values": cache, "max_new_tokens": 5, "eos_token_id": [40, 47, 54, 90], "pad_token_id": 0}
            out = model.generate(talk, attention_mask=mask, do_sample=False, **call)
            written = out[:, talk.shape[1] :]
            mask = torch.cat((mask, (written != 0).long(), torch.ones(3, 2, dtype=torch.long)), 1)
            talk = torch.cat((out, rows(3, 2, turn)), 1)
        found.append((talk.tolist(), mask.tolist()))
    assert found[0] == found[1] and any(0 in row[5:] for row in found[0][1])


@pytest.mark.parametrize("side", ["left", "right"])
def test_encoder_decoders(side):
    ours, theirs = both("t5")
    ids, mask = rows(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, slice(0, 3) if side == "left" else slice(6, 9)] = 0
    asks = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    found = ours.generate(**asks, past_key_values=cache, **CALL)
    right = theirs.generate(**asks, **CALL)
    assert torch.equal(found.sequences, right.sequences) and found.past_key_values is cache
    theirs_own, theirs_cross = right.past_key_values.self_attention_cache, right.past_key_values.cross_attention_cache
    assert cache.get_seq_length() == right.past_key_values.get_seq_length()
    for mine, own, cross in zip(cache.to_legacy_cache(), theirs_own.layers, theirs_cross.layers, strict=True):
        real = mask[:, None, :, None] != 0
        for x, y in (
            (mine[0], own.keys),
            (mine[1], own.values),
            (mine[2], cross.keys * real),
            (mine[3], cross.values * real),
        ):
            torch.testing.assert_close(x * (real if x.shape[2] == 9 else 1), y, rtol=1e-3, atol=1e-3)
    longer = {**CALL, "max_new_tokens": 11}
    whole = ours.generate(**asks, **longer)
    for beams in (1, 3):
        call = {**asks, "decoder_input_ids": found.sequences, "num_beams": beams, **CALL, "max_new_tokens": 5}
        again = ours.generate(**call, past_key_values=copy.deepcopy(cache))
        assert torch.equal(again.sequences, ours.generate(**call).sequences)
        assert beams > 1 or torch.equal(again.sequences, whole.sequences)
    with pytest.raises(InputError, match="past_key_values"):
        ours.generate(**asks, past_key_values=cache, **CALL)


KINDS = {
    None: DynamicCache, "dynamic": DynamicCache, "offloaded": DynamicCache, "static": StaticCache,
    "offloaded_static": StaticCache, "hybrid": StaticCache, "quantized": QuantizedCache,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_by_name(kind):
    ours, _ = both("llama")
    ids = rows(2, 6)
    right = ours.generate(ids, **CALL).sequences
    how = {"nbits": 8, "q_group_size": 8, "residual_length": 2} if kind == "quantized" else None
    given = GenerationConfig(
        cache_implementation=kind, cache_config=how, max_cache_len=20 if kind == "static" else None
    )
    found = ours.generate(ids, generation_config=given, **CALL)
    cache = found.past_key_values
    assert torch.equal(found.sequences, right) and type(cache) is KINDS[kind] and len(cache) == 3
    assert cache.get_max_length() == {"static": 20, "offloaded_static": 11, "hybrid": 11}.get(str(kind), -1)
    seq2seq = both("t5")[0].generate(ids, **CALL, cache_implementation=kind).past_key_values
    assert type(seq2seq) is EncoderDecoderCache and type(seq2seq.self_attention_cache) is KINDS[kind]
    if "static" in str(kind):
        assert cache.layers[0].keys.shape[2] == cache.max_cache_len
    ours.generate(ids, max_new_tokens=3, cache_implementation="paged")


def test_a_static_cache_stays_where_it_is():
    ours, _ = both("llama")
    ids, cache = rows(1, 5), StaticCache(both("llama")[0].config, max_cache_len=30)
    found = ours.generate(ids, past_key_values=cache, **ENDLESS)
    where = [layer.keys.data_ptr() for layer in cache.layers]
    more = torch.cat((found.sequences, rows(1, 2)), 1)
    again = ours.generate(more, past_key_values=cache, **ENDLESS)
    assert torch.equal(again.sequences, ours.generate(more, **ENDLESS).sequences)
    assert where == [layer.keys.data_ptr() for layer in cache.layers] and cache.get_seq_length() == 18
    assert not cache.layers[0].keys[:, :, 18:].any()


def test_nobody_asked_for_a_cache():
    ours, _ = both("llama")
    assert ours.generate(rows(1, 4), **CALL, use_cache=False).past_key_values is None
    cache = DynamicCache()
    assert isinstance(ours.generate(rows(1, 4), past_key_values=cache, max_new_tokens=3), torch.Tensor)
    assert cache.get_seq_length() == 6
    steps = list(stream(ours, rows(1, 8), past_key_values=cache, max_new_tokens=2, do_sample=False))
    assert len(steps) == 2 and cache.get_seq_length() == 9
    mamba = both("mamba2")[0]
    state = prefix(mamba, rows(1, 5))
    found = mamba.generate(rows(1, 7), cache_params=state, **CALL)
    assert torch.equal(found.sequences, mamba.generate(rows(1, 7), **CALL).sequences)
    assert found.past_key_values is state and state.get_seq_length() == found.sequences.shape[1] - 1


def test_a_given_state_is_used_as_it_is_and_nobody_elses():
    """A cache of other numbers shows in the tokens of its own rows, and in no other request of the engine."""
    ours, _ = both("llama")
    ids = rows(1, 25)
    right = ours.generate(ids, **ENDLESS).sequences
    strange = prefix(ours, rows(1, 24, 7))
    job = prepare(ours, ids, None, {**ENDLESS, "past_key_values": copy.deepcopy(strange)})
    engine = Engine(ours, memory="1MB")
    odd = Answers()
    engine.enqueue(job.prompts[0], job.settings, odd)
    while not odd.done:
        engine.step()
    plain = engine.generate(ids[0].tolist(), max_new_tokens=6, eos_token_id=None)
    assert plain.tokens == right[0, 25:].tolist() != odd.finished().tokens
    assert plain.cached_tokens == 0 and odd.finished().cached_tokens == 24
    direct = ours.generate(ids, past_key_values=strange, **ENDLESS).sequences
    assert direct[0, 25:].tolist() == odd.finished().tokens


def test_a_given_state_survives_a_lack_of_memory():
    """Rows that are preempted take their state over again."""
    ours, _ = both("gemma2")
    ids = rows(6, 30)
    kept = prefix(ours, ids[:, :27])
    right = ours.generate(ids, **ENDLESS, past_key_values=copy.deepcopy(kept)).sequences
    job = prepare(ours, ids, None, {**ENDLESS, "past_key_values": kept})
    engine, answers = Engine(ours, memory=90_000, max_tokens_per_step=8), [Answers() for _ in range(6)]
    for prompt, answer in zip(job.prompts, answers, strict=True):
        engine.enqueue(prompt, job.settings, answer)
    while not all(answer.done for answer in answers):
        engine.step()
    assert [a.finished().tokens for a in answers] == right[:, 30:].tolist()
    assert engine.stats().preemptions and not engine.stats().blocks_used


def test_prompts_of_vectors():
    """Vectors as a prompt, with ids beside them and without, padded, and the first of them in a cache."""
    ours, theirs = both("llama")
    ids = rows(2, 7)
    embeds, mask = ours.get_input_embeddings()(ids).detach(), ones(ids)
    mask[0, :3] = 0
    for more in ({}, {"input_ids": ids}, {"attention_mask": mask}, {"attention_mask": mask, "input_ids": ids},
                 {"max_length": 9, "max_new_tokens": None}, {"num_beams": 2}):  # fmt: skip
        call = {"inputs_embeds": embeds, "do_sample": False, "max_new_tokens": 4, **more}
        found, right = (model.generate(**call) for model in (ours, theirs))
        assert torch.equal(found, right), more
        assert (
            found.shape[1] == (11 if "input_ids" in more else 2 if "max_length" in more else 4) or "num_beams" in more
        )
    cache = prefix(ours, None, inputs_embeds=embeds[:, :5])
    found = ours.generate(inputs_embeds=embeds, past_key_values=cache, max_new_tokens=4, eos_token_id=None)
    assert torch.equal(found, ours.generate(inputs_embeds=embeds, max_new_tokens=4, eos_token_id=None))
    assert cache.get_seq_length() == 10


def test_what_a_window_let_go_of_cannot_be_taken_back():
    ours, _ = both("gemma2")
    cache = ours.generate(rows(1, 40), **ENDLESS).past_key_values
    cache.crop(-1)
    with pytest.raises(InputError, match="window"):
        cache.crop(20)
    assert cache.get_seq_length() == 44


def test_what_cannot_be_is_said():
    ours, gemma = both("llama")[0], both("gemma2")[0]
    ids, kept = rows(2, 6), prefix(both("llama")[0], rows(2, 6))
    for given, words in (
        ({"past_key_values": kept}, "nothing is left to read.*more tokens than the cache's 6.*6 tokens"),
        ({"past_key_values": prefix(ours, ids[:1, :3])}, "rows.*2.*1"),
        ({"past_key_values": prefix(gemma, ids[:, :3])}, "another model's.*2x8.*2x12"),
        ({"past_key_values": StaticCache(max_cache_len=8)}, "cache is full.*8.*11"),
        ({"past_key_values": ((ids, ids),)}, "no cache.*DynamicCache"),
        ({"past_key_values": DynamicCache(), "cache_implementation": "static"}, "cache_implementation.*one of them"),
        ({"cache_implementation": "sttaic"}, "cache_implementation"),
        ({"cache_implementation": "quantized", "cache_config": {"nbits": 3}}, "nbits"),
        ({"cache_implementation": "quantized", "cache_config": {"bits": 4}}, "nbits"),
        ({"cache_config": 4}, "cache_config"),
        ({"max_cache_len": -1}, "max_cache_len"),
    ):
        with pytest.raises((InputError, TypeError), match=f"(?s){words}"):
            ours.generate(ids, **CALL, **given)
    for door in (lambda **k: ours.generate_batch([[5, 6]], **k), lambda **k: Engine(ours).submit([5, 6], **k)):
        with pytest.raises(InputError, match=r"past_key_values.*share"):
            door(past_key_values=kept)
    assert kept.get_seq_length() == 6
