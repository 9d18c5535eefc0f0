"""A model's tensors by the checkpoint's keys, each made when it is asked for: numbers, or the blocks that it is in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.hub.load import keymap_of
from omniform.hub.save import check_whole, usual_ties
from omniform.transforms.packed import Packed
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.stacks import BlockStack, HeldStack
from omniform.weights.gguf.types import BlockType
from omniform.weights.links import Groups, Index, Link, Rows, Share, Transposed, TransposedEach, View


@dataclass(frozen=True, slots=True)
class Held:
    """One of the model's tensors.

    Attributes:
        shape: its shape.
        numbers: makes it, or gives it.
        owner: which of the model's tensors it is, so that what is shared is told.
        dtype: of the numbers.
        kind: the type of the blocks that it is held in; None where it is in none.
        blocks: gives their bytes, where there are some. Shape: [..., outs, bytes of a row].
    """

    shape: tuple[int, ...]
    numbers: Callable[[], Tensor]
    owner: int
    dtype: torch.dtype
    kind: BlockType | None = None
    blocks: Callable[[], Tensor] | None = None


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
        self._last: tuple[object, Tensor] | None = None

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

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of a tensor's numbers."""
        return self._held[self._links[key][0][0]].dtype

    def kind(self, key: str) -> BlockType | None:
        """The type of the blocks that a matrix is held in, where all of it is in one, and in whole rows; else None."""
        kinds = {self._held[path].kind if _keeps_rows(link) else None for path, link in self._links[key]}
        return kinds.pop() if len(kinds) == 1 else None

    def blocks(self, key: str) -> Tensor:
        """The blocks of a matrix that is held in some, as they are.

        Returns:
            The checkpoint's rows. Shape: [..., outs, bytes of a row], whichever way the checkpoint holds it; uint8.
        """
        made: Tensor | None = None
        for path, link in self._links[key]:
            ours, link = self._bytes(path), replace(link, kind="packed")
            if all(isinstance(view, (Transposed, TransposedEach)) for view in link.theirs):
                return link.of_ours(ours)
            if made is None:
                turned = any(isinstance(view, Transposed) for view in link.theirs)
                made = torch.empty(self.shapes[key][-1 if turned else 0], ours.shape[-1], dtype=torch.uint8)
            link.of_theirs(made).copy_(link.of_ours(ours))
        assert made is not None
        return made

    def _numbers(self, path: str) -> Tensor:
        return self._kept(path, self._held[path].numbers)

    def _bytes(self, path: str) -> Tensor:
        blocks = self._held[path].blocks
        assert blocks is not None
        return self._kept((path, "blocks"), blocks)

    def _kept(self, name: object, make: Callable[[], Tensor]) -> Tensor:
        if self._last is None or self._last[0] != name:
            self._last = None  # before another is made
            self._last = name, make().detach()
        return self._last[1]


def _keeps_rows(link: Link) -> bool:
    """Whether both views take whole rows, so that blocks stay whole."""
    return all(map(_are_of_rows, (link.theirs, link.ours)))


def _are_of_rows(views: Sequence[View]) -> bool:
    grouped = False  # before that, an axis by its number may be that of the inputs
    for view in views:
        if isinstance(view, (Rows, Share, Groups)):
            if view.axis == "in" or (isinstance(view.axis, int) and not (grouped and view.axis == 1)):
                return False
            grouped = grouped or isinstance(view, Groups)
        elif not isinstance(view, (Transposed, TransposedEach, Index)):
            return False
    return len(views) == 1 or not any(isinstance(view, TransposedEach) for view in views)


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
            found[path] = Held(tuple(tensor.shape), partial(_itself, tensor), id(tensor), tensor.dtype)
        if tensor.is_meta:
            raise InputError(
                "the model has no weights that could be saved", where=path, found="a tensor on the meta device",
                remedy="Load it with from_pretrained.",
            )  # fmt: skip
    return found


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def _of(module: Packed | HeldStack | QuantLinear, owner: int) -> Held:
    dtype = torch.float32
    if isinstance(module, QuantLinear):
        return Held((module.out_features, module.in_features), lambda: module.weight, owner, dtype)
    if isinstance(module, Packed):
        kind, raw = module.kind, module.packed
        shape = (raw.shape[0], math.prod(raw.shape[1:]) // kind.nbytes * kind.numbers)
        return Held(shape, lambda: module.weight, owner, dtype, kind, lambda: module.in_order(raw, 0))
    if isinstance(module, BlockStack):
        return Held(module.shape, lambda: module.weight, owner, dtype, module.kind, module.rows_of_all)
    return Held(module.shape, lambda: module.weight, owner, dtype)
