"""Asking a model in float64: whether two ways differ, or one of them rounded unluckily.

Machines add in other orders. Where two float32 results are farther apart than a test allows, both ways are asked again
in float64, where they must agree far more closely; then float32 alone is what parted them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


class InFloat64(TorchFunctionMode):
    """Whatever would be float32 is float64. What is drawn is drawn in float32, so that equal seeds draw the same."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return widened(func(*args, **(kwargs or {})))


def widened(value: object) -> object:
    """The same with float64 in the place of float32, nested or not."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype is torch.float32 else value
    if type(value) in (list, tuple):
        return type(value)(map(widened, value))
    return {k: widened(v) for k, v in value.items()} if type(value) is dict else value


def gradients_of(model: nn.Module, inputs: Mapping[str, object]) -> dict[str, Tensor]:
    """The gradient of every parameter, zeros where it has none; what is drawn is drawn from the same seed."""
    model.requires_grad_(True)
    model.zero_grad()
    torch.manual_seed(7)
    model(**inputs).loss.sum().backward()
    return {
        path: torch.zeros_like(one) if one.grad is None else one.grad.clone() for path, one in model.named_parameters()
    }


def exactly(model: M, ask: Callable[[M, Mapping[str, object]], dict[str, Tensor]], inputs: Mapping[str, object]):
    """What ``ask`` makes of a copy of the model and of its inputs in float64."""
    with InFloat64():
        return ask(copy.deepcopy(model).double(), widened(dict(inputs)))
