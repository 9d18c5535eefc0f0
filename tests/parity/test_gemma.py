"""Gemma against the reference: zero-centred norms, scaled embeddings, heads of any width."""

from __future__ import annotations

import pytest
from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import TINY, YARN
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {**TINY, "num_key_value_heads": 1, "head_dim": 12, "bos_token_id": 2, "eos_token_id": 1}


class TestGemma(Parity):
    table = Table(
        model_type="gemma",
        config=transformers.GemmaConfig,
        tiny=TINY,
        heads=decoder_heads("Gemma", without=["ForQuestionAnswering"]),
        variants={
            "plain": {},
            "untied, biases": {"tie_word_embeddings": False, "attention_bias": True, "num_key_value_heads": 4},
            "gelu means tanh": {"hidden_act": "gelu", "rms_norm_eps": 1e-2, "num_key_value_heads": 2},
            "silu, odd width": {"hidden_act": "silu", "hidden_size": 22, "head_dim": 6},
            "yarn": {"rope_parameters": YARN},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "untied, biases", "linear"],
        scale=0.3,
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_reading_both_ways_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="use_bidirectional_attention"):
            omniform.AutoConfig.for_model("gemma", **TINY, use_bidirectional_attention=True)
