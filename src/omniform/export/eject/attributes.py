"""What is known of attributes: of the model's objects, of objects made when the program runs, of modules."""

from __future__ import annotations

import ast
import inspect
import math
import types
from abc import ABC, abstractmethod
from dataclasses import fields, is_dataclass
from types import FunctionType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.core.errors import OmniformError
from omniform.export.eject.program import Program
from omniform.export.eject.sources import in_house, plain_function, tree_of
from omniform.export.eject.symbols import Symbol
from omniform.export.eject.trees import attribute, clone, constant, name_of
from omniform.export.eject.values import (
    ANY,
    NONE,
    SOLID,
    TENSOR,
    Cached,
    Dynamic,
    Known,
    Maybe,
    Names,
    Node,
    Number,
    Objects,
    Record,
    Unseen,
    Value,
    joined,
    lift,
)

Pair = tuple[Value, Node]

STANDARD = ("itertools", "functools", "operator")
"""Modules of Python's own whose functions files import."""

PLAIN = {"wants_hidden": False, "wants_attentions": False, "wants_routers": False, "wants_something": False}
"""What nobody asks to see."""


class Attributes(ABC):
    """What a frame makes of attributes."""

    def __init__(self, program: Program, function: FunctionType, owner: type | None) -> None:
        self.program, self.function, self.owner = program, function, owner
        self.tree = tree_of(function)

    @abstractmethod
    def read_property(self, function: FunctionType, owner: Pair, kind: type, name: str) -> Pair:
        """A property of an object."""

    @abstractmethod
    def read_properties(self, value: Objects, node: Node, name: str) -> Pair:
        """A property of objects of several classes."""

    @abstractmethod
    def method_value(self, value: Objects, node: ast.Attribute, name: str) -> Pair:
        """A method that is handed on."""

    # -- attributes ----------------------------------------------------------------------------------------------------

    def attribute_of(self, base: Pair, name: str) -> Pair:
        """``base.name``."""
        value, node = base
        if isinstance(value, Maybe):
            value = value.inner
        found = attribute(node, name)
        match value:
            case Unseen():
                if name in PLAIN:
                    return Known(PLAIN[name]), constant(PLAIN[name])
                return Unseen(), ast.Tuple(elts=[], ctx=ast.Load())
            case Cached():
                return (NONE, constant(None)) if name == "shift" else (SOLID, found)
            case Record():
                return self._of_record(value.kind, node, name)
            case Objects(items=()):
                return SOLID, found
            case Objects():
                return self._of_objects(value, node, name)
            case Known(value=torch.Tensor):
                return SOLID, found
            case Known(value=known) if isinstance(known, (type, types.ModuleType)) or name == "float":
                return self._of_known(known, node, name)
            case Dynamic(kind="tensor"):
                kept = name in ("T", "mT", "values", "indices", "data", "real")
                return (TENSOR if kept else SOLID), found
        return SOLID, found

    def _of_known(self, known: object, node: Node, name: str) -> Pair:
        held = getattr(known, name)
        found = lift(held)
        if isinstance(known, type) and in_house(known):
            return found, attribute(node, name) if callable(held) else self.literal(held)
        if isinstance(found, Objects):
            return SOLID, attribute(node, name)
        return found, attribute(node, name)

    def literal(self, value: object) -> Node:
        """A constant of a class, written out."""
        if isinstance(value, (frozenset, set, dict)):
            return constant(None)
        return ast.parse(repr(value), mode="eval").body

    def _of_record(self, kind: type, node: Node, name: str) -> Pair:
        given = vars(node).get("given")
        if given is not None and name in given:
            value, held = given[name]
            return value, clone(held)
        known = self.program.fields.get(kind, {})
        if name in known:
            value = known[name]
            if isinstance(value, Known) and simple(value.value):
                return value, constant(value.value)
            found = attribute(node, name)
            found.record = (kind, name)  # type: ignore[attr-defined]
            return value, found
        held = inspect.getattr_static(kind, name, None)
        if isinstance(held, property):
            assert held.fget is not None
            return self.read_property(plain_function(held.fget), (Record(kind), node), kind, name)
        if is_dataclass(kind) and name in {f.name for f in fields(kind)}:
            return NONE, constant(None)
        if held is not None and not callable(held):
            return lift(held), self.literal(held)
        return SOLID, attribute(node, name)

    def _of_objects(self, value: Objects, node: Node, name: str) -> Pair:
        found = attribute(node, name)
        found.owner = value  # type: ignore[attr-defined]
        properties = [k for k in value.kinds if isinstance(inspect.getattr_static(k, name, None), property)]
        if properties:
            own = inspect.getattr_static(properties[0], name)
            if len(value.kinds) == 1 and in_house(own.fget):
                return self.read_property(plain_function(own.fget), (value, node), properties[0], name)
            known = lifted([getattr(item, name) for item in value.items])
            if isinstance(known, Number) and len(known.values) == 1 and not isinstance(known.values[0], Symbol):
                return known, constant(known.values[0])
            return self.read_properties(value, node, name)
        if name == "training":
            return SOLID, found
        held = [read(item, name) for item in value.items]
        known = lifted(held)
        if all(isinstance(h, types.MethodType) and in_house(h.__func__) for h in held):
            return self.method_value(value, found, name)
        if any(isinstance(h, types.MethodType) for h in held):
            return SOLID, found
        if isinstance(known, Known):
            if simple(known.value):
                return known, constant(known.value)
            return known, self.reference(known.value, name)
        if isinstance(known, Names):
            return known, constant(None)
        if isinstance(known, Number) and stands_in_class(value, name):
            return known, self.literal(held[0])
        return known, found

    # -- names of what exists already ----------------------------------------------------------------------------------

    def reference(self, value: object, name: str) -> Node:
        """An expression for a function, a class or a module."""
        if isinstance(value, types.ModuleType):
            if value is np.random:
                return attribute(name_of("np"), "random")
            known = {torch: "torch", F: "F", math: "math", nn: "nn", np: "np"}
            found = known.get(value)
            if found is None:
                raise OmniformError("this module is not taken along", where=value.__name__)
            return name_of(found)
        if value is Tensor:
            return name_of("Tensor")
        plain = value.__name__ if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) else ""
        if in_house(value):
            found_name = name_of(plain)
            own = plain_function(value) if isinstance(value, FunctionType) else value  # without its decorators
            found_name.refers = own  # type: ignore[attr-defined]
            return found_name
        for module, prefix in ((F, "F"), (torch, "torch"), (nn, "nn"), (math, "math")):
            if plain and vars(module).get(plain) is value:
                return attribute(name_of(prefix), plain)
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)) and value.__module__ in STANDARD:
            self.program.imports[plain] = value.__module__
            return name_of(plain)
        return name_of(name)

    def note_stored(self, base: Value, name: str, value: Value) -> None:
        """Note that a field is assigned to."""
        if isinstance(base, Record):
            self.program.meet_field(base.kind, name, value)


def read(item: object, name: str) -> object:
    """An attribute of an object of the model."""
    try:
        return getattr(item, name)
    except AttributeError as error:
        raise OmniformError("this has no such attribute", where=type(item).__name__, found=name) from error


def lifted(held: list[object]) -> Value:
    """What is known of values of built objects."""
    return joined(lift(value) for value in held) if held else ANY


def simple(value: object) -> bool:
    """Whether a value is written as a literal."""
    return value is None or isinstance(value, (bool, str, int, float))


def stands_in_class(value: Objects, name: str) -> bool:
    """Whether an attribute is the class's, and no instance has its own."""
    return all(name not in vars(item) for item in value.items if isinstance(item, nn.Module)) and all(
        isinstance(item, nn.Module) for item in value.items
    )
