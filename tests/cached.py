"""Tiny models that write, one of each kind of state, beside the reference's."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
from torch import nn

from omniform.hub.checkpoint import load_as_saved
from reference import saved_reference, transformers

TEXT = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT = {
    "q_lora_rank": 14, "kv_lora_rank": 12, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 9,
    "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
}  # fmt: skip
NEXT = {
    "head_dim": 16, "linear_key_head_dim": 12, "linear_value_head_dim": 6, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 20, "num_hidden_layers": 4,
}  # fmt: skip
MAMBA = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_heads": 8, "head_dim": 8, "state_size": 6,
    "n_groups": 2, "expand": 2, "conv_kernel": 4, "chunk_size": 8, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
HYBRID = {**TEXT, "mamba_n_heads": 8, "mamba_d_state": 6, "mamba_n_groups": 2, "mamba_chunk_size": 8, "mamba_d_ssm": 48}
T5 = {
    "vocab_size": 97, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
    "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip

CONFIGS = {
    "llama": ("Llama", TEXT),
    "gemma2": ("Gemma2", {**TEXT, "head_dim": 12, "sliding_window": 4, "query_pre_attn_scalar": 12}),
    "deepseek": ("DeepseekV3", {**TEXT, **LATENT}),
    "qwen3_next": ("Qwen3Next", {**TEXT, **NEXT}),
    "mamba2": ("Mamba2", MAMBA),
    "falcon_h1": ("FalconH1", HYBRID),
    "t5": ("T5", T5),
}

DECODERS = [name for name in CONFIGS if name != "t5"]


@functools.cache
def both(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and the reference's, with the same random weights; shared by tests, which must not change them."""
    kind, config = CONFIGS[name]
    head = "ForConditionalGeneration" if name == "t5" else "ForCausalLM"
    made = getattr(transformers, f"{kind}Config")(**config)
    with tempfile.TemporaryDirectory() as folder:
        theirs = saved_reference(getattr(transformers, kind + head), made, Path(folder), scale=0.3)
        ours = load_as_saved(Path(folder))
        copied = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
        ours.load_state_dict(copied, assign=True)
    return ours, theirs


def rows(count: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids, none of them special. Shape: [count, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 97, (count, length), generator=generator)
