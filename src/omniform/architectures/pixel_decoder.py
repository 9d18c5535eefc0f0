"""From a backbone's maps to one fine map that masks are read from: pyramids, and attention over several maps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.deformable import DeformableAttention, MapContext, Sizes, centres
from omniform.blocks.layers import PostNorm, run
from omniform.blocks.mlp import activation
from omniform.blocks.positioned import SinePlaces
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader

GROUPS = 32
"""Channels of a group norm's inputs are cut into so many groups."""

LEVELS = 3
"""How many of a backbone's maps, the coarsest ones, are read together, whatever a config says of their number."""

POINTS = 4
"""How many places of each of them a head looks at."""


def read_channels(r: ConfigReader, name: str, default: int) -> int:
    """A number of channels that a group norm can be laid over."""
    channels = r.integer(name, default)
    if channels % GROUPS:
        raise r.fail(name, f"a multiple of {GROUPS}, the groups of its norms", channels)
    return channels


class ConvNorm(nn.Module):
    """A convolution, a group norm and an activation.

    Args:
        inner: channels that come in.
        outer: channels that go out.
        size: of its kernel, in pixels.
        act: name of the activation.
        bias: whether the convolution has one.
    """

    def __init__(self, inner: int, outer: int, size: int, act: str = "linear", *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inner, outer, size, padding=size // 2, bias=bias)
        self.norm = nn.GroupNorm(GROUPS, outer)
        self.act = act
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H, W]."""
        return self._act(self.norm(self.conv(x_BCHW)))

    def extra_repr(self) -> str:
        return f"act={self.act}"


class PyramidStage(nn.Module):
    """Enlarges a map to the size of a finer one and adds that (https://arxiv.org/abs/1612.03144)."""

    def __init__(self, fine: int, dim: int) -> None:
        super().__init__()
        self.proj = ConvNorm(fine, dim, 1)
        self.block = ConvNorm(dim, dim, 3, "relu")

    def forward(self, x_BDHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        """Shape: [B, D, h, w] and [B, C, H, W] to [B, D, H, W]."""
        enlarged = F.interpolate(x_BDHW, size=fine_BCHW.shape[-2:], mode="nearest")
        out: Tensor = self.block(enlarged + self.proj(fine_BCHW))
        return out


class FeaturePyramid(nn.Module):
    """Carries the coarsest map down to the finest.

    Args:
        channels: of the backbone's maps, from fine to coarse.
        dim: of its own.
    """

    def __init__(self, channels: Sequence[int], dim: int) -> None:
        super().__init__()
        self.stem = ConvNorm(channels[-1], dim, 3, "relu")
        self.layers = nn.ModuleList(PyramidStage(fine, dim) for fine in channels[-2::-1])

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """From fine to coarse in; the enlarged maps, from coarse to fine, out. Shape: [B, C, H, W] each."""
        x: Tensor = self.stem(maps[-1])
        made: list[Tensor] = []
        for layer, finer in zip(self.layers, maps[-2::-1], strict=True):
            x = layer(x, finer)
            made.append(x)
        return tuple(made)


class PyramidPixelDecoder(Composed):
    """MaskFormer's: a pyramid, whose finest map is projected."""

    fpn: FeaturePyramid
    mask_projection: nn.Conv2d

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The map that masks are read from, and the pyramid's maps from coarse to fine. Shape: [B, C, H, W] each."""
        made = self.fpn(maps)
        return self.mask_projection(made[-1]), made


class AlwaysDropout(nn.Dropout):
    """Dropout whether or not a model trains, as OneFormer's configs ask for it by ``is_training``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


class MapMLP(nn.Module):
    """A feed-forward whose dropout is told."""

    def __init__(self, dim: int, hidden: int, drop: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.drop = drop
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x_BSD: Tensor) -> Tensor:
        """Shape: [B, S, D] in and out."""
        out: Tensor = self.fc2(self.drop(F.relu(self.fc1(x_BSD))))
        return out


class MapLayer(PostNorm):
    """A layer over the places of several maps; what its branches add is dropped as told."""

    drop: nn.Module

    def add(self, x_BTD: Tensor, branch_BTD: Tensor, ctx: StepContext) -> Tensor:
        added: Tensor = x_BTD + self.drop(branch_BTD)
        return added

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        out = super().forward(x_BTD, ctx)
        if not self.training:
            return out
        # In half precision a training may run over.
        most = torch.finfo(out.dtype).max - 1000
        return out.clamp(-most, most)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapReader:
    """How several maps are read together.

    Attributes:
        dim: width of what is read.
        out: channels of the map that masks are read from.
        heads: of the attention.
        layers: over the places of the three coarsest maps.
        hidden: width inside the feed-forwards.
        eps: of the layers' norms.
        extra: how many finer maps the pyramid goes down to, counted as Python counts the head of a list.
        dropout: makes what drops.
    """

    dim: int
    out: int
    heads: int
    layers: int
    hidden: int
    eps: float
    extra: int
    dropout: Callable[[], nn.Module]

    @staticmethod
    def read_extra(r: ConfigReader, name: str) -> int:
        """How many steps of two lie between the strides of the coarsest three maps and ``common_stride``.

        Args:
            name: of the key that holds the strides of the backbone's maps.
        """
        strides, common = r.integers(name, (4, 8, 16, 32), least=1), r.integer("common_stride", 4)
        if not strides:
            raise r.fail(name, "at least one stride", list(strides))
        return int(math.log2(min(strides[-LEVELS:])) - math.log2(common))

    def build(self, channels: Sequence[int]) -> DeformablePixelDecoder:
        """The decoder over maps with these channels, from fine to coarse."""
        dim, finer = self.dim, channels[: self.extra]

        def layer() -> MapLayer:
            attention = DeformableAttention(dim, self.heads, LEVELS, POINTS)
            drop, mlp = self.dropout(), MapMLP(dim, self.hidden, self.dropout())
            return MapLayer.of(lambda: nn.LayerNorm(dim, eps=self.eps), self_attn=attention, mlp=mlp, drop=drop)

        return DeformablePixelDecoder(
            position_embedding=SinePlaces(dim),
            level_embed=nn.Embedding(LEVELS, dim),
            input_projections=nn.ModuleList(ConvNorm(c, dim, 1, bias=True) for c in channels[: -LEVELS - 1 : -1]),
            layers=nn.ModuleList(layer() for _ in range(self.layers)),
            adapters=nn.ModuleList(ConvNorm(c, dim, 1) for c in finer),
            refinements=nn.ModuleList(ConvNorm(dim, dim, 3, "relu") for _ in finer),
            mask_projection=nn.Conv2d(dim, self.out, 1),
        )


class DeformablePixelDecoder(Composed):
    """Mask2Former's: deformable attention over the three coarsest maps, then a pyramid down to the finest.

    Args:
        position_embedding: of each map's places.
        level_embed: what tells the maps apart, from coarse to fine.
        input_projections: of the three maps, from coarse to fine.
        layers: over their places.
        adapters: of the finer maps, from fine to coarse.
        refinements: of what they are added to, likewise.
        mask_projection: of the finest.
    """

    position_embedding: SinePlaces
    level_embed: nn.Embedding
    input_projections: nn.ModuleList
    layers: nn.ModuleList
    adapters: nn.ModuleList
    refinements: nn.ModuleList
    mask_projection: nn.Conv2d

    def forward(self, maps: Sequence[Tensor], ctx: StepContext) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The map that masks are read from, and three maps from coarse to fine.

        Args:
            maps: of the backbone, from fine to coarse. Shape: [B, C, H, W] each.
            ctx: a step without padding.
        """
        read = [project(x) for project, x in zip(self.input_projections, maps[::-1], strict=False)]
        sizes = tuple((x.shape[2], x.shape[3]) for x in read)
        marks = self.level_embed(torch.arange(LEVELS, device=maps[0].device))
        places = torch.cat([whole_places(self.position_embedding, x) + marks[i] for i, x in enumerate(read)], dim=1)
        flat = torch.cat([x.flatten(2).transpose(1, 2) for x in read], dim=1)
        references = centres(sizes, flat.new_ones(1, LEVELS, 2))
        hidden = run(self.layers, flat, MapContext.on(ctx, sizes, references, places))
        made = _as_maps(hidden, sizes)
        steps = [*zip(self.adapters, self.refinements, maps, strict=False)]
        for adapt, refine, finer in reversed(steps):
            fine = adapt(finer)
            made.append(refine(fine + F.interpolate(made[-1], size=fine.shape[-2:], mode="bilinear")))
        return self.mask_projection(made[-1]), tuple(made[:LEVELS])


def whole_places(places: SinePlaces, x_BCHW: Tensor) -> Tensor:
    """Position vectors of a map without padding, the same for all pictures. Shape: [1, H * W, D]."""
    real = torch.ones(1, *x_BCHW.shape[-2:], dtype=torch.bool, device=x_BCHW.device)
    return places(real, x_BCHW.dtype)  # type: ignore[no-any-return]


def _as_maps(hidden_BSD: Tensor, sizes: Sizes) -> list[Tensor]:
    parts = torch.split(hidden_BSD, [height * width for height, width in sizes], dim=1)
    return [x.transpose(1, 2).reshape(x.shape[0], -1, *size) for x, size in zip(parts, sizes, strict=True)]


def reader_keys(steps: int) -> dict[str, str]:
    """Where checkpoints keep a :class:`DeformablePixelDecoder`.

    Args:
        steps: how many finer maps it goes down to.
    """
    rules = {"level_embed.weight": "level_embed", "layers": "encoder.layers"}
    rules |= {f"layers.{{i}}.mlp.{fc}": f"encoder.layers.{{i}}.{fc}" for fc in ("fc1", "fc2")}
    for number, part in enumerate(("conv", "norm")):
        rules[f"input_projections.{{i}}.{part}"] = f"input_projections.{{i}}.{number}"
        for i in range(steps):
            rules[f"adapters.{i}.{part}"] = f"adapter_{i + 1}.{number}"
            rules[f"refinements.{i}.{part}"] = f"layer_{i + 1}.{number}"
    return rules
