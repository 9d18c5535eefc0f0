"""The whole file, in the order in which it is read: config, blocks, model, writing, weights."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import FunctionType

from torch import nn

from omniform.core.context import StepContext
from omniform.core.errors import OmniformError
from omniform.export.eject import runtime
from omniform.export.eject.classes import Classes
from omniform.export.eject.compose import Composer
from omniform.export.eject.document import Names
from omniform.export.eject.sources import in_house
from omniform.export.eject.specialise import Specialised
from omniform.export.eject.values import Objects, Record


def definitions(whole: Specialised, composer: Composer, names: Names) -> dict[object, list[str]]:
    """The lines of every class and function, what they need before them."""
    writer = Classes(whole, composer, names)
    made: dict[object, list[str]] = {}
    open_: set[object] = set()

    def visit(value: object) -> None:
        if value in made or value in open_:
            return
        open_.add(value)
        for needed in _needs(writer, value):
            visit(needed)
        made[value] = _lines(writer, value)

    visit(type(whole.built.model))
    for special in whole.listed:
        visit(special.function)
    return made


def _lines(writer: Classes, value: object) -> list[str]:
    if isinstance(value, FunctionType):
        special = next((s for s in writer.whole.reached() if s.owner is None and s.function is value), None)
        if special is None:
            raise OmniformError("a function is handed on that nothing calls", where=value.__qualname__)
        return writer.function(special, 0)
    assert isinstance(value, type)
    return writer.module(value) if issubclass(value, nn.Module) else writer.data(value)


def _needs(writer: Classes, value: object) -> list[object]:
    """What a definition refers to, in order."""
    whole, composer = writer.whole, writer.composer
    nodes: list[ast.AST] = []
    if isinstance(value, FunctionType):
        nodes = [n for s in whole.reached() if s.owner is None and s.function is value for n in s.body]
    elif isinstance(value, type):
        if issubclass(value, nn.Module) and value in composer.plans:
            nodes.extend(composer.plans[value].parts.values())
            for values in composer.plans[value].holes.values.values():
                nodes.extend(values)
        nodes.extend(composer.later.get(value, {}).values())
        special = whole.constructors.get(value)
        nodes.extend(special.body if special else [])
        for special in writer.methods(value):
            nodes.extend(special.body)
    found: dict[object, None] = {}
    for node in nodes:
        for part in ast.walk(node):
            refers = vars(part).get("refers")
            if (
                refers is not None
                and in_house(refers)
                and (isinstance(refers, FunctionType) or _written(writer, refers))
            ):
                found.setdefault(refers)
            for special in vars(part).get("specials", ()):
                if special.owner is None:
                    found.setdefault(special.function)
            record = vars(part).get("record")
            if record is not None:
                found.setdefault(record[0])
    return list(found)


def _written(writer: Classes, kind: object) -> bool:
    return isinstance(kind, type) and (issubclass(kind, nn.Module) or is_dataclass(kind))


def ordered(made: dict[object, list[str]]) -> list[list[str]]:
    """What a step is first, then the rest as it is needed."""
    steps = [lines for value, lines in made.items() if isinstance(value, type) and issubclass(value, StepContext)]
    return [*steps, *(lines for value, lines in made.items() if lines not in steps)]


def cache_text(body: str) -> str:
    """The cache, with those of its methods that are called."""
    text = runtime.CACHE.rstrip("\n")
    if ".extend(" in body:
        text += "\n" + runtime.EXTEND.rstrip("\n")
    if ".memory(" in body:
        text += "\n" + runtime.CROSS.rstrip("\n") + "\n" + runtime.KEEP.rstrip("\n")
    if ".fixed(" in body:
        kept = "        self.kept: dict[int, tuple[Tensor, ...]] = {}"
        states = "        self.states: dict[int, State] = {}"
        text = text.replace(kept, f"{kept}\n{states}" if ".extend(" in body or ".memory(" in body else states)
        text += "\n" + runtime.FIXED.rstrip("\n")
    text += "\n" + runtime.ADVANCE.rstrip("\n")
    return text.lstrip("\n")


IMPORTS = {
    "json": "import json",
    "math": "import math",
    "re": "import re",
}


def imports_text(body: str, taken: Mapping[str, str]) -> str:
    """The imports that a text needs.

    Args:
        taken: the modules of what it may take of Python's own, by its names.
    """
    lines = [line for name, line in IMPORTS.items() if re.search(rf"\b{name}\.", body)]
    abc = [n for n in ("Callable", "Collection", "Hashable", "Iterator", "Sequence") if re.search(rf"\b{n}\b", body)]
    if abc:
        lines.append(f"from collections.abc import {', '.join(abc)}")
    data = [
        n for n in ("dataclass", "field", "replace") if re.search(rf"(?<![.\w]){n}\b(?!:)", body) and _called(n, body)
    ]
    if data:
        lines.append(f"from dataclasses import {', '.join(data)}")
    for module in sorted({*taken.values()}):
        used = [n for n, m in sorted(taken.items()) if m == module and re.search(rf"(?<![.\w]){n}\b", body)]
        lines += [f"from {module} import {', '.join(used)}"] if used else []
    if re.search(r"\bPath\b", body):
        lines.append("from pathlib import Path")
    if re.search(r"\bAny\b", body):
        lines.append("from typing import Any")
    lines += ["", *(["import numpy as np"] if re.search(r"\bnp\.", body) else []), "import torch"]
    if re.search(r"\bF\.", body):
        lines.append("import torch.nn.functional as F")
    if "load_file" in body:
        lines.append("from safetensors.torch import load_file")
    lines.append("from torch import Tensor, nn")
    return "\n".join(lines)


def _called(name: str, body: str) -> bool:
    return f"@{name}" in body or re.search(rf"(?<![.\w]){name}\(", body) is not None


def blocks(parts: Sequence[str]) -> str:
    """Parts with two blank lines between them."""
    return "\n\n\n".join(part.strip("\n") for part in parts if part.strip("\n")) + "\n"


__all__ = ["blocks", "cache_text", "definitions", "imports_text", "ordered"]
_ = (Objects, Record)
