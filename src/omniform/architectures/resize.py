"""Tables of tokens that grow or shrink, and modules that change places."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class PerToken(Protocol):
    """A module that holds something for each token of the vocabulary, beside tables and projections."""

    def resize(self, tokens: int) -> None:
        """Make room for more tokens, or for fewer."""
        ...


SPREAD = 1e-9
"""Covariance of new rows, as a share of that of the old ones."""


@torch.no_grad()
def resized(weight: Tensor, rows: int, std: float | None) -> nn.Parameter:
    """A matrix, or a bias, with another number of rows.

    Args:
        weight: Shape: [R, ...].
        rows: how many there are to be.
        std: of the normal distribution that new rows are drawn from; None: around the mean of the old rows.

    Returns:
        Shape: [rows, ...].
    """
    made = weight.new_empty(rows, *weight.shape[1:])
    kept = min(rows, weight.shape[0])
    if not made.is_meta:
        made[:kept] = weight[:kept]
        if rows > kept and std is not None:
            made[kept:].normal_(0.0, std)
        elif rows > kept:
            old = weight.detach().float()
            mean = old.mean(dim=0)
            # A random mixture of the centred rows has their covariance.
            mixture = torch.randn(rows - kept, old.shape[0], device=old.device) * (SPREAD / old.shape[0]) ** 0.5
            made[kept:] = (mean + mixture @ (old - mean)).to(made.dtype)
    return nn.Parameter(made, requires_grad=weight.requires_grad)


def table_to(model: nn.Module, table: nn.Embedding, weight: nn.Parameter) -> None:
    """Give a table another matrix, and everything that shares the old one with it."""
    replaced(model, table.weight, weight)
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.weight is weight:
            module.num_embeddings = weight.shape[0]
            if module.padding_idx is not None and module.padding_idx >= weight.shape[0]:
                module.padding_idx = None


def head_to(model: nn.Module, head: nn.Linear, table: nn.Embedding, rows: int, std: float | None) -> None:
    """Give a projection onto the vocabulary another number of rows; what it shares with the table is left to that.

    The biases of new tokens are the mean of the others; zero, where the matrix is the table.
    """
    before, tied = head.out_features, head.weight is table.weight
    if not tied:
        replaced(model, head.weight, resized(head.weight, rows, std))
    biases = [] if head.bias is None else [head.bias]
    outer = model._modules.get("lm_head")
    if outer is not None and outer is not head:  # a bias of its own beside the projection's
        biases += [p for p in outer._parameters.values() if p is not None and p.shape == (before,)]
    for bias in {id(bias): bias for bias in biases}.values():
        replaced(model, bias, resized(bias, rows, 0.0 if tied or std is not None else None))
    head.out_features = rows


def replaced(model: nn.Module, old: Tensor, new: nn.Parameter) -> None:
    """Put one parameter in every place of another."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is old:
                module._parameters[name] = new


def swapped(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put one module in every place of another."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
