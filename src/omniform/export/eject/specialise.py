"""From a built model to specialised functions: rounds until nothing new is known, then tidied until nothing changes."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import FunctionType

from torch import nn

from omniform.architectures.model import Model
from omniform.blocks.composed import Composed
from omniform.core.context import StepContext
from omniform.core.errors import OmniformError
from omniform.core.state import StatefulModule
from omniform.export.eject.build import Built
from omniform.export.eject.compose import Composer, put_in
from omniform.export.eject.expressions import any_of
from omniform.export.eject.frames import Frame
from omniform.export.eject.program import Program, Special
from omniform.export.eject.sources import in_house, plain_function, tree_of
from omniform.export.eject.tidy import Inliner, spliced, tidied
from omniform.export.eject.trees import clone, constant, names_read
from omniform.export.eject.values import ANY, NONE, TENSOR, Items, Known, Names, Objects, Value, joined, lift

ROUNDS = 40
"""More than any model takes."""

MANY = -1
"""So many are the rest of a constructor's arguments, where one module is given more of them than another."""


@dataclass
class Specialised:
    """What is left of a model's functions.

    Attributes:
        entries: what the file's users call.
        demanded: fields of outputs that they want, by class.
        live: attributes that are read, by class.
    """

    built: Built
    program: Program
    entries: list[Special]
    demanded: dict[type, set[str]]
    live: dict[type, set[str]] = field(default_factory=dict)
    constructors: dict[type, Special] = field(default_factory=dict)
    unboxed: dict[type, str] = field(default_factory=dict)
    resets: dict[type, Special] = field(default_factory=dict)
    listed: list[Special] = field(default_factory=list)
    kept: dict[int, set[str]] = field(default_factory=dict)
    fields: dict[type, set[str]] = field(default_factory=dict)
    live_kinds: list[type] = field(default_factory=list)
    composer: Composer | None = None
    tied: bool = False

    def is_live(self, kind: type, name: str) -> bool:
        """Whether an attribute of a class is read anywhere."""
        return name in self.live.get(kind, ()) or name in self.fields.get(kind, ())

    def wanted(self, kind: type) -> tuple[list[str], list[str]]:
        """The parameters of a class's constructor, and the attributes that it is given beside them."""
        special = self.constructors.get(kind)
        names = [] if special is None else [p for p in self.order(special) if p in self.kept[id(special)]]
        return names, []

    def mixers(self) -> list[type]:
        """The classes of the modules that keep something in the cache, each under a number of its own."""
        return [kind for kind in self.kinds() if "slot" in self.live.get(kind, ())]

    def settle_constructors(self) -> None:
        """The same for the constructors: an attribute that nothing reads is not set."""
        for _ in range(ROUNDS):
            before = self._texts()
            self.note_live()
            for kind, special in self.constructors.items():
                special.body = self._set_only_live(kind, special.body)
            self.settle()
            if self._texts() == before:
                return

    def _is_set(self, kind: type, target: ast.expr) -> bool:
        return not isinstance(target, ast.Attribute) or self.is_live(kind, target.attr)

    def _set_only_live(self, kind: type, body: list[ast.stmt]) -> list[ast.stmt]:
        made = []
        for node in body:
            match node:
                case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)]):
                    if not self.is_live(kind, name):
                        continue
                case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(
                    values
                ):
                    pairs = [
                        (t, v)
                        for t, v in zip(targets, values, strict=True)
                        if not isinstance(t, ast.Attribute) or self.is_live(kind, t.attr)
                    ]
                    if not pairs:
                        continue
                    if len(pairs) < len(targets):
                        if len(pairs) == 1:
                            node = ast.Assign(targets=[pairs[0][0]], value=pairs[0][1])
                        else:
                            node = ast.Assign(
                                targets=[ast.Tuple(elts=[t for t, _ in pairs], ctx=ast.Store())],
                                value=ast.Tuple(elts=[v for _, v in pairs], ctx=ast.Load()),
                            )
                case ast.If():
                    node.body = self._set_only_live(kind, node.body)
                    node.orelse = self._set_only_live(kind, node.orelse)
            made.append(node)
        return made

    # -- what is reached -----------------------------------------------------------------------------------------------

    def roots(self) -> list[Special]:
        return [*self.entries, *self.constructors.values(), *self.resets.values(), *self.listed]

    def reached(self) -> list[Special]:
        """All functions that are called, in the order of the first calls."""
        found: dict[int, Special] = {}

        def visit(special: Special) -> None:
            if id(special) in found:
                return
            found[id(special)] = special
            for node in special.body:
                for part in ast.walk(node):
                    for inner in vars(part).get("specials", ()):
                        visit(inner)

        for special in self.roots():
            visit(special)
        return list(found.values())

    def uses(self) -> dict[int, int]:
        """How often each function is called."""
        counts: dict[int, int] = {}
        for special in self.reached():
            for node in special.body:
                for part in ast.walk(node):
                    for inner in vars(part).get("specials", ()):
                        counts[id(inner)] = counts.get(id(inner), 0) + 1
        for special in self.entries:
            counts[id(special)] = counts.get(id(special), 0) + 10
        return counts

    def is_kept(self, special: Special) -> bool:
        """Whether a function stays one, because something else than our calls calls it by its name."""
        called = special.name in ("forward", "__call__", "__init__") and special.owner is not None
        if called and special.owner is not None and issubclass(special.owner, nn.Module):
            return True
        return special in self.entries or special in self.resets.values() or special.whole

    def tables(self) -> dict[str, dict[str, object]]:
        """Functions by name, that constructors look up: those that this model's do."""
        given = [*self.built.made.arguments.values(), *(vars(m) for m in self.built.model.modules())]
        texts = {value for one in given for value in one.values() if isinstance(value, str)}
        names = {n.id for s in self.reached() for node in s.body for n in ast.walk(node) if isinstance(n, ast.Name)}
        tables = self.program.tables
        return {t: {n: f for n, f in held.items() if n in texts} for t, held in tables.items() if t in names}

    def add_listed(self) -> None:
        """Take along our functions in such tables."""
        for held in self.tables().values():
            for function in held.values():
                if isinstance(function, FunctionType) and in_house(function):
                    special = self.program.special(function, None, 0, ())
                    self.program.meet(special, special.tree.args.args[0].arg, TENSOR)
                    special.whole = True
                    self.listed.append(special)

    # -- tidying -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Tidy, leave out what nothing reads, write short functions in place, until nothing changes."""
        for _ in range(ROUNDS):
            before = self._texts()
            for special in self.reached():
                special.body = tidied(special.body)
            self._drop_arguments()
            self._drop_fields()
            self._inline()
            if self._texts() == before:
                return
        raise OmniformError("this model's program does not settle", where=type(self.built.model).__name__)

    def _texts(self) -> list[str]:
        return [ast.dump(node) for special in self.reached() for node in special.body]

    def _groups(self) -> list[list[Special]]:
        """Functions that one call may reach: they take the same arguments."""
        groups: list[list[Special]] = []
        for special in self.reached():
            for node in special.body:
                for part in ast.walk(node):
                    found = vars(part).get("specials")
                    if found and len(found) > 1:
                        touching = [g for g in groups if any(s in g for s in found)]
                        whole = list(dict.fromkeys([*(s for g in touching for s in g), *found]))
                        groups = [g for g in groups if g not in touching] + [whole]
        return groups

    def parameters(self, special: Special) -> list[str]:
        """A function's parameters that its body reads, in order."""
        used = names_read(special.body)
        return [p for p in self.order(special) if used.get(special.renamed.get(p, p), 0)]

    def order(self, special: Special) -> list[str]:
        """All parameters in order."""
        args = special.tree.args
        known = [a.arg for a in (*args.posonlyargs, *args.args)]
        known += [args.vararg.arg] if args.vararg and special.rest else []
        known += [a.arg for a in args.kwonlyargs]
        more = [name for name in special.values if name not in known and name != "self"]
        if args.vararg:
            more = [name for name in more if name != args.vararg.arg]
        return [name for name in (*known, *more) if name not in ("self", "cls")]

    def _drop_arguments(self) -> None:
        """Leave out arguments that no function reads that they may reach."""
        groups = self._groups()
        kept: dict[int, set[str]] = {}
        for special in self.reached():
            kept[id(special)] = set(self.order(special) if special.whole else self.parameters(special))
        for group in groups:
            places = {i for s in group for i, p in enumerate(self.order(s)) if p in kept[id(s)]}
            for s in group:
                kept[id(s)] |= {p for i, p in enumerate(self.order(s)) if i in places}
        self.kept = kept
        for special in self.reached():
            for node in special.body:
                for part in ast.walk(node):
                    if isinstance(part, ast.Call) and vars(part).get("specials"):
                        self._thin_call(part, kept)
                        self._note_optional(part, kept)

    def _note_optional(self, node: ast.Call, kept: Mapping[int, set[str]]) -> None:
        """Note which parameters a call leaves to their defaults."""
        given = {*vars(node)["given_to"], *(k.arg for k in node.keywords)}
        for special in vars(node)["specials"]:
            special.optional |= {p for p in kept.get(id(special), ()) if p not in given}

    def _thin_call(self, node: ast.Call, kept: Mapping[int, set[str]]) -> None:
        special: Special = vars(node)["specials"][0]
        wanted = kept.get(id(special), set())
        given: list[str] = vars(node)["given_to"]
        pairs = [(arg, name) for arg, name in zip(node.args, given, strict=True) if name in wanted]
        dropped = [name for name in given if name not in wanted]
        node.args, node.given_to = [a for a, _ in pairs], [n for _, n in pairs]  # type: ignore[attr-defined]
        node.keywords = [k for k in node.keywords if k.arg in wanted]
        if dropped and len(set(given)) == len(given):
            # What came by position after one that is gone still stands in the order of those that are left.
            order = [p for p in self.order(special) if p in wanted]
            if [n for _, n in pairs] != order[: len(pairs)]:
                named = [ast.keyword(arg=n, value=a) for a, n in pairs]
                node.args, node.given_to, node.keywords = [], [], [*named, *node.keywords]  # type: ignore[attr-defined]
        if "." not in ast.unparse(node.func):
            return

    def live_fields(self) -> dict[type, set[str]]:
        """Fields of made objects that are read."""
        found: dict[type, set[str]] = {kind: set(names) for kind, names in self.demanded.items()}
        for kind in self.program.listed:
            found.setdefault(kind, set()).update(self.program.fields.get(kind, ()))
        for special in self.reached():
            for node in special.body:
                for part in ast.walk(node):
                    record = vars(part).get("record")
                    if record is not None and isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load):
                        found.setdefault(record[0], set()).add(record[1])
                    owner = vars(part).get("owner")
                    if isinstance(owner, Objects) and isinstance(part, ast.Attribute):
                        for kind in owner.kinds:
                            if is_dataclass(kind) and isinstance(part.ctx, ast.Load):
                                found.setdefault(kind, set()).add(part.attr)
        return found

    def _drop_fields(self) -> None:
        live = self.live_fields()
        self.fields = live
        thinner = _Thinner(live, self.program.listed)
        for special in self.reached():
            special.body = [made for made in (thinner.visit(node) for node in special.body) if made is not None]
        self.unboxed |= thinner.unboxed

    def _inline(self) -> None:
        uses = self.uses()
        for special in self.reached():
            inliner = Inliner(uses, special, self.is_kept)
            special.body = [inliner.visit(node) for node in special.body]
        for special in self.reached():
            while spliced(special, uses, self.is_kept):
                special.body = tidied(special.body)

    # -- constructors --------------------------------------------------------------------------------------------------

    def note_live(self) -> None:
        """Find the attributes that are read."""
        self.live = {}
        for special in self.reached():
            for node in special.body:
                for part in ast.walk(node):
                    owner = vars(part).get("owner")
                    if (
                        isinstance(part, ast.Attribute)
                        and isinstance(owner, Objects)
                        and isinstance(part.ctx, ast.Load)
                    ):
                        for kind in owner.kinds:
                            self.live.setdefault(kind, set()).add(part.attr)

    def kinds(self) -> list[type]:
        """The classes of all modules that are reached from the model by attributes that are read."""
        found: dict[type, None] = {}
        seen: set[int] = set()

        def visit(module: nn.Module) -> None:
            if id(module) in seen:
                return
            seen.add(id(module))
            if in_house(type(module)):
                found.setdefault(type(module))
            for name, child in module.named_children():
                if not in_house(type(module)) or name in self.live.get(type(module), ()):
                    visit(child)

        visit(self.built.model)
        return list(found)

    def add_constructors(self) -> None:
        """Specialise the constructors of the modules that are used."""
        for kind in self.kinds():
            name = "__post_init__" if issubclass(kind, Composed) else "__init__"
            function = plain_function(inspect.getattr_static(kind, name))
            if name == "__post_init__" and function.__qualname__ in (
                "Composed.__post_init__", "Model.__post_init__", "Head.__post_init__", "EncoderDecoder.__post_init__",
                "Seq2SeqLM.__post_init__",
            ):  # fmt: skip
                continue
            if not in_house(function) or kind in self.constructors:
                continue
            instances = [m for m in self.built.model.modules() if type(m) is kind]
            given = self._arguments(kind, function, instances) if name == "__init__" else {}
            variadic = tree_of(function).args.vararg
            rest = given.get(variadic.arg) if variadic else None
            count = len(rest.values) if isinstance(rest, Items) else MANY if rest is not None else 0
            special = self.program.special(function, kind, count, ())
            special.constructor = True
            self.program.meet(special, "self", Objects(tuple(instances)))
            for parameter, value in given.items():
                self.program.meet(special, parameter, value)
            self.constructors[kind] = special

    def _arguments(self, kind: type, function: FunctionType, instances: list[nn.Module]) -> dict[str, Value]:
        known = [(m, self.built.made.arguments.get(id(m))) for m in instances]
        given = [put_in(m, k) for m, k in known if k is not None]
        if not given:
            given = [self.built.made.arguments[id(h)] for h in self.built.made.held if type(h) is kind]
        tree, found = tree_of(function), {}
        names = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args[1:], *tree.args.kwonlyargs)]
        for name in names:
            found[name] = joined(lift(g[name]) for g in given)
        if tree.args.vararg:
            found[tree.args.vararg.arg] = any_of(lift(g[tree.args.vararg.arg]) for g in given)
        if tree.args.kwarg:
            for name in given[0][tree.args.kwarg.arg]:  # type: ignore[attr-defined]
                found[name] = joined(lift(g[tree.args.kwarg.arg][name]) for g in given)  # type: ignore[index]
        return found

    def run(self) -> None:
        """Look at all functions until nothing new is known of them."""
        runner = Frame(self.program, self.entries[0].function, self.entries[0].owner, set(), inside=False)
        for _ in range(ROUNDS):
            self.program.round += 1
            self.program.changed = False
            for special in self.roots():
                runner.specialise(special)
            if not self.program.changed:
                return
        raise OmniformError("this model's program does not come to rest", where=type(self.built.model).__name__)


