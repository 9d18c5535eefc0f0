"""Making what was specialised fit to be read: what nothing needs goes, and short functions go into their callers."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterable

from omniform.core.context import StepContext
from omniform.export.eject.program import Special
from omniform.export.eject.trees import (
    clone,
    constant,
    is_atom,
    map_blocks,
    name_of,
    names_read,
    returns,
    same,
    size,
    stored,
    substituted,
)

WRITING = ("append", "extend", "advance", "write", "keep", "refill", "__init__")
"""Methods that are called for what they change."""

SHORT = 22
"""So large a function's one expression may be that is written in the places of its calls."""

LONG = 45
"""A function into which another is written has so many statements at most."""


def tidied(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's body without what nothing reads."""
    body = [Simpler().visit(node) for node in body]
    body = map_blocks(body, _plain_block)
    return _without_dead(body, set())[0]


class Simpler(ast.NodeTransformer):
    """Writes expressions shorter."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            if _is_one(node.right):
                return node.left
            if _is_one(node.left):
                return node.right
        if isinstance(node.op, ast.Add) and isinstance(node.left, ast.Constant) and node.left.value == 0:
            return node.right
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        turned = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and type(inner.ops[0]) in turned:
            return ast.Compare(left=inner.left, ops=[turned[type(inner.ops[0])]()], comparators=inner.comparators)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.value, ast.Constant) and node.value.value is None:
            return node.value  # a part of what is None in this model: it stands behind a test for it, and is never met
        index = node.slice
        parts = index.elts if isinstance(index, ast.Tuple) else [index]
        whole = all(isinstance(p, ast.Slice) and p.lower is p.upper is p.step is None for p in parts)
        return node.value if whole and isinstance(node.ctx, ast.Load) else node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        self.generic_visit(node)
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=[ast.Starred(value=inner), *rest])):
                ends = targets[len(targets) - len(rest) :]
                if rest and all(
                    isinstance(t, ast.Name) and isinstance(v, ast.Name) and t.id == v.id
                    for t, v in zip(ends, rest, strict=True)
                ):
                    node.targets = [ast.Tuple(elts=targets[: len(targets) - len(rest)], ctx=ast.Store())]
                    node.value = inner
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        match node:
            case ast.IfExp(
                test=ast.Compare(left=looked, ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]),
                body=first,
                orelse=ast.Constant(value=None),
            ) if same(looked, first):
                return first
        return first if same(first := node.body, node.orelse) else node

    def visit_For(self, node: ast.For) -> ast.stmt:
        self.generic_visit(node)
        match node:
            case ast.For(
                target=ast.Tuple(elts=[ast.Name(id=number), item]),
                iter=ast.Call(func=ast.Name(id="enumerate"), args=[over], keywords=[]),
            ) if number not in names_read(node.body):
                node.target, node.iter = item, over
        return node


def _same_name(one: ast.expr, other: ast.expr) -> bool:
    return isinstance(one, ast.Name) and isinstance(other, ast.Name) and one.id == other.id


def _is_one(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value == 1.0


def _plain_block(body: list[ast.stmt]) -> list[ast.stmt]:
    made: list[ast.stmt] = []
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=same_name)) if name == same_name:
                continue
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if len(targets) == len(
                values
            ) and all(map(_same_name, targets, values)):
                continue
            case ast.If(test=test, body=first, orelse=second):
                if all(isinstance(s, ast.Pass) for s in first):
                    if not second:
                        continue
                    node = ast.If(test=ast.UnaryOp(op=ast.Not(), operand=test), body=second, orelse=[])
            case ast.Expr(value=ast.Constant()):
                continue
            case ast.Return(value=ast.Name(id=name)) if made:
                last = made[-1]
                match last:
                    case ast.Assign(targets=[ast.Name(id=other)], value=value) if other == name:
                        made.pop()
                        node = _noted(ast.Return(value=value), last, node)
        made.append(node)
    return made or [ast.Pass()]


def _noted(new: ast.stmt, *old: ast.stmt) -> ast.stmt:
    notes = [note for node in old for note in vars(node).get("notes", [])]
    if notes:
        new.notes = notes  # type: ignore[attr-defined]
    return new


def is_pure(node: ast.AST) -> bool:
    """Whether computing an expression changes nothing."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            name = part.func.attr
            if name in WRITING or (name.endswith("_") and not name.endswith("__")):
                return False
        if isinstance(part, (ast.Yield, ast.NamedExpr)):
            return False
    return True


def _targets(node: ast.expr) -> set[str] | None:
    """The variables that are assigned to; None where it is more than variables."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Starred):
        return _targets(node.value)
    if isinstance(node, ast.Tuple):
        found = [_targets(element) for element in node.elts]
        return None if any(f is None for f in found) else {name for f in found if f is not None for name in f}
    return None


def _without_dead(body: list[ast.stmt], live: set[str]) -> tuple[list[ast.stmt], set[str]]:
    """Statements without assignments that nothing reads; and what is read before them.

    Args:
        live: what is read after them.
    """
    made: list[ast.stmt] = []
    live = set(live)
    for node in reversed(body):
        match node:
            case ast.Assign(targets=[target]):
                names = _targets(target)
                if names is not None and not names & live:
                    if is_pure(node.value):
                        continue
                    node = _noted(ast.Expr(value=node.value), node)
                elif names is not None:
                    if isinstance(target, ast.Tuple) and len(target.elts) > 1:
                        _thinned(node, target, live, names, after=live)
                    live -= names
                if names is None:
                    live |= names_read([target]).keys()
                live |= names_read([node]).keys()
            case ast.If():
                first, one = _without_dead(node.body, live)
                second, two = _without_dead(node.orelse, live)
                if not first and not second:
                    if is_pure(node.test):
                        continue
                    first = [ast.Pass()]
                node.body, node.orelse = first or [ast.Pass()], second
                live = one | two | names_read([node.test]).keys()
            case ast.For():
                around = live | names_read([node]).keys()
                node.body = _without_dead(node.body, around)[0] or [ast.Pass()]
                _unnamed(node.target, {*names_read(node.body), *live})
                live = around
            case ast.With():
                node.body, live = _without_dead(node.body, live)
                live |= names_read([item.context_expr for item in node.items]).keys()
            case ast.Return() | ast.Raise():
                live = set(names_read([node]))
            case ast.AugAssign(target=ast.Name(id=name)) if name not in live and is_pure(node.value):
                continue
            case ast.AugAssign(target=ast.Name(id=name)):
                live |= {name, *names_read([node.value])}
            case ast.Pass():
                if len(body) > 1:
                    continue
            case _:
                live |= names_read([node]).keys()
        made.append(node)
    made.reverse()
    return made, live


def _thinned(node: ast.Assign, target: ast.Tuple, live: set[str], names: set[str], *, after: set[str]) -> None:
    """Leave out of a display what goes into variables that nothing reads."""
    places = [i for i, t in enumerate(target.elts) if _targets(t) is None or (_targets(t) or set()) & live]
    if len(places) == len(target.elts):
        return
    plain = not any(isinstance(t, ast.Starred) for t in target.elts)
    match node.value:
        case ast.Tuple(elts=values) if plain and len(values) == len(target.elts) and not _starred(values):
            if all(is_pure(v) for i, v in enumerate(values) if i not in places):
                _narrowed(node, target, [values[i] for i in places], places)
        case ast.Subscript(value=ast.Attribute(attr="shape") as shape, slice=ast.Slice(lower=None)) if (
            plain and len(places) == 1
        ):
            index = ast.Subscript(value=shape, slice=constant(places[0]), ctx=ast.Load())
            _narrowed(node, target, [index], places)
        case _:
            for i, one in enumerate(target.elts):
                if i not in places:
                    _unnamed(one, live)


def _unnamed(target: ast.expr, read: Collection[str]) -> None:
    """Call variables that nothing reads ``_``."""
    match target:
        case ast.Name(id=name) if name not in read:
            target.id = "_"
        case ast.Starred(value=inner):
            _unnamed(inner, read)
        case ast.Tuple(elts=elts):
            for one in elts:
                _unnamed(one, read)


def _starred(values: Iterable[ast.expr]) -> bool:
    return any(isinstance(value, ast.Starred) for value in values)


def _narrowed(node: ast.Assign, target: ast.Tuple, values: list[ast.expr], places: list[int]) -> None:
    left = [target.elts[i] for i in places]
    node.targets = [left[0] if len(left) == 1 else ast.Tuple(elts=left, ctx=ast.Store())]
    node.value = values[0] if len(values) == 1 else ast.Tuple(elts=values, ctx=ast.Load())


# -- calls into their callers ------------------------------------------------------------------------------------------


def one_expression(special: Special) -> ast.expr | None:
    """What a function gives, if that is one short expression."""
    if len(special.body) == 1 and isinstance(special.body[0], ast.Return) and special.body[0].value is not None:
        return special.body[0].value
    return None


class Inliner(ast.NodeTransformer):
    """Writes short functions in the places of their calls.

    Args:
        uses: how often each function is called.
        here: the function that is written into.
    """

    def __init__(self, uses: dict[int, int], here: Special, keep: Callable[[Special], bool]) -> None:
        self.uses, self.here, self.keep, self.changed = uses, here, keep, False

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        specials = vars(node).get("specials")
        if not specials or len(specials) != 1 or specials[0] is self.here:
            return node
        expression = one_expression(specials[0])
        if self.keep(specials[0]) and (not isinstance(expression, ast.Name) or specials[0].name == "__init__"):
            return node
        if expression is None or (size(expression) > SHORT and self.uses.get(id(specials[0]), 0) > 1):
            return node
        given = arguments_of(node, specials[0])
        if given is None:
            return node
        used = names_read([expression])
        if any(used.get(name, 0) > 1 and not is_atom(arg) for name, arg in given.items()):
            return node
        inner = {a.id for a in ast.walk(expression) if isinstance(a, ast.Name) and isinstance(a.ctx, ast.Store)}
        inner |= {a.arg for a in ast.walk(expression) if isinstance(a, ast.arg)}
        if inner & {n for arg in given.values() for n in names_read([arg])}:
            return node
        self.changed = True
        return substituted(clone(expression), given)


def arguments_of(node: ast.Call, special: Special) -> dict[str, ast.expr] | None:
    """A call's arguments by parameter; None where they cannot be told."""
    given: dict[str, ast.expr] = {}
    names = vars(node).get("given_to", [])
    if any(isinstance(arg, ast.Starred) for arg in node.args) or special.rest:
        return None
    for name, arg in zip(names, node.args, strict=True):
        given[special.renamed.get(name, name)] = arg
    for keyword in node.keywords:
        assert keyword.arg is not None
        given[special.renamed.get(keyword.arg, keyword.arg)] = keyword.value
    if special.owner is not None:
        by_name = isinstance(node.func, ast.Attribute) and node.func.attr == special.name
        given["self"] = node.func.value if by_name and isinstance(node.func, ast.Attribute) else node.func
    for name, default in _defaults(special.tree.args).items():
        given.setdefault(special.renamed.get(name, name), clone(default))
    return given


def _defaults(args: ast.arguments) -> dict[str, ast.Constant]:
    """What parameters are where a call does not say, by their names."""
    order = [a.arg for a in (*args.posonlyargs, *args.args)]
    found = dict(zip(order[len(order) - len(args.defaults) :], args.defaults, strict=True))
    found |= {a.arg: d for a, d in zip(args.kwonlyargs, args.kw_defaults, strict=True) if d is not None}
    return {name: default for name, default in found.items() if isinstance(default, ast.Constant)}


def spliced(special: Special, uses: dict[int, int], keep: Callable[[Special], bool]) -> bool:
    """Write a function that is called once, by a statement of its own, into it; whether there was one."""
    changed = False

    def change(body: list[ast.stmt]) -> list[ast.stmt]:
        nonlocal changed
        made: list[ast.stmt] = []
        for node in body:
            found = None if changed else _splice(special, node, uses, keep)
            changed = changed or found is not None
            made.extend([node] if found is None else found)
        return made

    special.body = map_blocks(special.body, change)
    return changed


def _splice(
    here: Special, node: ast.stmt, uses: dict[int, int], keep: Callable[[Special], bool]
) -> list[ast.stmt] | None:
    if not isinstance(node, (ast.Assign, ast.Return)) or not isinstance(node.value, ast.Call):
        return None
    specials = vars(node.value).get("specials")
    if not specials or len(specials) != 1 or specials[0] is here:
        return None
    callee: Special = specials[0]
    if uses.get(id(callee), 0) != 1 or keep(callee) or callee.is_property:
        return None
    count = sum(isinstance(n, ast.stmt) for s in (*here.body, *callee.body) for n in ast.walk(s))
    tail = isinstance(node, ast.Return)
    if count > LONG or (not tail and returns(callee.body[:-1])):
        return None
    if not tail and not (callee.body and isinstance(callee.body[-1], ast.Return)):
        return None
    given = arguments_of(node.value, callee)
    if given is None:
        return None
    return _written_in(here, node, callee, given)


def _written_in(
    here: Special, node: ast.Assign | ast.Return, callee: Special, given: dict[str, ast.expr]
) -> list[ast.stmt]:
    body = [clone(statement) for statement in callee.body]
    assigned, used = stored(body), names_read(body)
    taken = set(stored(here.body)) | set(names_read(here.body)) | set(here.values)
    lets: list[ast.stmt] = []
    places: dict[str, ast.expr] = {}
    renamed: dict[str, str] = {}
    targets = _targets(node.targets[0]) or set() if isinstance(node, ast.Assign) else set()
    for name in assigned:
        arg = given.get(name)
        if name in given and isinstance(arg, ast.Name) and arg.id == name and isinstance(node, ast.Return):
            continue
        # A variable that nothing but this call reads may be the callee's own from here on.
        handed = isinstance(arg, ast.Name) and arg.id == name
        lone = handed and names_read(here.body).get(name) == names_read([node]).get(name) == 1
        free = (lone and not _in_loop(here.body, node)) or (
            name not in names_read(given.values())
            and (isinstance(node, ast.Return) or (name in targets and name not in given))
        )
        if name in taken and not free:
            renamed[name] = _free(name, taken | set(assigned) | set(used))
            taken.add(renamed[name])
    for name, arg in given.items():
        if name in assigned:
            place = renamed.get(name, name)
            if not (isinstance(arg, ast.Name) and arg.id == place):
                lets.append(ast.Assign(targets=[ast.Name(id=place, ctx=ast.Store())], value=arg))
        elif (is_atom(arg) and not _reassigned(arg, body, renamed)) or (
            used.get(name, 0) == 1 and isinstance(arg, ast.Constant)
        ):
            places[name] = arg
        elif used.get(name, 0):
            place = name if name not in taken or (isinstance(arg, ast.Name) and arg.id == name) else _free(name, taken)
            taken.add(place)
            renamed[name] = place
            lets.append(ast.Assign(targets=[ast.Name(id=place, ctx=ast.Store())], value=arg))
    body = [_Renamed(renamed, places).visit(statement) for statement in body]
    if isinstance(node, ast.Assign):
        last = body[-1]
        assert isinstance(last, ast.Return)
        body[-1] = _noted(ast.Assign(targets=node.targets, value=last.value or constant(None)), last)
    whole = [*lets, *body]
    if whole:
        _noted(whole[0], node, whole[0])
    return whole


def _in_loop(body: list[ast.stmt], node: ast.stmt) -> bool:
    """Whether a statement may run more than once."""
    loops = [part for one in body for part in ast.walk(one) if isinstance(part, ast.For)]
    return any(part is node for loop in loops for part in ast.walk(loop))


def _reassigned(arg: ast.expr, body: Iterable[ast.stmt], renamed: dict[str, str]) -> bool:
    """Whether what an argument reads is assigned to in a body."""
    assigned = {renamed.get(name, name) for name in stored(body)}
    return bool(assigned & names_read([arg]).keys())


def _free(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


class _Renamed(ast.NodeTransformer):
    def __init__(self, names: dict[str, str], places: dict[str, ast.expr]) -> None:
        self.names, self.places = names, places

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.places and isinstance(node.ctx, ast.Load):
            return clone(self.places[node.id])
        if node.id in self.names:
            new = clone(node)
            new.id = self.names[node.id]
            return new
        return node


__all__ = ["Inliner", "arguments_of", "spliced", "tidied"]
_ = (StepContext, name_of)
