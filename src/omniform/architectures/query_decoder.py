"""Queries that look at maps, each only where its own mask so far is (https://arxiv.org/abs/2112.01527, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.pixel_decoder import LEVELS, whole_places
from omniform.blocks.composed import Composed
from omniform.blocks.layers import Layer, Norm, passed
from omniform.blocks.mlp import MLP
from omniform.blocks.positioned import PlacedContext, PositionedAttention, PositionedCrossAttention, SinePlaces
from omniform.core.context import Mask, Memory, StepContext
from omniform.core.rules import Full
from omniform.weights.keymap import Rule
from omniform.weights.links import split


@dataclass(frozen=True, slots=True)
class MaskedContext(PlacedContext):
    """A step whose queries each see a part of the memory.

    Attributes:
        seen: Shape: [B, 1, Q, S], True where a query may look; None for everywhere.
    """

    seen: Tensor | None = None


class MaskedCrossAttention(PositionedCrossAttention):
    """Cross-attention that sees what a :class:`MaskedContext` lets each query see."""

    def seen(self, queries: int, ctx: StepContext) -> Mask:
        assert isinstance(ctx, MaskedContext)
        return Mask(ctx.seen)


class MaskedPostNorm(Layer):
    """``norm(x + cross(x))``, then ``norm(x + attn(x))``, then ``norm(x + mlp(x))`` (Mask2Former)."""

    cross_attn: nn.Module
    cross_attn_layer_norm: Norm
    self_attn: nn.Module
    self_attn_layer_norm: Norm
    mlp: nn.Module
    final_layer_norm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.cross_attn_layer_norm(self.add(x_BTD, self.cross_attn(x_BTD, ctx), ctx))
        x_BTD = self.self_attn_layer_norm(self.add(x_BTD, self.self_attn(x_BTD, ctx), ctx))
        normed: Tensor = self.final_layer_norm(self.add(x_BTD, self.mlp(x_BTD), ctx))
        return normed


class MaskedPreNorm(MaskedPostNorm):
    """The same with each norm before its branch (``pre_norm``)."""

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.cross_attn(self.cross_attn_layer_norm(x_BTD), ctx), ctx)
        x_BTD = self.add(x_BTD, self.self_attn(self.self_attn_layer_norm(x_BTD), ctx), ctx)
        return self.add(x_BTD, self.mlp(self.final_layer_norm(x_BTD)), ctx)


class ReluStack(nn.Module):
    """Projections with ReLU between them.

    Args:
        widths: of what comes in, of what lies between two projections, and of what goes out.
    """

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.widths = widths
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., D']."""
        *first, last = self.layers
        for layer in first:
            x = F.relu(layer(x))
        out: Tensor = last(x)
        return out


