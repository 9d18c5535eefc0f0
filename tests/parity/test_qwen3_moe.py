"""Qwen3-MoE against the reference: normed queries and keys, small experts."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, routed_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "num_experts": 5,
    "num_experts_per_tok": 2, "moe_intermediate_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e6}

TABLE = Table(
    model_type="qwen3_moe",
    config=transformers.Qwen3MoeConfig,
    tiny=TINY,
    heads=routed_heads("Qwen3Moe"),
    variants={
        "plain": {},
        "as published": {"norm_topk_prob": True, "rope_parameters": YARN, "num_experts_per_tok": 4},
        "window, biases": {"use_sliding_window": True, "sliding_window": 4, "attention_bias": True},
        "every other sparse, tied": {"decoder_sparse_step": 2, "tie_word_embeddings": True, "rms_norm_eps": 1e-2},
        "one dense, odd sizes": {"mlp_only_layers": [1], "moe_intermediate_size": 11, "hidden_act": "gelu"},
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "window, biases"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestQwen3Moe(Parity):
    table = TABLE
