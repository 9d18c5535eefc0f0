"""Phi-3.5-MoE against the reference: layer norms, two rounds of one expert each."""

from __future__ import annotations

import sys

import torch
from harness import Case, Parity, Table, bare, build, compiled, over, routed_heads
from writers import Prompts

from omniform.models.phimoe import SparseMixer
from reference import close, transformers

TINY = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "num_local_experts": 5, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "router_jitter_noise": 0.3,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 8, "rope_theta": 1e4, "short_mscale": 1.24, "long_mscale": 1.24,
}  # fmt: skip

TABLE = Table(
    model_type="phimoe",
    config=transformers.PhimoeConfig,
    tiny=TINY,
    heads=routed_heads("Phimoe", without=["ForToken", "ForQuestion"]),
    variants={
        "plain": {},
        "as published": {"rope_parameters": LONGROPE, "attention_bias": True, "lm_head_bias": True,
            "router_jitter_noise": 0.01, "original_max_position_embeddings": 8},
        "window, tied": {"sliding_window": 4, "tie_word_embeddings": True, "rms_norm_eps": 1e-2},
        "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5, "intermediate_size": 13},
    },
    writes=("ForCausalLM", Prompts()),
    writing=["plain", "window, tied"],
    spellings={"bare": bare("model"), "compiled": compiled},
    half=0.2,  # a router that chooses another expert is no mistake of rounding
)  # fmt: skip


class TestPhimoe(Parity):
    table = TABLE

    @over(lambda table: table.itself())
    def test_draws_and_gradients_in_training(self, case: Case) -> None:
        theirs = vars(sys.modules[type(build(case).theirs).__module__])["sparsemixer"]
        scores, other = (torch.randn(50, 5, generator=torch.Generator().manual_seed(0)) for _ in range(2))
        scores.requires_grad_(True), other.requires_grad_(True)
        mixer = SparseMixer(0.3)
        torch.manual_seed(1)
        shares, chosen = mixer(scores)
        torch.manual_seed(1)
        expected, picked = theirs(other, 0.3, True)
        assert torch.equal(chosen, picked)
        close(shares[:, 0], expected[:, 0], tolerance=1e-3)  # the reference writes a third as 0.3333
        ratio = shares[:, 1] / expected[:, 1]  # for the second round it draws a number more
        assert all(min(abs(x - y) for y in (1, 3, 1 / 3)) < 1e-3 for x in ratio.tolist())
        probe = torch.arange(100.0).view(50, 2)
        (shares * probe).sum().backward()
        (expected * probe).sum().backward()
        close(scores.grad, other.grad)
