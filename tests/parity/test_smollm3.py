"""SmolLM3 against the reference: layers without positions, which may have windows."""

from __future__ import annotations

import pytest
from harness import Parity, Table, bare, compiled, decoder_heads
from test_llama import TINY, YARN
from writers import Prompts

from omniform.core.errors import ConfigError
from reference import omniform, transformers

TINY = {**TINY, "num_key_value_heads": 2, "no_rope_layer_interval": 2}
S, F = "sliding_attention", "full_attention"


class TestSmolLM3(Parity):
    table = Table(
        model_type="smollm3",
        config=transformers.SmolLM3Config,
        tiny=TINY,
        heads=decoder_heads("SmolLM3"),
        variants={
            "plain": {},
            "untied, biases": {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
            "positions by name": {"no_rope_layers": [0, 1, 0, 1, 1], "num_key_value_heads": 1},
            "windows": {"use_sliding_window": True, "sliding_window": 4, "no_rope_layers": [0, 1, 0]},
            "window unused": {"sliding_window": 4},
            "windows by name": {"sliding_window": 3, "layer_types": [S, F, S], "head_dim": 12},
            "nowhere": {"no_rope_layers": [0, 0, 0], "rms_norm_eps": 1e-2, "hidden_act": "gelu"},
            "yarn": {"rope_parameters": YARN, "num_key_value_heads": None},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "positions by name", "windows", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )

    def test_a_list_that_is_too_short_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="no_rope_layers"):
            omniform.AutoConfig.for_model("smollm3", **TINY, no_rope_layers=[1, 0])
