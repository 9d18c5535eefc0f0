"""What computes a template: every operation of the language, on values of known kinds, paid for in advance."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from functools import lru_cache, partial
from typing import NoReturn, cast

from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import Cycler, Joiner
from markupsafe import Markup

from omniform.inputs.text.sandbox import strings
from omniform.inputs.text.sandbox.budget import LONGEST_INTEGER, NODE, Budget, TooMuchError
from omniform.inputs.text.sandbox.values import Function, Group, Handler, Lazy, Method, Variables, metered

_VIEWS = (KeysView, ValuesView, ItemsView)
_MISSING = object()
_OPERATORS: dict[str, Callable[[object, object], object]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "**": operator.pow,
    "%": operator.mod,
}
_FIELDS: dict[type, dict[str, Callable[[object], object]]] = {
    kind: {name: operator.attrgetter(name) for name in names.split()}
    for kind, names in {
        LoopContext: "index index0 revindex revindex0 first last length depth depth0 previtem nextitem",
        Macro: "name arguments catch_kwargs catch_varargs caller",
        Cycler: "current",
        Group: "grouper list",
    }.items()
}
"""The fields that values have besides their items."""

_LONGEST_RANGE = 100_000
_MOST_LAZY = 32


class _Bound(Mapping[str, Handler]):
    """Functions that want the machine first, given it as they are taken."""

    def __init__(self, machine: Machine, table: Mapping[str, Handler]) -> None:
        self._machine = machine
        self._table = table

    def __getitem__(self, name: str) -> Handler:
        return partial(self._table[name], self._machine)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


class Machine(Budget):
    """One rendering of one template. The code of ``program`` knows it as its ``environment``.

    Args:
        units: the budget.
        known: sizes of what the inputs hold; see :class:`Budget`.
        weight: units that all of the template takes once.
        track: find what ``{% generation %}`` blocks write.
    """

    __slots__ = ("_marks", "_open", "filters", "spans", "tests", "track", "weight", "written")
    autoescape = False
    is_async = False
    undefined = Undefined

    def __init__(self, units: int, known: dict[int, tuple[int, int]], *, weight: int, track: bool) -> None:
        from omniform.inputs.text.sandbox.checks import TESTS
        from omniform.inputs.text.sandbox.filters import FILTERS

        super().__init__(units, known)
        self.weight = weight
        self.track = track
        self.filters = _Bound(self, FILTERS)
        self.tests = _Bound(self, TESTS)
        self.written = 0
        self.spans: list[tuple[int, int]] = []
        self._open: list[int] = []
        self._marks: tuple[str, str] | None = None

    # ---- text

    def text(self, value: object) -> str:
        """A value as it is written."""
        if type(value) is str:
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if not isinstance(value, Undefined):
            self.spend(10 * self.size(value))
        return str(value)

    def concat(self, parts: list[str]) -> str:
        """What a macro or a block has written, as one text."""
        self.spend(sum(map(len, parts)))
        return "".join(parts)

    def joined(self, *parts: object) -> str:
        """``a ~ b ~ c``."""
        return self.concat([part if type(part) is str else self.text(part) for part in parts])

    def write(self, part: str) -> str:
        """A piece of the prompt, as it is added to it; see :meth:`begin`."""
        if type(part) is not str:
            raise TypeError(f"a template writes text, not {type(part).__name__}")
        if self._marks is not None and "\ufdd0" in part:
            part = self._take_marks(part, *self._marks)
        self.written += len(part)
        self.left -= len(part) + 1
        if self.left < 0:
            self.spend(0)
        return part

    # ---- what {% generation %} blocks write

    def begin(self, direct: bool) -> str:
        """The beginning of a block.

        Args:
            direct: it writes into the prompt. A block in a macro writes into the macro's text, of which nobody knows
                where it goes; there its place is marked by letters that no message holds, because they are drawn anew
                for each rendering.
        """
        return self._mark(direct, 0)

    def end(self, direct: bool) -> str:
        """The end of a block."""
        return self._mark(direct, 1)

    def _mark(self, direct: bool, which: int) -> str:
        if not self.track:
            return ""
        if direct:
            self._note(which, self.written)
            return ""
        if self._marks is None:
            nonce = secrets.token_hex(16)
            self._marks = (f"\ufdd0{nonce}\ufdd1", f"\ufdd0/{nonce}\ufdd1")
        return self._marks[which]

    def _note(self, which: int, place: int) -> None:
        if which == 0:
            self._open.append(place)
        elif self._open:
            self.spans.append((self._open.pop(), place))
        else:
            self._torn()

    def _take_marks(self, part: str, start: str, end: str) -> str:
        kept = []
        place = self.written
        for index, piece in enumerate(part.split(start)):
            if index:
                self._note(0, place)
            for number, inner in enumerate(piece.split(end)):
                if number:
                    self._note(1, place)
                kept.append(inner)
                place += len(inner)
        return "".join(kept)

    def finish(self) -> tuple[tuple[int, int], ...]:
        """What the blocks wrote, as (start, end) in the prompt."""
        if self._open:
            self._torn()
        return tuple(self.spans)

    def _torn(self) -> NoReturn:
        raise ValueError("it tears apart what its generation blocks write, so that their tokens cannot be found")

    # ---- loops

    def spread(self, value: object) -> object:
        """What ``*`` or ``**`` spreads into arguments."""
        if isinstance(value, dict):
            self.spend(NODE * len(value))
            return value
        return self.listed(value)

    def items(self, value: object, cost: int = NODE) -> Iterable[object]:
        """Something to loop over, each item of which costs so much."""
        kind = type(value)
        if kind is list or kind is tuple or kind is dict or kind is str or isinstance(value, (range, Group, Markup)):
            sized = cast("list[object]", value)
            self.left -= cost * len(sized) + NODE
            if self.left < 0:
                self.spend(0)
            return sized
        if isinstance(value, _VIEWS):
            self.spend(cost * len(value) + NODE)
            return value
        if isinstance(value, (Lazy, LoopContext)):
            return metered(self, iter(value), cost)
        if isinstance(value, Undefined):
            return ()
        raise TypeError(f"{type(value).__name__!r} object is not iterable")

    each = items

    def listed(self, value: object) -> list[object]:
        """All items of something."""
        return list(self.items(value, 12))

    def lazy(self, items: Iterator[object], source: object) -> Lazy:
        """Items to be computed when they are asked for, from those of something else."""
        depth = source.depth + 1 if isinstance(source, Lazy) else 1
        if depth > _MOST_LAZY:
            raise TooMuchError(f"more than {_MOST_LAZY} filters stand behind one another")
        self.spend(16 * NODE)
        return Lazy(items, depth)

    def range(self, *bounds: int) -> range:
        """``range``, of which jinja bounds the length as well."""
        numbers = range(*bounds)
        if len(numbers) > _LONGEST_RANGE:
            raise TooMuchError(f"a range is longer than {_LONGEST_RANGE}")
        return numbers

    # ---- operators

    def add(self, *terms: object) -> object:
        """``a + b + c``."""
        length = 0
        for term in terms:
            if type(term) is not str:
                break
            length += len(term)
        else:
            self.left -= length
            if self.left < 0:
                self.spend(0)
            return "".join(cast("tuple[str, ...]", terms))
        total = terms[0]
        for term in terms[1:]:
            total = self.binary("+", total, term)
        return total

    def binary(self, sign: str, left: object, right: object) -> object:
        """An operator between two values."""
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return self._number(sign, left, right)
        if isinstance(left, Undefined):
            return _OPERATORS[sign](left, right)  # says what is undefined
        if isinstance(right, Undefined):
            return _OPERATORS[sign](left, right)
        if sign == "%" and isinstance(left, str):
            return strings.percent(self, str.__str__(left), right)
        if sign == "*":
            sized, count = (left, right) if isinstance(left, (str, list, tuple)) else (right, left)
            if isinstance(sized, (str, list, tuple)) and isinstance(count, int):
                self.spend(max(count, 0) * len(sized) * (1 if isinstance(sized, str) else 3) + NODE)
                return sized * count
        if sign == "+":
            if isinstance(left, str) and isinstance(right, str):
                # Text that was escaped escapes what is added to it.
                self.spend(6 * (len(left) + len(right)))
                return left + right
            if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
                self.spend(3 * (len(left) + len(right)) + NODE)
                return _OPERATORS[sign](left, right)
        names = f"{type(left).__name__!r} and {type(right).__name__!r}"
        raise TypeError(f"unsupported operand type(s) for {sign}: {names}")

    def _number(self, sign: str, left: float, right: float) -> object:
        power = sign == "**" and isinstance(left, int) and isinstance(right, int) and abs(left) > 1
        if power and not -LONGEST_INTEGER <= right * int(left).bit_length() <= LONGEST_INTEGER:
            raise TooMuchError(f"a number has more than {LONGEST_INTEGER} bits")
        return self.checked(_OPERATORS[sign](left, right))

    def checked(self, number: object) -> object:
        """A number, unless it is too long or no real one."""
        if isinstance(number, int) and number.bit_length() > LONGEST_INTEGER:
            raise TooMuchError(f"a number has more than {LONGEST_INTEGER} bits")
        if isinstance(number, complex):
            raise TypeError("the result is no real number")
        return number

    def measured(self, value: object) -> object:
        """A value that is about to be compared with another."""
        if value is None or isinstance(value, (int, float, Undefined)):
            return value
        self.spend(self.size(value))
        return value

    def sized(self, value: object) -> object:
        """A value in which a constant is about to be looked for."""
        if isinstance(value, (str, list, tuple, range, *_VIEWS)):
            self.spend(2 * len(value))
        elif isinstance(value, (Lazy, LoopContext)):
            return self.items(value)
        return value

    def haystack(self, value: object) -> object:
        """A value in which any other is about to be looked for."""
        if isinstance(value, (range, Lazy, LoopContext)):
            return self.sized(value)
        if isinstance(value, str):
            return self.sized(value)
        return self.measured(value)

    def needle(self, value: object) -> object:
        """A value that is about to be looked for in another, or to be a key."""
        if isinstance(value, (tuple, str)) or not isinstance(value, (int, float)):
            self.spend(self.size(value))
        return value

    # ---- attributes and items

    def getattr(self, value: object, name: str) -> object:
        """``value.name``."""
        found = self.attribute(value, name)
        if found is not _MISSING:
            return found
        if isinstance(value, dict):
            found = value.get(name, _MISSING)
        return Undefined(obj=value, name=name) if found is _MISSING else found

    def getitem(self, value: object, key: object) -> object:
        """``value[key]``."""
        if type(value) is dict:
            found = value.get(key if type(key) is str else self._hashable(key), _MISSING)
            if found is not _MISSING:
                return found
        elif isinstance(value, (list, tuple, str, range)):
            if isinstance(key, int):
                try:
                    return value[key]
                except IndexError:
                    return Undefined(obj=value, name=cast(str, key))
        elif isinstance(value, Undefined):
            return value[key]  # says what is undefined
        if isinstance(key, str):
            found = self.attribute(value, str.__str__(key))
            if found is not _MISSING:
                return found
        return Undefined(obj=value, name=cast(str, key))

    def _hashable(self, key: object) -> object:
        if key is None or isinstance(key, (int, float, str)):
            return key
        if isinstance(key, tuple):
            return self.needle(key)
        return _MISSING

    def attribute(self, value: object, name: str) -> object:
        """A method or a field of a value, or a mark that there is none.

        Raises:
            SecurityError: Python has one, and templates do not.
        """
        kind = type(value)
        if kind is dict and name not in _DICT_NAMES:
            return _MISSING
        if isinstance(value, Variables):
            if name in value.values:
                return value.values[name]
        elif isinstance(value, Undefined):
            value._fail_with_undefined_error()
        handler = methods_of(value).get(name)
        if handler is not None:
            return Method(value, name, handler)
        read = _FIELDS[kind].get(name) if kind in _FIELDS else None
        if read is not None:
            return read(value)
        if name.startswith("_") or name in _python_names(kind):  # type: ignore[arg-type] # a class has a hash
            raise SecurityError(f"access to attribute {name!r} of a {kind.__name__!r} is unsafe")
        return _MISSING

    def slice(self, value: object, start: object, stop: object, step: object) -> object:
        """``value[start:stop:step]``."""
        cut = slice(*(cast("int | None", part) for part in (start, stop, step)))
        if isinstance(value, (str, list, tuple)):
            self.spend(len(range(*cut.indices(len(value)))) * (1 if isinstance(value, str) else 3) + NODE)
            return value[cut]
        if isinstance(value, range):
            return value[cut]
        if isinstance(value, Undefined):
            return self.getitem(value, 0)
        raise TypeError(f"{type(value).__name__!r} object cannot be cut")

    # ---- calls

    def call(self, function: object, /, *args: object, **named: object) -> object:
        """``function(...)``."""
        if isinstance(function, Macro):
            return function(*args, **named)
        if isinstance(function, Method):
            if isinstance(function.owner, Markup):
                return function.handler(self, str.__str__(function.owner), *args, **named)
            return function.handler(self, function.owner, *args, **named)
        if isinstance(function, Function):
            return function.handler(self, *args, **named)
        if isinstance(function, LoopContext) and len(args) == 1 and not named:
            return function(self.items(args[0], self.weight))
        if isinstance(function, Joiner) and not args and not named:
            return function()
        if isinstance(function, Undefined):
            return function()  # says what is undefined
        raise TypeError(f"{type(function).__name__!r} object is not callable")

    def method(self, value: object, name: str, /, *args: object, **named: object) -> object:
        """``value.name(...)``."""
        kind = type(value)
        if kind is str:
            handler = strings.METHODS.get(name)
            if handler is not None:
                return handler(self, value, *args, **named)
        return self.call(self.getattr(value, name), *args, **named)


@lru_cache(maxsize=64)
def _python_names(kind: type) -> frozenset[str]:
    return frozenset(dir(kind))


def methods_of(value: object) -> Mapping[str, Handler]:
    """The methods that a value has in templates."""
    if isinstance(value, str):
        return strings.METHODS
    if isinstance(value, Function):
        return value.methods
    return _METHODS.get(type(value), {})


def _keyed(machine: Machine, mapping: dict[object, object], key: object, default: object = None, /) -> object:
    return mapping.get(machine._hashable(key), default)


def _copied(machine: Machine, value: list[object] | dict[object, object], /) -> object:
    machine.spend(16 * len(value) + NODE)
    return value.copy()


def _counted(machine: Machine, value: list[object], item: object, /) -> int:
    machine.spend(machine.size(value))
    return value.count(item)


def _index(machine: Machine, value: list[object], item: object, /, *bounds: int) -> int:
    machine.spend(machine.size(value))
    return value.index(item, *bounds)


def _changed(machine: Machine, loop: LoopContext, /, *values: object) -> bool:
    machine.spend(machine.size(values))
    return loop.changed(*values)


def _cycled(machine: Machine, loop: LoopContext, /, *values: object) -> object:
    return loop.cycle(*values)


_METHODS: dict[type, Mapping[str, Handler]] = {
    dict: {
        "get": _keyed,
        "items": lambda machine, mapping, /: mapping.items(),
        "keys": lambda machine, mapping, /: mapping.keys(),
        "values": lambda machine, mapping, /: mapping.values(),
        "copy": _copied,
    },
    list: {"count": _counted, "index": _index, "copy": _copied},
    tuple: {"count": _counted, "index": _index},
    Group: {"count": _counted, "index": _index},
    float: {"is_integer": lambda machine, number, /: number.is_integer()},
    int: {"bit_length": lambda machine, number, /: number.bit_length()},
    LoopContext: {"cycle": _cycled, "changed": _changed},
    Cycler: {
        "next": lambda machine, cycler, /: cycler.next(),
        "reset": lambda machine, cycler, /: cycler.reset(),
    },
}
_DICT_NAMES = frozenset(dir(dict))
