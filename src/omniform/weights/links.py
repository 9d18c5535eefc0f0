"""Links: which part of a checkpoint's tensor is which part of ours, as a pair of views.

A view picks a part of a tensor without copying it. A :class:`Link` says that one view of the checkpoint's tensor and
one view of ours hold the same numbers: loading copies theirs to ours (or, where theirs is the whole of ours, maps it),
saving copies ours to theirs. The inverse of a link is the link itself.

Axes go by what they mean in a layer, ``"out"`` and ``"in"``, and a small table says which axis that is for each kind of
parameter: one link splits a fused matrix, its bias, its packed form and its adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

Axis = Literal["out", "in"] | int
Shape = tuple[int, ...]

AXES: Mapping[str, Mapping[str, int]] = {
    "weight": {"out": 0, "in": 1},
    "bias": {"out": 0},
    "weight_scale": {"out": 0},
    "lora_A.weight": {"in": 1},
    "lora_B.weight": {"out": 0},
    "lora_B.bias": {"out": 0},
    "lora_magnitude_vector.weight": {"out": 0},
    "lora_magnitude_vector": {"out": 0},
    "qweight": {"in": 0, "out": 1},
    "scales": {"out": 1},
    "g_idx": {"in": 0},
    "packed": {"out": 0},
}
"""Which axis of a parameter runs over a layer's outputs and which over its inputs, by the end of the parameter's path.
An axis that a parameter lacks is not split: all parts share it."""


class View(Protocol):
    """A part of a tensor that is itself a tensor over the same memory."""

    def of(self, x: Tensor, kind: str) -> Tensor:
        """The view of ``x``, a parameter whose path ends in ``kind``."""
        ...

    def inner(self, shape: Shape, kind: str) -> Shape:
        """The view's shape, given the tensor's."""
        ...

    def outer(self, shape: Shape, kind: str) -> Shape:
        """The least shape of a tensor, given the view's."""
        ...


def axis_of(axis: Axis, kind: str, dims: int) -> int | None:
    """The number of a named axis in a parameter; None where the parameter does not have it."""
    if isinstance(axis, int):
        return axis if axis < dims else None
    known = AXES.get(kind, AXES["weight"])
    found = known.get(axis)
    return found if found is not None and found < dims else None