class _Thinner(ast.NodeTransformer):
    """Leaves out fields that nothing reads; an object of one field becomes the field.

    Args:
        live: fields that are read, by class.
        whole: classes whose objects stay objects.
    """

    def __init__(self, live: Mapping[type, set[str]], whole: Collection[type]) -> None:
        self.live, self.whole = live, whole
        self.unboxed: dict[type, str] = {}

    def _single(self, kind: type) -> str | None:
        names = self.live.get(kind, set())
        if issubclass(kind, StepContext) or kind in self.whole or len(names) != 1 or not _is_output(kind):
            return None
        return next(iter(names))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        kind = vars(node).get("makes")
        if kind is not None:
            names = self.live.get(kind, set())
            node.keywords = [k for k in node.keywords if k.arg in names]
            single = self._single(kind)
            if single is not None:
                self.unboxed[kind] = single
                return node.keywords[0].value if node.keywords else constant(None)
            if not names and _is_output(kind):
                return constant(None)
        changed = vars(node).get("changes")
        if changed is not None:
            names = self.live.get(changed, set())
            node.keywords = [k for k in node.keywords if k.arg in names]
            if not node.keywords:
                assert isinstance(node.func, ast.Attribute)
                return node.func.value
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        record = vars(node).get("record")
        if record is not None and self._single(record[0]) == record[1]:
            self.unboxed[record[0]] = record[1]
            if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
                return ast.Name(id=node.value.id, ctx=ast.Store())
            return node.value
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt | None:
        record = vars(node.targets[0]).get("record")
        if record is not None and record[1] not in self.live.get(record[0], set()):
            return None
        self.generic_visit(node)
        return node


def _is_output(kind: type) -> bool:
    """Whether objects of a class are no more than their fields."""
    own = [n for n, v in vars(kind).items() if isinstance(v, FunctionType) and (n == "__call__" or n[:2] != "__")]
    return not own or kind.__module__.endswith("core.outputs")


__all__ = ["Specialised"]
_ = (ANY, NONE, Known, Names, fields, clone, Model, StatefulModule)
