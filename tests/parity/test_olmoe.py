"""OLMoE against the reference: experts behind attention with norms over all heads."""

from __future__ import annotations

from harness import Parity, Table, bare, compiled, routed_heads
from writers import Prompts

from reference import transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts": 5, "num_experts_per_tok": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

TABLE = Table(
    model_type="olmoe",
    config=transformers.OlmoeConfig,
    tiny=TINY,
    heads=routed_heads("Olmoe", without=["ForSequence", "ForToken", "ForQuestion"]),
    variants={
        "plain": {},
        "bounded, biases": {"clip_qkv": 0.5, "attention_bias": True},
        "normed, tied": {"norm_topk_prob": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-2},
        "router's loss": {"output_router_logits": True, "num_experts_per_tok": 5, "intermediate_size": 13},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "bounded, biases"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestOlmoe(Parity):
    table = TABLE
