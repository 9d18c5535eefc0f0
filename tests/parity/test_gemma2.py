"""Gemma 2 against the reference: soft caps, four norms a layer, every other layer a window."""

from __future__ import annotations

import pickle

import pytest
import torch
from harness import Parity, Table, bare, compiled, decoder_heads
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "sliding_window": 4,
    "query_pre_attn_scalar": 12, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1,
}  # fmt: skip
S, F = "sliding_attention", "full_attention"


class TestGemma2(Parity):
    table = Table(
        model_type="gemma2",
        config=transformers.Gemma2Config,
        tiny=TINY,
        heads=decoder_heads("Gemma2", without=["ForQuestionAnswering"]),
        variants={
            "plain": {},
            "low caps": {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 1.5},
            "no caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
            "scores capped": {"attn_logit_softcapping": 1.0, "final_logit_softcapping": None},
            "logits capped": {"attn_logit_softcapping": None, "final_logit_softcapping": 2.0},
            "scale of its own": {"query_pre_attn_scalar": 50},
            "one key head": {"num_key_value_heads": 1, "head_dim": 6},
            "biases": {"attention_bias": True},
            "untied": {"tie_word_embeddings": False},
            "epsilon": {"rms_norm_eps": 1e-2, "hidden_activation": "gelu"},
            "another width": {"hidden_size": 24},
            "window of one": {"sliding_window": 1},
            "wide window": {"sliding_window": 100},
            "layers by name": {"layer_types": [F, S, S]},
            "no windows": {"layer_types": [F, F, F]},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "low caps", "no caps", "scale of its own", "layers by name", "untied"],
        # Its embeddings are multiplied by the root of the width.
        scale=0.3,
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_what_cannot_be_meant_is_refused(self) -> None:
        """A cap of nothing, and a decoder that sees what follows; each by its name."""
        for name, value in (
            ("attn_logit_softcapping", 0),
            ("final_logit_softcapping", -1.0),
            ("use_bidirectional_attention", True),
            ("query_pre_attn_scalar", 0),
        ):
            with pytest.raises(ConfigError, match=name):
                omniform.AutoConfig.for_model("gemma2", **{**TINY, name: value})

    def test_pickles(self) -> None:
        config = omniform.AutoConfig.for_model("gemma2", **TINY)
        model = omniform.AutoModelForCausalLM.from_config(config).eval()
        row = torch.tensor([[3, 5, 8]])
        assert torch.equal(pickle.loads(pickle.dumps(model))(row).logits, model(row).logits)
