"""What is specialised: functions, each for the objects and the kinds of arguments that reach it."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import FunctionType

from omniform.export.eject.sources import FunctionTree, tree_of
from omniform.export.eject.values import Record, Value, join, solid


@dataclass(eq=False)
class Special:
    """One function, specialised.

    Attributes:
        function: the original.
        owner: the class of its ``self``; None for a function of a module.
        name: what it is called.
        values: what is known of each parameter.
        order: its parameters in order; those after ``*`` are in ``keywords``.
        result: what it returns.
        body: what is left of it.
        round: when it was looked at last.
        whole: whether all of its parameters stay, because somebody else calls it.
        optional: parameters that some call leaves to their defaults.
        spread: parameters that are keyword arguments, each handed over by itself.
    """

    function: FunctionType
    owner: type | None
    name: str
    tree: FunctionTree
    rest: int = 0
    values: dict[str, Value] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    keywords: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    result: Value | None = None
    body: list[ast.stmt] = field(default_factory=list)
    round: int = 0
    constructor: bool = False
    is_property: bool = False
    whole: bool = False
    optional: set[str] = field(default_factory=set)
    spread: set[str] = field(default_factory=set)

    def meet(self, name: str, value: Value) -> bool:
        """Note what one call gives for a parameter; whether that tells anything new."""
        old = self.values.get(name)
        self.values[name] = join(old, value)
        return old is None or self.values[name] != old


Key = tuple[FunctionType, type | None, int, tuple[str, ...], str]


@dataclass
class Program:
    """All that was specialised.

    Attributes:
        fields: what is known of the fields of objects that are made when the program runs, by class.
        steps: kinds of steps that are made, which files have in one.
        listed: classes of which objects lie in lists, where it is not known who reads what of them.
        constants: numbers and texts that modules name.
        tables: functions by name, that modules hold.
        imports: the modules of Python's own functions, by what is imported of them.
        kept: functions that are not written in the place of a call.
        round: how often everything was looked at.
        changed: whether the present round has told anything new.
        assumed: what was taken for granted of numbers, as expressions over the config and whether they hold.
    """

    specials: dict[Key, Special] = field(default_factory=dict)
    fields: dict[type, dict[str, Value]] = field(default_factory=dict)
    steps: set[type] = field(default_factory=set)
    listed: set[type] = field(default_factory=set)
    constants: dict[str, object] = field(default_factory=dict)
    tables: dict[str, dict[str, object]] = field(default_factory=dict)
    kept: set[tuple[FunctionType, type | None]] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)
    round: int = 0
    changed: bool = False
    assumed: dict[str, tuple[ast.expr, bool]] = field(default_factory=dict)

    def special(
        self, function: FunctionType, owner: type | None, rest: int, more: Iterable[str], name: str = ""
    ) -> Special:
        """The specialised form of a function, new where there is none yet."""
        key = (function, owner, rest, tuple(sorted(more)), name)
        if key not in self.specials:
            called = name or function.__name__
            self.specials[key] = Special(function, owner, called, tree_of(function), rest)
            self.changed = True
        return self.specials[key]

    def constructor(self, function: FunctionType, owner: type) -> Special | None:
        """The one form of a class's constructor, however many arguments a call has; None where there is none yet."""
        found = (s for s in self.specials.values() if s.constructor and s.function is function and s.owner is owner)
        return next(found, None)

    def meet(self, special: Special, name: str, value: Value) -> None:
        """Note an argument."""
        if special.meet(name, value):
            self.changed = True

    def meet_field(self, kind: type, name: str, value: Value) -> None:
        """Note what a field holds of an object that is made when the program runs."""
        known = self.fields.setdefault(kind, {})
        new = join(known.get(name), value)
        if known.get(name) != new:
            known[name] = new
            self.changed = True

    def meet_step(self, kind: type) -> None:
        """Note a kind of step that is made, and what it is one of."""
        if kind not in self.steps:
            self.steps |= {*kind.__mro__} - {object}
            self.changed = True

    def meet_listed(self, *values: Value) -> None:
        """Note what is put into a list."""
        self.listed |= {value.kind for value in map(solid, values) if isinstance(value, Record)}

    def meet_result(self, special: Special, value: Value) -> None:
        """Note what a function returns."""
        new = join(special.result, value)
        if special.result != new:
            special.result = new
            self.changed = True
