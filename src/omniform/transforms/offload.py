"""Running a model whose parts lie in several places.

A part that lies where it is computed is left alone. Where several devices compute, every part first fetches its inputs;
a layer leaves its output where it is, since the next layer is likely there too, and all else gives it back on the main
device, where the code between the parts adds and compares. Weights that lie elsewhere visit for the time of their
part's ``forward``: they are brought to its device and dropped again, or, where the CPU computes what the disk holds,
read from the mapped file, page by page, and their pages let go, and with them what layers made of them to multiply by.

All of it hangs on one hook before and one after each part, so that paths, ``state_dict`` and classes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from omniform.core.context import StepContext
from omniform.weights.pages import prefetch, release
from omniform.weights.transform import Transform


@dataclass(frozen=True, slots=True)
class Stay:
    """Where one part lies and where it is computed.

    Attributes:
        path: the module's path; ``""`` for the whole model.
        tensors: paths of the tensors that visit, from the model.
        device: what computes it.
        mapped: the tensors are views of mapped files, and the device is the CPU: nothing moves, pages are let go.
        stays: the output may stay on ``device``; it goes back to the main device otherwise.
    """

    path: str
    tensors: tuple[str, ...]
    device: torch.device
    mapped: bool
    stays: bool


def attach(model: nn.Module, stays: Sequence[Stay], main: torch.device) -> None:
    """Hang the hooks that bring inputs and weights to where each part is computed.

    Args:
        stays: the parts that anything has to be done for, in the order in which they run.
        main: the device that takes the model's inputs.
    """
    several = {stay.device for stay in stays} != {torch.device("cpu")}
    visits = [_Visit(model, stay, main, several) for stay in stays]
    mapped = [visit for visit in visits if visit.stay.mapped]
    for visit, after in zip(mapped, [*mapped[1:], *mapped[:1]], strict=True):
        visit.next = after
    for visit in visits:
        module = model.get_submodule(visit.stay.path)
        module.register_forward_pre_hook(visit.before, with_kwargs=True)
        # A part that fails leaves nothing behind either.
        module.register_forward_hook(visit.after, always_call=True)


class Offload(Transform):
    """Parts in several places, or on disk: see :func:`attach`."""

    def __init__(self, stays: Sequence[Stay], main: torch.device) -> None:
        self._stays, self._main = stays, main

    def finish(self, model: nn.Module) -> None:
        if self._stays:
            attach(model, self._stays, self._main)


@runtime_checkable
class Makes(Protocol):
    """A module that makes something of its tensors when it computes, and keeps it."""

    def drop_made(self) -> None:
        """Let go of it."""
        ...


class _Visit:
    """One part's hooks."""

    def __init__(self, model: nn.Module, stay: Stay, main: torch.device, several: bool) -> None:
        self.stay = stay
        self.main = main
        self.several = several
        self.next: _Visit | None = None
        self.homes = [_home(model, path) for path in stay.tensors]
        self.resident: list[Tensor] = []
        self.makes = [part for part in model.get_submodule(stay.path).modules() if isinstance(part, Makes)]

    def tensors(self) -> list[Tensor]:
        """The tensors that visit, as they lie at home."""
        return [store[name] for store, name in self.homes]

    def before(
        self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[object, ...], dict[str, object]] | None:
        """Bring in the weights, and the inputs to them."""
        if self.stay.mapped:
            if self.next is not None and self.next is not self:
                for tensor in self.next.tensors():
                    prefetch(tensor)  # the disk reads the next part while this one computes
        else:
            self.resident = list(self.tensors())
            for store, name in self.homes:
                store[name] = _brought(store[name], self.stay.device)
        if not self.several:
            return None
        moved = on(args, self.stay.device), on(kwargs, self.stay.device)
        return cast("tuple[tuple[object, ...], dict[str, object]]", moved)

    def after(self, module: nn.Module, args: object, output: object) -> object:
        """Let the weights go."""
        if self.stay.mapped:
            for part in self.makes:
                part.drop_made()
            for tensor in self.tensors():
                release(tensor)
        else:
            for (store, name), tensor in zip(self.homes, self.resident, strict=True):
                store[name] = tensor
            self.resident = []
        return on(output, self.main) if self.several and not self.stay.stays else output


def _home(model: nn.Module, path: str) -> tuple[dict[str, Tensor], str]:
    parent, _, name = path.rpartition(".")
    module = model.get_submodule(parent)
    store = module._parameters if name in module._parameters else module._buffers
    return cast("dict[str, Tensor]", store), name


def _brought(tensor: Tensor, device: torch.device) -> Tensor:
    moved = tensor.detach().to(device, non_blocking=True)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved


def on(value: object, device: torch.device) -> object:
    """A value with all tensors in it on a device; the very same value where they are there already.

    A step's context is moved once for all the layers of a device, so that masks and rotary tables are made once.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=device.type != "cpu")
    if isinstance(value, StepContext):
        return value.once(("on", device), lambda: _fields_on(value, device))
    if type(value) is dict:
        moved = {key: on(item, device) for key, item in value.items()}
        return value if all(moved[key] is item for key, item in value.items()) else moved
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        items = type(value)(on(item, device) for item in value)
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    if is_dataclass(value) and not isinstance(value, type):
        return _fields_on(value, device)
    return value


def _fields_on(value: object, device: torch.device) -> object:
    changes: dict[str, object] = {}
    for field in fields(cast("type", value)):
        if field.init and field.name != "_memo":
            old = getattr(value, field.name)
            new = on(old, device)
            if new is not old:
                changes[field.name] = new
    if changes and isinstance(value, StepContext):
        changes["_memo"] = {}  # what it resolved so far lies on the old device
    return replace(cast("StepContext", value), **changes) if changes else value  # type: ignore[arg-type]
