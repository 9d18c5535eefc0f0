"""GPT-NeoX against the reference: parallel branches or not, heads interleaved, parts of them turned."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, decoder_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def rope(kind: str, **settings: object) -> dict[str, object]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, "partial_rotary_factor": 0.5, **settings}}


class TestGPTNeoX(Parity):
    table = Table(
        model_type="gpt_neox",
        config=transformers.GPTNeoXConfig,
        tiny=TINY,
        heads=decoder_heads("GPTNeoX"),
        variants={
            "plain": {},
            "one after another": {"use_parallel_residual": False},
            "no biases": {"attention_bias": False},
            "tied": {"tie_word_embeddings": True},
            "gelu": {"hidden_act": "gelu_new", "layer_norm_eps": 1e-2},
            "old names": {"rotary_pct": 0.5, "rotary_emb_base": 500.0},
            "whole heads": {"rotary_pct": 1.0},
            "half of each": rope("default", rope_theta=500.0),
            "both names": {**rope("default"), "rotary_pct": 1.0, "rotary_emb_base": 500.0},
            "theta alone": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
            "linear": rope("linear", factor=2.5),
            "dynamic": {**rope("dynamic", factor=2.0), "max_position_embeddings": 8},
            "yarn": rope("yarn", factor=4.0, original_max_position_embeddings=16),
            "llama3": rope(
                "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32
            ),
            "one head": {"num_attention_heads": 1, "num_hidden_layers": 1},
        },
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "one after another", "no biases", "tied", "whole heads", "linear", "yarn"],
        spellings={
            "bare": bare("gpt_neox"),
            "compiled": compiled,
            "lm_head": lambda key: key.replace("embed_out", "lm_head"),
        },
    )