def drawn(embeddings_BQC: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """Scores of every pixel as part of every query's mask. Shape: [B, Q, H, W]."""
    flat = embeddings_BQC @ pixels_BCHW.flatten(2)
    return flat.view(*flat.shape[:2], *pixels_BCHW.shape[-2:])


@dataclass(frozen=True, slots=True)
class MapMemory:
    """A map as queries look at it.

    Attributes:
        hidden: Shape: [B, S, D].
        places: Shape: [1, S, D].
        size: height and width.
    """

    hidden: Tensor
    places: Tensor
    size: tuple[int, int]


class MapMemories(Composed):
    """What queries look at: maps, projected where their width asks for it, each marked as the one that it is.

    Args:
        projections: one for each map, from coarse to fine; each may do nothing.
        level_embed: the marks.
        position_embedding: of each map's places.
    """

    projections: nn.ModuleList
    level_embed: nn.Embedding
    position_embedding: SinePlaces

    @classmethod
    def over(cls, inner: int, dim: int, *, projected: bool) -> MapMemories:
        """Of maps of ``inner`` channels for queries of width ``dim``; ``projected``: even where these are the same."""
        wanted = projected or inner != dim
        projections = [nn.Conv2d(inner, dim, 1) if wanted else nn.Identity() for _ in range(LEVELS)]
        return cls(
            projections=nn.ModuleList(projections),
            level_embed=nn.Embedding(LEVELS, dim),
            position_embedding=SinePlaces(dim),
        )

    def forward(self, maps: Sequence[Tensor]) -> list[MapMemory]:
        """From maps, coarse to fine. Shape: [B, C, H, W] each."""
        memories, marks = [], rows_of(self.level_embed, maps[0].device)
        for i, (project, x) in enumerate(zip(self.projections, maps, strict=True)):
            hidden = project(x).flatten(2).transpose(1, 2) + marks[:, i, None]
            memories.append(MapMemory(hidden, whole_places(self.position_embedding, x), (x.shape[2], x.shape[3])))
        return memories


@dataclass(frozen=True, slots=True)
class Drawn:
    """What queries came to.

    Attributes:
        hidden: of the queries after the last layer, Shape: [B, Q, D].
        normed: of the queries before the first layer and after each, normed, Shape: [B, Q, D] each.
        masks: of these, Shape: [B, Q, H, W] each.
    """

    hidden: Tensor
    normed: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


class MaskedDecoder(Composed):
    """Layers over queries, each of which reads one map, the coarsest first, and those parts of it that queries claim.

    Args:
        layers: over the queries.
        layernorm: of what masks are drawn from.
        mask_embedder: from there to what is compared with pixels.
        layerdrop: probability of leaving out a layer in training.
    """

    layers: nn.ModuleList
    layernorm: nn.Module
    mask_embedder: ReluStack
    layerdrop: float = 0.0

    def forward(
        self, queries_BQD: Tensor, places: Tensor, memories: Sequence[MapMemory], pixels_BCHW: Tensor, ctx: StepContext
    ) -> Drawn:
        """Let queries look.

        Args:
            queries_BQD: what they begin as, Shape: [B, Q, D].
            places: what tells them apart, Shape: [1, Q, D].
            memories: the maps, from coarse to fine.
            pixels_BCHW: what masks are drawn on.
            ctx: a step over the queries.
        """
        step = MaskedContext.of(ctx, places)
        x, normed = queries_BQD, [self.layernorm(queries_BQD)]
        masks = [drawn(self.mask_embedder(normed[0]), pixels_BCHW)]
        for number, layer in enumerate(self.layers):
            ctx.taps.hidden(x)
            if self.training and self.layerdrop and float(torch.rand([])) < self.layerdrop:
                continue
            memory = memories[number % len(memories)]
            look = step.with_(
                memory=Memory(memory.hidden), memory_places=memory.places, seen=claimed(masks[-1], memory.size)
            )
            x = passed(layer, number, x, look)
            normed.append(self.layernorm(x))
            masks.append(drawn(self.mask_embedder(normed[-1]), pixels_BCHW))
        ctx.taps.hidden(x)
        return Drawn(x, tuple(normed), tuple(masks))


@torch.no_grad()
def claimed(masks_BQHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Which places of a map queries may look at: those in their masks, and all for whom that would be none.

    Args:
        masks_BQHW: scores of pixels.
        size: of the map.

    Returns:
        Shape: [B, 1, Q, S].
    """
    scores = F.interpolate(masks_BQHW, size=size, mode="bilinear", align_corners=False).flatten(2)
    inside = scores.sigmoid() >= 0.5
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLayers:
    """How layers over queries are made.

    Attributes:
        kind: where their norms stand.
        dim: width of the queries.
        heads: of their attentions.
        hidden: width inside the feed-forwards.
        act: name of the activation there.
        dropout: of attention weights, inside the feed-forwards, and of what branches add.
        eps: of the norms.
    """

    kind: type[MaskedPostNorm]
    dim: int
    heads: int
    hidden: int
    act: str
    dropout: float
    eps: float

    def build(self, count: int) -> nn.ModuleList:
        """So many layers."""
        return nn.ModuleList(self._one() for _ in range(count))

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, eps=self.eps)

    def _one(self) -> Layer:
        return self.kind.of(
            self.norm,
            cross_attn=MaskedCrossAttention(self.dim, self.heads, dropout=self.dropout),
            self_attn=PositionedAttention(self.dim, self.heads, rule=Full(), dropout=self.dropout),
            mlp=MLP(self.dim, self.hidden, self.act, dropout=self.dropout),
            dropout=self.dropout,
        )


def rows_of(table: nn.Embedding, device: torch.device) -> Tensor:
    """All vectors of a table, as one row of a batch. Shape: [1, N, D]."""
    found: Tensor = table(torch.arange(table.num_embeddings, device=device))
    return found[None]


def in_projection(ours: str, theirs: str) -> dict[str, Rule]:
    """Rules for an attention that checkpoints keep as torch's own does, its three projections in one.

    Args:
        ours: path of our attention.
        theirs: path of theirs.
    """
    rules: dict[str, Rule] = {f"{ours}.o_proj": f"{theirs}.out_proj"}
    for i, name in enumerate("qkv"):
        for kind in ("weight", "bias"):
            rules[f"{ours}.{name}_proj.{kind}"] = split(f"{theirs}.in_proj_{kind}", i, 3)
    return rules
