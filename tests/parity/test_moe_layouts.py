"""Experts one by one and stacked: checkpoints of either layout load, and are saved as they were read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reference import check_round_trip, close, omniform, ragged, saved_reference, transformers

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "num_experts_per_tok": 2,
}  # fmt: skip
FINE = {**SMALL, "num_experts": 4, "moe_intermediate_size": 16}
FAMILIES = {
    "mixtral": ("Mixtral", {**SMALL, "num_local_experts": 4}),
    "qwen2_moe": ("Qwen2Moe", {**FINE, "shared_expert_intermediate_size": 20, "mlp_only_layers": [0]}),
    "granitemoe": ("GraniteMoe", {**SMALL, "num_local_experts": 4}),
    "olmoe": ("Olmoe", {**SMALL, "num_experts": 4}),
    "phimoe": ("Phimoe", {**SMALL, "num_local_experts": 4}),
    "qwen3_moe": ("Qwen3Moe", {**FINE, "head_dim": 8}),
}


def stacked(name: str, folder: Path, head: str = "ForCausalLM") -> torch.nn.Module:
    """The reference, saved by the names it has in memory."""
    prefix, tiny = FAMILIES[name]
    config = getattr(transformers, f"{prefix}Config")(**tiny)
    theirs = saved_reference(getattr(transformers, prefix + head), config, folder)
    held = {key: tensor.contiguous() for key, tensor in theirs.state_dict().items()}
    assert any(key.endswith(".experts.gate_up_proj") for key in held)
    save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
    return theirs


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_stacked(tmp_path: Path, name: str) -> None:
    theirs = stacked(name, tmp_path / "model")
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ids = torch.stack(ragged(97, [9, 9]))
    close(ours(ids).logits, theirs(ids).logits)
    check_round_trip(tmp_path / "model", ours, tmp_path / "again")
    pool = next(m for m in ours.modules() if type(m).__name__ == "Experts")
    file = tmp_path / "model" / "model.safetensors"
    mapped = any(
        str(file) in line for line in Path("/proc/self/maps").read_text().splitlines()
        if int(line.split("-")[0], 16) <= pool.down_proj.weight.data_ptr() < int(line.split("-")[1].split()[0], 16)
    )  # fmt: skip
    assert mapped  # nothing was copied
    # The base alone reads it too, and what it saves has the layout.
    base = omniform.AutoModel.from_pretrained(tmp_path / "model")
    base.save_pretrained(tmp_path / "base")
    again = omniform.AutoModel.from_pretrained(tmp_path / "base")
    close(again(ids).last_hidden_state, base(ids).last_hidden_state)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_state_dict_of_the_reference(tmp_path: Path, name: str) -> None:
    theirs = stacked(name, tmp_path / "model")
    fresh = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.from_pretrained(tmp_path / "model")).eval()
    fresh.load_state_dict(theirs.state_dict())
    ids = torch.stack(ragged(97, [9, 9]))
    close(fresh(ids).logits, theirs(ids).logits)


SAID: dict[str, dict[str, object]] = {
    "mamba": {
        "d_model": 768, "d_inner": 1536, "d_conv": 4, "n_layer": 24, "ssm_cfg": {}, "pad_vocab_size_multiple": 8,
        "fused_add_norm": True, "rms_norm": True, "time_step_init_scheme": "random", "time_step_scale": 1.0,
    },
    "falcon_mamba": {"use_falcon_mambapy": False, "expand": 16, "intermediate_size": 8192, "hidden_size": 4096},
    "mamba2": {
        "norm_before_gate": True, "rms_norm": True, "intermediate_size": 8192, "time_step_init_scheme": "random",
        "time_step_scale": 1.0, "chunk_size": 256,
    },
    "qwen3_next": {"use_sliding_window": False, "partial_rotary_factor": 0.25, "full_attention_interval": 4},
    "granitemoeshared": {
        "init_method": "mup", "normalization_function": "rmsnorm", "position_embedding_type": "rope",
        "shared_intermediate_size": 1024,
    },
}  # fmt: skip
"""What published configs of these families say beside what the reference's classes hold."""


@pytest.mark.parametrize("name", SAID)
def test_what_published_configs_say_is_known(name: str) -> None:
    assert not omniform.AutoConfig.for_model(name, **SAID[name]).unknown


def test_a_plan_of_stacks(tmp_path: Path) -> None:
    stacked("mixtral", tmp_path / "model")
    file = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert omniform.plan(tmp_path / "model").weights == len(file) - 8 - int.from_bytes(file[:8], "little")
