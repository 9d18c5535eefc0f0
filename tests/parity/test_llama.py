"""Llama against the reference."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 32, "factor": 2.0, "rope_theta": 10000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1000.0}
PROPORTIONAL = {"rope_type": "proportional", "factor": 2.0, "rope_theta": 1000.0, "partial_rotary_factor": 0.5}


class TestLlama(Parity):
    table = Table(
        model_type="llama",
        config=transformers.LlamaConfig,
        tiny=TINY,
        heads=decoder_heads("Llama"),
        variants={
            "plain": {},
            "grouped": {"num_key_value_heads": 2},
            "one key head": {"num_key_value_heads": 1, "head_dim": 16},
            "biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
            "tied": {"tie_word_embeddings": True},
            "gelu": {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-2},
            "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
            "linear": {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}},
            "dynamic": {
                "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
                "max_position_embeddings": 8,
            },
            "llama3": {"rope_parameters": LLAMA3},
            "yarn": {"rope_parameters": YARN},
            "yarn untruncated": {"rope_parameters": {**YARN, "truncate": False, "beta_fast": 16.0, "beta_slow": 2.0}},
            "yarn mscale": {"rope_parameters": {**YARN, "mscale": 0.8, "mscale_all_dim": 0.4}},
            "proportional": {"rope_parameters": PROPORTIONAL},
            "longrope short": {"rope_parameters": LONGROPE},
            "longrope long": {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 8}},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "grouped", "one key head", "llama3", "biases", "linear", "yarn"],
        spellings={"bare": bare("model"), "compiled": compiled},
    )
