"""Mistral against the reference: a Llama whose tokens look back over a window."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from harness import Parity, Table, bare, compiled, decoder_heads
from torch import Tensor
from writers import Prompts

from omniform.core.errors import ConfigError, InputError
from omniform.core.rules import Causal, Window
from omniform.core.state import state_specs
from reference import (
    check_round_trip,
    close,
    compare,
    omniform,
    padded,
    ragged,
    saved_reference,
    trains,
    transformers,
    unaccounted,
)

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": 4, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 8, "factor": 2.0, "rope_theta": 10000.0,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

VARIANTS = {
    "no window": {"sliding_window": None},
    **{f"window {n}": {"sliding_window": n} for n in (1, 2, 3, 4, 7, 11, 12, 13, 100)},
    "one key head": {"num_key_value_heads": 1, "head_dim": 16},
    "all key heads": {"num_key_value_heads": 4},
    "a width that heads do not divide": {"hidden_size": 34},
    "narrow heads": {"head_dim": 6},
    "tied": {"tie_word_embeddings": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-2},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}},
    "dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 8},
    "llama3": {"rope_parameters": LLAMA3},
    "yarn": {"rope_parameters": YARN},
    "longrope": {"rope_parameters": LONGROPE},
}  # fmt: skip


def pair(tmp_path: Path, head: str = "ForCausalLM", scale: float = 0.2, **changes: object):
    config = transformers.MistralConfig(**{**TINY, **changes})
    theirs = saved_reference(getattr(transformers, f"Mistral{head}"), config, tmp_path / "model", scale=scale)
    auto = omniform.AutoModel if head == "Model" else getattr(omniform, f"AutoModel{head}")
    return auto.from_pretrained(tmp_path / "model"), theirs


def in_steps(model, ids: Tensor, *steps: int) -> Tensor:
    """Logits of rows handed over in pieces of the given lengths, the rest one by one."""
    lengths = [*steps, *[1] * (ids.shape[1] - sum(steps))]
    past, logits = None, []
    for piece in ids.split(lengths, dim=1):
        out = model(piece, past_key_values=past)
        past = out.past_key_values
        logits.append(out.logits)
    return torch.cat(logits, 1)


class TestMistral(Parity):
    table = Table(
        model_type="mistral",
        config=transformers.MistralConfig,
        tiny=TINY,
        heads=decoder_heads("Mistral"),
        variants={"plain": {}, **VARIANTS},
        writes=("ForCausalLM", Prompts()),
        writing=["no window", "window 3", "window 7", "window 100", "one key head", "tied", "yarn"],
        feeding=["no window", *(f"window {n}" for n in (1, 2, 3, 4, 7, 12, 13)), "narrow heads"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_fields_of_a_config_that_tells_layers_apart(self) -> None:
        assert not unaccounted("mistral", transformers.MistralConfig, layer_types=["full_attention"] * 32)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 40])
def test_how_many_tokens_a_window_counts(tmp_path, window):
    """A token, and the ``window - 1`` before it: neither more nor fewer."""
    ours, theirs = pair(tmp_path, sliding_window=window)
    ids = torch.stack(ragged(97, [12]))
    theirs.set_attn_implementation("eager")
    with torch.no_grad():
        expected = theirs(ids, output_attentions=True).attentions
        found = ours(ids, output_attentions=True).attentions
    band = torch.ones(12, 12).tril().triu(1 - window).bool()
    for mine, other in zip(found, expected, strict=True):
        assert torch.equal(other[0, 0] > 0, band)
        assert torch.equal(mine > 0, other > 0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("window", [None, 1, 2, 3, 4, 7, 12, 40])
def test_cached_equals_uncached(tmp_path, window, implementation):
    """Prompts shorter and longer than the window, then one token at a time, far past it."""
    ours, theirs = pair(tmp_path, sliding_window=window)
    ours.set_attn_implementation(implementation)
    theirs.set_attn_implementation(implementation)
    ids = torch.stack(ragged(97, [30, 30]))
    with torch.no_grad():
        expected = theirs(ids).logits
        close(ours(ids).logits, expected, "whole")
        close(ours(ids, use_cache=False).logits, expected, "without state")
        for steps in ((9,), (2, 5, 3), (1,), (4, 4, 4, 4), (14, 9)):
            close(in_steps(ours, ids, *steps), expected, f"in steps of {steps}")


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", [1, 3, 7, None])
def test_padding_and_positions(tmp_path, window, side, implementation):
    ours, theirs = pair(tmp_path, sliding_window=window)
    ours.set_attn_implementation(implementation)
    theirs.set_attn_implementation(implementation)
    ids, mask = padded(ragged(97, [11, 8, 2]), side=side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    inputs = {"attention_mask": mask, "position_ids": positions, "output_hidden_states": True}
    real = mask.bool()
    with torch.no_grad():
        expected, found = theirs(ids, **inputs), ours(ids, **inputs)
        close(found.logits[real], expected.logits[real])
        for mine, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            close(mine[real], other[real])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("window", [1, 3, None])
def test_padding_tokens_that_see_nothing(tmp_path, window, side, implementation):
    """Their vectors count too: a question's answer is sought among all tokens of the padded row."""
    ours, theirs = pair(tmp_path, "ForQuestionAnswering", sliding_window=window)
    ours.set_attn_implementation(implementation)
    theirs.set_attn_implementation(implementation)
    ids, mask = padded(ragged(97, [11, 6, 3]), side=side)
    places = {"start_positions": torch.tensor([1, 2, 0]), "end_positions": torch.tensor([3, 5, 2])}
    inputs = {"input_ids": ids, "attention_mask": mask, **places}
    with torch.no_grad():
        expected, found = theirs(**inputs), ours(**inputs)
    for name in ("loss", "start_logits", "end_logits"):
        close(found[name], expected[name], name)
    trains(ours, inputs)


