"""Specialising one function: its statements, with what is known of every variable."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from types import FunctionType

from omniform.core.errors import OmniformError
from omniform.export.eject.attributes import simple
from omniform.export.eject.calls import Calls
from omniform.export.eject.expressions import Pair, display
from omniform.export.eject.program import Program, Special
from omniform.export.eject.sources import notes_of
from omniform.export.eject.trees import clone, constant, is_atom, name_of, same, stored
from omniform.export.eject.values import ANY, NONE, Cached, Items, Known, Names, Record, Value, join, lift, solid, truth

State = dict[str, Pair]


class Frame(Calls):
    """One function that is being specialised.

    Args:
        names: variables that are taken in the function that is written.
        inside: whether it is written into the body of another.
    """

    def __init__(
        self, program: Program, function: FunctionType, owner: type | None, names: set[str], *, inside: bool
    ) -> None:
        super().__init__(program, function, owner)
        self.names, self.inside = names, inside
        self.counts: dict[str, int] = stored([self.tree])
        self.locals: dict[str, str] = {}
        if not inside:
            self.names |= set(self.counts) | {a.arg for a in ast.walk(self.tree) if isinstance(a, ast.arg)}

    # -- variables -----------------------------------------------------------------------------------------------------

    def local(self, name: str) -> str:
        """What a variable is called in what is written."""
        if name not in self.locals:
            self.locals[name] = self.free(name) if self.inside else name
            self.names.add(self.locals[name])
        return self.locals[name]

    def free(self, name: str) -> str:
        """A variable that is not taken."""
        found, number = name, 2
        while found in self.names:
            found, number = f"{name}_{number}", number + 1
        return found

    def _pin(self, variables: Iterable[str]) -> None:
        """Give variables that will be assigned on some ways only a place of their own before."""
        for name in variables:
            if name not in self.env or isinstance(self.env[name][0], Names):
                continue
            value, node = self.env[name]
            place = name_of(self.local(name))
            if not same(place, node):
                self.emit(ast.Assign(targets=[ast.Name(id=place.id, ctx=ast.Store())], value=node))
                self.env[name] = (value, place)

    def emit(self, node: ast.stmt) -> None:
        """Write a statement."""
        self.block.append(node)

    # -- statements ----------------------------------------------------------------------------------------------------

    def run(self, body: Sequence[ast.stmt]) -> bool:
        """Specialise statements; whether what follows them is reached."""
        for node in body:
            before = len(self.block)
            goes_on = self._statement(node)
            notes = notes_of(self.function, node) if not isinstance(node, ast.If) or len(self.block) > before else []
            if notes and len(self.block) > before:
                first = self.block[before]
                first.notes = [*notes, *vars(first).get("notes", [])]  # type: ignore[attr-defined]
            if not goes_on:
                return False
        return True

    def _statement(self, node: ast.stmt) -> bool:
        match node:
            case ast.Return():
                self._return(node)
                return False
            case ast.Raise():
                self._raise(node)
                return False
            case ast.If():
                return self._if(node)
            case ast.For():
                self._for(node)
            case ast.Assign():
                value = self.value(node.value)
                for target in node.targets:
                    self._assign(target, value)
            case ast.AnnAssign():
                if node.value is not None:
                    self._assign(node.target, self.value(node.value))
            case ast.AugAssign():
                self._augment(node)
            case ast.Expr():
                self._bare(node)
            case ast.With():
                self._with(node)
            case ast.Assert() | ast.Pass() | ast.Import() | ast.ImportFrom():
                pass
            case ast.Delete():
                pass
            case ast.FunctionDef():
                self._nested(node)
            case ast.Continue() | ast.Break():
                self.emit(clone(node))
                return False
            case _:
                raise OmniformError(
                    "this statement cannot be specialised", where=self.function.__qualname__, found=ast.unparse(node)
                )
        return True

    def _return(self, node: ast.Return) -> None:
        value, found = (NONE, constant(None)) if node.value is None else self.value(node.value)
        found = display(value.entries) if isinstance(value, Names) else found
        self.result = join(self.result, value)
        self.emit(ast.Return(value=found))

    def _raise(self, node: ast.Raise) -> None:
        words, where = "this cannot be computed here", ""
        if isinstance(node.exc, ast.Call):
            texts = [a.value for a in node.exc.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            named = {k.arg: k.value for k in node.exc.keywords}
            words = texts[0] if texts else words
            place = named.get("where")
            where = f"{place.value!s}: " if isinstance(place, ast.Constant) and place.value else ""
        self.emit(ast.Raise(exc=ast.Call(func=name_of("ValueError"), args=[constant(where + words)], keywords=[])))

    def _bare(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        _value, found = self.value(node.value)
        stores = vars(found).get("stores")
        if stores is not None:
            target = stores[0]
            target.ctx = ast.Store()
            self.emit(ast.Assign(targets=[target], value=stores[1]))
        elif isinstance(found, (ast.Call, ast.Yield, ast.YieldFrom)):
            self.emit(ast.Expr(value=found))

    def _nested(self, node: ast.FunctionDef) -> None:
        raise OmniformError(
            "a function within a function cannot be specialised", where=f"{self.function.__qualname__}.{node.name}"
        )

    def _if(self, node: ast.If) -> bool:
        value, test = self.value(node.test)
        known = truth(value)
        if known is not None:
            return self.run(node.body if known else node.orelse)
        if self.dims_assumed(test):
            refused = ast.UnaryOp(op=ast.Not(), operand=test)
            words = "this file computes masks of shape [batch, tokens] only"
            error = ast.Call(func=name_of("NotImplementedError"), args=[constant(words)], keywords=[])
            self.emit(ast.If(test=refused, body=[ast.Raise(exc=error)], orelse=[]))
            return self.run(node.body)
        self._pin(self._changed(node))
        outer, before = self.block, dict(self.env)
        ways: list[tuple[list[ast.stmt], State, bool]] = []
        for holds, body in ((True, node.body), (False, node.orelse)):
            self.block, self.env = [], dict(before)
            self._narrow(node.test, holds)
            goes_on = self.run(body)
            ways.append((self.block, self.env, goes_on))
        self.block = outer
        (first, one, goes), (second, other, comes) = ways
        self.env = _met(one, other) if goes and comes else one if goes else other
        if first or second:
            self.emit(_branched(test, first, second))
        return goes or comes

    def _changed(self, node: ast.If) -> list[str]:
        one, other = stored(node.body), stored(node.orelse)
        return sorted({*one, *other})

    def _narrow(self, test: ast.expr, holds: bool) -> None:
        """What a test tells of variables."""
        match test:
            case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=None)]):
                if name in self.env and isinstance(op, ast.Is) != holds:
                    value, node = self.env[name]
                    self.env[name] = (solid(value), node)
            case ast.BoolOp(op=ast.And(), values=parts) if holds:
                for part in parts:
                    self._narrow(part, True)

    def _one_by_one(self, node: ast.For, value: Value, over: ast.expr) -> bool:
        """Write a loop over objects that are gone with it as what is done for each; whether that was so."""
        if not isinstance(value, Items) or not isinstance(over, ast.Tuple) or not isinstance(node.target, ast.Name):
            return False
        if not over.elts or not all(vars(element).get("fleeting") for element in over.elts):
            return False
        self._pin(sorted(set(stored(node.body)) & self.env.keys()))
        for pair in zip(value.values, over.elts, strict=True):
            self.env[node.target.id] = pair
            if not self.run(node.body):
                raise OmniformError("a loop is left on the way", where=self.function.__qualname__)
        return True

    def _for(self, node: ast.For) -> None:
        value, over = self.value(node.iter)
        if self._one_by_one(node, value, over):
            return
        element = self.element(value)
        changed = stored(node.body)
        self._pin(sorted(set(changed) & self.env.keys()))
        outer = self.block
        for _ in range(3):
            before = dict(self.env)
            self.block = []
            target = self._target(node.target, element)
            self.run(node.body)
            self.env = _met(before, self.env)
            if all(name in before and before[name][0] == self.env[name][0] for name in changed if name in before):
                break
        body, self.block = self.block, outer
        self.emit(ast.For(target=target, iter=over, body=body or [ast.Pass()], orelse=[]))

    def _with(self, node: ast.With) -> None:
        outer, self.block = self.block, []
        self.run(node.body)
        body, self.block = self.block, outer
        items = [ast.withitem(context_expr=self.value(item.context_expr)[1]) for item in node.items]
        self.emit(ast.With(items=items, body=body))

    # -- assignments ---------------------------------------------------------------------------------------------------

    def _target(self, target: ast.expr, value: Value) -> ast.expr:
        """What is assigned to, in what is written; notes what is known of the variables."""
        match target:
            case ast.Name(id=name):
                place = ast.Name(id=self.local(name), ctx=ast.Store())
                self.env[name] = (value, name_of(place.id))
                return place
            case ast.Tuple() | ast.List():
                parts = self.parts(value, len(target.elts), target.elts)
                found = [self._target(t, v) for t, v in zip(target.elts, parts, strict=True)]
                return ast.Tuple(elts=found, ctx=ast.Store())
            case ast.Starred():
                return ast.Starred(value=self._target(target.value, value), ctx=ast.Store())
            case ast.Attribute():
                return self._attribute_target(target, value)
            case ast.Subscript():
                return self._subscript_target(target, value)
        raise OmniformError("this cannot be assigned to", where=self.function.__qualname__, found=ast.unparse(target))

    def _subscript_target(self, target: ast.Subscript, value: Value) -> ast.expr:
        base, key = self.value(target.value), self.value(target.slice)
        if isinstance(base[0], Names) and isinstance(key[0], Known) and isinstance(target.value, ast.Name):
            name = str(key[0].value)
            place = self.free(name) if self.inside else name
            self.names.add(place)
            entries = {**base[0].entries, name: (value, name_of(place))}
            self.env[target.value.id] = (Names(entries), base[1])
            return ast.Name(id=place, ctx=ast.Store())
        return ast.Subscript(value=base[1], slice=key[1], ctx=ast.Store())

    def _assign(self, target: ast.expr, pair: Pair) -> None:
        value, node = pair
        match target:
            case ast.Name(id=name):
                if isinstance(value, Names) or self._may_stand_for(name, node):
                    self.env[name] = pair
                    return
            case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str(key))):
                base = self.env.get(name)
                if base is not None and isinstance(base[0], Names) and is_atom(node):
                    self.env[name] = (Names({**base[0].entries, key: pair}), base[1])
                    return
            case ast.Tuple() if isinstance(node, ast.Tuple) and len(node.elts) == len(target.elts):
                starred = any(isinstance(e, ast.Starred) for e in (*node.elts, *target.elts))
                if not starred and (self._unpacked(target, pair) or self._unpacked_names(target, pair)):
                    return
        self.emit(ast.Assign(targets=[self._target(target, value)], value=node))

    def _unpacked(self, target: ast.Tuple, pair: Pair) -> bool:
        """Assign what may stand for itself; whether that was all."""
        value, node = pair
        assert isinstance(node, ast.Tuple)
        parts = value.values if isinstance(value, Items) else (ANY,) * len(node.elts)
        names = [t.id for t in target.elts if isinstance(t, ast.Name)]
        if len(names) != len(target.elts):
            return False
        fit = [self._may_stand_for(n, e) for n, e in zip(names, node.elts, strict=True)]
        if not all(fit):
            return False
        for name, part, element in zip(names, parts, node.elts, strict=True):
            self.env[name] = (part, element)
        return True

    def _unpacked_names(self, target: ast.Tuple, pair: Pair) -> bool:
        """Assign dictionaries, which are not made, and one thing beside them; whether that was all."""
        value, node = pair
        assert isinstance(node, ast.Tuple)
        parts = value.values if isinstance(value, Items) else ()
        if len(parts) != len(node.elts) or sum(not isinstance(part, Names) for part in parts) > 1 or len(parts) < 2:
            return False
        for one, part, element in zip(target.elts, parts, node.elts, strict=True):
            self._assign(one, (part, element))
        return True

    def _may_stand_for(self, name: str, node: ast.expr) -> bool:
        """Whether a variable need not be made, because another expression that never changes says the same."""
        if self.counts.get(name, 0) != 1 or not is_atom(node) or self.deep:
            return False
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, (ast.Constant, ast.Tuple)):
            return True
        assert isinstance(root, ast.Name)
        own = next((mine for mine, theirs in self.locals.items() if theirs == root.id), root.id)
        return (
            self.counts.get(own, 0) <= (0 if own in self.parameters else 1) and not isinstance(node, ast.Attribute)
        ) or root.id == "self"

    def _augment(self, node: ast.AugAssign) -> None:
        value, right = self.value(node.value)
        if isinstance(value, Names) and isinstance(node.target, ast.Name):
            held, place = self.env[node.target.id]
            assert isinstance(held, Names)
            self.env[node.target.id] = (Names({**held.entries, **value.entries}), place)
            return
        if isinstance(node.target, ast.Name):
            self._pin([node.target.id])
        old = self.value(_loaded(node.target))[0]
        made = self.binary_value(old, value)
        target = self._target(node.target, made)
        self.emit(ast.AugAssign(target=target, op=node.op, value=right))  # type: ignore[arg-type]

    def _attribute_target(self, target: ast.Attribute, value: Value) -> ast.expr:
        base = self.value(target.value)
        self.note_stored(base[0], target.attr, value)
        place = ast.Attribute(value=base[1], attr=target.attr, ctx=ast.Store())
        place.owner = base[0]  # type: ignore[attr-defined]
        if isinstance(base[0], Record):
            place.record = (base[0].kind, target.attr)  # type: ignore[attr-defined]
        return place

    # -- functions -----------------------------------------------------------------------------------------------------

    def frame(self, function: FunctionType, owner: type | None, *, inside: bool = True) -> Frame:
        return Frame(self.program, function, owner, self.names if inside else set(), inside=inside)

    def specialise(self, special: Special) -> None:
        if special.round == self.program.round:
            return
        special.round = self.program.round
        frame = self.frame(special.function, special.owner, inside=False)
        frame.enter(special)
        frame.run(special.tree.body)
        special.body = frame.block
        self.program.meet_result(special, NONE if frame.result is None else frame.result)

    def enter(self, special: Special) -> None:
        """Take what is known of a function's parameters."""
        args = special.tree.args
        known = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
        more: dict[str, Pair] = {}
        packed = [v for v in special.values.values() if isinstance(v, Names)]
        handed = {node.id for v in packed for _, node in v.entries.values() if isinstance(node, ast.Name)}
        for name, value in special.values.items():
            if isinstance(value, Names):
                self.env[name] = (Names(self._handed_over(special, value)), constant(None))
                continue
            if name in ("state", "past_key_values") and solid(value) == Cached():
                special.renamed[name] = "cache"
            pair = self._parameter(special.renamed.get(name, name), value)
            if name in known or (args.vararg and name == args.vararg.arg):
                self.env[name] = pair
            elif name not in handed:
                more[name] = pair
        if args.vararg and not special.rest:
            self.env[args.vararg.arg] = (Items(()), ast.Tuple(elts=[], ctx=ast.Load()))
        if args.kwarg:
            self.env[args.kwarg.arg] = (Names(more), constant(None))
        self.parameters = frozenset(self.env)

    def _handed_over(self, special: Special, value: Names) -> State:
        found: State = {}
        for key, (_, node) in value.entries.items():
            place = node.id if isinstance(node, ast.Name) else key
            found[key] = self._parameter(special.renamed.get(place, place), special.values[place])
        return found

    def _parameter(self, name: str, value: Value) -> Pair:
        if isinstance(value, Known):
            if simple(value.value):
                return value, constant(value.value)
            return value, self.reference(value.value, name)
        return value, name_of(name)


