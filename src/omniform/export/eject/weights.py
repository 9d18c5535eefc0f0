"""How the file finds its weights in a checkpoint: the key table, written as templates."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from omniform.core.errors import OmniformError
from omniform.export.eject.symbols import Symbol, expression_of
from omniform.weights.keymap import KeyMap, KeyTable
from omniform.weights.links import (
    Groups,
    Index,
    Link,
    Rows,
    Share,
    Transposed,
    TransposedEach,
    Unsqueezed,
    View,
    axis_of,
)

NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@dataclass(frozen=True)
class Place:
    """Where a tensor of the file is in a checkpoint.

    Attributes:
        ours: the template of its path.
        key: the template of the checkpoint's key.
        take: what picks it out of the checkpoint's tensor ``t``; empty for all of it.
        put: which part of ours ``t`` it is; empty for all of it.
        each: how many such parts there are, numbered by ``{n}``; 0 for one.
    """

    ours: str
    key: str
    take: str = ""
    put: str = ""
    each: int = 0


def places_of(table: KeyTable, paths: Sequence[str]) -> list[Place]:
    """Where tensors are, as templates."""
    found: dict[str, dict[str, list[Place]]] = {}
    for path in paths:
        template, numbers = _template(path)
        made = _merged([_place(path, template, numbers, link, table) for link in table.links[path]])
        found.setdefault(template, {})[path] = made
    places: list[Place] = []
    for held in found.values():
        first = next(iter(held.values()))
        if all(made == first for made in held.values()):
            places.extend(first)
        else:  # some layers lie elsewhere than others: each by itself
            places.extend(
                p for path in held for p in _merged([_place(path, path, [], k, table) for k in table.links[path]])
            )
    return places


def _template(path: str) -> tuple[str, list[str]]:
    numbers = NUMBER.findall(path)
    count = iter("ijkl")
    return NUMBER.sub(lambda _: "{" + next(count) + "}", path), numbers


def _place(path: str, template: str, numbers: list[str], link: Link, table: KeyTable) -> Place:
    key = link.key
    for name, number in zip("ijkl", numbers, strict=False):
        key = re.sub(rf"(?<=[._]){number}(?=[._]|$)", "{" + name + "}", key, count=1)
    shape = tuple(table.ours[path])
    take = views_text(link.theirs, link.kind, len(table.shapes[link.key]))
    put = views_text(link.ours, link.kind, len(shape))
    return Place(template, key, take, put)


def _merged(places: list[Place]) -> list[Place]:
    """Parts that differ in a number as one with ``{n}``."""
    runs: dict[tuple[str, str, str], list[Place]] = {}
    for place in places:
        pattern = re.sub(r"^t\[\d+\]", "t[n]", place.put)
        key = NUMBER.sub("{n}", place.key) if pattern != place.put else place.key
        runs.setdefault((key, place.take, pattern), []).append(place)
    made = []
    for (key, take, put), held in runs.items():
        if len(held) > 1 and put.startswith("t[n]"):
            made.append(Place(held[0].ours, key, take, put, len(held)))
        else:
            made.extend(held)
    return made


def views_text(views: Sequence[View], kind: str, dims: int) -> str:
    """Views of a tensor ``t`` as an expression; empty for none."""
    text = "t"
    for view in views:
        text, dims = _view_text(text, view, kind, dims)
    return "" if text == "t" else text


def _shown(number: object) -> str:
    return ast.unparse(expression_of(number)) if isinstance(number, Symbol) else str(number)


def _view_text(text: str, view: View, kind: str, dims: int) -> tuple[str, int]:
    match view:
        case Rows(start=start, stop=stop, axis=axis):
            at = axis_of(axis, kind, dims)
            return (text if at is None else f"{text}[{':, ' * at}{_shown(start)}:{_shown(stop)}]"), dims
        case Share(part=part, parts=parts, axis=axis):
            at = axis_of(axis, kind, dims)
            return (text if at is None else f"{text}.chunk({parts}, dim={at})[{part}]"), dims
        case Transposed():
            return (f"{text}.t()" if dims == 2 else text), dims
        case TransposedEach():
            return f"{text}.transpose(-1, -2)", dims
        case Unsqueezed(axes=axes):
            return f"{text}.reshape(t.shape[{axes}:])", dims - axes
        case Index(number=number):
            return f"{text}[{number}]", dims - 1
        case Groups(count=count, axis=axis):
            at = axis_of(axis, kind, dims)
            return (text, dims) if at is None else (f"{text}.unflatten({at}, ({_shown(count)}, -1))", dims + 1)
    raise OmniformError("this way to lie in a checkpoint cannot be written down", found=type(view).__name__)


@dataclass(frozen=True)
class Renames:
    """Plain renames of whole modules or tensors, and the places of all others."""

    names: dict[str, str]
    others: list[Place]


def renames(places: Sequence[Place]) -> Renames:
    """Take apart what is only called otherwise from what lies otherwise; what is the same on both sides is left out."""
    others: list[Place] = []
    counts: dict[str, int] = {}
    for place in places:
        counts[place.ours] = counts.get(place.ours, 0) + 1
    plain: dict[str, str] = {}
    for place in places:
        if place.take or place.put or place.each or counts[place.ours] > 1:
            others.append(place)
        else:
            plain[place.ours] = place.key
    return Renames(_shortened(plain), others)


def _shortened(plain: Mapping[str, str]) -> dict[str, str]:
    """Rules for whole modules where one says the same of all that is in them."""
    rules: dict[str, str] = {}
    for mine, theirs in sorted(plain.items()):
        if _applied(mine, rules) == theirs:
            continue
        one, two = mine, theirs
        while True:
            shorter, their_shorter = one.rpartition(".")[0], two.rpartition(".")[0]
            same_end = one.rpartition(".")[2] == two.rpartition(".")[2]
            inside = {m: t for m, t in plain.items() if m.startswith(shorter + ".")}
            if not shorter or not their_shorter or not same_end or shorter == their_shorter:
                break
            if any(their_shorter + m[len(shorter) :] != t for m, t in inside.items()):
                break
            if set(re.findall(r"\{(\w)\}", their_shorter)) - set(re.findall(r"\{(\w)\}", shorter)):
                break
            one, two = shorter, their_shorter
        rules[one] = two
    return rules


def _applied(name: str, rules: Mapping[str, str]) -> str:
    for mine, theirs in sorted(rules.items(), key=lambda pair: -len(pair[0])):
        if name == mine or name.startswith(mine + "."):
            return theirs + name[len(mine) :]
    return name


def aliases_of(keymap: KeyMap) -> list[tuple[str, str]]:
    """Old spellings that the family knows."""
    return [(pattern, new) for pattern, new in keymap.aliases]


Check = Callable[[str], bool]