def test_padded_rows_go_on(tmp_path):
    """A padded prompt, then steps past the window under a growing mask."""
    ours, theirs = pair(tmp_path, sliding_window=3)
    ids, mask = padded(ragged(97, [7, 4]), side="left")
    more = torch.stack(ragged(97, [9, 9], seed=1))
    whole, mask = torch.cat((ids, more), 1), torch.cat((mask, torch.ones(2, 9, dtype=torch.long)), 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = theirs(whole, attention_mask=mask, position_ids=positions).logits
        past, end = None, 0
        for piece in (7, *[1] * 9):
            start, end = end, end + piece
            out = ours(
                whole[:, start:end], attention_mask=mask[:, :end], position_ids=positions[:, start:end],
                past_key_values=past,
            )  # fmt: skip
            past, real = out.past_key_values, mask[:, start:end].bool()
            close(out.logits[real], expected[:, start:end][real], f"tokens {start} to {end}")


def test_a_window_of_one_token_writes(tmp_path):
    """The reference's cache drops nothing then (its slice begins at -1 + 1): it agrees with itself without one only."""
    ours, theirs = pair(tmp_path, scale=0.4, sliding_window=1)
    ids, mask = padded(ragged(97, [9, 4, 1]), side="left")
    settings = {"attention_mask": mask, "max_new_tokens": 20, "do_sample": False}
    assert torch.equal(ours.generate(ids, **settings), theirs.generate(ids, **settings, use_cache=False))


def test_windows_matter(tmp_path):
    """The tests above would pass with any window, were the tiny models blind to it."""
    answers = []
    for window in (1, 3, 6, 100):
        ours, _ = pair(tmp_path, scale=0.4, sliding_window=window, eos_token_id=None)
        answers.append(tuple(ours.generate(torch.stack(ragged(97, [9])), max_new_tokens=20)[0].tolist()))
    assert len(set(answers)) == 4


@pytest.mark.parametrize("kinds", ["fsf", "sfs", "fff", "sss"])
def test_layer_types(tmp_path, kinds):
    """A config that tells layers apart is a Ministral to the reference's Auto classes."""
    names = {"f": "full_attention", "s": "sliding_attention"}
    _, theirs = pair(tmp_path)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_types": [names[k] for k in kinds]}))
    ours = omniform.AutoModelForCausalLM.from_pretrained(path.parent)
    assert not ours.config.unknown
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent).eval()
    assert type(theirs).__name__ == "MinistralForCausalLM"
    ids, mask = padded(ragged(97, [14, 14]))
    compare(ours, theirs, {"input_ids": ids, "attention_mask": mask}, ["logits", "hidden_states", "attentions"])
    with torch.no_grad():
        close(in_steps(ours, ids, 6), theirs(ids).logits)
    assert [spec.window for spec in state_specs(ours).values()] == [4 if kind == "s" else None for kind in kinds]
    check_round_trip(path.parent, ours, tmp_path / "again")


def test_config_of_the_first_release(tmp_path):
    """Mistral 7B v0.1 and v0.2 as published: ``rope_theta`` at the top, ``torch_dtype``; a window, or null."""
    for window in (3, None):
        _, theirs = pair(tmp_path, sliding_window=window, rope_parameters={"rope_type": "default", "rope_theta": 1e6})
        config = {
            "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
            "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 56, "max_position_embeddings": 64,
            "model_type": "mistral", "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": window, "tie_word_embeddings": False,
            "torch_dtype": "float32", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 97,
        }  # fmt: skip
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
        assert not ours.config.unknown and ours.config.sliding_window == window
        compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [12]))}, ["logits"])
        check_round_trip(tmp_path / "model", ours, tmp_path / "again")


