"""The file's ``Config``: the numbers that its modules are made of, read from a checkpoint's own config."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omniform.export.eject.build import Built
from omniform.export.eject.symbols import names_in, plain

ROPE = ("rope_parameters", "rope_scaling")


@dataclass(frozen=True)
class Field:
    """One number.

    Attributes:
        name: what it is called in the file.
        symbol: what it is called in expressions so far.
        path: the keys that lead to it in a config.
        follows: what it is where a config does not say, as an expression over the others; empty for its default.
    """

    name: str
    symbol: str
    path: tuple[str, ...]
    default: object
    follows: str = ""
    also: tuple[str, ...] = ()


def fields_of(built: Built, used: set[str], follows: Mapping[tuple[str, ...], ast.expr]) -> list[Field]:
    """The fields for the numbers that are used, in the order in which the family reads them."""
    known = {**built.keys.numbers}
    if "num_labels" in used:
        known.setdefault("num_labels", (("num_labels",), built.common.num_labels))
    used = set(used)
    for symbol in [s for s in known if s in used]:
        used |= _followed(symbol, known, follows)
    wanted = {s: known[s] for s in known if s in used}
    names = _short({s: path for s, (path, _) in wanted.items()})
    found = []
    for symbol, (path, value) in wanted.items():
        node = follows.get(path)
        spelled = built.keys.readers[()].spellings.get(path[0], ()) if len(path) == 1 else ()
        also = tuple(name for name in spelled if name != path[0])
        found.append(Field(names[symbol], symbol, path, plain(value), "" if node is None else ast.unparse(node), also))
    return found


def _followed(
    symbol: str, known: Mapping[str, tuple[tuple[str, ...], object]], follows: Mapping[tuple[str, ...], ast.expr]
) -> set[str]:
    """The numbers that one is told by where a config does not say it."""
    node = follows.get(known[symbol][0])
    if node is None:
        return set()
    found = {name for name in names_in(node) if name in known}
    return found.union(*(_followed(name, known, follows) for name in found if name != symbol))


def _short(paths: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The shortest name for each path that no other has."""
    names: dict[str, str] = {}
    for symbol, path in paths.items():
        for depth in range(1, len(path) + 1):
            name = "_".join(path[-depth:])
            if sum(other[-depth:] == path[-depth:] for other in paths.values()) == 1 and name not in names.values():
                break
        names[symbol] = name
    return names


def renamed_fields(text: str, fields: Sequence[Field]) -> str:
    """A text with the names that fields have in the file."""
    for field in fields:
        if field.symbol != field.name:
            text = re.sub(rf"\bconfig\.{field.symbol}\b", f"config.{field.name}", text)
    return text


def config_text(fields: Sequence[Field], fixed: Mapping[str, object], words: str, rope: str | None) -> str:
    """The class, and what a config must say for the file to be of its model.

    Args:
        rope: the ``rope_type``, of a model that turns.
    """
    lines = []
    if fixed:
        lines.append("STRUCTURE = {")
        lines.extend(f"    {name!r}: {value!r}," for name, value in fixed.items())
        lines.append("}")
        lines.append(
            '"""What this file was written for, by the keys of ``config.json``; another value needs another file."""'
        )
        lines.append("")
        lines.append("")
    lines += ["@dataclass", "class Config:", f'    """{words}"""', ""]
    lines += [f"    {f.name}: {type(f.default).__name__} = {f.default!r}" for f in fields]
    lines += ["", *_reader(fields, fixed, rope)]
    return "\n".join(lines)


def _checks(deep: bool) -> list[str]:
    if not deep:
        return [
            "        for name, value in STRUCTURE.items():",
            "            if name in found and found[name] != value:",
            '                raise NotImplementedError(f"this file computes {name}={value!r}, not {found[name]!r}")',
        ]
    return [
        "        for name, value in STRUCTURE.items():",
        "            held: Any = found",
        '            for key in name.split("."):',
        "                held = held.get(key, value) if isinstance(held, dict) else held",
        "            if held != value:",
        '                raise NotImplementedError(f"this file computes {name}={value!r}, not {held!r}")',
    ]


def _reader(fields: Sequence[Field], fixed: Mapping[str, object], kind: str | None) -> list[str]:
    lines = [
        "    @classmethod",
        "    def from_json(cls, path: str | Path) -> Config:",
        '        """Read a checkpoint\'s ``config.json``.',
        "",
        "        Raises:",
        "            NotImplementedError: it is of a model that computes something else than this file.",
        '        """',
        '        found = json.loads(Path(path).read_text(encoding="utf-8"))',
    ]
    nested = {f.path[0] for f in fields if len(f.path) > 1 and f.path[0] not in ROPE}
    rope = kind is not None or any(f.path[0] in ROPE and len(f.path) > 1 for f in fields)
    if fixed:
        lines += _checks(any("." in name for name in fixed))
    if rope:
        lines.append('        rope = found.get("rope_scaling") or found.get("rope_parameters") or {}')
        lines.append("        found = {**found, **rope}")
        if kind is not None:
            lines += [
                '        kind = rope.get("rope_type") or rope.get("type") or "default"',
                f"        if kind != {kind!r}:",
                f'            raise NotImplementedError(f"this file computes rope_type={kind!r}, not {{kind!r}}")',
            ]
    for name in sorted(nested):
        lines.append(f'        {name} = found.get("{name}") or {{}}')
    if any(f.name == "num_labels" for f in fields):
        lines.append('        if "id2label" in found:')
        lines.append('            found["num_labels"] = len(found["id2label"])')
    lines.append("        config = cls()")
    plain_fields = [f for f in fields if not f.follows and (len(f.path) == 1 or f.path[0] in ROPE) and not f.also]
    if plain_fields:
        lines.append(f"        for name in {tuple(f.name for f in plain_fields)!r}:")
        lines.append("            if found.get(name) is not None:")
        lines.append("                setattr(config, name, found[name])")
    for f in fields:
        if f in plain_fields:
            continue
        holder = f.path[0] if len(f.path) > 1 and f.path[0] not in ROPE else "found"
        names = (f.path[-1], *f.also)
        for name in names:
            word = "if" if name == names[0] else "elif"
            lines.append(f'        {word} {holder}.get("{name}") is not None:')
            lines.append(f'            config.{f.name} = {holder}["{name}"]')
        if f.follows:
            lines.append("        else:")
            lines.append(f"            config.{f.name} = {f.follows}")
    lines.append("        return config")
    return lines
