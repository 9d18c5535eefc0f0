"""Cohere and Cohere 2 against the reference: one norm for both branches, layers without positions."""

from __future__ import annotations

from harness import Parity, Table, bare, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "logit_scale": 0.5, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
S, F = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
LINEAR = {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}
HEADS = ["ForSequence", "ForToken", "ForQuestion"]


class TestCohere(Parity):
    table = Table(
        model_type="cohere",
        config=transformers.CohereConfig,
        tiny=TINY,
        heads=decoder_heads("Cohere", without=HEADS),
        variants={
            "plain": {},
            "normed heads": {"use_qk_norm": True, "layer_norm_eps": 1e-2},
            "biases, untied": {"attention_bias": True, "tie_word_embeddings": False, "num_key_value_heads": 4},
            "default scale": {"logit_scale": 0.0625, "hidden_act": "gelu", "num_key_value_heads": 1},
            "linear": {"rope_parameters": LINEAR},
            "dynamic": {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}, "max_position_embeddings": 8},
            "yarn, normed": {"rope_parameters": YARN, "use_qk_norm": True},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "normed heads", "biases, untied", "yarn, normed"],
        spellings={"bare": bare("model")},
    )


class TestCohere2(Parity):
    table = Table(
        model_type="cohere2",
        config=transformers.Cohere2Config,
        tiny={**TINY, "num_hidden_layers": 4, "sliding_window": 4},
        heads=decoder_heads("Cohere2", without=HEADS),
        variants={
            "plain": {},
            "old pattern": {"sliding_window_pattern": 2, "num_hidden_layers": 3, "layer_norm_eps": 1e-2},
            "biases, untied": {"attention_bias": True, "tie_word_embeddings": False, "layer_types": [F, S, S, F]},
            "yarn": {"rope_parameters": YARN, "layer_types": [S, S, S, F], "sliding_window": 100},
        },
        writes=("ForCausalLM", Prompts()),
        spellings={"bare": bare("model")},
    )
