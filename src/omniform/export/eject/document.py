"""The text of the file: functions of what was specialised, with their words and the types of what they take."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import FunctionType

from torch import nn

from omniform.blocks.composed import Composed
from omniform.core.context import StepContext
from omniform.export.eject.compose import Composer
from omniform.export.eject.program import Special
from omniform.export.eject.sources import class_tree, in_house
from omniform.export.eject.specialise import Specialised
from omniform.export.eject.trees import clone, constant, names_read
from omniform.export.eject.values import (
    Cached,
    Dynamic,
    Functions,
    Items,
    Known,
    Looped,
    Maybe,
    Number,
    Objects,
    Record,
    Value,
    joined,
)

INDENT = "    "

OWN = (
    "Config",
    "Cache",
    "State",
    "Step",
    "load",
    "generate",
    "choose",
    "find",
    "gather",
    "tie",
    "torch",
    "nn",
    "F",
    "math",
    "np",
)
"""What the file calls something else."""

PRINTED = {"Tensor", "int", "float", "bool", "str", "None", "tuple", "torch.dtype", "torch.device"}
"""What annotations may be made of as they are."""


class Names:
    """What everything is called in the file: our names, made different where two would be the same."""

    def __init__(self, chosen: Mapping[object, str]) -> None:
        self.chosen: dict[object, str] = dict(chosen)
        self.taken = {
            "Config",
            "Cache",
            "load",
            "generate",
            "torch",
            "nn",
            "F",
            "math",
            "np",
            "Tensor",
            *self.chosen.values(),
        }

    def of(self, value: object, wanted: str) -> str:
        """The name of a class or a function."""
        if value not in self.chosen:
            plain = wanted.strip("_") if not wanted.startswith("__") else wanted
            name, number = plain, 2
            while name in self.taken:
                name, number = f"{plain}_{number}" if plain.islower() else f"{plain}{number}", number + 1
            self.taken.add(name)
            self.chosen[value] = name
        return self.chosen[value]


class Writer:
    """Writes specialised functions and classes as text.

    Args:
        whole: what was specialised.
        composer: makes the modules.
        names: what classes are called.
    """

    def __init__(self, whole: Specialised, composer: Composer, names: Names) -> None:
        self.whole, self.composer, self.names = whole, composer, names

    # -- expressions and statements ------------------------------------------------------------------------------------

    def renamed(self, node: ast.AST) -> ast.AST:
        """A copy with the file's names of classes and functions."""
        new = clone(node)
        for part in ast.walk(new):
            refers = vars(part).get("refers")
            if refers is not None and isinstance(part, ast.Name):
                part.id = self.names.of(refers, part.id)
            specials = vars(part).get("specials")
            if specials and isinstance(part, ast.Call):
                self._rename_call(part, specials)
            record = vars(part).get("record")
            if record is not None and isinstance(part, ast.Attribute) and part.attr == "state":
                part.attr = "cache"
            if issubclass(vars(part).get("makes") or object, StepContext) and isinstance(part, ast.Call):
                for keyword in part.keywords:
                    keyword.arg = {"state": "cache"}.get(keyword.arg or "", keyword.arg)
        return new

    def _rename_call(self, node: ast.Call, specials: list[Special]) -> None:
        special = specials[0]
        for keyword in node.keywords:
            if keyword.arg is not None:
                keyword.arg = special.renamed.get(keyword.arg, keyword.arg)

    def statements(self, body: Sequence[ast.stmt], depth: int) -> list[str]:
        """Statements as lines."""
        lines: list[str] = []
        pad = INDENT * depth
        for node in body:
            for note in vars(node).get("notes", []):
                lines.append(f"{pad}# {note}")
            match node:
                case ast.If():
                    lines.extend(self._if(node, depth, "if"))
                case ast.For():
                    over = self._bare(node.iter)
                    lines.append(f"{pad}for {self._bare(node.target)} in {over}:")
                    lines.extend(self.statements(node.body, depth + 1))
                case ast.With():
                    items = ", ".join(ast.unparse(item) for item in node.items)
                    lines.append(f"{pad}with {items}:")
                    lines.extend(self.statements(node.body, depth + 1))
                case ast.Assign():
                    targets = " = ".join(self._bare(t) for t in node.targets)
                    lines.append(f"{pad}{targets} = {self._bare(node.value)}")
                case ast.Return() if node.value is not None:
                    lines.append(f"{pad}return {self._bare(node.value)}")
                case _:
                    lines.extend(pad + line for line in ast.unparse(node).split("\n"))
        return lines

    def _if(self, node: ast.If, depth: int, word: str) -> list[str]:
        pad = INDENT * depth
        lines = [f"{pad}{word} {ast.unparse(node.test)}:", *self.statements(node.body, depth + 1)]
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) and not vars(node.orelse[0]).get("notes"):
            return [*lines, *self._if(node.orelse[0], depth, "elif")]
        if node.orelse:
            if _leaves(node.body):
                return [*lines, *self.statements(node.orelse, depth)]
            lines.append(f"{pad}else:")
            lines.extend(self.statements(node.orelse, depth + 1))
        return lines

    def _bare(self, node: ast.expr) -> str:
        if isinstance(node, ast.Tuple) and len(node.elts) > 1:
            return ", ".join(ast.unparse(element) for element in node.elts)
        return ast.unparse(node)

    # -- types ---------------------------------------------------------------------------------------------------------

    def type_of(self, value: Value | None) -> str:
        """The type of a value, as an annotation; empty for one that has no short name."""
        match value:
            case Dynamic(kind="tensor"):
                return "Tensor"
            case Maybe():
                inner = self.type_of(value.inner)
                return f"{inner} | None" if inner else ""
            case Cached():
                return "Cache"
            case Record():
                if value.kind in self.whole.unboxed:
                    return self.type_of(self.whole.program.fields[value.kind].get(self.whole.unboxed[value.kind]))
                return self.names.of(value.kind, value.kind.__name__)
            case Objects():
                if all(issubclass(kind, nn.ModuleList) for kind in value.kinds):
                    return "nn.ModuleList"
                if len(value.kinds) == 1 and in_house(value.kinds[0]):
                    return self.names.of(value.kinds[0], value.kinds[0].__name__)
                return "nn.Module" if all(issubclass(kind, nn.Module) for kind in value.kinds) else ""
            case Number():
                return "int" if all(isinstance(n, int) for n in value.values) else "float"
            case Known():
                return type(value.value).__name__ if isinstance(value.value, (bool, int, float, str)) else ""
            case Items():
                parts = [self.type_of(v) for v in value.values]
                if not parts or not all(parts):
                    return ""
                return f"tuple[{parts[0]}, ...]" if len(parts) > 4 else f"tuple[{', '.join(parts)}]"
        return ""

    def _element(self, value: Value | None) -> str:
        """The type of what a tuple is of."""
        if isinstance(value, Items):
            return self.type_of(joined(value.values)) if value.values else ""
        return self.type_of(value.inner) if isinstance(value, Looped) else ""

    def _annotation(self, special: Special, name: str) -> str:
        known = self.type_of(special.values.get(name))
        if known:
            return known
        tree = special.tree.args
        found = next((a for a in (*tree.posonlyargs, *tree.args, *tree.kwonlyargs) if a.arg == name), None)
        text = ast.unparse(found.annotation) if found is not None and found.annotation is not None else ""
        words = set(re.findall(r"[A-Za-z_.]+", text))
        return (
            text
            if words <= {"Tensor", "int", "float", "bool", "str", "None", "tuple", "torch.dtype", "torch.device"}
            else ""
        )

    # -- functions -----------------------------------------------------------------------------------------------------

    def function(self, special: Special, depth: int, *, name: str = "") -> list[str]:
        """One function, as lines."""
        pad = INDENT * depth
        lines = [f"{pad}@property"] if special.is_property else []
        shown = self._signature(special)
        result = self.type_of(special.result)
        if special.result == Known(None) or special.constructor:
            result = "None"
        arrow = f" -> {result}" if result else ""
        lines.append(f"{pad}def {name or self.name_of(special)}({', '.join(shown)}){arrow}:")
        words = documented(special.function.__doc__, set(self.whole.kept.get(id(special), ())), special.renamed)
        lines.extend(f"{pad}{INDENT}{line}".rstrip() for line in words)
        body = [self.renamed(node) for node in special.body]
        lines.extend(self.statements([n for n in body if isinstance(n, ast.stmt)], depth + 1))
        return lines

    def name_of(self, special: Special) -> str:
        """What a function is called."""
        if special.owner is not None:
            return special.name
        return self.names.of(special.function, special.name)

    def _signature(self, special: Special) -> list[str]:
        kept = [p for p in self.whole.order(special) if p in self.whole.kept[id(special)]]
        tree = special.tree.args
        only = {a.arg for a in tree.kwonlyargs}
        shown = ["self"] if special.owner is not None else []
        order = [a.arg for a in (*tree.posonlyargs, *tree.args)]
        defaults = dict(zip(order[len(order) - len(tree.defaults) :], tree.defaults, strict=True))
        defaults |= {a.arg: d for a, d in zip(tree.kwonlyargs, tree.kw_defaults, strict=True) if d is not None}
        starred = False
        optional = False
        for parameter in kept:
            called = special.renamed.get(parameter, parameter)
            if tree.vararg and parameter == tree.vararg.arg:
                shown.append(f"*{called}: {self._element(special.values.get(parameter)) or 'Tensor'}")
                starred = True
                continue
            if parameter in only and not starred:
                shown.append("*")
                starred = True
            annotation = self._annotation(special, parameter)
            text = f"{called}: {annotation}" if annotation else called
            default = defaults.get(parameter)
            if parameter in special.optional and isinstance(default, ast.Constant):
                shown.append(f"{text} = {ast.unparse(default)}" if annotation else f"{text}={ast.unparse(default)}")
                optional = True
                continue
            if special in self.whole.entries and annotation.endswith("| None"):
                text, optional = f"{text} = None", True
            elif optional and not starred:
                shown.append("*")
                starred = True
            shown.append(text)
        return shown


