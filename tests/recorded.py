"""Tiny models of several kinds, and a recorder that any device has, for tests of recorded steps."""

from __future__ import annotations

from collections.abc import Callable

import torch

import omniform
from omniform.architectures.model import Model
from omniform.engine import recorded

TEXT = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 95,
}  # fmt: skip
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 95}
LATENT = {
    "q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 16,
    "first_k_dense_replace": 1, "n_shared_experts": 1,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", TEXT),
    "llama dynamic": (
        "llama",
        {
            **TEXT, "max_position_embeddings": 32,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "qwen2": ("qwen2", TEXT),
    "mistral": ("mistral", {**TEXT, "sliding_window": 11}),
    "gemma2": ("gemma2", {**TEXT, "sliding_window": 13, "head_dim": 16, "query_pre_attn_scalar": 16}),
    "gpt2": ("gpt2", {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024, **SPECIAL}),
    "bloom": ("bloom", {"vocab_size": 96, "hidden_size": 64, "n_layer": 2, "n_head": 4, **SPECIAL}),
    "mixtral": ("mixtral", {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "deepseek_v3": ("deepseek_v3", {**TEXT, "num_key_value_heads": 4, **LATENT}),
    "mamba": (
        "mamba",
        {"vocab_size": 96, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "conv_kernel": 4, **SPECIAL},
    ),
    "t5": (
        "t5",
        {
            "vocab_size": 96, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4,
            "num_decoder_layers": 2, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
            "pad_token_id": 0, "eos_token_id": 95, "decoder_start_token_id": 0,
        },
    ),
}  # fmt: skip


@torch.no_grad()
def tiny(name: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Model:
    """A model with random weights, no two alike."""
    kind, settings = FAMILIES[name]
    config = omniform.AutoConfig.for_model(kind, **settings)
    auto = omniform.AutoModelForSeq2SeqLM if name == "t5" else omniform.AutoModelForCausalLM
    model = auto.from_config(config)
    generator = torch.Generator().manual_seed(len(name))
    for path, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator)
        around_one = path.endswith("weight") and p.dim() == 1 and kind != "gemma2"
        p.copy_(1 + 0.1 * noise if around_one else noise * (0.4 if "embed" in path else 0.15))
    return model.eval().to(device=device, dtype=dtype)


def prompts(count: int, seed: int = 0, least: int = 3, most: int = 40) -> list[list[int]]:
    """Rows of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, most, (count,), generator=generator).tolist()
    return [torch.randint(3, 90, (n,), generator=generator).tolist() for n in lengths]


class Replays:
    """Plays a step by computing it again, into the memory of the first time: what a graph does, on any device."""

    def why_not(self) -> str | None:
        return None

    def record(self, work: Callable[[], recorded.Made]) -> tuple[Callable[[], object], recorded.Made]:
        made = work()

        def play() -> None:
            again = work()
            for name in ("hidden", "logits", "tokens"):
                getattr(made, name).copy_(getattr(again, name))

        return play, made
