"""Qwen2-MoE against the reference: small experts beside a shared one, windows in every other layer."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, routed_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 5, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 20, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip

TABLE = Table(
    model_type="qwen2_moe",
    config=transformers.Qwen2MoeConfig,
    tiny=TINY,
    heads=routed_heads("Qwen2Moe"),
    variants={
        "plain": {},
        "windows": {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "norm_topk_prob": True},
        "every other sparse, tied": {"decoder_sparse_step": 2, "tie_word_embeddings": True, "qkv_bias": False},
        "one dense, odd sizes": {
            "mlp_only_layers": [0], "hidden_size": 40, "moe_intermediate_size": 11, "num_experts_per_tok": 5,
            "rms_norm_eps": 1e-2, "shared_expert_intermediate_size": 13,
        },
        "all dense": {"mlp_only_layers": [0, 1], "hidden_act": "gelu"},
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "windows"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestQwen2Moe(Parity):
    table = TABLE
