"""Gemma 3's text against the reference: windows and their own rotary bases, four norms, norms of queries and keys."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from askers import PROBLEMS, Nothing, Text, Words
from harness import Head, Parity, Table, bare, compiled
from safetensors.torch import save_file
from test_llama import PROPORTIONAL, YARN
from writers import Prompts

from omniform.core.errors import ConfigError, InputError
from reference import close, omniform, ragged, randomise, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "query_pre_attn_scalar": 12,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
LOCAL = {"rope_type": "default", "rope_theta": 1e4}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}


def ropes(full: dict[str, object], sliding: dict[str, object] | None = LOCAL) -> dict[str, object]:
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


BASE = Head("Gemma3TextModel", "AutoModel", Text(Nothing()))
ROWS = {
    f"ForSequenceClassification, {problem}": Head(
        "Gemma3TextForSequenceClassification", "AutoModelForSequenceClassification", Text(labels)
    )
    for problem, labels in PROBLEMS.items()
}
WRITER = Head("Gemma3ForCausalLM", "AutoModelForCausalLM", Text(Words()), everywhere=True)


class TestGemma3(Parity):
    table = Table(
        model_type="gemma3_text",
        config=transformers.Gemma3TextConfig,
        tiny=TINY,
        heads={"Model": BASE, "ForCausalLM": WRITER, **ROWS},
        variants={
            "plain": {},
            "as the largest": ropes(LINEAR),
            "both their way": {**ropes(YARN, PROPORTIONAL), "sliding_window": 1},
            "by length": {
                **ropes({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "max_position_embeddings": 8,
            },
            "capped": {"final_logit_softcapping": 1.5, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 50},
            "untied, biases, one key head": {
                "tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 1, "head_dim": 6,
            },
            "by pattern": {"layer_types": None, "sliding_window_pattern": 2, "rms_norm_eps": 1e-2},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "as the largest", "capped", "by pattern"],
        scale=0.3,
        spellings={"bare": bare("model"), "compiled": compiled},
    )  # fmt: skip

    def test_files_of_its_first_day(self, tmp_path: Path) -> None:
        """Bases under names of their own, a pattern of windows, a stretch of the layers that see all."""
        raw = {k: v for k, v in TINY.items() if k != "layer_types"} | {
            "rope_theta": 5e5, "rope_local_base_freq": 1e3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window_pattern": 3, "cache_implementation": "hybrid",
        }  # fmt: skip
        torch.manual_seed(0)
        theirs = transformers.Gemma3TextModel(transformers.Gemma3TextConfig(**copy.deepcopy(raw))).eval()
        randomise(theirs)
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text", **raw}))
        save_file(theirs.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
        ours, ids = omniform.AutoModel.from_pretrained(tmp_path), torch.stack(ragged(97, [12, 12]))
        assert not ours.config.unknown
        assert ours.config.rope_parameters == theirs.config.rope_parameters
        assert list(ours.config.layer_types) == theirs.config.layer_types
        with torch.no_grad():
            close(ours(ids).last_hidden_state, theirs(ids).last_hidden_state)

    def test_what_cannot_be_meant_is_refused(self) -> None:
        for name, value in (
            ("final_logit_softcapping", 0),
            ("rope_parameters", {"rope_type": "linear", "factor": 2.0}),
            ("sliding_window", None),
            ("layer_types", ["full_attention"]),
        ):
            with pytest.raises(ConfigError, match=name):
                omniform.AutoConfig.for_model("gemma3_text", **{**TINY, name: value})


class TestGemma3BothWays(Parity):
    """Models that embed texts: a window counts tokens on both sides."""

    table = Table(
        model_type="gemma3_text",
        config=transformers.Gemma3TextConfig,
        tiny={**TINY, "use_bidirectional_attention": True},
        heads={"Model": replace(BASE, everywhere=True), "ForCausalLM": replace(WRITER, everywhere=False), **ROWS},
        variants={
            "plain": {},
            "window of one": {"sliding_window": 1},
            "odd window": {"sliding_window": 7},
            "everything": {"layer_types": ["full_attention"] * 3},
        },
        scale=0.3,
    )

    def test_it_does_not_write(self) -> None:
        config = omniform.AutoConfig.for_model("gemma3_text", **TINY, use_bidirectional_attention=True)
        model = omniform.AutoModelForCausalLM.from_config(config)
        assert not model.can_generate()
        with pytest.raises(InputError, match="does not write"):
            model.generate(torch.tensor([[3, 5]]), max_new_tokens=2)
