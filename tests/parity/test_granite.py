"""Granite against the reference: factors on embeddings, dot products, branches and scores of tokens."""

from __future__ import annotations

import pytest
from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import LLAMA3, TINY, YARN
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {**TINY, "num_key_value_heads": 2, "attention_multiplier": 0.35}
FACTORS = {
    "embedding_multiplier": 3.0, "residual_multiplier": 0.22, "attention_multiplier": 0.0625, "logits_scaling": 4.0,
}  # fmt: skip


class TestGranite(Parity):
    table = Table(
        model_type="granite",
        config=transformers.GraniteConfig,
        tiny=TINY,
        heads=decoder_heads("Granite", without=["ForQ", "ForT", "ForS"]),
        variants={
            "plain": {},
            "factors": FACTORS,
            "tied, biases": {**FACTORS, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
            "one key head, wide": {
                "num_key_value_heads": 1,
                "head_dim": 12,
                "rms_norm_eps": 1e-2,
                "hidden_act": "gelu",
            },
            "yarn": {"rope_parameters": YARN, "num_key_value_heads": None},
            "llama3": {"rope_parameters": LLAMA3},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "factors", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_dividing_by_nothing_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="logits_scaling"):
            omniform.AutoConfig.for_model("granite", **TINY, logits_scaling=0)
