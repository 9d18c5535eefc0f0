"""What DINOv2, its sibling with registers and DINOv3 share: scaled branches, two-part classifiers, in-memory names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from omniform.architectures.heads import Hidden
from omniform.architectures.parts import read_width
from omniform.architectures.tower import Tower
from omniform.blocks.attention import Attention
from omniform.blocks.drop_path import DropPath, LayerScale, ScaledBranches
from omniform.blocks.mlp import ACTIVATIONS, MLP, GatedMLP
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import split, unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Branches:
    """How what a layer adds is scaled, and how often it is left out in training."""

    start: float
    drop_path: float

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """The fields under their usual names."""
        return cls(start=r.number("layerscale_value", 1.0), drop_path=r.probability("drop_path_rate"))

    def stack(
        self, tower: Tower, attention: Callable[[], Attention], feed_forward: Callable[[], nn.Module]
    ) -> nn.ModuleList:
        """The tower's layers, each of an attention and a feed-forward of its own."""
        return nn.ModuleList(
            ScaledBranches.of(
                tower.norm,
                self_attn=attention(),
                mlp=feed_forward(),
                layer_scale1=LayerScale(tower.dim, self.start),
                layer_scale2=LayerScale(tower.dim, self.start),
                drop_path=DropPath(self.drop_path),
            )
            for _ in range(tower.layers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WideTower:
    """An encoder whose feed-forward is told as a multiple of its width (DINOv2)."""

    tower: Tower
    branches: Branches
    gated: bool
    qkv_bias: bool
    dropout: float
    head_dim: int | None

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """The fields under their usual names."""
        width, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
        tower = Tower(
            dim=width,
            hidden=int(width * r.number("mlp_ratio", 4)),
            layers=r.layers("num_hidden_layers", 12),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-6),
            attention_dropout=r.probability("attention_probs_dropout_prob"),
        )
        return cls(
            tower=tower,
            branches=Branches.read(r),
            gated=r.flag("use_swiglu_ffn", False),
            qkv_bias=r.flag("qkv_bias", True),
            dropout=r.probability("hidden_dropout_prob"),
            head_dim=r.maybe_integer("head_dim"),
        )

    def stack(self) -> nn.ModuleList:
        """The layers."""
        t = self.tower

        def attention() -> Attention:
            biases = "qkvo" if self.qkv_bias else "o"
            return Attention(
                t.dim, t.heads, rule=Full(), head_dim=self.head_dim, biases=biases, dropout=t.attention_dropout
            )

        # A gate costs a third matrix: two thirds of the width, up to a multiple of 8.
        wide = (int(t.hidden * 2 / 3) + 7) // 8 * 8

        def feed_forward() -> nn.Module:
            return GatedMLP(t.dim, wide, "silu", bias=True) if self.gated else MLP(t.dim, t.hidden, t.act)

        return self.branches.stack(t, attention, feed_forward)


@dataclass(frozen=True, slots=True)
class ClassAndPatches:
    """The class token, and beside it the mean of the patches.

    Attributes:
        first: how many tokens stand before the patches.
    """

    first: int

    def __call__(self, out: Hidden, input_ids: Tensor | None) -> Tensor:
        """Shape: [B, 2 * D]."""
        hidden = out.last_hidden_state
        return torch.cat((hidden[:, 0], hidden[:, self.first :].mean(dim=1)), dim=1)


_LAYER = "encoder.layer.{i}"
_RULES: dict[str, Rule] = {
    "class_token.weight": unsqueezed("embeddings.cls_token", 2),
    "mask_token.weight": unsqueezed("embeddings.mask_token", 1),
    "register_tokens.weight": unsqueezed("embeddings.register_tokens", 1),
    "patches": "embeddings.patch_embeddings",
    "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
    "layers.{i}": _LAYER,
    "layers.{i}.input_layernorm": f"{_LAYER}.norm1",
    "layers.{i}.self_attn.q_proj": f"{_LAYER}.attention.attention.query",
    "layers.{i}.self_attn.k_proj": f"{_LAYER}.attention.attention.key",
    "layers.{i}.self_attn.v_proj": f"{_LAYER}.attention.attention.value",
    "layers.{i}.self_attn.o_proj": f"{_LAYER}.attention.output.dense",
    "layers.{i}.post_attention_layernorm": f"{_LAYER}.norm2",
    "layers.{i}.mlp.gate_proj": split(f"{_LAYER}.mlp.weights_in", 0, 2),
    "layers.{i}.mlp.up_proj": split(f"{_LAYER}.mlp.weights_in", 1, 2),
    "layers.{i}.mlp.down_proj": f"{_LAYER}.mlp.weights_out",
    "norm": "layernorm",
}
WIDE_KEYS = KeyMap(
    _RULES,
    # Names in the reference's memory, which its adapters are saved under.
    aliases=(
        (r"(^|\.)layer\.(\d+)\.attention\.q_proj\.", r"\1layer.\2.attention.attention.query."),
        (r"(^|\.)layer\.(\d+)\.attention\.k_proj\.", r"\1layer.\2.attention.attention.key."),
        (r"(^|\.)layer\.(\d+)\.attention\.v_proj\.", r"\1layer.\2.attention.attention.value."),
        (r"(^|\.)layer\.(\d+)\.attention\.o_proj\.", r"\1layer.\2.attention.output.dense."),
    ),
    modules=(
        (r"(^|\.)layer\.(\d+)\.attention\.attention\.([qkv])\w+", r"\1layer.\2.attention.\3_proj"),
        (r"(^|\.)layer\.(\d+)\.attention\.output\.dense", r"\1layer.\2.attention.o_proj"),
    ),
)
"""Where DINOv2's line keeps its weights."""
