"""Specialising calls: which functions they reach, what is written in their places, what is called as it is."""

from __future__ import annotations

import ast
import functools
import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import FunctionType

import torch
from torch import Tensor, nn

from omniform.architectures.fusion import Medium
from omniform.core.context import StepContext
from omniform.core.errors import OmniformError
from omniform.export.eject.expressions import Expressions, Pair
from omniform.export.eject.intrinsics import CACHE, KNOWN_CALLS, SKIPPED, Intrinsics
from omniform.export.eject.program import Program, Special
from omniform.export.eject.sources import in_house, plain_function, tree_of
from omniform.export.eject.trees import (
    attribute,
    clone,
    constant,
    is_atom,
    name_of,
    names_read,
    returns,
    size,
    stored,
    substituted,
)
from omniform.export.eject.values import (
    ANY,
    NONE,
    SOLID,
    TENSOR,
    Bound,
    Cached,
    Closure,
    Dynamic,
    Functions,
    Handed,
    Items,
    Known,
    Looped,
    Maybe,
    Method,
    Names,
    Objects,
    Record,
    Unseen,
    Value,
    join,
    joined,
    lift,
    solid,
)

Target = tuple[FunctionType, type | None]
"""A function, and the class of the object that it is called on."""

SMALL = 16
"""So large an expression may be that is written in the place of a call."""


