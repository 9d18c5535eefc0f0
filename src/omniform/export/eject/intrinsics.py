"""Calls whose meaning is known here: of Python's functions, of tensors, of the cache, of what only engines need."""

from __future__ import annotations

import ast
import inspect
from abc import abstractmethod

import torch
from torch import Tensor, nn

from omniform.blocks.lowering import Stack
from omniform.core.caches import DynamicCache
from omniform.core.context import StepContext, Taps
from omniform.core.errors import OmniformError
from omniform.core.paired_cache import EncoderDecoderCache
from omniform.core.state import DenseState
from omniform.export.eject.expressions import Expressions, Pair, display
from omniform.export.eject.sources import in_house
from omniform.export.eject.trees import attribute, call, clone, constant, is_atom, name_of
from omniform.export.eject.values import (
    ANY,
    NONE,
    SOLID,
    TENSOR,
    Cached,
    Closure,
    Dynamic,
    Items,
    Known,
    Looped,
    Maybe,
    Names,
    Objects,
    Record,
    Unseen,
    Value,
    lift,
    may_be_none,
    solid,
)

CACHE = (DynamicCache, EncoderDecoderCache, DenseState)

KNOWN_CALLS: dict[type, Value] = {Taps: Unseen()}
"""What making an object of a class comes to."""

SKIPPED = frozenset(
    {
        "check_shape",
        "check_mask",
        "_check_position_ids",
        "check_pictures",
        "check_positions",
        "check_prompts",
        "check_one",
        "check_map",
        "check_ids",
        "_check_rows",
        "check_arguments",
        "PatchStem.check",
        "Model.__post_init__",
        "Head.__post_init__",
        "Cache.settle",
        "TextStack.named",
    }
)
"""Functions that look at what comes in only."""

GENERATED = frozenset({"__init__", "__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__", "__getstate__",
    "__setstate__", "__replace__"})  # fmt: skip
"""What Python writes for every dataclass."""

FOLDED = {"is_grad_enabled": True, "is_exporting": False, "is_compiling": False}
"""What torch is taken to say."""

HOST = {
    "is_traced": False, "is_jit_traced": False, "is_readable": True, "is_recorded": False, "is_rounded": False,
}  # fmt: skip
"""What :mod:`omniform.core.host` is taken to say."""


FUSED = frozenset({"fused_norm", "fused_turn", "fused_gate"})
"""Kernels of :mod:`omniform.blocks.small`, which are no part of a file: they say that they do not help."""

PLAIN_METHODS = frozenset(name for kind in (Tensor, list, dict, str, int, torch.Generator) for name in dir(kind))
"""What may be called of a value of which nothing is known."""


