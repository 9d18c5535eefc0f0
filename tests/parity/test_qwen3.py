"""Qwen3 against the reference: norms on queries and keys, heads of any width, windows by layer."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
WINDOW = {"use_sliding_window": True, "sliding_window": 4}


class TestQwen3(Parity):
    table = Table(
        model_type="qwen3",
        config=transformers.Qwen3Config,
        tiny=TINY,
        heads=decoder_heads("Qwen3"),
        variants={
            "plain": {},
            "tied": {"tie_word_embeddings": True},
            "biases": {"attention_bias": True},
            "one key head": {"num_key_value_heads": 1, "head_dim": 6},
            "all key heads": {"num_key_value_heads": 4},
            "key heads unsaid": {"num_key_value_heads": None},
            "epsilon": {"rms_norm_eps": 1e-2, "hidden_act": "gelu_pytorch_tanh"},
            "windows above": {**WINDOW, "max_window_layers": 1},
            "windows everywhere": {**WINDOW, "max_window_layers": 0, "sliding_window": 3},
            "window of one": {**WINDOW, "max_window_layers": 1, "sliding_window": 1},
            "windows by name": {
                **WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            "window unused": {"sliding_window": 4, "max_window_layers": 0},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                "max_position_embeddings": 8,
            },
            "yarn": {"rope_parameters": YARN},
            "yarn, scaled": {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16.0}},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "tied", "biases", "windows above", "windows by name", "linear", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )  # fmt: skip
