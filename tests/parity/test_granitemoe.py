"""Granite with experts against the reference, and with experts that all tokens share."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from harness import Parity, Table, bare, build, compiled, routed_heads
from safetensors.torch import load_file, save_file
from test_granite import FACTORS
from test_mixtral import TINY
from writers import Prompts

from reference import close, omniform, ragged, transformers

VARIANTS = {
    "plain": {},
    "factors, biases": {**FACTORS, "attention_bias": True, "tie_word_embeddings": True},
    "odd sizes": {
        "hidden_size": 36, "intermediate_size": 13, "num_local_experts": 3, "num_experts_per_tok": 1,
        "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "gelu", "rms_norm_eps": 1e-2,
    },
    "router's loss": {"output_router_logits": True, "router_aux_loss_coef": 0.5, "num_experts_per_tok": 4},
}  # fmt: skip
NEWER = (
    (r"block_sparse_moe\.input_linear\.weight", "block_sparse_moe.experts.gate_up_proj"),
    (r"block_sparse_moe\.output_linear\.weight", "block_sparse_moe.experts.down_proj"),
    (r"block_sparse_moe\.router\.layer\.weight", "block_sparse_moe.router.weight"),
)


class TestGraniteMoe(Parity):
    table = Table(
        model_type="granitemoe",
        config=transformers.GraniteMoeConfig,
        tiny={**TINY, "attention_multiplier": 0.35},
        heads=routed_heads("GraniteMoe", without=["ForQ", "ForT", "ForS"]),
        variants=VARIANTS,
        writes=("ForCausalLM", Prompts()),
        writing=["plain", "factors, biases"],
        spellings={"bare": bare("model"), "compiled": compiled},
        half=0.2,  # a router that chooses another expert is no mistake of rounding
    )

    def test_newer_names_are_read_and_written(self, tmp_path: Path) -> None:
        built = build(self.table.case("ForCausalLM"))
        held = load_file(built.folder / "model.safetensors")
        for pattern, new in NEWER:
            held = {re.sub(pattern, new, key): tensor for key, tensor in held.items()}
        (tmp_path / "config.json").write_text((built.folder / "config.json").read_text())
        save_file(held, tmp_path / "model.safetensors", {"format": "pt"})
        ours, ids = omniform.AutoModelForCausalLM.from_pretrained(tmp_path), torch.stack(ragged(97, [9, 9]))
        with torch.no_grad():
            close(ours(ids).logits, built.theirs(ids).logits)
        ours.save_pretrained(tmp_path / "again")
        assert load_file(tmp_path / "again" / "model.safetensors").keys() == held.keys()


class TestGraniteMoeShared(Parity):
    table = Table(
        model_type="granitemoeshared",
        config=transformers.GraniteMoeSharedConfig,
        tiny={**TINY, "attention_multiplier": 0.35, "shared_intermediate_size": 20},
        heads=routed_heads("GraniteMoeShared", without=["ForQ", "ForT", "ForS"]),
        variants={"plain": {}, "nothing shared": {"shared_intermediate_size": 0, **FACTORS}},
        writes=("ForCausalLM", Prompts()),
        writing=["plain"],
        spellings={"bare": bare("model"), "compiled": compiled},
        half=0.2,
    )
