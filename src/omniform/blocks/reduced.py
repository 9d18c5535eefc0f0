"""Layers on maps whose keys and values are made of a coarser map (https://arxiv.org/abs/2105.15203, section 3.1).

A map travels with its channels last, Shape: [B, H, W, C], so that linear layers and norms act on it as on tokens;
convolutions see the same memory as [B, C, H, W] and nothing is copied between the two.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attend import attend
from omniform.blocks.attention import Attention
from omniform.blocks.joint import outputs_of
from omniform.blocks.mlp import activation
from omniform.core.context import EVERYTHING, StepContext
from omniform.core.rules import Full


def as_map(x_BHWC: Tensor) -> Tensor:
    """A map as convolutions read it, without a copy. Shape: [B, H, W, C] to [B, C, H, W]."""
    return x_BHWC.permute(0, 3, 1, 2)


def channels_last(x_BCHW: Tensor) -> Tensor:
    """The way back. Shape: [B, C, H, W] to [B, H, W, C]."""
    return x_BCHW.permute(0, 2, 3, 1)


class OverlappingPatches(nn.Module):
    """Cuts a map into patches that overlap, and makes one normed vector of each.

    Args:
        inner: channels of the map.
        outer: width of a vector.
        patch: side of a patch.
        stride: how far apart patches begin.
    """

    def __init__(self, inner: int, outer: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inner, outer, kernel_size=patch, stride=stride, padding=patch // 2)
        self.layer_norm = nn.LayerNorm(outer)

    def grid_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches in a map of any size."""
        patch, stride = self.proj.kernel_size[0], self.proj.stride[0]
        return (height + patch // 2 * 2 - patch) // stride + 1, (width + patch // 2 * 2 - patch) // stride + 1

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, H', W', D]."""
        normed: Tensor = self.layer_norm(channels_last(self.proj(x_BCHW)))
        return normed


class MapAttention(Attention):
    """Self-attention of the places of a map.

    Args:
        dim: channels.
        heads: number of heads; their width is ``dim // heads``, rounded down.
        dropout: probability of dropping an attention weight in training.
    """

    least = 1
    """The least side of a map that it can read."""

    def __init__(self, dim: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, rule=Full(), dropout=dropout)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        q, k, v = self.queries_keys_values(x_BTD, ctx)
        mixed = attend(
            q.flatten(1, 2),
            k.flatten(1, 2).transpose(1, 2),
            v.flatten(1, 2).transpose(1, 2),
            EVERYTHING,
            scores=self.scores,
            backend=ctx.backend,
            dropout=self.dropout if self.training else 0.0,
            weights=ctx.taps.attentions if ctx.taps.wants_attentions else None,
        )
        return self.output(mixed.view(*x_BTD.shape[:3], -1), x_BTD, ctx)


class Reduction(nn.Module):
    """A map at a fraction of its size, normed; what is left over at the edges is cut off."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.sequence_reduction = nn.Conv2d(dim, dim, kernel_size=ratio, stride=ratio)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] to [B, H // ratio, W // ratio, C]."""
        normed: Tensor = self.layer_norm(channels_last(self.sequence_reduction(as_map(x_BHWC))))
        return normed


class ReducedAttention(MapAttention):
    """One whose keys and values are made of a coarser map; ``ratio`` of its places on either axis are one there."""

    JOINT: ClassVar[tuple[tuple[str, ...], ...]] = (("k_proj", "v_proj"),)

    def __init__(self, dim: int, heads: int, ratio: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout=dropout)
        self.sequence_reduction = Reduction(dim, ratio)
        self.least = ratio

    def queries_keys_values(self, x_BTD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
        k, v = outputs_of(self.sequence_reduction(x_BTD), self.k_proj, self.v_proj)
        return self.split(self.q_proj(x_BTD)), self.split(k), self.split(v)


class MixMLP(nn.Module):
    """A feed-forward with a convolution of 3x3 places in each channel, whose padding tells where the edges are.

    Args:
        dim: channels.
        hidden: channels inside.
        act: name of the activation.
        dropout: after the activation, in training.
    """

    def __init__(self, dim: int, hidden: int, act: str, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """Shape: [B, H, W, C] in and out."""
        mixed = self._act(channels_last(self.dwconv(as_map(self.fc1(x_BHWC)))))
        out: Tensor = self.fc2(F.dropout(mixed, self.dropout, self.training))
        return out