class Intrinsics(Expressions):
    """What a frame makes of such calls."""

    @abstractmethod
    def arguments(self, node: ast.Call) -> tuple[list[Pair], dict[str, Pair]]:
        """The arguments of a call."""

    @abstractmethod
    def _called(self, target: Pair, given: list[Pair], named: dict[str, Pair]) -> Pair: ...

    def intrinsic(self, node: ast.Call) -> Pair | None:
        """A call that is known here; None for any other."""
        match node.func:
            case ast.Name(id=name) if name not in self.env:
                return self._by_name(node, name)
            case ast.Attribute(attr=name, value=ast.Name(id="torch")) if name in FOLDED:
                return Known(FOLDED[name]), constant(FOLDED[name])
            case ast.Attribute(attr=name, value=ast.Attribute(attr="compiler")):
                return Known(False), constant(False)
            case ast.Attribute(attr="once"):
                return self._once(node)
            case ast.Attribute(attr="with_"):
                return self._with_changes(node)
            case ast.Attribute(attr="state_for"):
                return self.value(node.args[0])
            case ast.Attribute(attr=made, value=ast.Name(id=name)) if name not in self.env:
                kind = self.function.__globals__.get(name)
                if isinstance(kind, type) and issubclass(kind, StepContext):
                    return self._context(node, kind, made)
            case ast.Attribute(attr="noted"):
                return self._noted(node)
        return None

    def _by_name(self, node: ast.Call, name: str) -> Pair | None:
        if name in SKIPPED or name in FUSED:
            return NONE, constant(None)
        if name in HOST:
            return Known(HOST[name]), constant(HOST[name])
        match name:
            case "cast":
                return self.value(node.args[1])
            case "isinstance":
                return self._isinstance(node)
            case "encoder_output" | "counted" | "list" if len(node.args) == 1:
                return self._handed_on(node, name)
            case "counts_of":
                x, kinds = (self.value(a)[1] for a in node.args)
                counted = call(attribute(call(attribute(x, "flatten")), "bincount"), minlength=kinds)
                return SOLID, call(attribute(counted, "tolist"))
            case "tuple":
                value, found = self.value(node.args[0])
                if isinstance(value, Unseen):
                    return Items(()), found
                if isinstance(found, ast.Tuple):
                    return value, found
                return value if isinstance(value, Items) else SOLID, call(name_of("tuple"), [found])
            case "map":
                return self._map(node)
            case "zip" | "enumerate" | "reversed" | "range":
                return self._iterated(node, name)
            case "len":
                return self._len(node)
            case "any" | "all" | "max" | "min" | "sum" | "int" | "float" | "bool" | "id" | "abs" | "round" | "sorted":
                given, named = self.arguments(node)
                return self._builtin(name, given, named)
            case "getattr":
                return self._getattr(node)
        return None

    def _handed_on(self, node: ast.Call, name: str) -> Pair:
        value, found = self.value(node.args[0])
        if name == "list" and not isinstance(value, Objects):
            return value, call(name_of("list"), [found])
        return value, found

    def _builtin(self, name: str, given: list[Pair], named: dict[str, Pair]) -> Pair:
        whole = ast.Call(
            func=name_of(name),
            args=[n for _, n in given],
            keywords=[ast.keyword(arg=k, value=n) for k, (_, n) in named.items()],
        )
        tensors = name == "sum" and (any(v == TENSOR for v, _ in given))
        return (TENSOR if tensors else SOLID), whole

    def _len(self, node: ast.Call) -> Pair:
        value, found = self.value(node.args[0])
        if isinstance(value, Items):
            return lift(len(value.values)), call(name_of("len"), [found])
        if isinstance(value, Names):
            return Known(len(value.entries)), constant(len(value.entries))
        return SOLID, call(name_of("len"), [found])

    def _map(self, node: ast.Call) -> Pair:
        value, over = self.value(node.args[1])
        if not isinstance(value, Items) or not isinstance(over, ast.Tuple):
            target = self._callable(node.args[0])
            return Looped(self._called(target, [(TENSOR, name_of("x"))], {})[0]), call(
                name_of("map"), [target[1], over]
            )
        pairs = []
        for part, element in zip(value.values, over.elts, strict=True):
            if isinstance(node.args[0], ast.Attribute):
                holder = f"§{len(self.env)}"
                self.env[holder] = (part, element)
                pairs.append(self.call_of(ast.Call(func=node.args[0], args=[name_of(holder)], keywords=[])))
                del self.env[holder]
            else:
                pairs.append(self._called(self.value(node.args[0]), [(part, element)], {}))
        return Items(tuple(v for v, _ in pairs)), ast.Tuple(elts=[n for _, n in pairs], ctx=ast.Load())

    def _callable(self, node: ast.expr) -> Pair:
        return self.value(node)

    def _iterated(self, node: ast.Call, name: str) -> Pair:
        given, named = self.arguments(node)
        elements = [self.element(solid(v)) for v, _ in given]
        whole = self._builtin(name, given, named)[1]
        match name:
            case "enumerate":
                return Looped(Items((SOLID, elements[0]))), whole
            case "zip":
                return Looped(Items(tuple(elements))), whole
            case "reversed":
                return Looped(elements[0]), whole
        return Looped(SOLID), whole

    def _getattr(self, node: ast.Call) -> Pair:
        base, name = self.value(node.args[0]), self.value(node.args[1])
        if isinstance(base[0], Objects) and not isinstance(name[0], Known):
            whole = call(name_of("getattr"), [base[1], name[1]])
            return SOLID, whole
        assert isinstance(name[0], Known)
        return self.attribute_of(base, str(name[0].value))

    def _isinstance(self, node: ast.Call) -> Pair:
        value, found = self.value(node.args[0])
        wanted = self._kinds(node.args[1])
        if all(issubclass(kind, Stack) for kind in wanted):
            return Known(False), constant(False)  # programs of kernels are no part of a file, whatever holds the layers
        maybe = isinstance(value, Maybe)
        inner = solid(value)
        answers: set[bool] = set()
        match inner:
            case Objects():
                answers = {isinstance(item, wanted) for item in inner.items}
            case Record(kind=kind) if kind is StepContext:
                answers = {kind in wanted or not self.program.steps.isdisjoint(wanted)}
            case Record():
                answers = {issubclass(inner.kind, wanted)}
            case Cached():
                answers = {any(issubclass(DynamicCache, k) for k in wanted)}
            case Known():
                answers = {isinstance(inner.value, wanted)}
            case Dynamic(kind="tensor"):
                answers = {Tensor in wanted}
            case Items():
                answers = {tuple in wanted or list in wanted}
            case Dynamic(kind="value"):
                if not {int, float, str, Tensor} & set(wanted) and all(in_house(k) for k in wanted):
                    answers = {False}
        if len(answers) == 1:
            answer = answers.pop()
            if not answer or not maybe:
                return Known(answer), constant(answer)
            return SOLID, ast.Compare(left=found, ops=[ast.IsNot()], comparators=[constant(None)])
        kinds = self.value(node.args[1])[1]
        return SOLID, call(name_of("isinstance"), [found, kinds])

    def _kinds(self, node: ast.expr) -> tuple[type, ...]:
        if isinstance(node, ast.Tuple):
            return tuple(kind for element in node.elts for kind in self._kinds(element))
        value = self.value(node)[0]
        if not isinstance(value, Known) or not isinstance(value.value, type):
            raise OmniformError("this is no class", found=ast.unparse(node))
        return (value.value,)

    # -- the step ------------------------------------------------------------------------------------------------------

    def _once(self, node: ast.Call) -> Pair | None:
        base = self.value(node.func.value)  # type: ignore[attr-defined]
        if not isinstance(solid(base[0]), Record) or not isinstance(node.args[1], ast.Lambda):
            return None
        key = self._key(node.args[0])
        value, compute = self.value(node.args[1])
        func = attribute(base[1], "once")
        func.record = (StepContext, "once")  # type: ignore[attr-defined]
        assert isinstance(value, Closure)
        return value.result, call(func, [key, compute])

    def _key(self, node: ast.expr) -> ast.expr:
        """What a step finds something under again: stateless objects go by their names."""
        elements = node.elts if isinstance(node, ast.Tuple) else [node]
        made: list[ast.expr] = []
        for element in elements:
            value, found = self.value(element)
            kind = value.kinds[0] if isinstance(value, Objects) and len(value.kinds) == 1 else nn.Module
            stateless = not issubclass(kind, nn.Module) and not vars(kind).get("__dataclass_fields__")
            made.append(constant(kind.__name__.lower()) if stateless else found)
        return ast.Tuple(elts=made, ctx=ast.Load()) if isinstance(node, ast.Tuple) else made[0]

    def _with_changes(self, node: ast.Call) -> Pair:
        base = self.value(node.func.value)  # type: ignore[attr-defined]
        kind = base[0].kind if isinstance(base[0], Record) else StepContext
        _, named = self.arguments(node)
        for name, (value, _) in named.items():
            self.program.meet_field(kind, name, value)
        func = attribute(base[1], "with_")
        func.record = (kind, "with_")  # type: ignore[attr-defined]
        whole = call(func, (), **{k: n for k, (_, n) in named.items()})
        whole.changes = kind  # type: ignore[attr-defined]
        return base[0], whole

    def _context(self, node: ast.Call, kind: type[StepContext], name: str) -> Pair | None:
        """``Kind.of(ctx, ...)``: a step that says more. Files have one kind of step, with the fields of all.

        Raises:
            OmniformError: the kind does not only say more, but does things otherwise.
        """
        held = inspect.getattr_static(kind, name)
        if not isinstance(held, classmethod):
            return None
        more = [k for k in kind.__mro__ if k not in StepContext.__mro__]
        own = {name for k in more for name, value in vars(k).items() if inspect.isfunction(value)}
        changed = sorted(own & vars(StepContext).keys() - GENERATED)
        if changed:
            words = "a step that does this otherwise cannot be written down"
            raise OmniformError(words, where=kind.__name__, found=", ".join(changed))
        self.program.meet_step(kind)
        given, named = self.arguments(node)
        order = list(inspect.signature(held.__func__).parameters)[1:]
        names = dict(zip(order, given, strict=False)) | named
        ctx = names.pop(order[0])
        for field in order[1:]:
            self.program.meet_field(StepContext, field, names[field][0] if field in names else NONE)
        if not names:
            return ctx
        func = attribute(ctx[1], "with_")
        func.record = (StepContext, "with_")  # type: ignore[attr-defined]
        whole = call(func, (), **{k: n for k, (_, n) in names.items()})
        whole.changes = StepContext  # type: ignore[attr-defined]
        return ctx[0], whole

    def _noted(self, node: ast.Call) -> Pair | None:
        base = self.value(node.func.value)  # type: ignore[attr-defined]
        value = solid(base[0])
        if isinstance(value, Unseen):
            return Names({}), constant(None)
        if isinstance(value, Record):
            name = "encoder_last_hidden_state"
            entries = {}
            if name in self.program.fields.get(value.kind, {}):
                entries[name] = self.attribute_of(base, name)
            return Names(entries), constant(None)
        return None

    # -- tensors, keyword arguments, the cache -------------------------------------------------------------------------

    def tensor_call(
        self, value: Dynamic, func: ast.Attribute, name: str, given: list[Pair], named: dict[str, Pair]
    ) -> Pair:
        """A method of a tensor, or of what nothing is known of."""
        given = [(SOLID, display(v.entries)) if isinstance(v, Names) and v.entries else (v, n) for v, n in given]
        whole = ast.Call(
            func=func, args=[n for _, n in given], keywords=[ast.keyword(arg=k, value=n) for k, (_, n) in named.items()]
        )
        if value.kind != "tensor":
            if name not in PLAIN_METHODS:  # of a module, perhaps, whose file would lack what it does
                raise OmniformError("what is called here is not known", where=self.function.__qualname__, found=name)
            return ANY if value == ANY else SOLID, whole
        if name in ("split", "chunk", "unbind", "topk", "sort", "max", "min"):
            return Looped(TENSOR) if name in ("split", "chunk", "unbind") else SOLID, whole
        if name in ("dim", "numel", "size", "element_size", "item", "tolist", "is_floating_point", "data_ptr"):
            return SOLID, whole
        return TENSOR, whole

    def names_call(self, node: ast.Call, value: Names, name: str, given: list[Pair]) -> Pair:
        """A method of keyword arguments."""
        key = given[0][0] if given else NONE
        match name:
            case "get" | "pop":
                if not isinstance(key, Known):
                    raise OmniformError("these keys are not known", found=ast.unparse(node))
                default = given[1] if len(given) > 1 else (NONE, constant(None))
                found = value.entries.get(str(key.value), default)
                holder = node.func.value  # type: ignore[attr-defined]
                if name == "pop" and isinstance(holder, ast.Name):
                    rest = {k: v for k, v in value.entries.items() if k != key.value}
                    self.env[holder.id] = (Names(rest), self.env[holder.id][1])
                return found[0], clone(found[1])
            case "update" | "setdefault":
                return NONE, constant(None)
            case "items":
                return value, constant(None)
            case "values":
                pairs = list(value.entries.values())
                return Items(tuple(v for v, _ in pairs)), ast.Tuple(elts=[n for _, n in pairs], ctx=ast.Load())
        raise OmniformError("keyword arguments are asked for this", found=name)

    def cache_call(self, value: Cached, node: ast.expr, name: str, given: list[Pair], named: dict[str, Pair]) -> Pair:
        """A method of the cache, or of a part of it."""
        nodes = [n for _, n in given]
        whole = call(attribute(node, name), nodes)
        if name in ("kv", "latent"):
            return Cached(name), whole
        if name == "extend":
            assert isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            made = call(attribute(node.func.value, "extend"), [*node.args, *nodes])
            if value.view == "kv":
                return Items((TENSOR, TENSOR)), made
            return TENSOR, ast.Subscript(value=made, slice=constant(0), ctx=ast.Load())
        if name == "fixed":
            return Cached(name), whole
        if name == "read":
            return Maybe(TENSOR), attribute(node, "value")
        if name == "write":
            whole.stores = (attribute(node, "value"), nodes[1])  # type: ignore[attr-defined]
            return NONE, whole
        if name == "cross":
            return Maybe(Items((TENSOR, TENSOR))), call(attribute(node, "memory"), nodes)
        if name == "set_cross":
            return NONE, call(attribute(node, "keep"), nodes)
        return NONE, whole


__all__ = ["CACHE", "KNOWN_CALLS", "SKIPPED", "Intrinsics"]
_ = (is_atom, may_be_none)