@pytest.mark.parametrize(
    "old",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 3.0}, "max_position_embeddings": 6},
        {"rope_theta": 500.0, "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    ],
)
def test_old_spellings_of_rotary_settings(tmp_path, old):
    _, theirs = pair(tmp_path)
    path = tmp_path / "model" / "config.json"
    raw = {**json.loads(path.read_text()), **old}
    del raw["rope_parameters"]
    path.write_text(json.dumps(raw))
    ours = omniform.AutoModelForCausalLM.from_pretrained(path.parent)
    theirs = transformers.MistralForCausalLM.from_pretrained(path.parent).eval()
    compare(ours, theirs, {"input_ids": torch.stack(ragged(97, [12]))}, ["logits"])


def test_defaults_left_out():
    config = omniform.AutoConfig.for_model("mistral")
    assert config.sliding_window == 4096 and config.num_key_value_heads == 8 and config.eos_token_id == 2
    assert omniform.AutoConfig.for_model("mistral", sliding_window=None).sliding_window is None
    assert config.spec.rules == (Causal() & Window(4096),) * 32 and config.spec.text.heads.dim == 128


@pytest.mark.parametrize("extra", [{}, {"classifier_dropout": 0.3}, {"hidden_dropout": 0.4}])
def test_classifier_dropout(tmp_path, extra):
    ours, theirs = pair(tmp_path, "ForTokenClassification", **extra)
    assert ours.dropout == theirs.dropout.p


def test_training_drops_attention_out(tmp_path):
    ours, _ = pair(tmp_path, attention_dropout=0.5)
    ids = torch.stack(ragged(97, [9]))
    with torch.no_grad():
        assert torch.equal(ours(ids).logits, ours(ids).logits)
        ours.train()
        assert not torch.equal(ours(ids).logits, ours(ids).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 0},
        {"sliding_window": -1},
        {"sliding_window": 3.5},
        {"sliding_window": True},
        {"num_key_value_heads": 3},
        {"num_attention_heads": 4097},
        {"hidden_act": "gleu"},
        {"layer_types": ["full_attention"]},
        {"layer_types": ["chunked_attention"] * 32},
    ],
)
def test_bad_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        omniform.AutoConfig.for_model("mistral", **change)


def test_layers_with_a_window_need_one():
    with pytest.raises(ConfigError, match="sliding_window"):
        omniform.AutoConfig.for_model("mistral", sliding_window=None, layer_types=["sliding_attention"] * 32)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_a_whole_mask_stands_in_place_of_window_and_order(tmp_path, backend):
    """True and false or what is added to scores, Shape: [B, 1, T, S]: it says all that is seen."""
    ours, theirs = pair(tmp_path)
    for model in (ours, theirs):
        model.set_attn_implementation(backend)
    ids, seen = (
        torch.stack(ragged(97, [9, 9])),
        torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.6,
    )
    seen |= torch.eye(9, dtype=torch.bool)
    added = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    for mask in (added, seen) if backend == "sdpa" else (added,):
        close(ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits)


def test_bad_input(tmp_path):
    ours, _ = pair(tmp_path)
    with pytest.raises(InputError, match="at most 64 tokens"):
        ours.generate(torch.ones(1, 65, dtype=torch.long), max_new_tokens=1)
    with pytest.raises(InputError, match="found 97"):
        ours(torch.tensor([[97]]))
    with pytest.raises(InputError, match="attention_mask"):
        ours(torch.ones(2, 5, dtype=torch.long), attention_mask=torch.ones(2, 4))


@torch.no_grad()
def test_under_pictures(tmp_path):
    """A LLaVA whose language model is a Mistral: the same decoder, its window over pictures and text."""
    config = transformers.LlavaConfig(
        text_config=transformers.MistralConfig(**TINY),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        image_token_index=3,
    )
    theirs = saved_reference(transformers.LlavaForConditionalGeneration, config, tmp_path / "model")
    ours = omniform.AutoModelForImageTextToText.from_pretrained(tmp_path / "model")
    ids = torch.cat([*ragged(97, [5], low=4), torch.full((4,), 3), *ragged(97, [3], seed=1, low=4)])[None]
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, 8, 8)}
    close(ours(**inputs).logits, theirs(**inputs).logits)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
