"""Layers that are computed once more for their gradients (``omniform.modeling_layers``), in models that users write."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import nn

from omniform.core.recompute import Recompute


@runtime_checkable
class Checkpointed(Protocol):
    """A module of a user's own with the ecosystem's words for it."""

    gradient_checkpointing: bool


class GradientCheckpointingLayer(nn.Module):
    """A layer that, in training, keeps its inputs only once ``gradient_checkpointing_enable`` was called on the model.

    A cache that the layer is given is not: it would be written twice, so that the second pass sees other keys.
    """

    gradient_checkpointing: bool
    _gradient_checkpointing_func: Callable[..., object]

    def __init__(self) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func = Recompute()

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not (self.gradient_checkpointing and self.training):
            return super().__call__(*args, **kwargs)
        for name in ("past_key_value", "past_key_values", "layer_past"):
            if name in kwargs:
                kwargs[name] = None
        if "use_cache" in kwargs:
            kwargs["use_cache"] = False
        return self._gradient_checkpointing_func(functools.partial(super().__call__, **kwargs), *args)


__all__ = ["GradientCheckpointingLayer"]