def _loaded(target: ast.expr) -> ast.expr:
    found = clone(target)
    for part in ast.walk(found):
        if isinstance(part, (ast.Name, ast.Attribute, ast.Subscript)):
            part.ctx = ast.Load()
    return found


def _met(one: State, other: State) -> State:
    """What is known where two ways meet."""
    met: State = {}
    for name in [*one, *(n for n in other if n not in one)]:
        mine, theirs = one.get(name), other.get(name)
        if mine is None or theirs is None:
            met[name] = mine or theirs  # type: ignore[assignment]
        elif isinstance(mine[0], Names) and isinstance(theirs[0], Names):
            met[name] = (_met_names(mine[0], theirs[0]), mine[1])
        else:
            met[name] = (join(mine[0], theirs[0]), mine[1])
    return met


def _met_names(one: Names, other: Names) -> Names:
    entries = {}
    for key in [*one.entries, *(k for k in other.entries if k not in one.entries)]:
        mine, theirs = one.entries.get(key), other.entries.get(key)
        if mine is not None and theirs is not None:
            entries[key] = (join(mine[0], theirs[0]), mine[1] if not isinstance(mine[1], ast.Constant) else theirs[1])
        else:
            found = mine or theirs
            assert found is not None
            entries[key] = (join(found[0], NONE), found[1])
    return Names(entries)


def _branched(test: ast.expr, first: list[ast.stmt], second: list[ast.stmt]) -> ast.stmt:
    if not first:
        return ast.If(test=negated(test), body=second, orelse=[])
    return ast.If(test=test, body=first, orelse=second)


def negated(test: ast.expr) -> ast.expr:
    """The opposite of a test."""
    turned = {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return inner
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in turned:
            return ast.Compare(left=left, ops=[turned[type(op)]()], comparators=[right])
    return ast.UnaryOp(op=ast.Not(), operand=test)


__all__ = ["Frame", "lift", "negated"]
