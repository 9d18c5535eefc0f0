"""Encoders of packed pictures with learned positions, whose earlier layers are heard too (Qwen3-VL).

That earlier layers give tokens of their own is DeepStack (https://arxiv.org/abs/2406.04334).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.packed_vision import PackedVision, PatchTower, block_keys
from omniform.blocks.fused import FusedMLP
from omniform.blocks.packed_patches import InterpolatedTable, WholeNormMerger
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class DeepTower:
    """What such an encoder computes.

    Attributes:
        positions: how many are learned, of a square.
        deep: the layers that are heard beside the last one.
    """

    tower: PatchTower
    positions: int
    deep: tuple[int, ...]

    @classmethod
    def read(cls, r: ConfigReader) -> DeepTower:
        """Read its config; every key is used, declared inert or refused."""
        return cls(
            tower=PatchTower.read(r, dim=1152, hidden=4304, layers=27, act="gelu_pytorch_tanh", patch=16),
            positions=r.integer("num_position_embeddings", 2304),
            deep=r.integers("deepstack_visual_indexes", (8, 16, 24)),
        )

    def build(self) -> PackedVision:
        """The encoder."""
        t = self.tower
        wide = t.dim * t.merge**2
        deep = [t.merger(nn.LayerNorm(wide, 1e-6), WholeNormMerger) for _ in self.deep]
        return PackedVision(
            patch_embed=t.patches(bias=True),
            pos_embed=InterpolatedTable(self.positions, t.dim),
            layers=nn.ModuleList(t.layer(t.norm, FusedMLP(t.dim, t.hidden, t.act)) for _ in range(t.layers)),
            merger=t.merger(t.norm()),
            merge=t.merge,
            deepstack_merger_list=nn.ModuleList(deep),
            deep_layers=self.deep,
        )


DEEP_KEYS = KeyMap(block_keys({"fc1": "linear_fc1", "fc2": "linear_fc2"}))
"""Where its weights lie."""
