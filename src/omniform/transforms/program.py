"""A stack of layers as operations, and where their numbers lie.

Buffers share memory in three ways, none of which changes a number: an operation that looks at a number once writes its
result in that number's place, a product whose result is only added to something is added there at once, and buffers
that are of use at different times take turns in the same storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn

from omniform.blocks.builder import Builder
from omniform.blocks.operations import (
    Act,
    Add,
    Attend,
    Convolve,
    Experts,
    Gate,
    HeadMatmul,
    Join,
    Look,
    Matmul,
    Norm,
    Operation,
    Pick,
    Place,
    Recur,
    Rotate,
    Route,
    Rows,
    Scan,
    Spread,
    Steps,
    Store,
    Weigh,
)


def lowered(
    layers: Iterable[nn.Module], width: int, norm: nn.Module | None, *, memory: bool, ends: bool = True
) -> Steps:
    """What a stack of layers and its final norm do with a step.

    Args:
        width: numbers of a token that go in.
        norm: None for none.
        memory: whether there is an encoder's output.
        ends: whether these are a stack's last layers, whose output is wanted for some tokens only.

    Raises:
        CannotLower: a part of it is no program; it names the part and why.
    """
    b = Builder(width, memory=memory)
    x, every = b.x, list(layers)
    for number, layer in enumerate(every, 1):
        b.is_last = ends and number == len(every)
        x = b.of(layer, x)
    if ends:
        x = b.picked(x)
    return b.finish(x if norm is None else b.of(norm, x))


def places(operation: Operation) -> tuple[dict[str, Place], dict[str, Place]]:
    """What an operation reads and what it writes, by the names of its fields."""
    match operation:
        case Matmul() | Norm() | Rotate() | Act() | Weigh() | Pick():
            return {"x": operation.x}, {"out": operation.out}
        case HeadMatmul():
            return {"x": operation.x}, {"out": operation.out}
        case Join():
            return {"x": operation.x, "y": operation.y}, {"out": operation.out}
        case Store():
            return {"k": operation.k, **({} if operation.v is None else {"v": operation.v})}, {}
        case Attend():
            return {"q": operation.q, "k": operation.k, "v": operation.v}, {"out": operation.out}
        case Look():
            return {"q": operation.q}, {"out": operation.out}
        case Convolve():
            return {"x": operation.x}, {"out": operation.out}
        case Recur():
            names = ("q", "k", "v", "g", "beta")
            return {name: getattr(operation, name) for name in names}, {"out": operation.out}
        case Scan():
            return {name: getattr(operation, name) for name in ("x", "b", "c", "dt")}, {"out": operation.out}
        case Gate():
            return {"gate": operation.gate, "up": operation.up}, {"out": operation.out}
        case Add():
            return {"x": operation.x, "y": operation.y}, {"out": operation.out}
        case Spread():
            return {"x": operation.x, "factor": operation.factor}, {"out": operation.out}
        case Route():
            return {"scores": operation.scores}, {"shares": operation.shares, "chosen": operation.chosen}
        case Experts():
            read = {"x": operation.x, "shares": operation.shares, "chosen": operation.chosen}
            return read, {"out": operation.out}


def _at(operation: Operation, where: Mapping[str, Place]) -> Operation:
    """The same operation, reading and writing in other places."""
    moved: Operation = replace(operation, **where)  # type: ignore[arg-type]
    return moved


IN_PLACE: dict[type, tuple[str, ...]] = {
    Norm: ("x",),
    Rotate: ("x",),
    Act: ("x",),
    Weigh: ("x",),
    Spread: ("x",),
    Gate: ("gate", "up"),
    Add: ("x", "y"),
}
"""Operations that may write where they read, and which of what they read that may be."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory that some buffers take turns in.

    Attributes:
        width: numbers of a token, of the widest of them.
        rows: which tokens it has rows for.
    """

    width: int
    rows: Rows


@dataclass(frozen=True, slots=True)
class Layout:
    """Operations, and where their numbers lie.

    Attributes:
        operations: in order, with the places they read and write.
        added: of each, whether a product is added to what is there.
        storages: by number.
        widths: of each buffer that is of its own.
        storage_of: where each of those lies.
        out: what comes out.
    """

    operations: tuple[Operation, ...]
    added: tuple[bool, ...]
    storages: tuple[Storage, ...]
    widths: tuple[int, ...]
    storage_of: tuple[int, ...]
    out: Place


class _Planner:
    """Decides which buffers share memory."""

    def __init__(self, steps: Steps) -> None:
        assert steps.out is not None
        self.steps = steps
        self.moved: dict[int, tuple[int, int]] = {}  # a buffer that lies in another one, and its first column there
        self.gone: set[int] = set()
        self.reads: list[list[tuple[int, int, int]]] = [[] for _ in steps.widths]  # when, and which columns
        self.written: list[int] = [-1] * len(steps.widths)
        for at, operation in enumerate(steps.operations):
            read, wrote = places(operation)
            for place in read.values():
                self.reads[place.buffer].append((at, *place.span))
            for place in wrote.values():
                self.written[place.buffer] = at
        self.reads[steps.out.buffer].append((len(steps.operations), *steps.out.span))

    def plan(self) -> Layout:
        operations: list[Operation] = []
        added: list[bool] = []
        skip = -1
        every = self.steps.operations
        for at, operation in enumerate(every):
            if at == skip:
                continue
            read, wrote = places(operation)
            changed = {name: self.found(place) for name, place in read.items()}
            sums = every[at + 1] if at + 1 < len(every) else None
            target = self._added_at(at, operation, sums)
            if target is not None:
                assert isinstance(operation, Matmul) and isinstance(sums, Add)
                self.gone.add(operation.out.buffer)
                self._move(sums.out, target)
                operations.append(_at(operation, {**changed, "out": target}))
                added.append(True)
                skip = at + 1
                continue
            for name in IN_PLACE.get(type(operation), ()):
                if self._is_free(at, changed[name], wrote["out"]):
                    self._move(wrote["out"], changed[name])
                    break
            changed |= {name: self.found(place) for name, place in wrote.items()}
            operations.append(_at(operation, changed))
            added.append(False)
        assert self.steps.out is not None
        return self._laid_out(operations, added, self.found(self.steps.out))

    def found(self, place: Place) -> Place:
        """Where a place really is."""
        if place.buffer not in self.moved:
            return place
        buffer, at = self.moved[place.buffer]
        return replace(place, buffer=buffer, at=place.at + at)

    def _is_free(self, at: int, place: Place, out: Place) -> bool:
        """Whether nobody reads a place after an operation, which could then write there."""
        if not place.is_whole or place.rows != out.rows or place.width != out.width:
            return False
        low, high = place.span
        return all(when <= at or last <= low or first >= high for when, first, last in self.reads[place.buffer])

    def _added_at(self, at: int, operation: Operation, sums: Operation | None) -> Place | None:
        """Where a product can be added at once, if the next operation does nothing else with it."""
        if not isinstance(operation, Matmul) or not isinstance(sums, Add) or sums.factor != 1.0:
            return None
        other = sums.y if sums.x == operation.out else sums.x if sums.y == operation.out else None
        if other is None or len(self.reads[operation.out.buffer]) != 1 or other == operation.out:
            return None
        target = self.found(other)
        source = self.found(operation.x)
        if target.buffer == source.buffer and target.span[0] < source.span[1] and source.span[0] < target.span[1]:
            return None  # what is read would be written meanwhile
        return target if self._is_free(at + 1, target, sums.out) else None

    def _move(self, out: Place, to: Place) -> None:
        """Have a whole buffer lie in a place of another."""
        self.moved[out.buffer] = to.buffer, to.at
        self.reads[to.buffer] += [(when, first + to.at, last + to.at) for when, first, last in self.reads[out.buffer]]

    def _laid_out(self, operations: list[Operation], added: list[bool], out: Place) -> Layout:
        storages: list[Storage] = []
        storage_of = [-1] * len(self.steps.widths)
        busy: list[tuple[int, int]] = []  # until when, which storage
        for buffer in sorted(range(len(storage_of)), key=lambda n: self.written[n]):
            if buffer in self.moved or buffer in self.gone:
                continue
            begin = self.written[buffer]
            end = max((when for when, _, _ in self.reads[buffer]), default=begin)
            width, rows = self.steps.widths[buffer], self.steps.rows[buffer]
            taken = {number for until, number in busy if until >= begin}
            free = [n for n, s in enumerate(storages) if s.rows == rows and n not in taken]
            if free:
                number = min(free, key=lambda n: abs(storages[n].width - width))
                storages[number] = Storage(max(width, storages[number].width), rows)
            else:
                number = len(storages)
                storages.append(Storage(width, rows))
            storage_of[buffer] = number
            busy = [(until, n) for until, n in busy if n != number] + [(end, number)]
        return Layout(
            tuple(operations), tuple(added), tuple(storages), tuple(self.steps.widths), tuple(storage_of), out
        )


def laid_out(steps: Steps) -> Layout:
    """Where the numbers of a program lie."""
    return _Planner(steps).plan()
