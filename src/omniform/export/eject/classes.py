"""The classes of the file: modules with their constructors, small data classes, and what a step is."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from dataclasses import fields

import torch
from torch import nn

from omniform.blocks.composed import Composed
from omniform.core.context import StepContext
from omniform.export.eject.document import INDENT, Writer, documented
from omniform.export.eject.program import Special
from omniform.export.eject.sources import in_house
from omniform.export.eject.trees import attribute, name_of, names_read
from omniform.export.eject.values import Known, Objects, lift, may_be_none

ONCE = '''
def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
    """``compute()`` the first time this step asks for ``key``; what it gave every later time."""
    if key not in self.made:
        self.made[key] = compute()
    return self.made[key]
'''

WITH = '''
def with_(self, **changes: Any) -> {step}:
    """A copy with some fields changed."""
    return replace(self, **changes, made={{}})
'''


class Classes(Writer):
    """Writes classes."""

    def methods(self, kind: type) -> list[Special]:
        """What is left of a class's methods, ``forward`` and ``__call__`` first."""
        found = [s for s in self.whole.reached() if s.owner is kind and not s.constructor]
        return sorted(found, key=lambda s: (not s.is_property, s.name not in ("forward", "__call__")))

    def base_of(self, kind: type) -> type | None:
        """The class that is not ours and that a class derives from."""
        return next((k for k in kind.__mro__ if not in_house(k) and issubclass(k, nn.Module)), None)

    def module(self, kind: type) -> list[str]:
        """A class of modules."""
        base = self.base_of(kind)
        assert base is not None
        lines = [f"class {self.names.of(kind, kind.__name__)}(nn.{base.__name__}):"]
        constructor = self.whole.constructors.get(kind)
        kept = set(self.whole.kept.get(id(constructor), ())) if constructor else set()
        kept |= self.whole.live.get(kind, set())
        lines.extend(INDENT + line if line else "" for line in documented(_own_words(kind), kept, {}))
        if "slot" in self.whole.live.get(kind, ()):
            lines.extend(["", f"{INDENT}slot: int"])
        lines.extend(self._class_values(kind))
        if issubclass(kind, Composed):
            lines.extend(["", *self._composed(kind, constructor)])
        elif constructor is not None:
            lines.extend(["", *self._constructed(kind, constructor)])
        for special in self.methods(kind):
            lines.extend(["", *self.function(special, 1)])
        return lines

    def _constructed(self, kind: type, special: Special) -> list[str]:
        return [*self.function(special, 1, name="__init__"), *self._later(kind)]

    def _composed(self, kind: type, special: Special | None) -> list[str]:
        plan = self.composer.plan(kind)
        given = ["self", *(["config: Config"] if plan.reads_config else [])]
        if plan.holes.values:
            given.append("*")
        for name, values in plan.holes.values.items():
            given.append(f"{name}: {_kind_of(values)}")
        lines = [f"{INDENT}def __init__({', '.join(given)}) -> None:", f"{INDENT * 2}super().__init__()"]
        for name, expression in plan.parts.items():
            lines.append(f"{INDENT * 2}self.{name} = {ast.unparse(self.renamed(expression))}")
        if special is not None:
            body = [self.renamed(node) for node in special.body]
            lines.extend(self.statements([n for n in body if isinstance(n, ast.stmt)], 2))
        if kind is type(self.whole.built.model):
            lines.extend(self._numbering())
            if self.whole.tied:
                lines.append(f"{INDENT * 2}tie(self)")
        return lines

    def _later(self, kind: type) -> list[str]:
        """What is put into the parts of a module that refers to the module itself."""
        found = self.composer.later.get(kind, {})
        return [f"{INDENT * 2}self.{path} = {ast.unparse(self.renamed(node))}" for path, node in found.items()]

    def _class_values(self, kind: type) -> list[str]:
        """What its instances have that no constructor sets, and that is the same for all."""
        special = self.whole.constructors.get(kind)
        own = {
            part.attr
            for node in (special.body if special else [])
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store)
        }
        lines = []
        for name in sorted(self.whole.live.get(kind, set()) - own - {"slot", "training"}):
            held = [vars(m)[name] for m in self.composer.instances[kind] if name in vars(m)]
            plain = held and isinstance(held[0], (int, float, tuple)) and all(h == held[0] for h in held)
            if plain and not issubclass(kind, Composed) and self.base_of(kind) is nn.Module:
                lines.append(f"{INDENT}{name} = {held[0]!r}")
        return ["", *lines] if lines else []

    def _numbering(self) -> list[str]:
        """The root's last lines: every part that keeps something has its number."""
        kinds = [self.names.of(kind, kind.__name__) for kind in self.whole.mixers()]
        if not kinds:
            return []
        wanted = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
        pad = INDENT * 2
        return [
            f"{pad}mixers = [module for module in self.modules() if isinstance(module, {wanted})]",
            f"{pad}for slot, mixer in enumerate(mixers):",
            f"{pad}{INDENT}mixer.slot = slot",
        ]

    # -- data classes --------------------------------------------------------------------------------------------------

    def data(self, kind: type) -> list[str]:
        """A class of objects that are no modules."""
        live = self.whole.fields.get(kind, set())
        step = issubclass(kind, StepContext)
        name = self.names.of(kind, "Step" if step else kind.__name__)
        frozen = "" if kind.__module__.endswith("core.outputs") else "(frozen=True)"
        lines = [f"@dataclass{frozen}", f"class {name}:"]
        words = documented(_own_words(kind), {_told(n) for n in live}, {"state": "cache"})
        lines.extend(INDENT + line if line else "" for line in words)
        own = [f.name for f in fields(kind) if f.name in live]
        own += sorted(n for n in live if n not in own and n not in ("once", "with_") and not hasattr(kind, n))
        if own:
            lines.append("")
        for field in sorted(own, key=self._is_optional(kind)):
            lines.append(INDENT + self._field(kind, field))
        if step and live & {"once", "with_"}:
            lines.append(f"{INDENT}made: dict[Hashable, Any] = field(default_factory=dict)")
        for special in self.methods(kind):
            lines.extend(["", *self.function(special, 1)])
        for wanted, text in (("once", ONCE), ("with_", WITH.format(step=name))):
            if step and wanted in live:
                lines.extend(["", *(INDENT + line if line else "" for line in text.strip("\n").split("\n"))])
        if len(lines) == 2 or (len(words) and len(lines) == 2 + len(words) and not words):
            lines.append(f"{INDENT}pass")
        return lines

    def _is_optional(self, kind: type) -> Callable[[str], bool]:
        known = self.whole.program.fields.get(kind, {})

        def key(name: str) -> bool:
            if issubclass(kind, StepContext) and name != "positions":
                return True
            return name in known and (may_be_none(known[name]) or self._default(kind, name) is not None)

        return key

    def _default(self, kind: type, name: str) -> str | None:
        found = next((f for f in fields(kind) if f.name == name), None)
        if found is not None and isinstance(found.default, (bool, int, float, str, torch.dtype)):
            return str(found.default) if isinstance(found.default, torch.dtype) else repr(found.default)
        return None

    def _field(self, kind: type, name: str) -> str:
        known = self.whole.program.fields.get(kind, {}).get(name)
        instances = [o for o in self.objects(kind) if hasattr(o, name)]
        if instances:
            from omniform.export.eject.values import join, joined

            known = join(known, joined(lift(getattr(o, name)) for o in instances))
        annotation = self.type_of(known) or self._declared(kind, name)
        default = ""
        if issubclass(kind, StepContext) and name != "positions" and self._default(kind, name) is None:
            annotation = annotation if annotation.endswith("| None") else f"{annotation} | None"
            default = " = None"
        elif known is not None and may_be_none(known) and not instances:
            default = " = None"
        elif self._default(kind, name) is not None and not instances:
            default = f" = {self._default(kind, name)}"
        return f"{_told(name)}: {annotation}{default}"

    def _declared(self, kind: type, name: str) -> str:
        found = next((f for f in fields(kind) if f.name == name), None)
        text = str(found.type) if found is not None else ""
        return text if text in ("int", "float", "bool", "str", "int | None") else "Any"

    def objects(self, kind: type) -> list[object]:
        """The model's own objects of a class."""
        found: dict[int, object] = {}
        for special in self.whole.reached():
            for node in special.body:
                for part in ast.walk(node):
                    owner = vars(part).get("owner")
                    if isinstance(owner, Objects):
                        for item in owner.items:
                            if type(item) is kind:
                                found[id(item)] = item
        return list(found.values())


def _own_words(kind: type) -> str | None:
    return kind.__doc__ or next((inspect.getdoc(k) for k in kind.__mro__[1:] if in_house(k)), None)


def _told(name: str) -> str:
    return {"state": "cache"}.get(name, name)


def _kind_of(values: Iterable[ast.expr]) -> str:
    kinds = {type(v.value).__name__ if isinstance(v, ast.Constant) else "" for v in values}
    if len(kinds) == 1:
        found = kinds.pop()
        if found and found != "NoneType":
            return found
    calls = [v for v in values if isinstance(v, ast.Call)]
    if len(calls) == len(list(values)):
        return "nn.Module"
    return "Any"


__all__ = ["Classes"]
_ = (attribute, name_of, names_read, Known)
