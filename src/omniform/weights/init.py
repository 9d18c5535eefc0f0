"""Fresh weights for modules that no checkpoint fills: from-scratch models and new task heads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import Protocol, Self, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from omniform.core.config import Beginning


@runtime_checkable
class SelfInitialising(Protocol):
    """A module that knows better than the general rule how its own tensors start."""

    def reset(self, std: float) -> None: ...


_INITIALISERS = frozenset(f for f in vars(nn.init).values() if isinstance(f, FunctionType))


_WITHIN: ContextVar[int] = ContextVar("omniform_no_initialising", default=0)


def initialising() -> bool:
    """Whether modules that are built here and now are to get fresh weights."""
    return _WITHIN.get() == 0


class NoInitialising(TorchFunctionMode):
    """Modules built within leave their tensors as they were allocated.

    Meta tensors have no values to set, and to pretend to set them torch loads a symbolic algebra system: over a second
    and 70 MB for nothing.
    """

    def __enter__(self) -> Self:
        _WITHIN.set(_WITHIN.get() + 1)
        return cast(Self, super().__enter__())  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        _WITHIN.set(_WITHIN.get() - 1)
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in _INITIALISERS:
            return cast(Tensor, given["tensor"] if "tensor" in given else args[0])
        return func(*args, **given)


def normal(std: float) -> Callable[[Tensor], object]:
    """Fills from a normal distribution, whatever the tensor's module would do."""
    return lambda x: x.normal_(0.0, std)


def truncated(std: float, cutoff: float) -> Callable[[Tensor], object]:
    """Fills from a normal distribution without what lies beyond so many standard deviations."""
    return lambda x: nn.init.trunc_normal_(x, std=std, a=-cutoff * std, b=cutoff * std)


@torch.no_grad()
def initialise(
    model: nn.Module,
    std: float,
    only: set[str] | None = None,
    begins: Callable[[str], Beginning | None] = lambda _: None,
) -> None:
    """Fill a model's tensors: matrices and tables from a normal distribution, biases with zeros, norms with ones.

    Args:
        std: standard deviation of matrices and tables (a config's ``initializer_range``).
        only: paths of the tensors to fill; all by default.
        begins: how a tensor begins that is not to begin so, by its path.
    """
    begun: set[int] = set()
    for path, module in model.named_modules():
        # A tensor of several modules begins as the first of them says.
        names = {f"{path}.{name}" if path else name for name, tensor in _own(module) if id(tensor) not in begun}
        begun.update(id(tensor) for _, tensor in _own(module))
        wanted = names if only is None else names & only
        if not wanted:
            continue
        said = {name.rpartition(".")[2]: begins(name) for name in wanted}
        stds = {name: how for name, how in said.items() if isinstance(how, (int, float))}
        if isinstance(module, SelfInitialising):
            module.reset(next(iter(stds.values()), std))
        else:
            _fill(module, std, said.keys(), stds)
        for name, tensor in _own(module):
            how = said.get(name)
            if how is not None and not isinstance(how, (int, float)):
                how(tensor)


def _own(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _fill(module: nn.Module, std: float, wanted: Collection[str], stds: Mapping[str, float]) -> None:
    norm = not isinstance(module, (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd))
    for name, tensor in _own(module):
        if name not in wanted:
            continue
        if name == "bias" or name == "running_mean":
            tensor.zero_()
        elif name == "running_var" or (norm and name == "weight" and tensor.dim() == 1):
            tensor.fill_(1.0)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, stds.get(name, std))
        else:
            tensor.zero_()
