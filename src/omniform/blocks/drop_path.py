"""Branches that are scaled, and left out by chance while a model learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.layers import PreNorm
from omniform.blocks.lowering import CannotLower, ReadAsWritten, Value
from omniform.core.context import StepContext

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): in training, a row goes without this branch by chance.

    What rows keep is made larger, so that the mean stays.

    Args:
        p: probability that a row goes without.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [B, ...] in and out."""
        if not (self.training and self.p):
            return x
        keep = 1 - self.p
        luck = torch.rand((x.shape[0],) + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return x.div(keep) * (luck + keep).floor()

    def lower(self, b: Builder, x: Value) -> Value:
        if self.training and self.p:
            raise CannotLower(self, "it is in training")
        return x

    def extra_repr(self) -> str:
        return f"p={self.p}"


class LayerScale(nn.Module, ReadAsWritten):
    """A learned factor for every channel of a branch (https://arxiv.org/abs/2103.17239).

    Args:
        dim: number of channels.
        start: what a fresh one begins with.
    """

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.lambda1 = nn.Parameter(torch.empty(dim))

    def reset(self, std: float) -> None:
        """Start from the same factor everywhere."""
        nn.init.constant_(self.lambda1, self.start)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] in and out."""
        return x * self.lambda1


class ScaledBranches(PreNorm):
    """A pre-norm layer whose branches are scaled channel by channel and dropped by chance (DINOv2, DINOv3)."""

    layer_scale1: LayerScale
    layer_scale2: LayerScale
    drop_path: DropPath

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        seen = self.layer_scale1(self.self_attn(self.input_layernorm(x_BTD), ctx))
        x_BTD = self.add(x_BTD, self.drop_path(seen), ctx)
        thought = self.layer_scale2(self.mlp(self.post_attention_layernorm(x_BTD)))
        return self.add(x_BTD, self.drop_path(thought), ctx)


class DroppedBranches(PreNorm):
    """A pre-norm layer that rows go without a branch of by chance, behind the branch's own dropout (TimeSformer)."""

    drop_path: DropPath
    READ: ClassVar[frozenset[str]] = PreNorm.READ | {"dropped"}

    def dropped(self, branch_BTD: Tensor) -> Tensor:
        """What is left of a branch. Shape: [B, ...] in and out."""
        left: Tensor = self.drop_path(F.dropout(branch_BTD, self.dropout, self.training))
        return left

    def add(self, x_BTD: Tensor, branch_BTD: Tensor, ctx: StepContext) -> Tensor:
        return ctx.like(x_BTD, branch_BTD) + self.dropped(branch_BTD)
