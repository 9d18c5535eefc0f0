"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923): a Qwen2-VL most of whose layers look at windows of a picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.packed_vision import PackedVision, PatchTower, block_keys
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.packed_patches import FRAME, WINDOW
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What the encoder of pictures computes.

    Attributes:
        window: rows and columns of tokens in a window.
        whole: the layers whose patches see their whole frame.
        pace: how many positions in time a second of film has.
    """

    tower: PatchTower
    window: int
    whole: tuple[int, ...]
    pace: int

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.tower.dim, 1e-6)

    def layers(self) -> nn.ModuleList:
        """All layers."""
        t = self.tower
        return nn.ModuleList(
            t.layer(self.norm, GatedMLP(t.dim, t.hidden, t.act, bias=True), FRAME if i in self.whole else WINDOW)
            for i in range(t.layers)
        )


def read_vision(r: ConfigReader) -> VisionSide:
    """Read its config; every key is used, declared inert or refused."""
    tower = PatchTower.read(r, dim=3584, hidden=3420, layers=32, act="silu", patch=14)
    pixels, token = r.integer("window_size", 112), tower.merge * tower.patch
    if pixels < token:
        raise r.fail("window_size", f"at least {token}, the pixels of a token", pixels)
    return VisionSide(
        tower=tower,
        window=pixels // tower.merge // tower.patch,
        whole=r.integers("fullatt_block_indexes", (7, 15, 23, 31)),
        pace=r.integer("tokens_per_second", 4, least=0),
    )


def build_vision(c: VisionSide) -> PackedVision:
    """The encoder of pictures."""
    t = c.tower
    return PackedVision(
        patch_embed=t.patches(bias=False),
        layers=c.layers(),
        merger=t.merger(c.norm()),
        merge=t.merge,
        window=c.window,
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
    Builder("qwen2_5_vl_vision", read_vision, VISION_KEYS, prefix="visual")
    .public(config="Qwen2_5_VLVisionConfig")
    .base("Qwen2_5_VisionTransformerPretrainedModel", build_vision)
    .done()
)
