"""Qwen2-VL (https://arxiv.org/abs/2409.12191)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.packed_vision import PackedVision, PatchTower, block_keys
from omniform.blocks.fused import FusedMLP
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the encoder of pictures computes."""

    tower: PatchTower


def read_vision(r: ConfigReader) -> VisionSide:
    """Read its config; every key is used, declared inert or refused."""
    return VisionSide(
        tower=PatchTower.read(
            r, dim=1280, hidden=None, layers=32, act="quick_gelu", patch=14, width_key="embed_dim",
            out_key="hidden_size",
        )
    )  # fmt: skip


def build_vision(c: VisionSide) -> PackedVision:
    """The encoder of pictures."""
    t = c.tower
    return PackedVision(
        patch_embed=t.patches(bias=False),
        layers=nn.ModuleList(t.layer(t.norm, FusedMLP(t.dim, t.hidden, t.act)) for _ in range(t.layers)),
        merger=t.merger(t.norm()),
        merge=t.merge,
    )


VISION_KEYS = KeyMap(
    {
        **block_keys({}),
        "merger.norm": "merger.ln_q",
        "merger.linear_fc1": "merger.mlp.0",
        "merger.linear_fc2": "merger.mlp.2",
    }
)

VISION = (
    Builder("qwen2_vl_vision", read_vision, VISION_KEYS, prefix="visual")
    .public(config="Qwen2VLVisionConfig")
    .base("Qwen2VisionTransformerPretrainedModel", build_vision)
    .done()
)
