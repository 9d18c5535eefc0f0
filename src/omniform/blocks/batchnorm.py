"""Batch normalisation (https://arxiv.org/abs/1502.03167) whose statistics do not move."""

from __future__ import annotations

from typing import Protocol, Self, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class Freezable(Protocol):
    """A family's config that can be built with frozen norms."""

    def frozen(self) -> Self:
        """The same with norms that are frozen."""


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by fixed statistics and a fixed scale and shift: nothing in it is trained.

    Detectors train on batches too small for statistics of their own.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.weight: Tensor
        self.bias: Tensor
        self.running_mean: Tensor
        self.running_var: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        # Not torch's fused one, though it is faster: it rounds differently, and a hundred layers make that visible.
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return (x_BCHW * scale[:, None, None]).add_(shift[:, None, None])

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}"


def frozen(model: M) -> M:
    """A model whose batch norms, wherever they are in it, are frozen ones; changed in place.

    An epsilon of the norms' own gives way to the usual one, as in the reference.
    """
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.BatchNorm2d):
                setattr(module, name, FrozenBatchNorm(part.num_features))
    return model
