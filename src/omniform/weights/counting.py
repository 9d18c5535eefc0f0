"""How many numbers a model has and how many bytes they take, also those that it holds in other ways than as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class StandsFor(Protocol):
    """A module with buffers that stand for parameters: a matrix in blocks."""

    def numbers(self) -> Mapping[str, int]:
        """How many numbers each of them stands for, by its name."""
        ...


@runtime_checkable
class HeldOtherwise(Protocol):
    """A module beside whose tensors others lie in memory, or in whose place."""

    def in_memory(self) -> Mapping[str, int]:
        """Bytes that its tensors take, or will once they are used, by name; those that are left out, their own."""
        ...


def count_numbers(model: nn.Module, *, only_trainable: bool, exclude_embeddings: bool) -> int:
    """How many numbers a model has learned; what several modules share counts once."""
    tables: set[int] = set()
    found: dict[int, int] = {}
    for module in model.modules():
        own = [*module._parameters.values(), *module._buffers.values()]
        if exclude_embeddings and isinstance(module, nn.Embedding):
            tables |= {id(tensor) for tensor in own}
        for parameter in module._parameters.values():
            if parameter is not None and (parameter.requires_grad or not only_trainable):
                found[id(parameter)] = parameter.numel()
        if isinstance(module, StandsFor) and not only_trainable:
            found |= {id(module._buffers[name]): count for name, count in module.numbers().items()}
    return sum(count for key, count in found.items() if key not in tables)


def count_bytes(model: nn.Module, *, buffers: bool) -> int:
    """Bytes that a model's parameters take in memory, and its buffers, mapped files included.

    Args:
        buffers: count buffers too; those that stand for parameters are always counted.
    """
    own: dict[int, int] = {}
    others: dict[int, int] = {}
    for module in model.modules():
        otherwise = module.in_memory() if isinstance(module, HeldOtherwise) else {}
        stands = module.numbers() if isinstance(module, StandsFor) else {}
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None or (name in module._buffers and name not in stands and not buffers):
                continue
            if name in otherwise:
                others[id(tensor)] = max(others.get(id(tensor), 0), otherwise[name])
            else:
                own[id(tensor)] = tensor.nbytes
    return sum(own.values()) + sum(others.values())
