"""Specialising expressions: what each is known to be, and what is left of it to compute."""

from __future__ import annotations

import ast
import builtins
import operator
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import FunctionType
from typing import Any

from torch import nn

from omniform.core.errors import OmniformError
from omniform.export.eject.attributes import Attributes
from omniform.export.eject.program import Program
from omniform.export.eject.symbols import Symbol, expression_of, plain
from omniform.export.eject.trees import attribute, clone, constant, is_atom, name_of, same
from omniform.export.eject.values import (
    ANY,
    NONE,
    SOLID,
    TENSOR,
    Closure,
    Dynamic,
    Items,
    Known,
    Looped,
    Maybe,
    Names,
    Node,
    Number,
    Objects,
    Value,
    gone_over,
    join,
    joined,
    lift,
    may_be_none,
    numbers_of,
    solid,
    truth,
)

Pair = tuple[Value, Node]

COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}

COMPUTED: Mapping[type[ast.operator], Callable[[Any, Any], object]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


class Expressions(Attributes, ABC):
    """What a frame makes of expressions.

    Attributes:
        env: what is known of each variable, and what it is written as.
        block: the statements that are being written.
        deep: how many expressions around this one may leave it out, or repeat it.
    """

    def __init__(self, program: Program, function: FunctionType, owner: type | None) -> None:
        super().__init__(program, function, owner)
        self.env: dict[str, Pair] = {}
        self.block: list[ast.stmt] = []
        self.parameters: frozenset[str] = frozenset()
        self.result: Value | None = None
        self.deep = 0

    @abstractmethod
    def call_of(self, node: ast.Call) -> Pair:
        """A call."""

    # -- all kinds -----------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Pair:
        """What an expression is, and what is left of it."""
        match node:
            case ast.Constant():
                return Known(node.value), clone(node)
            case ast.Name():
                return self._name(node)
            case ast.Attribute():
                return self.attribute_of(self.value(node.value), node.attr)
            case ast.Call():
                return self.call_of(node)
            case ast.Tuple() | ast.List():
                return self._sequence(node)
            case ast.Dict():
                return self._dict(node)
            case ast.BinOp():
                return self._binary(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.BoolOp():
                return self._either(node)
            case ast.Compare():
                return self._compare(node)
            case ast.IfExp():
                return self._choice(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.Slice():
                parts = (None if p is None else self.value(p)[1] for p in (node.lower, node.upper, node.step))
                lower, upper, step = parts
                if (
                    isinstance(lower, ast.UnaryOp)
                    and isinstance(lower.operand, ast.Constant)
                    and not lower.operand.value
                ):
                    lower = None
                return SOLID, ast.Slice(lower=lower, upper=upper, step=step)
        return self._rarer(node)

    def _rarer(self, node: ast.expr) -> Pair:
        match node:
            case ast.GeneratorExp() | ast.ListComp() | ast.SetComp():
                return self._comprehension(node)
            case ast.DictComp():
                return self._dict_comprehension(node)
            case ast.Lambda():
                return self._lambda(node)
            case ast.Starred():
                value, found = self.value(node.value)
                return value, ast.Starred(value=found, ctx=ast.Load())
            case ast.JoinedStr():
                return SOLID, clone(node)
            case ast.Yield():
                given = None if node.value is None else self.value(node.value)[1]
                return ANY, ast.Yield(value=given)
        raise OmniformError(
            "this expression cannot be specialised", where=self.function.__qualname__, found=ast.unparse(node)
        )

    def _name(self, node: ast.Name) -> Pair:
        if node.id in self.env:
            value, found = self.env[node.id]
            return value, clone(found)
        if node.id in self.function.__globals__:
            return self.known(self.function.__globals__[node.id], node.id)
        if self.function.__closure__ and node.id in self.function.__code__.co_freevars:
            cell = self.function.__closure__[self.function.__code__.co_freevars.index(node.id)]
            return self.known(cell.cell_contents, node.id)
        if node.id not in vars(builtins):
            raise OmniformError("this variable is not known", where=self.function.__qualname__, found=node.id)
        return Known(vars(builtins)[node.id]), name_of(node.id)

    def known(self, value: object, name: str) -> Pair:
        """A value that a module holds."""
        found = lift(value)
        if isinstance(found, Number) or (isinstance(value, str) and name.isupper()):
            self.program.constants[name] = plain(value)
            return (found if isinstance(found, Number) else Known(value)), name_of(name)
        if isinstance(value, dict) and not value:
            return Names({}), display({})
        if isinstance(value, dict) and value and all(callable(one) for one in value.values()):
            self.program.tables[name] = value
            return found, name_of(name)
        if isinstance(value, dict) and all(isinstance(part, (str, int, float)) for kv in value.items() for part in kv):
            self.program.constants[name] = value
            return found, name_of(name)
        if isinstance(found, Known):
            return found, self.reference(value, name)
        if isinstance(found, Objects) and is_dataclass(value):
            return self.made_before(value)
        if isinstance(value, dict) or isinstance(found, Items):
            return found, ast.parse(repr(value), mode="eval").body
        raise OmniformError("this value cannot be written down", where=name, found=type(value).__name__)

    def made_before(self, value: object) -> Pair:
        """An object of a dataclass that a module holds, as one that is made where it is used."""
        kind = type(value)
        held = {f.name: getattr(value, f.name) for f in fields(value)}  # type: ignore[arg-type]
        named: dict[str, Pair] = {name: (lift(given), constant(given)) for name, given in held.items()}
        return self.made(kind, named, set(named))

    @abstractmethod
    def made(self, kind: type, pairs: dict[str, Pair], told: set[str]) -> Pair:
        """An object of a dataclass that is made when the program runs."""

    # -- displays ------------------------------------------------------------------------------------------------------

    def _sequence(self, node: ast.Tuple | ast.List) -> Pair:
        elements: list[Node] = []
        values: list[Value] = []
        known = True
        for element in node.elts:
            value, found = self.value(element)
            if isinstance(found, ast.Starred):
                inner = found.value
                if isinstance(value, Items) and isinstance(inner, ast.Tuple) and len(inner.elts) == len(value.values):
                    elements.extend(inner.elts)
                    values.extend(value.values)
                    continue
                if isinstance(value, Looped) and len(node.elts) == 1:
                    return value, type(node)(elts=[found], ctx=ast.Load())
                known = known and isinstance(value, Items)
                over = gone_over(value)
                values.extend(value.values if isinstance(value, Items) else () if over is None else (over,))
            else:
                values.append(value)
            elements.append(found)
        kind = type(node)
        known = known and isinstance(node, ast.Tuple)
        if not known:
            self.program.meet_listed(*values)
        return (Items(tuple(values)) if known else listed(values)), kind(elts=elements, ctx=ast.Load())

    def _dict(self, node: ast.Dict) -> Pair:
        entries: dict[str, Pair] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                inner = self.value(value)[0]
                if not isinstance(inner, Names):
                    raise OmniformError("these keys are not known", where=ast.unparse(node))
                entries.update(inner.entries)
                continue
            named = self.value(key)[0]
            if not isinstance(named, Known) or not isinstance(named.value, str):
                raise OmniformError("these keys are not known", where=ast.unparse(node))
            entries[named.value] = self.value(value)
        return Names(entries), display(entries)

    def _comprehension(self, node: ast.GeneratorExp | ast.ListComp | ast.SetComp) -> Pair:
        if len(node.generators) == 1 and not node.generators[0].ifs:
            value, over = self.value(node.generators[0].iter)
            if isinstance(value, Items) and isinstance(over, ast.Tuple) and len(over.elts) == len(value.values):
                made = [
                    self._with_target(node.generators[0].target, p, node.elt)
                    for p in zip(value.values, over.elts, strict=False)
                ]
                if all(found is not None for found in made):
                    pairs = [found for found in made if found is not None]
                    return Items(tuple(v for v, _ in pairs)), ast.Tuple(elts=[n for _, n in pairs], ctx=ast.Load())
        before = dict(self.env)
        self.deep += 1
        generators, length = [], None
        for generator in node.generators:
            value, over = self.value(generator.iter)
            length = len(value.values) if isinstance(value, Items) else None
            target = self._bind(generator.target, self.element(value))
            ifs = [self.value(test)[1] for test in generator.ifs]
            generators.append(ast.comprehension(target=target, iter=over, ifs=ifs, is_async=0))
        value, element = self.value(node.elt)
        if isinstance(value, Names):
            element, value = display(value.entries), SOLID
        self.deep -= 1
        self.env = before
        single = len(generators) == 1 and not generators[0].ifs and length is not None
        found = type(node)(elt=element, generators=generators)
        if not single:
            self.program.meet_listed(value)
        return (Items((value,) * length) if single and length is not None else listed([value])), found

    def _with_target(self, target: ast.expr, pair: Pair, element: ast.expr) -> Pair | None:
        """A comprehension's element for one of the things that it goes over; None where that is used twice."""
        if not isinstance(target, ast.Name) or not is_atom(pair[1]):
            return None
        before = dict(self.env)
        self.env[target.id] = pair
        found = self.value(element)
        self.env = before
        return found

    def _bind(self, target: ast.expr, value: Value) -> ast.expr:
        """The variables of a comprehension or a lambda, which are its own."""
        match target:
            case ast.Name(id=name):
                self.env[name] = (value, name_of(name))
                return ast.Name(id=name, ctx=ast.Store())
            case ast.Tuple(elts=elts):
                parts = self.parts(value, len(elts), elts)
                return ast.Tuple(elts=[self._bind(t, v) for t, v in zip(elts, parts, strict=True)], ctx=ast.Store())
        raise OmniformError("this cannot be assigned to", found=ast.unparse(target))

    def _dict_comprehension(self, node: ast.DictComp) -> Pair:
        generator = node.generators[0]
        before, entries = dict(self.env), {}
        for known in self._keys_gone_over(node):
            self.env.update(known)
            tests = [truth(self.value(test)[0]) for test in generator.ifs]
            if False in tests:
                continue
            named, item = self.value(node.key)[0], self.value(node.value)
            # An input that may be missing stays as one that may be None: who asks for it gets the same.
            if not isinstance(named, Known) or (None in tests and not isinstance(item[0], Maybe)):
                raise OmniformError("these keys are not known", where=ast.unparse(node))
            entries[str(named.value)] = item
        self.env = before
        return Names(entries), constant(None)

    def _keys_gone_over(self, node: ast.DictComp) -> list[dict[str, Pair]]:
        """The variables of a dict's comprehension, for each of the names that it goes over: those of a mapping, or a
        class's fields."""
        over, target = self.value(node.generators[0].iter)[0], node.generators[0].target
        if isinstance(over, Names) and isinstance(target, ast.Tuple):
            key, item = (t.id for t in target.elts if isinstance(t, ast.Name))
            return [{key: (Known(n), constant(n)), item: pair} for n, pair in over.entries.items()]
        names = [*over.value] if isinstance(over, Known) and isinstance(over.value, (dict, tuple)) else []
        if isinstance(over, Items):
            names = [part.value if isinstance(part, Known) else None for part in over.values]
        if names and isinstance(target, ast.Name) and all(isinstance(name, str) for name in names):
            return [{target.id: (Known(n), constant(n))} for n in names]
        raise OmniformError("these keys are not known", where=ast.unparse(node))

    def _lambda(self, node: ast.Lambda) -> Pair:
        before = dict(self.env)
        names = tuple(a.arg for a in node.args.args)
        for name in names:
            self.env[name] = (TENSOR, name_of(name))
        self.deep += 1
        value, body = self.value(node.body)
        self.deep -= 1
        self.env = before
        return Closure(value, names), ast.Lambda(args=clone(node.args), body=body)

    # -- operators -----------------------------------------------------------------------------------------------------

    def _binary(self, node: ast.BinOp) -> Pair:
        (one, left), (other, right) = self.value(node.left), self.value(node.right)
        numbers = numbers_of([one, other])
        if numbers is not None and type(node.op) in COMPUTED and len(numbers[0]) == len(numbers[1]) == 1:
            try:
                made = COMPUTED[type(node.op)](numbers[0][0], numbers[1][0])
            except (ZeroDivisionError, OverflowError):
                made = None
            if isinstance(made, (int, float)):
                return Number((made,)), ast.BinOp(left=left, op=node.op, right=right)
        if isinstance(one, Names) and isinstance(other, Names) and isinstance(node.op, ast.BitOr):
            return Names({**one.entries, **other.entries}), display({**one.entries, **other.entries})
        if isinstance(one, Items) and isinstance(other, Items) and isinstance(node.op, ast.Add):
            return Items((*one.values, *other.values)), ast.BinOp(left=left, op=node.op, right=right)
        return self.binary_value(one, other), ast.BinOp(left=left, op=node.op, right=right)

    def binary_value(self, one: Value, other: Value) -> Value:
        """What two operands give."""
        tensors = [v for v in (one, other) if isinstance(solid(v), Dynamic) and solid(v) != SOLID]
        return TENSOR if any(isinstance(solid(v), Dynamic) and solid(v).kind == "tensor" for v in tensors) else SOLID  # type: ignore[attr-defined]

    def _unary(self, node: ast.UnaryOp) -> Pair:
        value, found = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            known = truth(value)
            if known is not None:
                return Known(not known), constant(not known)
            from omniform.export.eject.frames import negated

            return SOLID, negated(found)
        if isinstance(node.op, ast.USub) and isinstance(value, Known) and isinstance(value.value, (int, float)):
            return Known(-value.value), ast.UnaryOp(op=node.op, operand=found)
        return (TENSOR if value == TENSOR else SOLID), ast.UnaryOp(op=node.op, operand=found)

    def _either(self, node: ast.BoolOp) -> Pair:
        ends = isinstance(node.op, ast.Or)
        left: list[Pair] = []
        before = dict(self.env)
        for part in node.values:
            value, found = self.value(part)
            known = None if len(node.values) == 1 or not self.dims_assumed(found) else True
            known = truth(value) if known is None else known
            if known is ends:
                if not left or not ends or value == Known(True):  # who asks ``x or True`` asks whether it holds
                    self.deep -= sum(truth(v) is None for v, _ in left)
                    self.env = before
                    return value, found
                left.append((value, found))
                break
            if known is None:
                left.append((value, found))
                self.deep += 1
                if not ends:
                    self._narrow(part, True)
        self.deep -= sum(truth(v) is None for v, _ in left)
        self.env = {**self.env, **dict(before.items())}
        if not left:
            return value, found
        if len(left) == 1:
            return left[0]
        return joined(v for v, _ in left), ast.BoolOp(op=node.op, values=[n for _, n in left])

    def _narrow(self, test: ast.expr, holds: bool) -> None:
        """What a test tells of variables."""

    def _compare(self, node: ast.Compare) -> Pair:
        one, left = self.value(node.left)
        found = [self.value(c) for c in node.comparators]
        whole = ast.Compare(left=left, ops=node.ops, comparators=[n for _, n in found])
        if len(found) != 1:
            return SOLID, whole
        other, op = found[0][0], node.ops[0]
        answer = self._compared(one, op, other)
        if isinstance(op, (ast.Is, ast.IsNot)) and NONE in (one, other):
            looked_at = one if other == NONE else other
            answer = isinstance(op, ast.Is) if looked_at == NONE else None
            if not may_be_none(looked_at):
                answer = isinstance(op, ast.IsNot)
        if answer is None:
            return (TENSOR if TENSOR in (one, other) else SOLID), whole
        return Known(answer), constant(answer)

    def _compared(self, one: Value, op: ast.cmpop, other: Value) -> bool | None:
        if isinstance(one, Known) and isinstance(other, Known):
            if isinstance(op, (ast.Is, ast.IsNot)):
                return (one.value is other.value) == isinstance(op, ast.Is)
            if isinstance(op, (ast.In, ast.NotIn)) and isinstance(other.value, (str, dict, frozenset)):
                return (one.value in other.value) == isinstance(op, ast.In)
            if (type(op) in COMPARED and type(one.value) is type(other.value)) or isinstance(one.value, str):
                return bool(COMPARED[type(op)](one.value, other.value)) if type(op) in COMPARED else None
        known = isinstance(other, Items) and all(isinstance(v, Known) for v in other.values)
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(one, Known) and isinstance(other, Items) and known:
            return (one in other.values) == isinstance(op, ast.In)
        numbers = numbers_of([one, other])
        if numbers is None or type(op) not in COMPARED or not (isinstance(one, Known) or isinstance(other, Known)):
            return None
        answers = {bool(COMPARED[type(op)](plain(a), plain(b))) for a in numbers[0] for b in numbers[1]}
        if len(answers) != 1:
            return None
        answer = answers.pop()
        for a in numbers[0]:
            for b in numbers[1]:
                if isinstance(a, Symbol) or isinstance(b, Symbol):
                    test = ast.Compare(left=expression_of(a), ops=[op], comparators=[expression_of(b)])
                    self.program.assumed[ast.unparse(test)] = (test, answer)
        return answer

    def dims_assumed(self, test: ast.expr) -> bool:
        """Whether a test asks how many axes a mask has, which is taken for granted to be two."""
        match test:
            case ast.Compare(
                left=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="dim")),
                ops=[ast.Eq()],
                comparators=[ast.Constant(value=2)],
            ):
                return "mask" in name
        return False

    def _choice(self, node: ast.IfExp) -> Pair:
        value, test = self.value(node.test)
        known = truth(value)
        if known is not None:
            return self.value(node.body if known else node.orelse)
        before = dict(self.env)
        self.deep += 1
        self._narrow(node.test, True)
        one, first = self.value(node.body)
        self.env = dict(before)
        self._narrow(node.test, False)
        other, second = self.value(node.orelse)
        self.env = before
        self.deep -= 1
        if same(first, second):
            return one, first
        return join(one, other), ast.IfExp(test=test, body=first, orelse=second)

    def _subscript(self, node: ast.Subscript) -> Pair:
        base, found = self.value(node.value)
        key, index = self.value(node.slice)
        whole = ast.Subscript(value=found, slice=index, ctx=ast.Load())
        if isinstance(base, Names) and isinstance(key, Known):
            value, held = base.entries[str(key.value)]
            return value, clone(held)
        if isinstance(base, Known) and isinstance(base.value, dict) and isinstance(key, Known):
            return self.known(base.value[key.value], str(key.value))
        if isinstance(base, Items):
            number = key.value if isinstance(key, Known) else None
            if isinstance(number, int) and not -len(base.values) <= number < len(base.values):
                return SOLID, whole  # where nothing is so short: the condition before it is not known here
            if isinstance(number, int):
                if isinstance(found, ast.Tuple) and len(found.elts) == len(base.values):
                    return base.values[number], found.elts[number]
                return base.values[number], whole
            return joined(base.values) if base.values and not isinstance(node.slice, ast.Slice) else SOLID, whole
        if isinstance(base, Objects):
            if isinstance(node.slice, ast.Slice):
                return base, whole
            return self._child(base, key), whole
        if (
            isinstance(node.slice, ast.Slice)
            and isinstance(index, ast.Slice)
            and not (index.lower or index.upper or index.step)
        ):
            return base, found
        return (TENSOR if isinstance(base, Dynamic) and base.kind == "tensor" else SOLID), whole

    def _child(self, base: Objects, key: Value) -> Value:
        lists = [item for item in base.items if isinstance(item, (nn.ModuleList, nn.Sequential))]
        if isinstance(key, Known) and isinstance(key.value, int):
            return joined(lift(item[key.value]) for item in lists)
        if any(not isinstance(item, nn.ModuleList) for item in base.items):
            return SOLID
        return joined(lift(child) for item in lists for child in item)

    # -- parts ---------------------------------------------------------------------------------------------------------

    def element(self, value: Value) -> Value:
        """What is known of what a loop goes over."""
        return gone_over(value) or (TENSOR if value == TENSOR else ANY)

    def parts(self, value: Value, count: int, targets: Sequence[ast.expr]) -> list[Value]:
        """What is known of each part of what is unpacked."""
        if isinstance(value, Maybe):
            value = value.inner
        if isinstance(value, Items):
            starred = [i for i, t in enumerate(targets) if isinstance(t, ast.Starred)]
            if starred:
                at, after = starred[0], count - starred[0] - 1
                whole = value.values
                stop = len(whole) - after
                return [*whole[:at], Items(whole[at:stop]), *whole[stop:]]
            return list(value.values) if len(value.values) == count else [joined(value.values)] * count
        if isinstance(value, Objects):
            lists = [item for item in value.items if isinstance(item, nn.ModuleList)]
            starred = [i for i, t in enumerate(targets) if isinstance(t, ast.Starred)]
            if lists and starred:
                rows = [self.parts(lift([*item]), count, targets) for item in lists]
                return [any_of(row[i] for row in rows) for i in range(count)]
            if lists and all(len(item) == count for item in lists):
                return [joined(lift(item[i]) for item in lists) for i in range(count)]
        if isinstance(value, Looped):
            return [value.inner] * count
        return [TENSOR if value == TENSOR else SOLID] * count


def display(entries: Mapping[str, Pair]) -> ast.Dict:
    """A dictionary that is made when the program runs, where it is more than keyword arguments."""
    return ast.Dict(keys=[constant(key) for key in entries], values=[node for _, node in entries.values()])


def listed(values: Sequence[Value]) -> Value:
    """A list, which may grow later: what is told of it is that it holds modules, if nothing else is in it."""
    return Looped(joined(values)) if values and all(isinstance(v, Objects) for v in values) else SOLID


def any_of(values: Iterable[Value]) -> Value:
    """One of some values; of lists that are not equally long, a list of whatever stands in them."""
    held = list(values)
    lengths = {len(value.values) for value in held if isinstance(value, Items)}
    if len(lengths) > 1:
        return Looped(joined(part for value in held if isinstance(value, Items) for part in value.values))
    return joined(held)


FUNCTION_KINDS = (types.FunctionType, types.BuiltinFunctionType)
attribute_node = attribute
