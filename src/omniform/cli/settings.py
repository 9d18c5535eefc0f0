"""Settings of a generation as they are typed: ``NAME=VALUE``, by the one table of all settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from omniform.core.errors import InputError, UnknownArgumentError, brief, nearest
from omniform.core.settings import SAMPLING, SETTINGS, Effect, Setting


def value_of(text: str) -> object:
    """A value as JSON or Python writes it, or else the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value


_WORDS: Final[Mapping[str, object]] = {"None": None, "True": True, "False": False}


def read_pair(pair: str, where: str) -> tuple[str, object]:
    """The name and the value of ``NAME=VALUE``.

    Raises:
        InputError: this sets nothing.
    """
    name, equals, value = pair.partition("=")
    if not equals or not name.strip():
        raise InputError("this sets nothing", where=where, expected="NAME=VALUE", found=pair)
    return name.strip().replace("-", "_"), value_of(value.strip())


def check_setting(name: str, value: object, table: Mapping[str, Setting]) -> None:
    """Refuse what a generation could not use.

    Args:
        value: None takes back what the checkpoint's settings say.
        table: the settings that the model understands.

    Raises:
        UnknownArgumentError: there is no such setting.
        InputError: it is not built yet, or takes other values.
    """
    if name not in table:
        raise UnknownArgumentError(f"there is no setting {name!r:.80}", remedy=nearest(name, table))
    row = table[name]
    if row.effect is Effect.LATER and not row.is_neutral(value):
        raise InputError("this is not built yet", where=name, remedy=row.remedy)
    if row.effect is Effect.PART and value is not None:
        raise InputError("this is an object, which only a program can hand over", where=name, found=brief(value))
    if value is None or row.effect is not Effect.USED:
        return
    try:
        fits = row.kind.fits(row.kind.read(value))
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise InputError("this value cannot be", where=name, expected=row.kind.expected, found=brief(value))


def drawing(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings of draws ask for draws, unless it is said that there are none."""
    named = [name for name, value in settings.items() if name in SETTINGS and value is not None]
    if any(name == "seed" or SETTINGS[name].acts is SAMPLING for name in named):
        return {"do_sample": True, **settings}
    return dict(settings)
