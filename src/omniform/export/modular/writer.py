"""The result as text: its head, its imports, its statements."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import libcst as cst

from omniform.export.modular import looks
from omniform.export.modular.book import MARK
from omniform.export.modular.graph import Graph
from omniform.export.modular.supers import GRAND
from omniform.export.modular.units import Unit

LINE: Final = 120
"""The longest line of the result."""


def text_of(graph: Graph, command: str) -> str:
    """The whole file, not formatted yet."""
    body = [unit for unit in graph.order if not unit.is_import]
    guards = [unit for unit in graph.order if unit.is_import]
    written = "".join(_statement(unit, before, graph) for unit, before in zip(body, [None, *body], strict=False))
    guarded = "".join(_plain(unit, graph) for unit in guards)
    imports = _imports(graph, written + guarded)
    head = _head(graph, command)
    parts = [head, imports, guarded.strip("\n"), written.strip("\n"), _footer(graph)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(graph: Graph, command: str) -> str:
    """The modular file's own first comments, what made this file, and the docstring."""
    own = "".join(line.comment.value + "\n" if line.comment else "\n" for line in graph.root.module.header).strip("\n")
    run = own.split("\n", 1)[0] if own.startswith("#!") else ""
    own = own[len(run) :].lstrip("\n")
    first = graph.root.statements[0] if graph.root.statements else None
    doc = looks.docstring([first]) if first is not None else None
    made = (
        f"# Made from {graph.root.path.name} by `{command}`.\n"
        "# Do not change this file: change that one, and run the command again."
    )
    made = f"{run}\n{made}" if run else made
    return "\n\n".join(part for part in (made, own, looks.code(looks.bare(doc)) if doc is not None else "") if part)


def _footer(graph: Graph) -> str:
    return "\n".join(line.comment.value for line in graph.root.module.footer if line.comment is not None)


def _named(text: str, graph: Graph) -> str:
    return MARK.sub(lambda mark: graph.names[int(mark[1])], text).replace(GRAND, "super")


def _plain(unit: Unit, graph: Graph) -> str:
    return _named(cst.Module([looks.bare(unit.node)]).code, graph)


def _statement(unit: Unit, before: Unit | None, graph: Graph) -> str:
    """A statement below the empty lines that stand above it, and its comments."""
    node = unit.node
    lines = list(node.leading_lines) if isinstance(node, (cst.SimpleStatementLine, cst.BaseCompoundStatement)) else []
    blank = 0
    while lines and lines[0].comment is None:
        lines.pop(0)
        blank += 1
    big = (cst.ClassDef, cst.FunctionDef)
    if isinstance(node, big) or (before is not None and isinstance(before.node, big)):
        blank = 2
    elif before is None or before.source is not unit.source or before.index + 1 != unit.index:
        blank = 1
    above = [cst.EmptyLine(indent=False)] * min(blank, 2)
    return _named(cst.Module([node.with_changes(leading_lines=[*above, *lines])]).code, graph)


def _imports(graph: Graph, text: str) -> str:
    plain: set[str] = set()
    of: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for number, target in graph.outside.items():
        name = graph.names[number]
        if target.attr is not None and name != target.attr and _is_module(graph, f"{target.module}.{target.attr}"):
            plain.add(f"{target.module}.{target.attr} as {name}")
        elif target.attr is not None:
            of[target.module].add((target.attr, name))
        elif name == target.module:
            plain.update(_dotted(graph, name, text))
        else:
            plain.add(f"{target.module} as {name}")
    lines: dict[int, list[str]] = defaultdict(list)
    if any(source.future for source in graph.book.library.sources):
        lines[0].append("from __future__ import annotations")
    for each in sorted(plain, key=lambda name: (name.lower(), name)):
        lines[_section(each)].append(f"import {each}")
    for module in sorted(of, key=lambda name: (name.lower(), name)):
        lines[_section(module)].append(_from(module, of[module]))
    return "\n\n".join("\n".join(lines[section]) for section in sorted(lines))


def _is_module(graph: Graph, dotted: str) -> bool:
    """Whether a file has ``import dotted as name``."""
    files = graph.book.library.sources
    return any(each.attr is None and each.module == dotted for file in files for each in file.imports.values())


def _dotted(graph: Graph, name: str, text: str) -> set[str]:
    """``torch``, and ``torch.utils.checkpoint`` where the code says so in full and a file imports it."""
    known = {each for source in graph.book.library.sources for each in source.plain.get(name, set())}
    found = {each for each in known if re.search(rf"(?<![\w.]){re.escape(each)}\b", text)}
    return found | ({name} if name not in found else set())


def _section(module: str) -> int:
    return 1 if module.split(".")[0].split(" ")[0] in sys.stdlib_module_names else 2


def _from(module: str, names: set[tuple[str, str]]) -> str:
    def rank(pair: tuple[str, str]) -> tuple[int, str, str]:
        attr = pair[0]
        kind = 0 if attr.isupper() and len(attr) > 1 else 1 if attr[:1].isupper() else 2
        return kind, attr.lower(), pair[1]

    shown = [attr if attr == name else f"{attr} as {name}" for attr, name in sorted(names, key=rank)]
    line = f"from {module} import {', '.join(shown)}"
    if len(line) <= LINE:
        return line
    return f"from {module} import (\n" + "".join(f"    {each},\n" for each in shown) + ")"


def ruff() -> str | None:
    """The ruff that formats: the one beside this Python, or else that of the path."""
    return shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")


def formatted(text: str) -> str:
    """The text in ruff's form, where ruff is there; otherwise as it is."""
    program = ruff()
    if program is None:
        return text
    command = [program, "format", "--isolated", "--line-length", str(LINE), "--stdin-filename", "modeling.py", "-"]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, encoding="utf-8", check=True)
    except (OSError, subprocess.SubprocessError):
        return text
    return done.stdout
