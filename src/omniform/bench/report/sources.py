"""Results by whatever names them: a file, an id, a commit, a config, a contender; in a database or in several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from omniform.bench.results import Result
from omniform.bench.store.store import Store
from omniform.bench.store.urls import hidden
from omniform.core.errors import InputError, nearest

WAYS: Final = "a file of results, an id, a commit, the name of a config or of a contender, or URL#one of these"


def results_of(text: str, db: str | None = None) -> list[Result]:
    """Results by name.

    Args:
        text: a JSON file (of ``omniform bench --json``, or of optimum-benchmark); the beginning of an id or of a
            commit, a config's or a contender's name, looked for in ``db`` in this order; or ``URL#`` and such a name.
        db: a database's URL.

    Raises:
        InputError: there are none, or nobody said where to look.
        StoreError: the database cannot be used.
    """
    if "://" in text:
        url, _, name = text.partition("#")
        with Store.open(url) as store:
            return _named(store, name) if name else _some(store.results(), hidden(text))
    if Path(text).exists():
        return _of_file(Path(text))
    if db is None:
        raise InputError("there is no such file", where=text, expected=WAYS, remedy="Add --db URL to look there.")
    with Store.open(db) as store:
        return _named(store, text)


def _named(store: Store, name: str) -> list[Result]:
    ways: list[Callable[[], list[Result]]] = []
    if re.fullmatch("[0-9a-f]{4,64}", name):
        ways.append(lambda: store.results(ids=[name]))
    ways += [
        lambda: store.results(commit=name),
        lambda: store.results(name=name),
        lambda: store.results(contender=name),
    ]
    for way in ways:
        found = way()
        if found:
            return found
    runs = store.runs()
    known = {word for one in runs for word in (one.name, one.contender, one.commit or one.id)}
    raise InputError("no results are of that name", where=f"{store.shown}#{name}", expected=WAYS,
                     remedy=nearest(name, known))  # fmt: skip


def _some(found: list[Result], where: str) -> list[Result]:
    if not found:
        raise InputError("holds no results", where=where)
    return found


def _of_file(path: Path) -> list[Result]:
    from omniform.bench.layouts import is_optimum, read_optimum

    if path.is_dir() or is_optimum(path):
        return [read_optimum(path)]
    try:
        text = path.read_text(encoding="utf-8")
        told = json.loads(text) if text.lstrip()[:1] == "[" or "\n{" not in text.strip() else _lines(text)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", where=str(path)) from None
    return _some(_of_json(told, path), str(path))


def _lines(text: str) -> list[object]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def _of_json(told: object, path: Path) -> list[Result]:
    many = told if isinstance(told, list) else told.get("results", [told]) if isinstance(told, dict) else None
    try:
        if not isinstance(many, list):
            raise TypeError("neither a list nor an object")
        return [Result.of(one) for one in many]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(
            "holds no results", where=str(path), found=str(error), expected="what omniform bench --json writes"
        ) from None


def measured(results: Iterable[Result]) -> list[Result]:
    """Those that have numbers."""
    return [one for one in results if one.measures and one.status == "done"]


def known_measures(results: Sequence[Result]) -> list[str]:
    """Names of all that was measured, in order."""
    return list(dict.fromkeys(name for one in results for name in one.measures))
