"""The config reader: a checkpoint's ``config.json`` becomes typed values, and nothing in it is dropped silently.

A family's ``read`` asks for each key by name and type. A key is thereby *used*; ``inert`` declares keys that do not
change what the model computes; ``only`` refuses values that are not supported. What nobody asked for is reported by
:meth:`ConfigReader.unknown`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeVar

from omniform.core.errors import ConfigError, nearest

T = TypeVar("T")


class _Required:
    """The type of :data:`REQUIRED`, so that a default of ``None`` can mean ``None``."""


REQUIRED: Final = _Required()

MOST_LAYERS: Final = 10_000
"""More blocks than any model has."""


class ConfigReader:
    """Typed, accountable access to one JSON object.

    Args:
        raw: the object.
        where: the file (and the key inside it) that it stands in, for error messages.
    """

    def __init__(self, raw: Mapping[str, object], *, where: str = "config.json") -> None:
        self.raw = raw
        self.where = where
        self.values: dict[str, object] = {}
        """Every key that was asked for, with the value it resolved to, defaults included."""
        self.spellings: dict[str, tuple[str, ...]] = {}
        """For every key with several spellings, all of them, the one that counts most first."""
        self.rivals: dict[str, tuple[str, ...]] = {}
        """Keys that say the same in other words, by key: whoever changes one drops what the others said."""
        self._touched: set[str] = set()

    # -- values ------------------------------------------------------------------------------------------------------

    def integer(
        self, name: str, default: int | _Required = REQUIRED, *, also: Collection[str] = (), least: int = 1
    ) -> int:
        """An integer of at least ``least``; ``also`` lists older or generic spellings of the key."""
        read = functools.partial(_as_int, least=least)
        return self._need(name, self._get(name, also, default, read, f"an integer >= {least}"))

    def layers(self, name: str, default: int, *, also: Collection[str] = (), least: int = 0) -> int:
        """How many blocks of a kind there are.

        A number that no model has is refused here: building the blocks would take all memory before the weights could
        tell that the file is damaged.
        """
        count = self.integer(name, default, also=also, least=least)
        if count > MOST_LAYERS:
            raise self.fail(name, f"at most {MOST_LAYERS}", count)
        return count

    def maybe_integer(
        self, name: str, default: int | None = None, *, also: Collection[str] = (), least: int = 1
    ) -> int | None:
        """An integer of at least ``least``, or ``null``."""
        read = functools.partial(_as_int, least=least)
        return self._get(name, also, default, read, f"an integer >= {least}, or null", null=None)

    def integer_or_null(self, name: str, default: int, *, least: int = 1) -> int | None:
        """An integer of at least ``least``; an explicit ``null`` means that there is none, whatever the default."""
        return self.maybe_integer(name, default, least=least)

    def number(self, name: str, default: float | _Required = REQUIRED, *, also: Collection[str] = ()) -> float:
        """A finite number."""
        return self._need(name, self._get(name, also, default, _as_float, "a finite number"))

    def maybe_number(self, name: str, default: float | None = None, *, also: Collection[str] = ()) -> float | None:
        """A finite number, or ``null``."""
        return self._get(name, also, default, _as_float, "a finite number, or null", null=None)

    def probability(self, name: str, default: float = 0.0, *, also: Collection[str] = ()) -> float:
        """A dropout probability in ``[0, 1]``; ``null`` reads as the default."""
        value = self._get(name, also, default, _as_probability, "a probability between 0 and 1", null=None)
        return default if value is None else value

    def flag(self, name: str, default: bool | _Required = REQUIRED, *, also: Collection[str] = ()) -> bool:
        """``true`` or ``false``; an explicit ``null`` is as good as ``false``, whatever the default."""
        null = default if isinstance(default, _Required) else False
        return self._need(name, self._get(name, also, default, _as_bool, "true or false", null=null))

    def text(self, name: str, default: str | _Required = REQUIRED, *, also: Collection[str] = ()) -> str:
        """A string."""
        return self._need(name, self._get(name, also, default, _as_str, "a string"))

    def maybe_text(self, name: str, default: str | None = None, *, also: Collection[str] = ()) -> str | None:
        """A string, or ``null``."""
        return self._get(name, also, default, _as_str, "a string, or null", null=None)

    def choice(
        self, name: str, allowed: Collection[str], default: str | _Required = REQUIRED, *, also: Collection[str] = ()
    ) -> str:
        """One of a set of strings; any other is refused with the nearest of them."""
        value = self.text(name, default, also=also)
        if value not in allowed:
            raise ConfigError(
                f"{name} is not supported", where=self.where, found=repr(value), remedy=nearest(value, allowed)
            )
        return value

    def integers(
        self,
        name: str,
        default: tuple[int, ...] | _Required = REQUIRED,
        *,
        least: int = 0,
        also: Collection[str] = (),
    ) -> tuple[int, ...]:
        """A list of integers; ``also`` lists other spellings of the key."""
        read = functools.partial(_as_ints, least=least)
        return self._need(name, self._get(name, also, default, read, "a list of integers"))

    def one_or_more(self, name: str, default: tuple[int, ...], *, also: Collection[str] = ()) -> tuple[int, ...]:
        """Integers, negative ones too, written as one or as a list of at least one."""
        value = self._need(name, self._get(name, also, default, _as_one_or_more, "an integer or a list of them"))
        listed = any(isinstance(self.raw.get(key), (list, tuple)) for key in (name, *also))
        for key in (name, *also):
            self.values[key] = list(value) if listed or len(value) > 1 else value[0]
        return value

    def integer_lists(
        self, name: str, default: tuple[tuple[int, ...], ...] | _Required = REQUIRED, *, least: int = 0
    ) -> tuple[tuple[int, ...], ...]:
        """A list of lists of integers."""

        def read(value: object) -> tuple[tuple[int, ...], ...]:
            return tuple(_as_ints(one, least) for one in _as_list(value))

        lists = self._need(name, self._get(name, (), default, read, "a list of lists of integers"))
        self.values[name] = [list(one) for one in lists]
        return lists

    def numbers(self, name: str, default: tuple[float, ...] | _Required = REQUIRED) -> tuple[float, ...]:
        """A list of finite numbers."""
        return self._need(name, self._get(name, (), default, _as_floats, "a list of numbers"))

    def bounds(self, name: str, default: tuple[float, float]) -> tuple[float, float]:
        """The least and the greatest of something, infinity among them (``{"__float__": "Infinity"}``)."""
        return self._need(name, self._get(name, (), default, _as_bounds, "two numbers, the lesser one first"))

    def texts(self, name: str, default: tuple[str, ...] | _Required = REQUIRED) -> tuple[str, ...]:
        """A list of strings."""
        return self._need(name, self._get(name, (), default, _as_strs, "a list of strings"))

    def flags(self, name: str, default: tuple[bool, ...] | _Required = REQUIRED) -> tuple[bool, ...]:
        """A list of truth values."""
        return self._need(name, self._get(name, (), default, _as_bools, "a list of true and false"))

    def pair(self, name: str, default: tuple[int, int] | _Required = REQUIRED) -> tuple[int, int]:
        """A size written as one integer or as ``[height, width]``."""
        size = self._need(name, self._get(name, (), default, _as_pair, "an integer or [height, width]"))
        as_list = isinstance(self.raw.get(name), (list, tuple)) or size[0] != size[1]
        self.values[name] = list(size) if as_list else size[0]
        return size

    def maybe_size(self, name: str) -> tuple[int, int] | None:
        """A size written as one integer or as ``[height, width]``, or ``null``."""
        size = self._get(name, (), None, _as_pair, "an integer, [height, width], or null", null=None)
        self.values[name] = self.raw.get(name)
        return size

    def ids(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Token ids written as one integer, a list or ``null`` (none)."""
        value = self._get(name, (), default, _as_ids, "a token id, a list of them, or null") or ()
        self.values[name] = None if not value else value[0] if len(value) == 1 else list(value)
        return value

    def token(self, name: str, default: int | None = None) -> int | None:
        """One token id, the first of a list; an explicit ``null`` means that there is none, whatever the default."""
        ids = self.ids(name, () if default is None or self._is_null(name) else (default,))
        return ids[0] if ids else None

    def special_tokens(self, **defaults: int | None) -> None:
        """Special tokens that the engine asks the config for, with the family's defaults: ``eos_token_id=2``."""
        for name, default in defaults.items():
            self.token(name, default)

    def mapping(self, name: str, *, also: Collection[str] = ()) -> Mapping[str, object] | None:
        """A JSON object, verbatim, or None where it is missing or ``null``."""
        return self._get(name, also, None, _as_mapping, "an object, or null")

    def sub(self, name: str, default: Mapping[str, object] | _Required = REQUIRED) -> ConfigReader:
        """A reader for a nested object; ``default`` stands in where it is missing or ``null``."""
        value = self.mapping(name)
        if value is None:
            value = self._need(name, None if isinstance(default, _Required) else default)
        return self.within(value, name)

    def within(self, raw: Mapping[str, object], *names: str) -> ConfigReader:
        """A reader of the same kind for an object inside this one, under the given keys."""
        return ConfigReader(raw, where=": ".join((self.where, *names)))

    # -- accounting --------------------------------------------------------------------------------------------------

    def inert(self, *names: str, **usual: object) -> None:
        """Declare keys that are known and change nothing in what the model computes.

        Args:
            usual: such keys with the values that tools read of a config that does not say them.
        """
        for name in (*names, *usual):
            self._touched.add(name)
            if name in self.raw:
                self.values.setdefault(name, self.raw[name])
            elif name in usual:
                self.values.setdefault(name, usual[name])

    def only(self, name: str, *allowed: object, why: str = "") -> None:
        """Refuse ``name`` unless it is missing or one of ``allowed``.

        Raises:
            ConfigError: it has another value; the message names it and says what is supported.
        """
        self._touched.add(name)
        if name not in self.raw:
            return
        value = self.raw[name]
        self.values[name] = value
        # True == 1 in Python, and not in JSON.
        if not any(value == a and isinstance(value, bool) == isinstance(a, bool) for a in allowed):
            raise ConfigError(
                f"{name} is not supported{': ' + why if why else ''}",
                where=self.where,
                expected=" or ".join(repr(a) for a in allowed),
                found=repr(value),
            )

    def fail(self, name: str, expected: object, found: object, remedy: str | None = None) -> ConfigError:
        """A :class:`ConfigError` about key ``name`` for the caller to raise."""
        return ConfigError(f"{name} does not fit", where=self.where, expected=expected, found=found, remedy=remedy)

    def unknown(self) -> tuple[str, ...]:
        """The keys that nobody asked for."""
        return tuple(sorted(k for k in self.raw if k not in self._touched and not k.startswith("_")))

    @property
    def touched(self) -> frozenset[str]:
        """Every key that was used, declared inert or checked."""
        return frozenset(self._touched)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _is_null(self, name: str) -> bool:
        return name in self.raw and self.raw[name] is None

    def _need(self, name: str, value: T | None) -> T:
        if value is None:
            raise ConfigError(
                f"{name} is missing" if name not in self.raw else f"{name} must not be null", where=self.where
            )
        return value

    def _get(
        self,
        name: str,
        also: Collection[str],
        default: T | _Required | None,
        read: Callable[[object], T],
        expected: str,
        *,
        null: T | _Required | None = REQUIRED,
    ) -> T | None:
        """The value of a key under any of its spellings.

        Args:
            null: what an explicit ``null`` means; the default, if not said: files written by other tools do that.
        """
        self._touched.update((name, *also))
        for key in (name, *also) if also else ():
            self.spellings[key] = (name, *also)
        for key in (name, *also):
            if key in self.raw and self.raw[key] is not None:
                try:
                    value = read(self.raw[key])
                except (TypeError, ValueError, OverflowError):
                    raise ConfigError(
                        f"{key} has a wrong value", where=self.where, expected=expected, found=_shown(self.raw[key])
                    ) from None
                break
        else:
            told = not isinstance(null, _Required) and any(self._is_null(key) for key in (name, *also))
            fallback = null if told else default
            value = None if isinstance(fallback, _Required) else fallback  # type: ignore[assignment]
        for key in (name, *also):
            # Files hold lists, and so do configs that tools read.
            self.values[key] = list(value) if isinstance(value, tuple) else value
        return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _as_int(value: object, least: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < least or value > 2**53:
        raise ValueError
    return value


def _as_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _as_probability(value: object) -> float:
    number = _as_float(value)
    if not 0 <= number <= 1:
        raise ValueError
    return number


def _as_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _as_str(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _as_list(value: object) -> list[object]:
    if not isinstance(value, (list, tuple)):
        raise ValueError
    return list(value)


def _as_ints(value: object, least: int) -> tuple[int, ...]:
    return tuple(_as_int(v, least) for v in _as_list(value))


def _as_floats(value: object) -> tuple[float, ...]:
    return tuple(_as_float(v) for v in _as_list(value))


def _as_bounds(value: object) -> tuple[float, float]:
    low, high = (
        float(v["__float__"]) if isinstance(v, Mapping) else v if v in (math.inf, -math.inf) else _as_float(v)
        for v in _as_list(value)
    )
    if not low <= high:
        raise ValueError
    return float(low), float(high)


def _as_bools(value: object) -> tuple[bool, ...]:
    return tuple(_as_bool(one) for one in _as_list(value))


def _as_strs(value: object) -> tuple[str, ...]:
    return tuple(_as_str(v) for v in _as_list(value))


def _as_pair(value: object) -> tuple[int, int]:
    if isinstance(value, (list, tuple)):
        height, width = value
        return _as_int(height, 1), _as_int(width, 1)
    return _as_int(value, 1), _as_int(value, 1)


def _as_ids(value: object) -> tuple[int, ...]:
    # Some published configs hold -1 for "no such token".
    values = _as_list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(_as_int(v, -1) for v in values)


def _as_one_or_more(value: object) -> tuple[int, ...]:
    values = _as_list(value) if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise ValueError
    return tuple(_as_int(v, -(2**53)) for v in values)


def _as_mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError
    return value
