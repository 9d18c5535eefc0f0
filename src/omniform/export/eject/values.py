"""What is known of a value while a program is specialised, before it runs."""

from __future__ import annotations

import ast
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from omniform.core.errors import OmniformError

Node = ast.expr


@dataclass(frozen=True)
class Value:
    """Base of all."""


@dataclass(frozen=True)
class Known(Value):
    """The value itself: a constant, a function, a class, a module."""

    value: object

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Known) or type(self.value) is not type(other.value):
            return False
        return self.value is other.value or (_is_simple(self.value) and self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), id(self.value)))


@dataclass(frozen=True)
class Number(Value):
    """A number that a model was built with: one of some."""

    values: tuple[float, ...]


@dataclass(frozen=True)
class Objects(Value):
    """One of some objects of the model."""

    items: tuple[object, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Objects) and {id(x) for x in self.items} == {id(x) for x in other.items}

    def __hash__(self) -> int:
        return hash(frozenset(id(x) for x in self.items))

    @property
    def kinds(self) -> list[type]:
        """Their classes, in order."""
        return list(dict.fromkeys(type(x) for x in self.items))

    def of(self, kind: type) -> Objects:
        """Those of one class."""
        return Objects(tuple(x for x in self.items if type(x) is kind))


@dataclass(frozen=True)
class Items(Value):
    """A tuple or a list of known length."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Looped(Value):
    """What goes over things of one kind, or holds so many of them as the run says."""

    inner: Value


@dataclass(frozen=True)
class Names(Value):
    """Keyword arguments: a dictionary of known keys, which is never made when the program runs."""

    entries: Mapping[str, tuple[Value, Node]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Names) or self.entries.keys() != other.entries.keys():
            return False
        return all(self.entries[name][0] == other.entries[name][0] for name in self.entries)

    def __hash__(self) -> int:
        return hash(tuple(self.entries))


@dataclass(frozen=True)
class Record(Value):
    """An object that is made when the program runs, of one of our classes."""

    kind: type


@dataclass(frozen=True)
class Dynamic(Value):
    """Known when the program runs: anything; anything but None; a tensor (of so many axes)."""

    kind: Literal["any", "value", "tensor"] = "any"
    dims: int | None = None


@dataclass(frozen=True)
class Maybe(Value):
    """None, or such a value."""

    inner: Value


@dataclass(frozen=True)
class Functions(Value):
    """One of some functions."""

    items: tuple[object, ...]


@dataclass(frozen=True, eq=False)
class Closure(Value):
    """A lambda, where it is written; ``result`` is what it returns."""

    result: Value
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class Method(Value):
    """A method of some objects that is passed on; ``result`` is what it returns."""

    owner: Value
    name: str
    result: Value


@dataclass(frozen=True)
class Handed(Value):
    """One of several methods and lambdas that are passed on; ``result`` is what they return."""

    result: Value


@dataclass(frozen=True)
class Cached(Value):
    """The cache of the file that is written; ``view`` names a part of it."""

    view: str = ""


@dataclass(frozen=True)
class Unseen(Value):
    """What collects what a caller asked to see on the way, which nobody does."""


NONE = Known(None)
ANY = Dynamic("any")
SOLID = Dynamic("value")
TENSOR = Dynamic("tensor")

SIMPLE = (type(None), bool, int, float, str, bytes, type(Ellipsis), torch.dtype, torch.device)


def _is_simple(value: object) -> bool:
    return isinstance(value, SIMPLE)


def lift(value: object) -> Value:
    """What is known of a value of a built model."""
    if isinstance(value, bool) or value is None:
        return Known(value)
    if isinstance(value, (int, float)):
        return Number((value,))
    if isinstance(value, Tensor):
        return Dynamic("tensor", value.dim())
    if isinstance(value, (tuple, list)):
        return Items(tuple(lift(item) for item in value))
    if isinstance(value, nn.Module):
        return Objects((value,))
    if _is_simple(value) or callable_constant(value) or isinstance(value, (dict, frozenset)):
        return Known(value)
    return Objects((value,))


def callable_constant(value: object) -> bool:
    """Whether a value is a function, a class or a module."""
    kinds = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, partial, types.MethodDescriptorType)
    return isinstance(value, kinds) or (callable(value) and type(value).__module__ in ("builtins", "torch"))


def join(one: Value | None, other: Value | None) -> Value:
    """What is known of a value that is one or the other."""
    if one is None or other is None:
        found = other if one is None else one
        assert found is not None
        return found
    if one == other:
        return one
    if one == NONE or other == NONE:
        rest = other if one == NONE else one
        return rest if isinstance(rest, Maybe) or rest == ANY else Maybe(rest)
    if isinstance(one, Maybe) or isinstance(other, Maybe):
        inner = join(one.inner if isinstance(one, Maybe) else one, other.inner if isinstance(other, Maybe) else other)
        return inner if inner == ANY else Maybe(inner)
    return _joined(one, other)


def _joined(one: Value, other: Value) -> Value:
    if isinstance(one, Objects) and isinstance(other, Objects):
        seen = {id(x) for x in one.items}
        return Objects((*one.items, *(x for x in other.items if id(x) not in seen)))
    if isinstance(one, Number) and isinstance(other, Number):
        return Number(tuple(dict.fromkeys((*one.values, *other.values))))
    if isinstance(one, Items) and isinstance(other, Items) and len(one.values) == len(other.values):
        return Items(tuple(map(join, one.values, other.values)))
    if isinstance(one, (Known, Functions)) and isinstance(other, (Known, Functions)):
        found = (*_functions(one), *_functions(other))
        if all(isinstance(f, (types.FunctionType, types.BuiltinFunctionType)) for f in found) and found:
            return Functions(tuple(dict.fromkeys(found)))
    if isinstance(one, Names) and isinstance(other, Names):
        return one
    if isinstance(one, Record) and isinstance(other, Record):
        # Which of their fields are read could not be told, and those that nobody seems to read are left out.
        kinds = f"{one.kind.__name__} and {other.kind.__name__}"
        raise OmniformError("objects of two classes stand in one place", found=kinds)
    if isinstance(one, Looped) or isinstance(other, Looped):
        inner = [gone_over(one), gone_over(other)]
        if None not in inner:
            return Looped(join(*inner))
    if isinstance(one, Closure) and isinstance(other, Closure):
        return Closure(join(one.result, other.result), one.parameters)
    if isinstance(one, (Closure, Method, Handed)) and isinstance(other, (Closure, Method, Handed)):
        return Handed(join(one.result, other.result))
    if isinstance(one, Dynamic) and isinstance(other, Dynamic) and one.kind == other.kind:
        return Dynamic(one.kind)
    return SOLID if not (may_be_none(one) or may_be_none(other)) else ANY


def gone_over(value: Value) -> Value | None:
    """What is known of each thing that a loop over a value meets; None where nothing is."""
    if isinstance(value, Looped):
        return value.inner
    if isinstance(value, Items) and value.values:
        return joined(value.values)
    if isinstance(value, Objects):
        children = [child for item in value.items if isinstance(item, nn.Module) for child in item.children()]
        return joined(lift(child) for child in children) if children else Objects(())  # what is never called
    return None


def _functions(value: Known | Functions) -> tuple[object, ...]:
    return value.items if isinstance(value, Functions) else (value.value,)


def joined(values: Iterable[Value]) -> Value:
    """What is known of a value that is one of several."""
    found: Value | None = None
    for value in values:
        found = join(found, value)
    return ANY if found is None else found


def may_be_none(value: Value) -> bool:
    """Whether a value may be None."""
    return value in (NONE, ANY) or isinstance(value, Maybe)


def solid(value: Value) -> Value:
    """The same where it is known not to be None."""
    if isinstance(value, Maybe):
        return value.inner
    return SOLID if value == ANY else value


def truth(value: Value) -> bool | None:
    """Whether a value counts as true, where that is known."""
    if isinstance(value, Known):
        return bool(value.value) if _is_simple(value.value) or isinstance(value.value, (dict, frozenset)) else True
    if isinstance(value, Number):
        answers = {bool(number) for number in value.values}
        return answers.pop() if len(answers) == 1 else None
    if isinstance(value, Items):
        return bool(value.values)
    if isinstance(value, Names):
        return bool(value.entries)
    return True if isinstance(value, (Record, Functions, Closure, Method, Handed, Cached)) else None


@dataclass
class Bound:
    """A function's parameters, each with what is known of it and an expression for it.

    Attributes:
        rest: the positional arguments that have no name.
        more: the keyword arguments that have none.
    """

    named: dict[str, tuple[Value, Node]] = field(default_factory=dict)
    rest: list[tuple[Value, Node]] = field(default_factory=list)
    more: dict[str, tuple[Value, Node]] = field(default_factory=dict)


def numbers_of(values: Sequence[Value]) -> list[tuple[float, ...]] | None:
    """The numbers of values that are all known numbers."""
    found = []
    for value in values:
        if isinstance(value, Number):
            found.append(value.values)
        elif isinstance(value, Known) and isinstance(value.value, (int, float)):
            found.append((value.value,))
        else:
            return None
    return found
