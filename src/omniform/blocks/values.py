"""What stands for a tensor while a stack of layers is lowered: a few operations on it, each of which is noted.

What cannot be done with a :class:`Value` cannot be lowered, and says so (:class:`CannotLower`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from omniform.blocks.builder import Builder
    from omniform.blocks.operations import Place

_Number = float | None


class CannotLower(Exception):  # noqa: N818
    """A stack of layers has a part that is no program.

    Args:
        what: the part.
        why: what stands against it.
    """

    def __init__(self, what: object, why: str) -> None:
        name = what if isinstance(what, str) else type(what).__name__
        super().__init__(f"{name}: {why}")
        self.why = why


class Value:
    """Some numbers of every token of a step, as operations will make them.

    Shape: [B, T, width], or by head [B, T, H, D]; B and T are names here (:data:`TOKENS`).

    Args:
        builder: notes what is done with it.
        place: where the numbers will stand.
        by_head: whether it has an axis of heads.
    """

    __slots__ = ("builder", "by_head", "place")

    def __init__(self, builder: Builder, place: Place, *, by_head: bool = False) -> None:
        self.builder, self.place, self.by_head = builder, place, by_head

    def moved(self, place: Place) -> Value:
        """The same kind of numbers elsewhere."""
        return Value(self.builder, place, by_head=self.by_head)

    # -- what tensors are asked for ----------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[object, ...]:
        p = self.place
        return (*TOKENS, p.heads, p.size) if self.by_head else (*TOKENS, p.width)

    @property
    def device(self) -> torch.device:
        """Where programs run."""
        return torch.device("cpu")

    def view(self, *sizes: object) -> Value:
        """The last axes cut into heads, or the heads side by side again."""
        if sizes[:2] != TOKENS:
            raise CannotLower("view", f"tokens are laid out anew: {sizes}")
        own = sizes[2:]
        if len(own) == 1:
            return self.flatten(-2) if self.by_head else self
        size = own[1]
        if len(own) == 2 and isinstance(size, int):
            return self.in_heads(size)
        raise CannotLower("view", f"axes beyond heads: {sizes}")

    def view_as(self, other: Value) -> Value:
        return self.view(*other.shape)

    def unflatten(self, axis: int, sizes: tuple[int, ...]) -> Value:
        if axis == -1 and len(sizes) == 2 and not self.by_head:
            return self.in_heads(sizes[1])
        raise CannotLower("unflatten", f"{sizes} of axis {axis}")

    def flatten(self, first: int, last: int = -1) -> Value:
        """Heads side by side: the only axes that can be joined."""
        if not self.by_head:
            raise CannotLower("flatten", "rows are laid out anew")
        if first not in (2, -2) or last not in (3, -1) or not self.place.is_whole:
            raise CannotLower("flatten", "only heads that stand side by side are")
        return Value(self.builder, replace(self.place, heads=1, size=self.place.width, stride=self.place.width))

    def in_heads(self, size: int) -> Value:
        """Cut into heads of one size."""
        p = self.place
        if (self.by_head and not p.is_whole) or p.width % size:
            raise CannotLower("view", f"{p.width} numbers are no heads of {size}")
        return Value(self.builder, replace(p, heads=p.width // size, size=size, stride=size), by_head=True)

    def __getitem__(self, which: object) -> Value:
        """Some of the last axis: ``x[..., first:stop]``."""
        match which:
            case (builtin, slice(start=first, stop=stop, step=None)) if builtin is Ellipsis:
                first, stop, _ = slice(first, stop).indices(self.place.size)
                return self.columns(first, stop)
            case _:
                raise CannotLower("indexing", f"{which}")

    def columns(self, first: int, stop: int) -> Value:
        """Some of the last axis."""
        p = self.place
        return self.moved(
            replace(p, at=p.at + first, size=stop - first, stride=p.stride if p.heads > 1 else stop - first)
        )

    def split(self, sizes: int | Sequence[int], dim: int = -1) -> tuple[Value, ...]:
        """The last axis in parts."""
        if dim not in (-1, len(self.shape) - 1):
            raise CannotLower("split", f"axis {dim}")
        whole = [sizes] * (self.place.size // sizes) if isinstance(sizes, int) else sizes
        ends = [sum(whole[: n + 1]) for n in range(len(whole))]
        return tuple(self.columns(end - size, end) for size, end in zip(whole, ends, strict=True))

    def beside(self, *others: Value) -> Value:
        """With others, as one, where they stand side by side."""
        p, end = self.place, self.place.span[1]
        for other in others:
            q = other.place
            if q.buffer != p.buffer or q.at != end or not (q.is_whole and p.is_whole):
                raise CannotLower("forward", "what is joined does not stand side by side")
            end = q.span[1]
        return Value(self.builder, replace(p, heads=1, size=end - p.at, stride=end - p.at))

    def chunk(self, count: int, dim: int = -1) -> tuple[Value, ...]:
        return self.split(self.place.size // count, dim)

    def float(self) -> Value:
        return self  # as everything is

    def to(self, *what: object) -> Value:
        return self

    def type_as(self, other: object) -> Value:
        return self

    def contiguous(self) -> Value:
        return self

    def clamp(self, min: _Number = None, max: _Number = None) -> Value:
        low, high = -INFINITY if min is None else min, INFINITY if max is None else max
        return self if (low, high) == (-INFINITY, INFINITY) else self.builder.act("clamp", self, low, high)

    def sigmoid(self) -> Value:
        return self.builder.act("sigmoid", self)

    def tanh(self) -> Value:
        return self.builder.act("tanh", self)

    def __add__(self, other: object) -> Value:
        if isinstance(other, Value):
            return self.builder.add(self, other)
        return self.builder.weigh(self, None, _numbers(other, "+"))

    __radd__ = __add__

    def __mul__(self, other: object) -> Value:
        if isinstance(other, Value):
            return self.builder.gate("linear", self, other)
        if isinstance(other, (int, float)):
            return self if other == 1 else self.builder.act("scale", self, float(other))
        return self.builder.weigh(self, _numbers(other, "*"), None)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Value:
        return self * (1.0 / other) if isinstance(other, (int, float)) else self._cannot("/")

    def __sub__(self, other: object) -> Value:
        return self.builder.add(self, other, -1.0) if isinstance(other, Value) else self._cannot("-")

    def __bool__(self) -> bool:
        self._cannot("a choice by numbers")

    def __iter__(self) -> NoReturn:
        self._cannot("rows one by one")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._cannot(name)

    def _cannot(self, what: str) -> NoReturn:
        raise CannotLower("forward", f"no operation for {what}")

    @classmethod
    def __torch_function__(
        cls, func: object, types: object, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        """What functions of torch do with it."""
        done = _FUNCTIONS.get(func)
        if done is None:
            raise CannotLower("forward", f"no operation for {getattr(func, '__name__', func)}")
        return done(*args, **(kwargs or {}))


INFINITY = float("inf")
TOKENS: tuple[object, object] = ("B", "T")
"""What stands for the number of rows and of tokens, which a program does not depend on."""


def _numbers(other: object, what: str) -> Tensor:
    if isinstance(other, Tensor) and other.dim() <= 2:
        return other
    raise CannotLower("forward", f"no operation for {what} with {type(other).__name__}")


def _activation(kind: str) -> Callable[..., Value]:
    return lambda x, *_, **__: x.builder.act(kind, x)


def _gelu(x: Value, approximate: str = "none") -> Value:
    return x.builder.act("gelu" if approximate == "none" else "gelu_pytorch_tanh", x)


def _dropout(x: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p:
        raise CannotLower("dropout", "in training")
    return x


_FUNCTIONS: dict[object, Callable[..., object]] = {
    F.dropout: _dropout,
    F.gelu: _gelu,
    F.silu: _activation("silu"),
    F.relu: _activation("relu"),
    torch.relu: _activation("relu"),
    torch.sigmoid: _activation("sigmoid"),
    torch.tanh: _activation("tanh"),
    torch.split: lambda x, sizes, dim=0: x.split(sizes, dim),
    torch.Tensor.__mul__: lambda x, y: y * x,
    torch.Tensor.mul: lambda x, y: y * x,
    torch.Tensor.__add__: lambda x, y: y + x,
    torch.Tensor.add: lambda x, y: y + x,
    torch.Tensor.__rmul__: lambda x, y: x * y,
    torch.Tensor.__radd__: lambda x, y: x + y,
}
