"""Disentangled attention: what tokens hold and where they stand are compared apart (https://arxiv.org/abs/2006.03654).

Beside the score of a query's content with a key's there are those of the query's content with the key's place (``c2p``)
and of the query's place with the key's content (``p2c``). A place is the bucket of the distance, and has a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attention import Projections
from omniform.blocks.composed import Composed
from omniform.blocks.embeddings import Embeddings, PositionTable, without_padding
from omniform.blocks.layers import Norm, PostNorm
from omniform.blocks.mlp import activation
from omniform.core.context import StepContext


class Buckets(Protocol):
    """Distances to buckets of them. Shape: [...] in and out, integers; ``-distance`` has the bucket ``-bucket``."""

    def __call__(self, distance: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Exact:
    """Every distance is a bucket of its own."""

    def __call__(self, distance: Tensor) -> Tensor:
        return distance


@dataclass(frozen=True, slots=True)
class Logarithmic:
    """Half of the buckets are single distances, the others grow with the logarithm (DeBERTa-v2).

    Attributes:
        buckets: on either side.
        far: the first distance of the last bucket is one less than this.
    """

    buckets: int
    far: int

    def __call__(self, distance: Tensor) -> Tensor:
        near = self.buckets // 2
        size = distance.abs()
        # In float32 and in this order: another rounding would move a distance on the edge to the next bucket. The
        # logarithm of one number is taken on the device, so that nothing is read from it.
        whole = torch.full((), (self.far - 1) / near, dtype=torch.float32, device=distance.device).log()
        steps = torch.ceil((size.clamp(min=near - 1) / near).log() / whole * (near - 1)) + near
        # Not finite at the distance 0 of two buckets, and where ``far - 1`` is ``near``: values that nobody can use.
        steps = steps.nan_to_num(self.buckets, self.buckets, -self.buckets).long()
        return torch.where(size <= near, distance, steps * distance.sign())


class RelativePositions(nn.Module):
    """One learned vector per bucket of distances, for the layers that share it.

    Args:
        span: buckets on either side; what lies beyond has the last one's.
        dim: width of a vector.
        bucket: distances to buckets.
        norm: applied to the vectors; None for nothing.
    """

    def __init__(self, span: int, dim: int, bucket: Buckets, norm: nn.LayerNorm | None) -> None:
        super().__init__()
        self.span = span
        self.bucket = bucket
        self.table = nn.Embedding(2 * span, dim)
        self.norm = norm

    def twin(self) -> RelativePositions:
        """Another with the very same parameters, for another layer; a step computes what it shares once."""
        other = RelativePositions(self.span, self.table.embedding_dim, self.bucket, twin_norm(self.norm))
        other.table.weight = self.table.weight
        return other

    def vectors(self, ctx: StepContext) -> Tensor:
        """The vectors of all buckets. Shape: [2 * span, D]."""
        return ctx.once(("places", id(self.table.weight)), lambda: self._vectors(ctx.positions.device))

    def _vectors(self, device: torch.device) -> Tensor:
        table: Tensor = self.table(torch.arange(2 * self.span, device=device))
        return table if self.norm is None else cast(Tensor, self.norm(table))

    def places(self, ctx: StepContext, queries: int) -> Tensor:
        """For every query and key of the step, which vector tells their distance. Shape: [T, S]."""
        return ctx.once(("distances", id(self.table.weight)), lambda: self._places(ctx, queries))

    def _places(self, ctx: StepContext, queries: int) -> Tensor:
        found = ctx.spread(self._between, ctx.positions.device, queries)
        assert isinstance(found, Tensor), "encoders read padded steps"
        return found

    def _between(self, query: Tensor, key: Tensor) -> Tensor:
        return (self.bucket(query[:, None] - key[None, :]) + self.span).clamp(0, 2 * self.span - 1)

    def extra_repr(self) -> str:
        return f"bucket={self.bucket}"


def twin_norm(norm: nn.LayerNorm | None) -> nn.LayerNorm | None:
    """A second norm with the very same parameters."""
    if norm is None:
        return None
    other = nn.LayerNorm(norm.normalized_shape, norm.eps)
    other.weight, other.bias = norm.weight, norm.bias
    return other


@dataclass(frozen=True, slots=True)
class Shared:
    """A projection that an attention has for its tokens, used for places too.

    It is asked for by name whenever it is called, as edits of a model put others into its place.
    """

    attention: Projections
    name: str

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, getattr(self.attention, self.name)(x))


class DisentangledBias(Composed):
    """The scores between contents and places; which of them there are, its projections say.

    Attributes:
        positions: the places' vectors.
        head_dim: width of a head.
        scale: factor on the dot products.
        c2p: makes keys of places; None where contents are not compared with places.
        p2c: makes queries of places; None where places are not compared with contents.
        dropout: on the places' vectors, in training.
    """

    positions: RelativePositions
    head_dim: int
    scale: float
    c2p: Callable[[Tensor], Tensor] | None = None
    p2c: Callable[[Tensor], Tensor] | None = None
    dropout: float = 0.0

    def forward(self, q_BTHD: Tensor, k_BHSD: Tensor, ctx: StepContext) -> Tensor:
        """The bias of one layer in one step. Shape: [B, H, T, S]; [1, 1, 1, 1] where nothing is compared."""
        if self.c2p is None and self.p2c is None:
            return q_BTHD.new_zeros(1, 1, 1, 1)
        places = self.positions.places(ctx, q_BTHD.shape[1])
        vectors = F.dropout(self.positions.vectors(ctx), self.dropout, self.training)
        index = places.expand(*k_BHSD.shape[:2], *places.shape)
        terms = []
        if self.c2p is not None:
            keys_HDP = self._split(self.c2p(vectors)).permute(1, 2, 0)
            terms.append((q_BTHD.transpose(1, 2) @ keys_HDP).gather(3, index))
        if self.p2c is not None:
            queries_HPD = self._split(self.p2c(vectors)).transpose(0, 1)
            terms.append((queries_HPD @ k_BHSD.transpose(2, 3)).gather(2, index))
        return sum(terms[1:], terms[0]) * self.scale

    def _split(self, x_PE: Tensor) -> Tensor:
        return x_PE.view(x_PE.shape[0], -1, self.head_dim)


class UnusedNorm(Composed):
    """No bias: checkpoints without relative positions hold the norm of their vectors all the same."""

    norm: nn.LayerNorm | None

    def forward(self, q_BTHD: Tensor, k_BHSD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [1, 1, 1, 1]. Zeros and not None, so that padding looks alike in all implementations."""
        return q_BTHD.new_zeros(1, 1, 1, 1)