@dataclass(frozen=True, slots=True)
class Rows:
    """A range along one axis: one of several layers in a fused matrix, one shard of many."""

    start: int
    stop: int
    axis: Axis = "out"

    def of(self, x: Tensor, kind: str) -> Tensor:
        axis = axis_of(self.axis, kind, x.dim())
        return x if axis is None else x.narrow(axis, self.start, self.stop - self.start)

    def inner(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        return shape if axis is None else _with(shape, axis, self.stop - self.start)

    def outer(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        return shape if axis is None else _with(shape, axis, self.stop)


@dataclass(frozen=True, slots=True)
class Share:
    """The ``part``-th of ``of_`` equal parts along one axis, however long it is."""

    part: int
    parts: int
    axis: Axis = "out"

    def of(self, x: Tensor, kind: str) -> Tensor:
        axis = axis_of(self.axis, kind, x.dim())
        if axis is None:
            return x
        width = x.shape[axis] // self.parts
        return x.narrow(axis, self.part * width, width)

    def inner(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        return shape if axis is None else _with(shape, axis, shape[axis] // self.parts)

    def outer(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        return shape if axis is None else _with(shape, axis, shape[axis] * self.parts)


@dataclass(frozen=True, slots=True)
class Part(Rows):
    """The range of one of our tensors that this process holds, of a model that several hold together.

    Attributes:
        whole: how long the axis is with the other processes' parts.
    """

    whole: int = 0

    def outer(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        return shape if axis is None else _with(shape, axis, self.whole)

    def needed(self, link: Link, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor] | None:
        """Both views of a link, as far as this process needs them; None for not at all.

        Args:
            theirs: the checkpoint's view.
            ours: our whole tensor; of its pages only those that are written to take memory.
        """
        axis = axis_of(self.axis, link.kind, ours.dim())
        assert axis is not None
        # Where each number of the view stands on our axis: along which of the view's axes that grows, strides tell.
        along = [1] * ours.dim()
        along[axis] = self.whole
        places, target = link.of_ours(torch.arange(self.whole).view(along).expand(ours.shape)), link.of_ours(ours)
        grid = places[tuple(slice(None) if stride else 0 for stride in places.stride())]
        mine = (grid >= self.start) & (grid < self.stop)
        if not mine.any():
            return None
        box: list[slice] = []
        grown = iter(range(grid.dim()))
        for stride in places.stride():
            if not stride:
                box.append(slice(None))
                continue
            dim = next(grown)
            hits = mine.movedim(dim, 0).flatten(1).any(1).nonzero() if mine.dim() > 1 else mine.nonzero()
            box.append(slice(int(hits[0]), int(hits[-1]) + 1))
        return theirs[tuple(box)], target[tuple(box)]


@dataclass(frozen=True, slots=True)
class Copy:
    """The whole of a tensor that several of ours are copies of, and which of them (what fused matrices share)."""

    number: int

    def of(self, x: Tensor, kind: str) -> Tensor:
        return x

    def inner(self, shape: Shape, kind: str) -> Shape:
        return shape

    outer = inner


@dataclass(frozen=True, slots=True)
class Transposed:
    """A matrix the other way round (GPT-2's ``Conv1D``).

    What has other than two axes stays as it is, and so do adapters' matrices, which are a linear layer's beside either,
    and packed ones, whose rows are a layer's outputs in any file.
    """

    def of(self, x: Tensor, kind: str) -> Tensor:
        return x.t() if x.dim() == 2 and self._turns(kind) else x

    def inner(self, shape: Shape, kind: str) -> Shape:
        return shape[::-1] if len(shape) == 2 and self._turns(kind) else shape

    outer = inner

    @staticmethod
    def _turns(kind: str) -> bool:
        return not kind.startswith("lora_") and kind != "packed"


@dataclass(frozen=True, slots=True)
class TransposedEach:
    """Matrices in a stack, each the other way round (gpt-oss)."""

    def of(self, x: Tensor, kind: str) -> Tensor:
        return x.transpose(-1, -2)

    def inner(self, shape: Shape, kind: str) -> Shape:
        return (*shape[:-2], shape[-1], shape[-2])

    outer = inner


@dataclass(frozen=True, slots=True)
class Unsqueezed:
    """A tensor without the axes of length 1 in front of it (ViT's class token)."""

    axes: int

    def of(self, x: Tensor, kind: str) -> Tensor:
        return x.reshape(x.shape[self.axes :])

    def inner(self, shape: Shape, kind: str) -> Shape:
        return shape[self.axes :]

    def outer(self, shape: Shape, kind: str) -> Shape:
        return (1,) * self.axes + shape


@dataclass(frozen=True, slots=True)
class Index:
    """One of the tensors that are stacked along the first axis (experts)."""

    number: int

    def of(self, x: Tensor, kind: str) -> Tensor:
        return x[self.number]

    def inner(self, shape: Shape, kind: str) -> Shape:
        return shape[1:]

    def outer(self, shape: Shape, kind: str) -> Shape:
        return (self.number + 1, *shape)


@dataclass(frozen=True, slots=True)
class Groups:
    """An axis cut into equal groups, which become an axis of their own before it: the heads of interleaved matrices.

    After it, :class:`Rows` with a number for its axis picks what each group holds of one layer.
    """

    count: int
    axis: Axis = "out"

    def of(self, x: Tensor, kind: str) -> Tensor:
        axis = axis_of(self.axis, kind, x.dim())
        return x if axis is None else x.unflatten(axis, (self.count, -1))  # type: ignore[no-untyped-call]

    def inner(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape))
        if axis is None:
            return shape
        return (*shape[:axis], self.count, shape[axis] // self.count, *shape[axis + 1 :])

    def outer(self, shape: Shape, kind: str) -> Shape:
        axis = axis_of(self.axis, kind, len(shape) - 1)
        if axis is None:
            return shape
        return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])


@dataclass(frozen=True, slots=True)
class Link:
    """A view of a checkpoint's tensor and a view of ours that hold the same numbers.

    Attributes:
        key: the checkpoint's key, or in a key map the template of its module path.
        theirs: views of the checkpoint's tensor, one after another.
        ours: views of our tensor likewise; none for the whole of it.
        kind: the end of the parameter's path (``"weight"``), which tells the axes; filled in when a map is expanded.
        each: how many keys there are of this kind, numbered by ``{n}`` in ``key``, each an :class:`Index` of ours; 0
            for one key without a number.
    """

    key: str
    theirs: tuple[View, ...] = ()
    ours: tuple[View, ...] = ()
    kind: str = "weight"
    each: int = 0

    @property
    def whole(self) -> bool:
        """Whether theirs is all there is of ours."""
        return not self.ours

    @property
    def renames(self) -> bool:
        """Whether both are one layer under two names, the order of its matrix's axes aside."""
        return not self.ours and all(isinstance(view, Transposed) for view in self.theirs)

    @property
    def repeats(self) -> bool:
        """Whether it is another copy of what counts elsewhere."""
        return any(isinstance(view, Copy) and view.number > 0 for view in self.theirs)

    @property
    def splits_inputs(self) -> bool:
        """Whether it is a part of the inputs of a layer."""
        return any(isinstance(view, (Rows, Share, Groups)) and view.axis == "in" for view in self.theirs)

    def expanded(self) -> list[Link]:
        """One link per key."""
        if not self.each:
            return [self]
        return [
            replace(self, key=self.key.replace("{n}", str(n)), ours=(Index(n), *self.ours), each=0)
            for n in range(self.each)
        ]

    def of_theirs(self, x: Tensor) -> Tensor:
        """The view of the checkpoint's tensor."""
        for view in self.theirs:
            x = view.of(x, self.kind)
        return x

    def of_ours(self, x: Tensor) -> Tensor:
        """The view of our tensor."""
        for view in self.ours:
            x = view.of(x, self.kind)
        return x

    def part(self, ours: Sequence[int]) -> Shape:
        """The shape of both views, given our tensor's."""
        shape = tuple(ours)
        for view in self.ours:
            shape = view.inner(shape, self.kind)
        return shape

    def shape(self, ours: Sequence[int]) -> Shape:
        """The least shape of the checkpoint's tensor, given ours."""
        shape = self.part(ours)
        for view in reversed(self.theirs):
            shape = view.outer(shape, self.kind)
        return shape


def transposed(key: str) -> Link:
    """``key``, its matrices stored the other way round."""
    return Link(key, (Transposed(),))


def unsqueezed(key: str, axes: int) -> Link:
    """``key``, stored with so many axes of length 1 in front."""
    return Link(key, (Unsqueezed(axes),))


def split(key: str, part: int, of: int, *, transposed: bool = False) -> Link:
    """The ``part``-th of ``of`` equal parts of the outputs of the layer ``key``."""
    return Link(key, (Transposed(), Share(part, of)) if transposed else (Share(part, of),))


def shares(ours: str, key: str, names: str, *, transposed: bool = False) -> dict[str, Link]:
    """Rules for ``q_proj``, ``k_proj``... of ``ours``, whose outputs lie one after another, alike many, in one layer.

    Args:
        key: that layer.
        names: a letter for each, in the order of the checkpoint: ``"qkv"``.
        transposed: whether its matrix is stored the other way round.
    """
    count = len(names)
    return {f"{ours}.{name}_proj": split(key, i, count, transposed=transposed) for i, name in enumerate(names)}


def fused(key: str, parts: Mapping[str, int]) -> dict[str, Link]:
    """Rules for layers whose outputs lie one after another in the layer ``key``.

    Args:
        parts: our module paths and how many outputs each has, in the order of the checkpoint.
    """
    rules: dict[str, Link] = {}
    start = 0
    for path, width in parts.items():
        rules[path] = Link(key, (Rows(start, start + width),))
        start += width
    return rules


def interleaved(key: str, groups: int, parts: Mapping[str, int]) -> dict[str, Link]:
    """Rules for layers whose outputs lie group by group in the layer ``key``: group 0 of each, group 1 of each, ...

    Args:
        groups: how many there are (heads).
        parts: our module paths and how many outputs of each a group holds, in the order of the checkpoint.
    """
    rules: dict[str, Link] = {}
    start = 0
    for path, width in parts.items():
        rules[path] = Link(key, (Groups(groups), Rows(start, start + width, axis=1)), (Groups(groups),))
        start += width
    return rules


def stacked(key: str, count: int) -> Link:
    """``count`` tensors, numbered by ``{n}`` in ``key``, that are one tensor of ours with an axis more in front."""
    return Link(key, each=count)


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
