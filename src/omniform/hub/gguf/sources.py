"""A model's tensors by the checkpoint's keys, each made of numbers when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.hub.load import keymap_of
from omniform.hub.save import check_whole, usual_ties
from omniform.transforms.packed import Packed
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.stacks import HeldStack
from omniform.weights.links import Link


@dataclass(frozen=True, slots=True)
class Held:
    """One of the model's tensors.

    Attributes:
        shape: its shape.
        numbers: makes it, or gives it.
        owner: which of the model's tensors it is, so that what is shared is told.
    """

    shape: tuple[int, ...]
    numbers: Callable[[], Tensor]
    owner: int


class Sources(Mapping[str, Tensor]):
    """The checkpoint's tensors of a model of any format, as plain numbers.

    Only what was asked for last is kept: a stack of experts is made once for all of them.

    Raises:
        InputError: the model has no weights in memory, or a part of them only.
    """

    def __init__(self, model: Model) -> None:
        held = _held(model)
        ties = {path: owner for path, owner in usual_ties(model).items() if path in held and owner in held}
        ties = {path: owner for path, owner in ties.items() if held[path].owner == held[owner].owner}
        self._held = {path: one for path, one in held.items() if path not in ties}
        table = keymap_of(model).expand({path: one.shape for path, one in self._held.items()}, ties)
        self.shapes: Mapping[str, tuple[int, ...]] = {key: tuple(shape) for key, shape in table.shapes.items()}
        self._links: dict[str, list[tuple[str, Link]]] = {}
        for path, links in table.links.items():
            for link in links:
                self._links.setdefault(link.key, []).append((path, link))
        self._last: tuple[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[str]:
        return iter(self._links)

    def __getitem__(self, key: str) -> Tensor:
        """One tensor; a view of the model's where it can be."""
        made: Tensor | None = None
        for path, link in self._links[key]:
            ours = self._numbers(path)
            if not link.theirs:
                return link.of_ours(ours)
            if made is None:
                made = torch.empty(self.shapes[key], dtype=ours.dtype, device=ours.device)
            link.of_theirs(made).copy_(link.of_ours(ours))
        assert made is not None
        return made

    def _numbers(self, path: str) -> Tensor:
        if self._last is None or self._last[0] != path:
            self._last = None  # before another is made
            self._last = path, self._held[path].numbers().detach()
        return self._last[1]


def _held(model: Model) -> dict[str, Held]:
    """All of a model's tensors by their paths, as they would be if nothing were quantized."""
    modules = dict(model.named_modules())
    found: dict[str, Held] = {}
    state = model.state_dict(keep_vars=True)
    check_whole(state)
    for path, tensor in state.items():
        parent, _, name = path.rpartition(".")
        module = modules.get(parent)
        if isinstance(module, HeldStack) and name != "bias":
            found.setdefault(f"{parent}.weight", _of(module, id(tensor)))
        elif isinstance(module, Packed) and name == "packed":
            found[f"{parent}.weight"] = _of(module, id(tensor))
        elif isinstance(module, QuantLinear) and name in module.parts:
            found.setdefault(f"{parent}.weight", _of(module, id(tensor)))
        else:
            found[path] = Held(tuple(tensor.shape), partial(_itself, tensor), id(tensor))
        if tensor.is_meta:
            raise InputError(
                "the model has no weights that could be saved", where=path, found="a tensor on the meta device",
                remedy="Load it with from_pretrained.",
            )  # fmt: skip
    return found


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _of(module: Packed | HeldStack | QuantLinear, owner: int) -> Held:
    if isinstance(module, QuantLinear):
        shape: tuple[int, ...] = (module.out_features, module.in_features)
    elif isinstance(module, Packed):
        kind = module.kind
        shape = (module.packed.shape[0], math.prod(module.packed.shape[1:]) // kind.nbytes * kind.numbers)
    else:
        shape = module.shape
    return Held(shape, lambda: module.weight, owner)