class MaskedEmbeddings(Embeddings):
    """What stands at padding is zero; positions, types and a projection to the layers' width where there are any.

    Token types are taken, and looked at only where there is a table of them.
    """

    embed_positions: PositionTable | None
    embed_token_types: nn.Embedding | None
    embed_proj: nn.Linear | None
    norm: nn.Module
    INPUTS = frozenset({"token_type_ids"})

    @property
    def positions(self) -> int | None:
        return None if self.embed_positions is None else self.embed_positions.positions

    @property
    def types(self) -> int | None:
        return None if self.embed_token_types is None else self.embed_token_types.num_embeddings

    def typed(self, embeds_BTD: Tensor, token_type_ids: Tensor | None) -> Tensor:
        if self.embed_token_types is None:
            return embeds_BTD
        if token_type_ids is None:
            token_type_ids = embeds_BTD.new_zeros((), dtype=torch.long)
        return embeds_BTD + cast(Tensor, self.embed_token_types(token_type_ids))

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        if self.embed_positions is not None:
            embeds_BTD = embeds_BTD + self.embed_positions(ctx.positions)
        if self.embed_proj is not None:
            embeds_BTD = self.embed_proj(embeds_BTD)
        return super().forward(without_padding(self.norm(embeds_BTD), ctx), ctx)


class ConvolvedPostNorm(PostNorm):
    """A post-norm layer, to whose output a convolution of its input over neighbouring tokens is added, and normed.

    ``act`` comes after the convolution, ``conv_norm`` after the sum.
    """

    conv: nn.Conv1d
    act: str
    conv_norm: Norm

    def __post_init__(self) -> None:
        super().__post_init__()
        self._act = activation(self.act)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        near = without_padding(self.conv(x_BTD.transpose(1, 2)).transpose(1, 2), ctx)
        near = self._act(F.dropout(near, self.dropout, self.training))
        out = self.conv_norm(super().forward(x_BTD, ctx) + near)
        return without_padding(out, ctx)
