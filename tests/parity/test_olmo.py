"""OLMo against the reference: norms that learn nothing, bounded queries, keys and values."""

from __future__ import annotations

import pytest
from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import TINY, YARN
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers


class TestOlmo(Parity):
    table = Table(
        model_type="olmo",
        config=transformers.OlmoConfig,
        tiny=TINY,
        heads=decoder_heads("Olmo", without=["ForQuestionAnswering", "ForTokenClassification"]),
        variants={
            "plain": {},
            "bounded": {"clip_qkv": 0.4, "num_key_value_heads": 2},
            "bounded, biases": {"clip_qkv": 0.2, "attention_bias": True, "tie_word_embeddings": True},
            "grouped, gelu": {"num_key_value_heads": 1, "hidden_act": "gelu"},
            "yarn": {"rope_parameters": YARN},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "bounded", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_what_cannot_be_meant_is_refused(self) -> None:
        for name, value in (("clip_qkv", 0), ("rms_norm_eps", 1e-2)):
            with pytest.raises(ConfigError, match=name):
                omniform.AutoConfig.for_model("olmo", **TINY, **{name: value})
