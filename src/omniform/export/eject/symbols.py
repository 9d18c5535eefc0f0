"""Numbers that remember where in a config they came from.

A family's ``read`` and ``build`` run as they are, on a reader that gives out such numbers: what they compute of them
is told as an expression over the config, so that ``nn.Linear(4096, 1024)`` can be written down as what it means.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.export.eject.trees import constant

BINARY: Mapping[str, type[ast.operator]] = {
    "add": ast.Add,
    "sub": ast.Sub,
    "mul": ast.Mult,
    "floordiv": ast.FloorDiv,
    "truediv": ast.Div,
    "mod": ast.Mod,
    "pow": ast.Pow,
}


class Symbol:
    """A number and the expression that it is the value of."""

    expression: ast.expr


class SymbolicInt(int, Symbol):
    """An integer of a config, or one computed of such."""

    def __new__(cls, value: int, expression: ast.expr) -> SymbolicInt:
        made = int.__new__(cls, value)
        made.expression = expression
        return made

    def __deepcopy__(self, memo: object) -> SymbolicInt:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class SymbolicFloat(float, Symbol):
    """A number of a config, or one computed of such."""

    def __new__(cls, value: float, expression: ast.expr) -> SymbolicFloat:
        made = float.__new__(cls, value)
        made.expression = expression
        return made

    def __deepcopy__(self, memo: object) -> SymbolicFloat:
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


def symbolic(value: object, expression: ast.expr) -> object:
    """A number as one that knows its expression; anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return SymbolicInt(value, expression)
    return SymbolicFloat(value, expression) if isinstance(value, float) else value


def plain(value: object) -> object:
    """A number without its expression."""
    if isinstance(value, SymbolicInt):
        return int.__int__(value)
    return float.__float__(value) if isinstance(value, SymbolicFloat) else value


def expression_of(value: object) -> ast.expr:
    """A number as an expression: a symbol's own, or the number itself."""
    if isinstance(value, Symbol):
        return copy.deepcopy(value.expression)
    return constant(value)


def _install(kind: type, operator: str, node: type[ast.operator]) -> None:
    base = kind.__mro__[1]

    def forwards(self: object, other: object) -> object:
        made = getattr(base, f"__{operator}__")(self, other)
        if made is NotImplemented or not isinstance(other, (int, float)) or isinstance(other, bool):
            return made
        return symbolic(made, ast.BinOp(left=expression_of(self), op=node(), right=expression_of(other)))

    def backwards(self: object, other: object) -> object:
        made = getattr(base, f"__r{operator}__")(self, other)
        if made is NotImplemented or not isinstance(other, (int, float)) or isinstance(other, bool):
            return made
        return symbolic(made, ast.BinOp(left=expression_of(other), op=node(), right=expression_of(self)))

    setattr(kind, f"__{operator}__", forwards)
    setattr(kind, f"__r{operator}__", backwards)


def _install_minus(kind: type) -> None:
    base = kind.__mro__[1]

    def minus(self: object) -> object:
        return symbolic(vars(base)["__neg__"](self), ast.UnaryOp(op=ast.USub(), operand=expression_of(self)))

    setattr(kind, "__neg__", minus)  # noqa: B010


for _kind in (SymbolicInt, SymbolicFloat):
    for _operator, _node in BINARY.items():
        _install(_kind, _operator, _node)
    _install_minus(_kind)


@dataclass
class Keys:
    """The keys that a config was asked for.

    Attributes:
        numbers: by the field that the file's ``Config`` has for it: the key's path, and its value.
        readers: every reader there was, by its path.
    """

    numbers: dict[str, tuple[tuple[str, ...], object]] = field(default_factory=dict)
    readers: dict[tuple[str, ...], SymbolicReader] = field(default_factory=dict)

    def named(self, path: tuple[str, ...], value: object) -> ast.expr:
        """The expression for the number under a key."""
        name = "__".join(path)
        self.numbers[name] = (path, value)
        return ast.Attribute(value=ast.Name(id="config", ctx=ast.Load()), attr=name, ctx=ast.Load())


class SymbolicReader(ConfigReader):
    """A reader whose numbers know their keys.

    Args:
        path: the keys that lead to the object.
        keys: where keys are noted.
    """

    def __init__(
        self, raw: Mapping[str, object], *, where: str = "config.json", path: tuple[str, ...] = (), keys: Keys
    ) -> None:
        super().__init__(raw, where=where)
        self.path, self.keys = path, keys
        self.asked: set[str] = set()
        self.declared_inert: set[str] = set()
        keys.readers[path] = self

    def inert(self, *names: str, **usual: object) -> None:
        self.declared_inert.update(names, usual)
        super().inert(*names, **usual)

    def within(self, raw: Mapping[str, object], *names: str) -> ConfigReader:
        return SymbolicReader(raw, where=": ".join((self.where, *names)), path=(*self.path, *names), keys=self.keys)

    def _get(self, name: str, also: Collection[str], default: object, *args: object, **kwargs: object) -> object:  # type: ignore[override]
        self.asked.add(name)
        value = super()._get(name, also, default, *args, **kwargs)  # type: ignore[arg-type]
        if isinstance(value, Symbol) and value is default:
            return value  # another key's, which this one follows
        held = next((key for key in (name, *also) if self.raw.get(key) is not None), name)
        found = self._symbolic(held, value)
        for key in (name, *also):
            self.values[key] = list(found) if isinstance(found, tuple) else found
        return found

    def _symbolic(self, name: str, value: object) -> object:
        path = (*self.path, name)
        if isinstance(value, tuple):
            return value
        return value if isinstance(value, bool) or not isinstance(value, (int, float)) else self._number(path, value)

    def _number(self, path: tuple[str, ...], value: object) -> object:
        return symbolic(value, self.keys.named(path, value))


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicCommon(Common):
    """What all families share, with a number of labels that is known to come from the config."""

    @property
    def num_labels(self) -> int:
        expression = ast.Attribute(value=ast.Name(id="config", ctx=ast.Load()), attr="num_labels", ctx=ast.Load())
        return SymbolicInt(len(self.id2label), expression)


def symbolic_common(common: Common) -> SymbolicCommon:
    """The same with such a number."""
    return SymbolicCommon(**{name: getattr(common, name) for name in Common.__dataclass_fields__})


def names_in(node: ast.AST) -> Iterator[str]:
    """The fields of the config that an expression reads."""
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "config":
            yield part.attr


__all__ = ["Keys", "Symbol", "SymbolicReader", "expression_of", "names_in", "plain", "symbolic", "symbolic_common"]