def _leaves(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], (ast.Return, ast.Raise, ast.Continue, ast.Break))


# -- words -------------------------------------------------------------------------------------------------------------

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`~?(?:[\w.]*\.)?(\w+)`")


def plain_words(text: str) -> str:
    """A docstring without references to what is elsewhere."""
    return ROLE.sub(r"``\1``", text)


def documented(text: str | None, kept: set[str], renamed: Mapping[str, str]) -> list[str]:
    """A docstring's lines, arguments that are gone left out."""
    if not text:
        return []
    lines = _thinned(plain_words(inspect.cleandoc(text)).split("\n"), kept, renamed)
    if not lines:
        return []
    if len(lines) == 1:
        return [f'"""{lines[0]}"""']
    return [f'"""{lines[0]}', *lines[1:], '"""']


SECTIONS = ("Args:", "Attributes:")
REFERENCES = re.compile(r"; see ``[\w.]+``[^.]*|\bsee ``[\w.]+``")


def _thinned(lines: Sequence[str], kept: set[str], renamed: Mapping[str, str]) -> list[str]:
    made: list[str] = []
    section, entry_kept = "", True
    for line in lines:
        if line and not line.startswith(" "):
            section = line if line.endswith(":") and line[:-1].isalpha() else ""
            entry_kept = section != "Raises:"
        elif section in SECTIONS:
            found = re.match(r"    (\w+): ", line)
            if found:
                entry_kept = found[1] in kept
                line = line.replace(found[1], renamed.get(found[1], found[1]), 1)
        if entry_kept or not line:
            made.append(REFERENCES.sub("", line))
    return _without_empty(made)


def _without_empty(lines: list[str]) -> list[str]:
    """Without sections in which nothing is left, and blank lines in a row."""
    made: list[str] = []
    for number, line in enumerate(lines):
        following = next((later for later in lines[number + 1 :] if later), "")
        if line.endswith(":") and line[:-1].isalpha() and not following.startswith(" "):
            continue
        if not line and (not made or not made[-1]):
            continue
        made.append(line)
    while made and not made[-1]:
        made.pop()
    return made


__all__ = ["Names", "Writer", "documented", "plain_words"]
_ = (
    Iterable,
    MISSING,
    FunctionType,
    Composed,
    StepContext,
    class_tree,
    constant,
    names_read,
    Functions,
    is_dataclass,
    fields,
)
