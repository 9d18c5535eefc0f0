"""How torch's own modules are lowered, which cannot say it themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from omniform.blocks.lowering import CannotLower, Value

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder


def _layer_norm(b: Builder, module: nn.Module, x: Value) -> Value:
    assert isinstance(module, nn.LayerNorm)
    if module.normalized_shape != (x.place.size,):
        raise CannotLower(module, f"norms {module.normalized_shape} of {x.place.size} numbers")
    return b.layer_norm(x, module.weight, module.bias, module.eps)


def _rms_norm(b: Builder, module: nn.Module, x: Value) -> Value:
    assert isinstance(module, nn.RMSNorm)
    if tuple(module.normalized_shape) != (x.place.size,):
        raise CannotLower(module, f"norms {module.normalized_shape} of {x.place.size} numbers")
    return b.rms(x, module.weight, torch.finfo(torch.float32).eps if module.eps is None else module.eps)


def _sequence(b: Builder, module: nn.Module, x: Value) -> Value:
    for part in module.children():
        x = b.of(part, x)
    return x


def _unchanged(b: Builder, module: nn.Module, x: Value) -> Value:
    return x  # training was asked about already


TORCHS: dict[type[nn.Module], Callable[[Builder, nn.Module, Value], Value]] = {
    nn.Dropout: _unchanged,
    nn.Identity: _unchanged,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.Sequential: _sequence,
}
"""By class."""
