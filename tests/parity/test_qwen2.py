"""Qwen2 against the reference: biases on queries, keys and values, windows in the upper layers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import TINY, YARN
from writers import Prompts

from omniform.core.errors import InputError
from reference import omniform, transformers

WINDOW = {"use_sliding_window": True, "sliding_window": 4}
S, F = "sliding_attention", "full_attention"


class TestQwen2(Parity):
    table = Table(
        model_type="qwen2",
        config=transformers.Qwen2Config,
        tiny={**TINY, "num_key_value_heads": 2},
        heads=decoder_heads("Qwen2"),
        variants={
            "plain": {},
            "tied, gelu": {"tie_word_embeddings": True, "hidden_act": "gelu", "rms_norm_eps": 1e-2},
            "one key head, wide": {"num_key_value_heads": 1, "head_dim": 12},
            "windows above": {**WINDOW, "max_window_layers": 1},
            "windows by name": {**WINDOW, "layer_types": [S, F, S]},
            "yarn": {"rope_parameters": YARN, "num_key_value_heads": None},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                "max_position_embeddings": 8, "sliding_window": 4, "max_window_layers": 0,
            },
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "one key head, wide", "windows above", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )  # fmt: skip


class TestQwen2BothWays(Parity):
    """``is_causal`` makes an encoder of any decoder; a window counts the tokens on one side then."""

    table = Table(
        model_type="qwen2",
        config=transformers.Qwen2Config,
        tiny={**TINY, "num_key_value_heads": 2, "is_causal": False},
        heads={name: replace(head, everywhere=name == "Model") for name, head in decoder_heads("Qwen2").items()},
        variants={"plain": {}, "windows above": {**WINDOW, "max_window_layers": 1, "sliding_window": 2}},
    )

    def test_it_does_not_write(self) -> None:
        config = omniform.AutoConfig.for_model("qwen2", **{**TINY, "num_key_value_heads": 2}, is_causal=False)
        model = omniform.AutoModelForCausalLM.from_config(config)
        assert not model.can_generate() and not config.unknown
        with pytest.raises(InputError, match="does not write"):
            model.generate(torch.tensor([[3, 5]]), max_new_tokens=2)