class Calls(Intrinsics):
    """What a frame makes of calls."""

    names: set[str]
    inside: bool

    @abstractmethod
    def free(self, name: str) -> str:
        """A variable that is not taken."""

    # -- all calls -----------------------------------------------------------------------------------------------------

    def call_of(self, node: ast.Call) -> Pair:
        special = self.intrinsic(node)
        if special is not None:
            return special
        if isinstance(node.func, ast.Attribute):
            base = node.func.value
            if isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super":
                return self._super(node, node.func.attr)
            return self._method(node, self.value(base), node.func.attr)
        return self._called(self.value(node.func), *self.arguments(node))

    def arguments(self, node: ast.Call) -> tuple[list[Pair], dict[str, Pair]]:
        """The arguments of a call, those that were packed taken apart where they are known."""
        given: list[Pair] = []
        for arg in node.args:
            value, found = self.value(arg)
            if isinstance(found, ast.Starred) and isinstance(value, Maybe):
                value = value.inner  # None cannot be taken apart
            if isinstance(found, ast.Starred) and isinstance(value, Items):
                inner = found.value
                if isinstance(inner, ast.Tuple) and len(inner.elts) == len(value.values):
                    given.extend(zip(value.values, inner.elts, strict=True))
                    continue
                if is_atom(inner):
                    parts = [ast.Subscript(value=clone(inner), slice=constant(i)) for i in range(len(value.values))]
                    given.extend(zip(value.values, parts, strict=True))
                    continue
            given.append((value, found))
        named: dict[str, Pair] = {}
        for keyword in node.keywords:
            value, found = self.value(keyword.value)
            if keyword.arg is not None:
                named[keyword.arg] = (value, found)
            elif isinstance(value, Names):
                named.update(value.entries)
            else:
                raise OmniformError("these keys are not known", where=ast.unparse(node))
        return given, named

    def _called(self, target: Pair, given: list[Pair], named: dict[str, Pair]) -> Pair:
        """What a value gives when it is called."""
        value, node = target
        value = solid(value)
        match value:
            case Known(value=functools.partial() as part):
                known = {k: (lift(v), constant(v)) for k, v in part.keywords.items()}
                return self._called((Known(part.func), self.reference(part.func, "")), given, {**known, **named})
            case Known(value=type() as kind):
                return self._made(kind, node, given, named)
            case Known(value=FunctionType() as known_function) if in_house(known_function):
                function = plain_function(known_function)
                return self.function_call([(function, None)], node, given, named)
            case Functions():
                targets: list[Target] = [(f, None) for f in value.items if isinstance(f, FunctionType) and in_house(f)]
                if len(targets) == len(value.items):
                    return self.function_call(targets, node, given, named)
                self._note_called(node, targets)  # among others, of torch's
                return TENSOR, _plain_call(node, given, named)
            case Known(value=known):
                return self._foreign(known, node, given, named)
            case Closure() | Method() | Handed():
                return value.result, _plain_call(node, given, named)
            case Objects():
                return self._object_called(value, node, given, named)
            case Record():
                return self._dispatched([value.kind], "__call__", (value, node), node, given, named)
        # Whatever it is, what it computes would be missing in the file, or be there without its forward.
        where, found = self.function.__qualname__, ast.unparse(node)
        raise OmniformError("what is called here is not known", where=where, found=found)

    def _foreign(self, known: object, node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> Pair:
        """A function that is not ours."""
        whole = _plain_call(node, given, named)
        name = getattr(known, "__name__", "")
        if known in (torch.split, torch.chunk, torch.topk, torch.max, torch.sort):
            return Looped(TENSOR), whole
        if name == "dropout" and len(given) > 1 and given[1][0] in (Known(0.0), lift(0.0)):
            return given[0]
        module = getattr(known, "__module__", None) or ""
        if module.startswith("torch") or module == "":
            return TENSOR, whole
        return SOLID, whole

    def _object_called(self, value: Objects, node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> Pair:
        ours = [kind for kind in value.kinds if in_house(kind) and _is_ours_to_call(kind)]
        theirs = [kind for kind in value.kinds if kind not in ours]
        if theirs and not all(issubclass(kind, nn.Module) for kind in theirs):
            return ANY, _plain_call(node, given, named)
        whole: Pair = (TENSOR, _plain_call(node, given, named))
        if not ours:
            if theirs == [nn.Identity]:
                return given[0]
            self._note_rows(value, node)
            return whole
        name = "forward" if issubclass(ours[0], nn.Module) else "__call__"
        targets = self._methods(list(ours), name)
        result = self.function_call(
            targets, node, given, named, owner=(value, node), alone=len(value.kinds) == 1 and name != "forward"
        )
        return (join(result[0], TENSOR) if theirs else result[0]), result[1]

    def _note_rows(self, value: Objects, node: ast.expr) -> None:
        """Look at modules of ours that a row of torch's calls one after another."""
        rows = [item for item in value.items if isinstance(item, nn.Sequential)]
        inner = Objects(tuple(m for row in rows for m in row.modules() if _is_called_by_row(m, row)))
        self._note_called(node, self._methods(inner.kinds, "forward"), inner)

    def _note_called(self, node: ast.expr, targets: list[Target], owner: Objects | None = None) -> None:
        """Look at functions of one tensor that are called by others than by what is written, so that they stay."""
        specials = []
        for function, kind in targets:
            special = self.program.special(function, kind, 0, ())
            if owner is not None and kind is not None:
                self.program.meet(special, "self", owner.of(kind))
            self.program.meet(special, special.tree.args.args[0 if kind is None else 1].arg, TENSOR)
            self.specialise(special)
            special.whole = True
            specials.append(special)
        if specials:
            node.specials = specials  # type: ignore[attr-defined]

    # -- methods -------------------------------------------------------------------------------------------------------

    def _method(self, node: ast.Call, base: Pair, name: str) -> Pair:
        value = solid(base[0])
        if isinstance(value, Maybe):
            value = value.inner
        given, named = self.arguments(node)
        if name in ("append", "insert", "extend") and isinstance(value, Looped):
            raise OmniformError("modules are put into a list bit by bit", where=self.function.__qualname__)
        if name in ("append", "insert"):
            self.program.meet_listed(*(v for v, _ in given))
        func = attribute(base[1], name)
        match value:
            case Cached():
                return self.cache_call(value, base[1], name, given, named)
            case Unseen():
                return {"noted": (Names({}), constant(None))}.get(name, (NONE, constant(None)))
            case Names():
                return self.names_call(node, value, name, given)
            case Record():
                return self._dispatched([value.kind], name, (value, base[1]), func, given, named)
            case Objects():
                return self._of_objects_called(value, base[1], name, given, named)
            case Known(value=type() as kind) if in_house(kind):
                return self._class_method(kind, base[1], name, given, named)
            case Known():
                held = getattr(value.value, name, None)
                if isinstance(value.value, str):
                    return SOLID, _plain_call(func, given, named)
                known = self.attribute_of((value, base[1]), name)
                if held is None or isinstance(known[0], Dynamic):  # a method of a plain object: no module
                    return ANY, _plain_call(func, given, named)
                return self._called(known, given, named)
            case Dynamic():
                return self.tensor_call(value, func, name, given, named)
        return ANY, _plain_call(func, given, named)

    def _class_method(self, kind: type, node: ast.expr, name: str, given: list[Pair], named: dict[str, Pair]) -> Pair:
        held = inspect.getattr_static(kind, name)
        if isinstance(held, classmethod):
            raise OmniformError("a class method cannot be specialised", where=kind.__name__, found=name)
        function = plain_function(held.__func__ if isinstance(held, staticmethod) else held)
        if isinstance(held, staticmethod):
            return self.function_call([(function, kind)], attribute(node, name), given, named)
        first, *rest = given  # Class.method(self, ...)
        if self.owner is not None and first[0] == self.env["self"][0] and issubclass(self.owner, kind):
            # A base's, as super() would reach it: what it finds on itself is this class's own.
            return self.function_call(
                [(function, self.owner)], attribute(first[1], name), rest, named, owner=first, above=True
            )
        return self.function_call([(function, kind)], attribute(first[1], name), rest, named, owner=first)

    def _of_objects_called(
        self, value: Objects, node: ast.expr, name: str, given: list[Pair], named: dict[str, Pair]
    ) -> Pair:
        ours = [kind for kind in value.kinds if in_house(kind)]
        func = attribute(node, name)
        func.owner = value  # type: ignore[attr-defined]
        if not ours:
            return ANY, _plain_call(func, given, named)
        held = [
            vars(item).get(name, vars(item).get("_modules", {}).get(name)) for item in value.items if name in _own(item)
        ]
        if held or any(name in _own(item) for item in value.items):
            return self._called(self.attribute_of((value, node), name), given, named)
        functions = [inspect.getattr_static(kind, name, None) for kind in ours]
        if all(not isinstance(f, (FunctionType, staticmethod, classmethod)) for f in functions):
            return self._called(self.attribute_of((value, node), name), given, named)
        return self._dispatched(ours, name, (value, node), func, given, named)

    def _dispatched(
        self, kinds: list[type], name: str, owner: Pair, func: ast.expr, given: list[Pair], named: dict[str, Pair]
    ) -> Pair:
        for kind in kinds:
            held = inspect.getattr_static(kind, name, None)
            if not isinstance(held, FunctionType):
                found = self.attribute_of(owner, name)
                if found[0] != SOLID:
                    return self._called(found, given, named)
                raise OmniformError("there is no such method", where=kind.__name__, found=name)
            if not in_house(plain_function(held)):
                return (TENSOR if issubclass(kind, nn.Module) else ANY), _plain_call(func, given, named)
        targets = self._methods(kinds, name)
        return self.function_call(targets, func, given, named, owner=owner, alone=len(kinds) == 1)

    def method_value(self, value: Objects, node: ast.Attribute, name: str) -> Pair:
        """A method that is handed on: whoever calls it gives tensors."""
        specials, results = [], []
        for kind in value.kinds:
            function = plain_function(inspect.getattr_static(kind, name))
            special = self.program.special(function, kind, 0, ())
            for parameter in [a.arg for a in special.tree.args.args[1:]]:
                self.program.meet(special, parameter, TENSOR)
            self.program.meet(special, "self", value.of(kind))
            self.specialise(special)
            special.whole = True
            specials.append(special)
            results.append(special.result or TENSOR)
        node.specials = specials  # type: ignore[attr-defined]
        return Method(value, name, joined(results)), node

    def _methods(self, kinds: Sequence[type], name: str) -> list[Target]:
        return [(plain_function(inspect.getattr_static(kind, name)), kind) for kind in kinds]

    def _super(self, node: ast.Call, name: str) -> Pair:
        assert self.owner is not None
        given, named = self.arguments(node)
        here = home_of(self.owner, self.function)
        order = self.owner.__mro__
        after = order[order.index(here) + 1 :]
        kind = next((k for k in after if name in vars(k)), None)
        owner = self.env["self"]
        if kind is None or not in_house(kind):
            func = attribute(ast.Call(func=name_of("super"), args=[], keywords=[]), name)
            torchs = kind is None or kind is nn.Module or kind is object
            if name == "__post_init__":
                return NONE, constant(None)
            if name == "__init__" and torchs:
                return NONE, ast.Call(func=func, args=[], keywords=[])
            return (NONE if name == "__init__" else TENSOR), _plain_call(func, given, named)
        function = plain_function(vars(kind)[name])
        return self.function_call(
            [(function, self.owner)], attribute(owner[1], name), given, named, owner=owner, above=True
        )

    def read_property(self, function: FunctionType, owner: Pair, kind: type, name: str) -> Pair:
        found = attribute(owner[1], name)
        found.owner = owner[0]  # type: ignore[attr-defined]
        return self.function_call(
            [(plain_function(function), kind)], found, [], {}, owner=owner, alone=True, is_property=True
        )

    def read_properties(self, value: Objects, node: ast.expr, name: str) -> Pair:
        found = attribute(node, name)
        found.owner = value  # type: ignore[attr-defined]
        held = [(inspect.getattr_static(kind, name), kind) for kind in value.kinds]
        targets: list[Target] = [
            (plain_function(p.fget), kind) for p, kind in held if isinstance(p, property) and p.fget
        ]
        return self.function_call(targets, found, [], {}, owner=(value, node), alone=False, is_property=True)

    # -- our functions -------------------------------------------------------------------------------------------------

    def function_call(
        self,
        targets: list[Target],
        func: ast.expr,
        given: list[Pair],
        named: dict[str, Pair],
        *,
        owner: Pair | None = None,
        alone: bool = True,
        above: bool = False,
        is_property: bool = False,
    ) -> Pair:
        """Call one of some functions of ours, written out in place where that is short, or where it is a base's.

        Args:
            owner: what ``self`` is.
            alone: whether it is known which of them is called.
            above: whether it is the function of a base class.
        """
        for function, _ in targets:
            if function.__qualname__ in SKIPPED:
                return NONE, constant(None)
        given = _unpacked(tree_of(targets[0][0]), given)
        if (len(targets) == 1 and alone) or above:
            (function, kind), *_ = targets
            if (function, kind) not in self.program.kept and function not in self.within:
                found = self._inlined(function, kind, owner, given, named, above)
                if found is not None:
                    return found
                self.program.kept.add((function, kind))
        return self._special_call(targets, func, owner, given, named, above, is_property)

    def bind(self, tree: ast.FunctionDef, function: FunctionType, given: list[Pair], named: dict[str, Pair]) -> Bound:
        """The arguments by parameter, defaults included."""
        bound, args = Bound(), tree.args
        order = [a.arg for a in (*args.posonlyargs, *args.args)]
        order = order[1:] if order and order[0] in ("self", "cls") else order
        for name, pair in zip(order, given, strict=False):
            bound.named[name] = pair
        bound.rest = given[len(order) :]
        known = {*order, *(a.arg for a in args.kwonlyargs)}
        for name, pair in named.items():
            if name in known:
                bound.named[name] = pair
            else:
                bound.more[name] = pair
        defaults = (
            dict(zip(order[len(order) - len(args.defaults) :], args.defaults, strict=True)) if args.defaults else {}
        )
        defaults |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None}
        for name, default in defaults.items():
            if name not in bound.named:
                bound.named[name] = self.default_of(function, default)
        missing = known - bound.named.keys()
        if missing or (bound.rest and not args.vararg) or (bound.more and not args.kwarg):
            raise OmniformError(
                "a call does not fit", where=function.__qualname__, found=f"{sorted(missing)} {sorted(bound.more)}"
            )
        return bound

    def default_of(self, function: FunctionType, node: ast.expr) -> Pair:
        """A parameter's default."""
        made = self.frame(function, self.owner)
        return made.value(node)

    @abstractmethod
    def frame(self, function: FunctionType, owner: type | None, *, inside: bool = True) -> Calls:
        """A frame for another function, whose statements are written among these."""

    @abstractmethod
    def run(self, body: Sequence[ast.stmt]) -> bool:
        """Specialise statements; whether what follows them is reached."""

    @abstractmethod
    def emit(self, node: ast.stmt) -> None:
        """Write a statement."""

    def _inlined(
        self,
        function: FunctionType,
        kind: type | None,
        owner: Pair | None,
        given: list[Pair],
        named: dict[str, Pair],
        above: bool,
    ) -> Pair | None:
        """A function's body in the place of its call; None where that does not do."""
        tree = tree_of(function)
        above = above or (owner is not None and "fleeting" in vars(owner[1]))  # what is not made has no methods
        if (len(tree.body) > 6 and not above) or self.depth > 24:
            return None
        bound = self.bind(tree, function, given, named)
        if any(isinstance(node, ast.Starred) for _, node in bound.rest):
            return None
        child = self.frame(function, kind)
        child.depth, child.within = self.depth + 1, (*self.within, function)
        places: dict[str, ast.expr] = {}

        def placed(pair: Pair) -> Pair:
            value, node = pair
            if is_atom(node) or isinstance(value, Names) or vars(node).get("given") is not None:
                return pair
            name = f"§{len(self.names)}.{self.depth}.{len(places)}"
            places[name] = node
            return value, name_of(name)

        if owner is not None:
            child.env["self"] = placed(owner)
        child.env |= {name: placed(pair) for name, pair in bound.named.items()}
        rest = [placed(pair) for pair in bound.rest]
        if tree.args.vararg:
            child.env[tree.args.vararg.arg] = (
                Items(tuple(v for v, _ in rest)),
                ast.Tuple(elts=[n for _, n in rest], ctx=ast.Load()),
            )
        if tree.args.kwarg:
            child.env[tree.args.kwarg.arg] = Names({n: placed(p) for n, p in bound.more.items()}), constant(None)
        child.parameters = frozenset(child.env)
        child.deep = self.deep
        names = set(self.names)
        found = child.written_out(tree)
        result = None if found is None else self._settled(*found, places, above, child)
        if result is None:
            self.names.clear()
            self.names.update(names)
        return result

    depth = 0
    within: tuple[FunctionType, ...] = ()

    def written_out(self, tree: ast.FunctionDef) -> tuple[list[ast.stmt], Pair] | None:
        """The statements before the result, and the result; None where there are several ways to it."""
        self.block = []
        goes_on = self.run(tree.body)
        body = _with_choice(self.block)
        if body and isinstance(body[-1], ast.Return) and not returns(body[:-1]):
            found = body[-1].value
            return body[:-1], (self.result or NONE, constant(None) if found is None else found)
        if goes_on and not returns(body):
            return body, (NONE, constant(None))
        return None

    def _settled(
        self, body: list[ast.stmt], result: Pair, places: dict[str, ast.expr], above: bool, child: Calls
    ) -> Pair | None:
        """Put the arguments in; None where it is too long to be written in place."""
        value, node = result
        if isinstance(value, Items) and not isinstance(node, ast.Tuple) and body and not above:
            return None
        keyed = _has_names(value)  # a dictionary's entries are looked into best where they are made
        if body and (self.deep or not (above or keyed)):
            return None
        if (
            not above
            and not body
            and size(node) > SMALL
            and not isinstance(value, (Items, Names))
            and not vars(node).get("given")
        ):
            return None
        given_back = [node, *_held(value)]
        used = names_read([*body, *given_back])
        lets: list[ast.stmt] = []
        found: dict[str, ast.expr] = {}
        for name, given in places.items():
            if used.get(name, 0) > 1 or (body and used.get(name, 0)):
                if self.deep:
                    return None
                parameter = next(
                    (p for p, (_, n) in child.first.items() if isinstance(n, ast.Name) and n.id == name), "x"
                )
                place = self.free(parameter)
                self.names.add(place)
                lets.append(ast.Assign(targets=[ast.Name(id=place, ctx=ast.Store())], value=given))
                found[name] = name_of(place)
            else:
                found[name] = given
        if lets and not above and not body and not keyed:
            return None
        self.block.extend(lets)
        self.block.extend(substituted(statement, found) for statement in body)
        if isinstance(value, Names):
            return _put_in(value, found), node
        return _put_in(value, found), substituted(node, found)

    @property
    def first(self) -> dict[str, Pair]:
        """What the parameters were."""
        return {name: pair for name, pair in self.env.items() if name in self.parameters}

    # -- calls that remain ---------------------------------------------------------------------------------------------

    def _special_call(
        self,
        targets: list[Target],
        func: ast.expr,
        owner: Pair | None,
        given: list[Pair],
        named: dict[str, Pair],
        above: bool,
        is_property: bool,
    ) -> Pair:
        specials, results = [], []
        for function, kind in targets:
            tree = tree_of(function)
            bound = self.bind(tree, function, given, named)
            name = ""
            if above:
                home = home_of(kind, function)
                name = f"{function.__name__.strip('_')}_of_{home.__name__}"
            special = self.program.special(function, kind, len(_rest(bound.rest).values), bound.more, name)
            special.is_property = is_property
            given, named = self._spread(special, bound, given, named)
            for parameter, (value, _) in (*bound.named.items(), *bound.more.items()):
                self.program.meet(special, parameter, _passed(value))
            if tree.args.vararg:
                self.program.meet(special, tree.args.vararg.arg, _rest(bound.rest))
            if owner is not None:
                mine = owner[0]
                if isinstance(mine, Maybe):
                    mine = mine.inner
                if isinstance(mine, Objects) and kind is not None:
                    mine = Objects(tuple(x for x in mine.items if type(x) is kind))
                self.program.meet(special, "self", mine)
            self.specialise(special)
            specials.append(special)
            results.append(special.result if special.result is not None else TENSOR)
        if above and isinstance(func, ast.Attribute):
            func.attr = specials[0].name
        if is_property:
            func.specials = specials  # type: ignore[attr-defined]
            return joined(results), func
        return self._taken_apart(joined(results), self._written_call(func, specials, given, named))

    def _taken_apart(self, value: Value, whole: ast.Call) -> Pair:
        """A call's result; of a dictionary, every entry is read of a variable that holds it."""
        if not isinstance(value, Names) or not value.entries:
            return value, whole
        if self.deep:
            raise OmniformError("a dictionary cannot be made within an expression", where=ast.unparse(whole.func))
        place = self.free("found")
        self.names.add(place)
        self.emit(ast.Assign(targets=[ast.Name(id=place, ctx=ast.Store())], value=whole))
        parts = {k: ast.Subscript(value=name_of(place), slice=constant(k), ctx=ast.Load()) for k in value.entries}
        return Names({k: (v, parts[k]) for k, (v, _) in value.entries.items()}), name_of(place)

    def _spread(
        self, special: Special, bound: Bound, given: list[Pair], named: dict[str, Pair]
    ) -> tuple[list[Pair], dict[str, Pair]]:
        """Hand over the entries of keyword arguments that are passed on as one, each as an argument of its own."""
        for parameter, (value, _) in list(bound.named.items()):
            if not isinstance(value, Names):
                continue
            args = special.tree.args
            own = {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
            entries: dict[str, Pair] = {}
            for key, pair in value.entries.items():
                place = f"{parameter}_{key}" if key in own else key
                entries[key] = (pair[0], name_of(place))
                bound.more[place] = pair
                named = {**named, place: pair}
            bound.named[parameter] = (Names(entries), constant(None))
            named = {key: pair for key, pair in named.items() if key != parameter}
            special.spread.add(parameter)
        return given, named

    def _written_call(
        self, func: ast.expr, specials: list[Special], given: list[Pair], named: dict[str, Pair]
    ) -> ast.Call:
        order = [a.arg for a in (*specials[0].tree.args.posonlyargs, *specials[0].tree.args.args)]
        order = order[1:] if order and order[0] == "self" else order
        rest = specials[0].tree.args.vararg
        whole = _plain_call(func, given, named)
        names = [*order[: len(given)], *([rest.arg] * max(len(given) - len(order), 0) if rest else [])]
        whole.specials, whole.given_to = specials, names  # type: ignore[attr-defined]
        return whole

    @abstractmethod
    def specialise(self, special: Special) -> None:
        """Look at a function, if that was not done in this round."""

    # -- objects that are made -----------------------------------------------------------------------------------------

    def _made(self, kind: type, node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> Pair:
        if kind in KNOWN_CALLS:
            return KNOWN_CALLS[kind], constant(None)
        if kind in CACHE:
            return Cached(), call_to(node, given, named)
        if not in_house(kind):
            return (TENSOR if issubclass(kind, Tensor) else SOLID), _plain_call(node, given, named)
        if issubclass(kind, nn.Module):
            return SOLID, self._new_module(kind, node, given, named)
        if not is_dataclass(kind):
            raise OmniformError("an object of this class cannot be made", where=kind.__name__)
        if not fields(kind) and not issubclass(kind, StepContext):
            return Objects((_only(kind),)), _plain_call(node, given, named)
        order = [f.name for f in fields(kind) if f.init and not f.kw_only]
        pairs = {**dict(zip(order, given, strict=False)), **named}
        return self.made(kind, pairs, set(pairs))

    def _new_module(self, kind: type, node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> ast.Call:
        """A module that another's constructor makes: its own is looked at beside those of the model's others."""
        function = inspect.getattr_static(kind, "__init__")
        if not isinstance(function, FunctionType) or not in_house(function):
            return _plain_call(node, given, named)
        tree = tree_of(function)
        bound = self.bind(tree, function, given, named)
        known = self.program.constructor(function, kind)
        special = known or self.program.special(function, kind, len(bound.rest), ())
        special.constructor = True
        return self._written_call(node, [special], given, named)

    def made(self, kind: type, pairs: dict[str, Pair], told: set[str]) -> Pair:
        """An object of a dataclass that is made when the program runs."""
        for f in fields(kind):
            if f.name not in pairs and f.init and not f.name.startswith("_"):
                default = f.default if f.default is not MISSING else None
                pairs[f.name] = (lift(default), constant(default) if _literal(default) else constant(None))
        for name, (value, _) in pairs.items():
            self.program.meet_field(kind, name, _passed(value))
        positional = [f.name for f in fields(kind) if f.init and not f.kw_only and f.name in told]
        empty = {f.name for f in fields(kind) if f.default is None}
        told = {n for n in told if n not in empty or pairs[n][0] != NONE}
        positional = [n for n in positional if n in told]
        order = [*positional, *(t for t in sorted(told) if t not in positional)]
        keywords = [ast.keyword(arg=n, value=pairs[n][1]) for n in order]
        named = name_of(kind.__name__)
        named.refers = kind  # type: ignore[attr-defined]
        whole = ast.Call(func=named, args=[], keywords=keywords)
        whole.makes = kind  # type: ignore[attr-defined]
        if issubclass(kind, Medium) and all(_is_plain(node) for _, node in pairs.values()):
            whole.given, whole.fleeting = pairs, True  # type: ignore[attr-defined]
        elif not issubclass(kind, StepContext):
            whole.given = {n: p for n, p in pairs.items() if is_atom(p[1])} if len(pairs) <= 3 else {}  # type: ignore[attr-defined]
        return Record(kind), whole


def _is_ours_to_call(kind: type) -> bool:
    """Whether what a module computes is ours, and not what it has of a class of torch's."""
    if not issubclass(kind, nn.Module):
        return True
    return in_house(plain_function(inspect.getattr_static(kind, "forward")))


def _is_called_by_row(module: nn.Module, row: nn.Sequential) -> bool:
    """Whether a row, or a row within it, calls a module, which is one of ours."""
    rows = [m for m in row.modules() if isinstance(m, nn.Sequential)]
    held = any(module is child for r in rows for child in r.children())
    return held and in_house(type(module)) and _is_ours_to_call(type(module))


@functools.cache
def _only(kind: type) -> object:
    """An object of a class whose objects are all the same."""
    return kind()


def home_of(owner: type | None, function: FunctionType) -> type:
    """The class that a function stands in, among the bases of another."""
    for kind in () if owner is None else owner.__mro__:
        for held in vars(kind).values():
            inner = held.fget if isinstance(held, property) else held
            if isinstance(inner, FunctionType) and inspect.unwrap(inner) is function:
                return kind
    raise OmniformError("this function stands in no class", where=function.__qualname__)


def _has_names(value: Value) -> bool:
    """Whether a value is a dictionary, or there is one among several."""
    return isinstance(value, Names) or (isinstance(value, Items) and any(map(_has_names, value.values)))


def _held(value: Value) -> list[ast.expr]:
    """The expressions of the entries of dictionaries."""
    if isinstance(value, Items):
        return [node for part in value.values for node in _held(part)]
    return [node for _, node in value.entries.values()] if isinstance(value, Names) else []


def _put_in(value: Value, found: Mapping[str, ast.expr]) -> Value:
    """The same with expressions in the places of variables."""
    if isinstance(value, Names):
        return Names({k: (_put_in(v, found), substituted(clone(n), found)) for k, (v, n) in value.entries.items()})
    return Items(tuple(_put_in(part, found) for part in value.values)) if isinstance(value, Items) else value


def call_to(node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> ast.Call:
    """The same call."""
    return _plain_call(node, given, named)


def _plain_call(node: ast.expr, given: list[Pair], named: dict[str, Pair]) -> ast.Call:
    return ast.Call(
        func=node, args=[n for _, n in given], keywords=[ast.keyword(arg=k, value=n) for k, (_, n) in named.items()]
    )


def _is_plain(node: ast.expr) -> bool:
    """Whether an expression may be written many times for nothing."""
    return all(map(_is_plain, node.elts)) if isinstance(node, ast.Tuple) else is_atom(node)


def _passed(value: Value) -> Value:
    """What a parameter is known to be, given what is handed over."""
    return value


def _rest(pairs: list[Pair]) -> Items:
    values: list[Value] = []
    for value, node in pairs:
        if isinstance(node, ast.Starred) and isinstance(value, Items):
            values.extend(value.values)
        else:
            values.append(value)
    return Items(tuple(values))


def _unpacked(tree: ast.FunctionDef, given: list[Pair]) -> list[Pair]:
    """Arguments that are unpacked from a variable, one by one, but for those that go into ``*rest``."""
    order = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args)]
    count = len(order) - (order[:1] == ["self"])
    made: list[Pair] = []
    for value, node in given:
        if isinstance(node, ast.Starred) and isinstance(value, Items) and is_atom(node.value) and len(made) < count:
            parts = [
                ast.Subscript(value=clone(node.value), slice=constant(i), ctx=ast.Load())
                for i in range(len(value.values))
            ]
            made.extend(zip(value.values, parts, strict=True))
        else:
            made.append((value, node))
    return made


def _literal(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _own(item: object) -> set[str]:
    """What an object has itself, and not its class."""
    if isinstance(item, nn.Module):
        own = vars(item)
        return {*own, *own["_modules"], *own["_parameters"], *own["_buffers"]}
    if is_dataclass(item):
        return {f.name for f in fields(item)}
    return set(getattr(item, "__dict__", ()))


def _with_choice(body: list[ast.stmt]) -> list[ast.stmt]:
    """``if test: return a`` before ``return b`` as ``return a if test else b``."""
    while len(body) > 1 and isinstance(body[-1], ast.Return) and isinstance(body[-2], ast.If):
        last, choice = body[-1], body[-2]
        if len(choice.body) != 1 or choice.orelse or not isinstance(choice.body[0], ast.Return):
            break
        first = choice.body[0].value or constant(None)
        second = last.value or constant(None)
        body = [*body[:-2], ast.Return(value=ast.IfExp(test=choice.test, body=first, orelse=second))]
    if body and isinstance(body[-1], ast.If) and len(body[-1].body) == len(body[-1].orelse) == 1:
        one, two = body[-1].body[0], body[-1].orelse[0]
        if isinstance(one, ast.Return) and isinstance(two, ast.Return):
            made = ast.IfExp(test=body[-1].test, body=one.value or constant(None), orelse=two.value or constant(None))
            return [*body[:-1], ast.Return(value=made)]
    return body


__all__ = ["Calls"]
_ = (Expressions, Program, clone, stored)
