"""Layers of Hiera (https://arxiv.org/abs/2306.00989): attention within squares, some of whose queries are fewer.

Where a map grows coarser, queries are what is largest among neighbours, and keys and values stay as many.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attend import attend, computed_whole
from omniform.blocks.attention import Projections
from omniform.blocks.composed import Composed
from omniform.blocks.decomposed import Reach
from omniform.blocks.joint import outputs_of
from omniform.blocks.patches import Learned, Size
from omniform.core.context import EVERYTHING, Backend, Computed, StepContext
from omniform.core.errors import InputError
from omniform.core.state import KV


def largest(x_BHWC: Tensor, stride: Size) -> Tensor:
    """The largest of each block of neighbours, channel by channel. Shape: [B, H, W, C] in and out."""
    return F.max_pool2d(x_BHWC.permute(0, 3, 1, 2), kernel_size=stride, stride=stride).permute(0, 2, 3, 1)


class MapMixer(Projections):
    """Attention within the pieces of a map, to another width.

    Args:
        dim: width of the map that it reads.
        out: width of the one that it gives.
        heads: number of heads.
        reach: what a piece is.
    """

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("q_proj", "k_proj", "v_proj"),)

    def __init__(self, dim: int, out: int, heads: int, *, reach: Reach) -> None:
        super().__init__(dim, heads, head_dim=out // heads)
        self.o_proj = nn.Linear(out, out)
        self.reach = reach

    def state_spec(self) -> KV:
        return KV(self.kv_heads, self.head_dim, self.head_dim)

    def computed(self, backend: Backend) -> Computed:
        return computed_whole(backend, self.scores, "the pieces of a map see themselves whole", biased=False)

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Attend within the pieces. Shape: [B, H, W, C] to [B, H, W, C']."""
        grid = (x_BHWC.shape[1], x_BHWC.shape[2])
        piece, pieces = self.reach.piece(grid), self.reach.cut(x_BHWC)
        q, k, v = outputs_of(pieces, self.q_proj, self.k_proj, self.v_proj)
        q = self.asking(q.view(q.shape[0], *piece, -1))
        size = (q.shape[1], q.shape[2])
        mixed = attend(
            self.split(q.flatten(1, 2)),
            self.split(k).transpose(1, 2),
            self.split(v).transpose(1, 2),
            EVERYTHING,
            scores=self.scores,
            backend=ctx.backend,
        )
        out = self.o_proj(mixed)
        if ctx.taps.wants_attentions:
            ctx.taps.attentions.append(out.view(out.shape[0], *size, -1))
        return self.joined(out, grid)

    def asking(self, q_BHWC: Tensor) -> Tensor:
        """The queries of a piece. Shape: [B * pieces, H, W, C] in and out."""
        return q_BHWC

    def joined(self, pieces: Tensor, grid: Size) -> Tensor:
        """The map that pieces make. Shape: [B * pieces, T, C] to [B, H, W, C].

        Args:
            grid: rows and columns of the map that was read.
        """
        return self.reach.join(pieces, grid, (1, 1))

    def extra_repr(self) -> str:
        return f"reach={self.reach}"


class PoolingMixer(MapMixer):
    """One that makes the map coarser.

    Args:
        stride: how many rows and columns become one.
    """

    def __init__(self, dim: int, out: int, heads: int, *, reach: Reach, stride: Size) -> None:
        super().__init__(dim, out, heads, reach=reach)
        self.stride = stride

    def asking(self, q_BHWC: Tensor) -> Tensor:
        return largest(q_BHWC, self.stride)

    def joined(self, pieces: Tensor, grid: Size) -> Tensor:
        return self.reach.join(pieces, grid, self.stride)


class HieraLayer(Composed):
    """``x + attn(norm(x))``, then ``x + mlp(norm(x))``, on a map."""

    input_layernorm: nn.Module
    self_attn: MapMixer
    post_attention_layernorm: nn.Module
    mlp: nn.Module

    def forward(self, x_BHWC: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, H, W, C] in, and out what the attention makes of it."""
        normed = self.input_layernorm(x_BHWC)
        x_BHWC = self.kept(x_BHWC, normed) + self.self_attn(normed, ctx)
        out: Tensor = x_BHWC + self.mlp(self.post_attention_layernorm(x_BHWC))
        return out

    def kept(self, x_BHWC: Tensor, normed_BHWC: Tensor) -> Tensor:
        """What the attention's output is added to."""
        return x_BHWC


class WideningLayer(HieraLayer):
    """One that makes vectors wider."""

    proj: nn.Linear

    def kept(self, x_BHWC: Tensor, normed_BHWC: Tensor) -> Tensor:
        out: Tensor = self.proj(normed_BHWC)
        return out


class PoolingLayer(WideningLayer):
    """One that makes vectors wider and the map coarser."""

    def kept(self, x_BHWC: Tensor, normed_BHWC: Tensor) -> Tensor:
        assert isinstance(self.self_attn, PoolingMixer)
        return largest(super().kept(x_BHWC, normed_BHWC), self.self_attn.stride)


class TiledPositions(nn.Module):
    """Learned positions of places within a square, and of squares on the map (https://arxiv.org/abs/2311.05613).

    Args:
        dim: width of a vector.
        background: rows and columns of what is resampled to the map's size.
        side: of a square.
    """

    def __init__(self, dim: int, background: Size, side: int) -> None:
        super().__init__()
        self.side = side
        self.background = Learned(dim, *background)
        self.square = Learned(dim, side, side)

    def forward(self, grid: Size) -> Tensor:
        """The positions of a map. Shape: [1, H, W, C].

        Raises:
            InputError: squares do not fill it.
        """
        if any(side % self.side or not side for side in grid):
            raise InputError(
                "the model's squares do not fill the map of this picture",
                where="pixel_values",
                expected=f"multiples of {self.side} rows and columns of patches",
                found=f"{grid[0]} x {grid[1]}",
                remedy="Resize the pictures.",
            )
        whole = F.interpolate(self.background.weight[None], size=grid, mode="bicubic")
        tiled = self.square.weight.repeat(1, grid[0] // self.side, grid[1] // self.side)
        return (whole + tiled).permute(0, 2, 3, 1)
