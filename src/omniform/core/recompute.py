"""Layers that keep their inputs only, and are computed once more for their gradients (activation checkpointing).

Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from omniform.core.errors import InputError, brief, check_arguments

T = TypeVar("T")

INERT: Final = ("use_reentrant", "preserve_rng_state")
"""Settings that change nothing: gradients are right whatever they say, those of dropout among them."""

HANDED_ON: Final = ("context_fn", "determinism_check", "debug", "early_stop")
"""Settings of ``torch.utils.checkpoint.checkpoint`` that are handed on to it."""


@dataclass(frozen=True, slots=True)
class Recompute:
    """How layers are computed once more.

    Attributes:
        every: one of so many layers is; the others keep what their gradients need.
        offload: whether inputs wait in the host's memory for the backward pass.
        settings: torch's own.
    """

    every: int = 1
    offload: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def read(cls, settings: object, every_n_layers: object, offload: object) -> Recompute:
        """What a user asks for.

        Raises:
            InputError: no mapping, no number of layers, neither True nor False.
            UnknownArgumentError: a setting that torch's checkpointing does not have.
        """
        given = {} if settings is None else settings
        if not isinstance(given, Mapping):
            raise InputError("these are no settings", where="gradient_checkpointing_kwargs", found=brief(given))
        check_arguments("gradient_checkpointing_enable", map(str, given), (*INERT, *HANDED_ON))
        if type(every_n_layers) is not int or every_n_layers < 1:
            found = repr(every_n_layers)[:80]
            raise InputError("no number of layers", where="every_n_layers", expected="an integer >= 1", found=found)
        if not isinstance(offload, bool):
            raise InputError("no switch", where="offload", expected="True or False", found=repr(offload)[:80])
        return cls(every_n_layers, offload, {name: value for name, value in given.items() if name in HANDED_ON})

    def picks(self, number: int) -> bool:
        """Whether the layer of this number, from 0, is computed once more."""
        return number % self.every == 0

    def __call__(self, function: Callable[..., T], *args: object) -> T:
        """``function(*args)``, of which only ``args`` are kept."""
        with Offload() if self.offload else contextlib.nullcontext():
            # Torch's older way loses the gradients of what a layer reads beside its arguments (an encoder's output).
            once_more = cast("Callable[..., T]", checkpoint)
            return once_more(function, *args, use_reentrant=False, **self.settings)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A tensor in the host's memory, and where it belongs."""

    tensor: Tensor
    device: torch.device


class Offload(saved_tensors_hooks):
    """Within it, what is kept for the backward pass waits in the host's memory; what is there already stays as it is.

    Copies run in the order of the device's other work, through pinned memory where that is CUDA's: nothing waits for
    the copy to the host.
    """

    def __init__(self) -> None:
        super().__init__(to_host, from_host)


def to_host(tensor: Tensor) -> Waiting | Tensor:
    """Copy a tensor to the host, unless it is there."""
    if tensor.device.type in ("cpu", "meta"):
        return tensor
    pinned = tensor.device.type == "cuda" and not tensor.is_sparse
    if not pinned:
        return Waiting(tensor.to("cpu"), tensor.device)
    kept = torch.empty(tensor.size(), dtype=tensor.dtype, layout=tensor.layout, pin_memory=True)
    return Waiting(kept.copy_(tensor, non_blocking=True), tensor.device)


def from_host(kept: Waiting | Tensor) -> Tensor:
    """The tensor, where it belongs."""
    return kept.tensor.to(kept.device, non_blocking=True) if isinstance(kept, Waiting) else kept
