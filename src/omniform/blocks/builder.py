"""How a stack of layers becomes a flat list of operations: modules say what they do with values, a builder notes it.

:meth:`Builder.read` calls a method as it is written, with Values in the place of tensors, and what a Value cannot do,
cannot be lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import NoReturn, cast

from torch import Tensor, nn

from omniform.blocks.lowered_torch import TORCHS
from omniform.blocks.lowering import (
    Attending,
    CannotLower,
    Gating,
    HoldsMatrix,
    Lowers,
    LowersPair,
    PlainMatrix,
    Routing,
    Value,
)
from omniform.blocks.operations import (
    Act,
    Add,
    Attend,
    Biased,
    Convolve,
    Experts,
    Gate,
    HeadMatmul,
    Join,
    Look,
    Matmul,
    Norm,
    Operation,
    Pick,
    Place,
    Recur,
    Remembering,
    Rotate,
    Route,
    Rows,
    Scan,
    Spread,
    Steps,
    Store,
    Turning,
    Weigh,
)
from omniform.core.state import StatefulModule

NEUTRAL = frozenset({
    "__init__", "__post_init__", "__init_subclass__", "__getstate__", "__setstate__", "__hash__", "__eq__", "__repr__",
    "__getattr__", "__setattr__", "__delattr__", "__replace__", "_named_in_body", "extra_repr", "reset", "state_spec",
    "regimes", "computed", "looks_ahead", "look_both_ways", "remember", "of",
})  # fmt: skip
"""What a subclass may say otherwise without computing otherwise."""


class Builder:
    """Notes the operations of a stack of layers.

    Args:
        width: numbers of a token that go in.
        memory: whether there is an encoder's output to look at.
    """

    def __init__(self, width: int, *, memory: bool) -> None:
        self.steps = Steps(width)
        self.ctx = Reading(self, memory)
        self.is_last = False
        self._picked: dict[Place, Value] = {}
        self._done: set[int] = set()
        self.x = self._new(width, "all")

    # -- modules -------------------------------------------------------------------------------------------------------

    def of(self, module: nn.Module, x: Value) -> Value:
        """What a module makes of a value."""
        self._look_at(module)
        if isinstance(module, nn.Linear | HoldsMatrix):
            return self.linear(x, module)[0]
        known = TORCHS.get(type(module))
        if known is not None:
            return known(self, module, x)
        if not isinstance(module, Lowers):
            raise CannotLower(module, "says nothing about how it is lowered")
        changed = _changed(module, "lower")
        if any(not base.__module__.startswith("omniform.") for base in changed):
            raise CannotLower(module, f"has its own {', '.join(sorted(changed.values()))}")
        if changed:  # what is said holds for another class: this one says it by how it is written
            (out,) = self.read(module.forward, x)
            return out
        return module.lower(self, x)

    def turn(self, positions: object, q: Value, k: Value) -> tuple[Value, Value]:
        """Queries and keys in their places."""
        if isinstance(positions, nn.Module):
            self._look_at(positions)
        if not isinstance(positions, LowersPair):
            raise CannotLower(positions, "says nothing about how it is lowered")
        changed = _changed(positions, "lower_pair")
        if changed:
            raise CannotLower(positions, f"has its own {', '.join(sorted(changed.values()))}")
        return positions.lower_pair(self, q, k)

    def sure(self, module: nn.Module, method: str) -> None:
        """Make sure that what a method of a module's says of how it is lowered is so. Raises CannotLower."""
        self._look_at(module)
        changed = _changed(module, method)
        if changed:
            raise CannotLower(module, f"has its own {', '.join(sorted(changed.values()))}")

    def read(self, method: Callable[..., object], *xs: Value) -> tuple[Value, ...]:
        """What a method of a module gives for values, called with them and the step: it is read as it is written."""
        module = method.__self__  # type: ignore[attr-defined]
        twin = object.__new__(type(module))
        own = {name: self._part(value) for name, value in vars(module).items()}
        parts = {name: None if part is None else _Part(self, part) for name, part in module._modules.items()}
        twin.__dict__.update(own, _modules=parts)
        wants = method.__func__.__code__.co_argcount - 1  # type: ignore[attr-defined]
        told = (*xs, self.ctx)[:wants]
        try:
            out = method.__func__(twin, *told)  # type: ignore[attr-defined]
        except CannotLower as error:
            raise error if error.args[0].split(":")[0] not in _UNNAMED else CannotLower(module, error.why) from None
        except (AssertionError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise CannotLower(module, f"{type(error).__name__} {error}".strip()) from error
        found = out if isinstance(out, tuple) else (out,)
        if not all(isinstance(value, Value) for value in found):
            raise CannotLower(module, "gives other things than tensors")
        return cast(tuple[Value, ...], found)

    def _part(self, value: object) -> object:
        if isinstance(value, LowersPair) and not isinstance(value, type):
            return lambda q, k, ctx: self.turn(value, q, k)
        return value

    def _look_at(self, module: nn.Module) -> None:
        if id(module) in self._done:
            return
        self._done.add(id(module))
        self.steps.read.append(module)
        if module.training and any(True for _ in module.parameters()) and _drops(module):
            raise CannotLower(module, "it is in training")
        if "forward" in vars(module):
            raise CannotLower(module, "its forward was replaced")
        if module._forward_hooks or module._forward_pre_hooks:
            raise CannotLower(module, "somebody hooked into it")

    # -- operations ----------------------------------------------------------------------------------------------------

    def linear(self, x: Value, *layers: nn.Module) -> tuple[Value, ...]:
        """What some linear layers make of the same input."""
        x = self.whole(x)
        linears: list[nn.Linear | HoldsMatrix] = []
        for layer in layers:
            self._look_at(layer)
            if not isinstance(layer, nn.Linear | HoldsMatrix) or not _is_matrix(layer):
                raise CannotLower(layer, "is no plain linear layer")
            if layer.in_features != x.place.width:
                raise CannotLower(layer, f"reads {layer.in_features} numbers of {x.place.width}")
            linears.append(layer)
        out = self._new(sum(layer.out_features for layer in linears), x.place.rows)
        self._note(Matmul(x.place, out.place, tuple(linears)))
        return out.split([layer.out_features for layer in linears])

    def together(self, x: Value, parts: Sequence[object]) -> tuple[Value, ...]:
        """What several linear layers make of the same input, while a method is read that asks for it."""
        return self.linear(x, *(part.module for part in parts if isinstance(part, _Part)))

    def by_head(self, x: Value, layer: nn.Module, weight: Tensor) -> Value:
        """Each head by its own part of a layer's matrix. ``weight``: Shape: [H, out, in]."""
        self._look_at(layer)
        heads, outs, ins = weight.shape
        if not isinstance(layer, nn.Linear) or not _is_matrix(layer) or layer.bias is not None:
            raise CannotLower(layer, "is no matrix of plain numbers")
        if (x.place.heads, x.place.size) != (heads, ins):
            raise CannotLower(layer, f"{heads} matrices of {ins} inputs for {x.place.heads} heads of {x.place.size}")
        out = self._new(heads * outs, x.place.rows).in_heads(outs)
        self._note(HeadMatmul(x.place, out.place, weight))
        return out

    def join(self, x: Value, y: Value) -> Value:
        """Each head of ``x``, and behind it that of ``y``, or its only one. By head."""
        p, q = x.place, y.place
        if q.heads not in (1, p.heads) or p.rows != q.rows:
            raise CannotLower("join", f"{p.heads} heads with {q.heads}")
        out = self._new(p.heads * (p.size + q.size), p.rows).in_heads(p.size + q.size)
        self._note(Join(p, q, out.place))
        return out

    def rms(self, x: Value, weight: Tensor | None, eps: float) -> Value:
        """Divided by the root of the mean square. ``weight``: of a head, for all alike, or of all heads."""
        out = self._like(x)
        self._note(Norm(x.place, out.place, False, weight, None, eps))
        return out

    def layer_norm(self, x: Value, weight: Tensor | None, bias: Tensor | None, eps: float) -> Value:
        """Without its mean, divided by its deviation."""
        out = self._like(x)
        self._note(Norm(x.place, out.place, True, weight, bias, eps))
        return out

    def rotate(self, x: Value, turning: Turning, *, neighbours: bool) -> Value:
        """Heads turned by the angles of a table."""
        tables = self.steps.tables
        number = next((n for n, known in enumerate(tables) if known is turning or known == turning), len(tables))
        if number == len(tables):
            tables.append(turning)
        out = self._like(x)
        self._note(Rotate(x.place, out.place, number, neighbours))
        return out

    def attend(self, q: Value, k: Value, v: Value, how: Attending) -> Value:
        """Keys and values kept, and what the wanted queries see of them. By head each."""
        if how.bias is not None and not isinstance(how.bias, Biased):
            raise CannotLower(how.bias, "is no bias of distances or places")
        if isinstance(how.bias, nn.Module):
            self._look_at(how.bias)
        self._note(Store(k.place, v.place, how.slot))
        return self._attended(q, k, v, how)

    def attend_latent(self, q: Value, kept: Value, width: int, how: Attending) -> Value:
        """Vectors kept, one of each token, and what the wanted queries see of them: of their first numbers.

        Args:
            kept: keys of one head.
            width: how many of its numbers are its value.
        """
        self._note(Store(kept.place, None, how.slot))
        return self._attended(q, kept, kept.columns(0, width), how)

    def _attended(self, q: Value, k: Value, v: Value, how: Attending) -> Value:
        q = self.only_wanted(q)
        rules, asked = self.steps.rules, (how.rule, q.place.rows)
        if asked not in rules:
            rules.append(asked)
        out = self._new(q.place.heads * v.place.size, q.place.rows)
        self._note(Attend(q.place, k.place, v.place, out.place, how, rules.index(asked)))
        return out

    def look(self, q: Value, source: Remembering, value: int) -> Value:
        """What queries see of an encoder's output. ``value``: how wide a value is."""
        out = self._new(q.place.heads * value, q.place.rows)
        self._note(Look(q.place, out.place, source))
        return out

    def act(self, kind: str, x: Value, low: float = 0.0, high: float = 0.0) -> Value:
        """A function of each number by itself: see :class:`~omniform.blocks.operations.Act`."""
        if kind == "linear":
            return x
        x = self.whole(x)
        out = self._like(x)
        self._note(Act(x.place, out.place, kind, low, high))
        return out

    def gate(self, gating: str | Gating, gate: Value, up: Value) -> Value:
        """An activation of ``gate``, times ``up``."""
        gate, up = self.alike(gate, up)
        if up.place.width == 1 != gate.place.width:
            gate, up = up, gate
        if gate.place.width == 1 != up.place.width and gating == "linear":
            out = self._like(up)
            self._note(Spread(up.place, gate.place, out.place))
            return out
        if gate.place.width != up.place.width:
            raise CannotLower("*", f"{gate.place.width} numbers with {up.place.width}")
        out = self._like(gate)
        self._note(Gate(gate.place, up.place, out.place, Gating(gating) if isinstance(gating, str) else gating))
        return out

    def add(self, x: Value, y: Value, factor: float = 1.0) -> Value:
        """``x + factor * y``."""
        x, y = self.alike(x, y)
        if x.place.width != y.place.width:
            raise CannotLower("+", f"{x.place.width} numbers with {y.place.width}")
        out = self._like(x)
        self._note(Add(x.place, y.place, out.place, factor))
        return out

    def weigh(self, x: Value, weight: Tensor | None, bias: Tensor | None) -> Value:
        """Times one number for each column, plus another."""
        p = x.place
        for given in (weight, bias):
            if given is not None and given.numel() not in (1, p.size, p.width):
                raise CannotLower("*", f"{p.width} numbers with {given.numel()}")
        out = self._like(x)
        self._note(Weigh(p, out.place, weight, bias))
        return out

    def route(self, scores: Value, routing: Routing) -> tuple[Value, Value]:
        """The shares and the numbers of each token's experts."""
        shares, chosen = (self._new(routing.top, scores.place.rows) for _ in range(2))
        self._note(Route(scores.place, shares.place, chosen.place, routing))
        return shares, chosen

    def experts(self, x: Value, chosen: Value, shares: Value, parts: tuple[nn.Module, nn.Module], how: Gating) -> Value:
        """Tokens through their experts. ``parts``: the stacks of matrices, of gates and values and of what is made."""
        x = self.whole(x)
        for part in parts:
            self._look_at(part)
        out = self._new(x.place.width, x.place.rows)
        self._note(Experts(x.place, shares.place, chosen.place, out.place, *parts, how))
        return out

    def convolve(
        self, x: Value, taps: Tensor, bias: Tensor | None, module: StatefulModule, *, unpadded: bool = False
    ) -> Value:
        """Each column over the last tokens of its row. ``taps``: Shape: [width, taps]."""
        if taps.shape[0] != x.place.width or taps.shape[1] > MOST_TAPS:
            raise CannotLower(module, f"{tuple(taps.shape)} taps for {x.place.width} numbers")
        self.steps.unpadded |= unpadded
        out = self._like(x)
        self._note(Convolve(x.place, out.place, taps, bias, module.slot, module.state_spec()))
        return out

    def recur(
        self, q: Value, k: Value, v: Value, g: Value, beta: Value, module: StatefulModule, *, corrects: bool
    ) -> Value:
        """Heads that keep matrices; see :class:`~omniform.blocks.operations.Recur`. ``q``, ``k``, ``v``: by head."""
        q, k, v = self.whole(q), self.whole(k), self.whole(v)
        heads = v.place.heads
        if q.place.heads != k.place.heads or q.place.size != k.place.size or heads % q.place.heads:
            raise CannotLower(module, f"{q.place.heads} and {k.place.heads} heads for {heads}")
        if g.place.width != heads or beta.place.width != heads:
            raise CannotLower(module, f"{g.place.width} and {beta.place.width} numbers for {heads} heads")
        out = self._like(v)
        places = (q.place, k.place, v.place, g.place, beta.place, out.place)
        self._note(Recur(*places, corrects=corrects, slot=module.slot, spec=module.state_spec()))
        return out

    def scan(self, x: Value, b: Value, c: Value, dt: Value, rates: Tensor, module: StatefulModule) -> Value:
        """Columns that keep vectors; see :class:`~omniform.blocks.operations.Scan`."""
        sizes = (x.place.width, b.place.width)
        if tuple(rates.shape) != sizes or (dt.place.width, c.place.width) != sizes:
            raise CannotLower(module, f"rates of {tuple(rates.shape)} for {sizes}")
        out = self._like(x)
        places = (x.place, b.place, c.place, dt.place, out.place)
        self._note(Scan(*places, rates=rates, slot=module.slot, spec=module.state_spec()))
        return out

    def only_wanted(self, x: Value) -> Value:
        """In the last layer, the tokens whose output is wanted."""
        return self.picked(x) if self.is_last else x

    def picked(self, x: Value) -> Value:
        """The tokens whose output is wanted."""
        if x.place.rows == "wanted":
            return x
        if x.place not in self._picked:
            picked = self._picked[x.place] = self._like(x, "wanted")
            self._note(Pick(x.place, picked.place))
        return self._picked[x.place]

    def alike(self, x: Value, y: Value) -> tuple[Value, Value]:
        """Both for the same tokens, heads or no heads."""
        rows = {x.place.rows, y.place.rows}
        if len(rows) > 1:
            x, y = self.picked(x), self.picked(y)
        return self.whole(x), self.whole(y)

    def whole(self, x: Value) -> Value:
        """A value without gaps between its columns."""
        if not x.place.is_whole:
            raise CannotLower("forward", "some of each head's numbers are taken apart")
        return x

    def finish(self, out: Value) -> Steps:
        """All that was noted, once this is what comes out."""
        self.steps.out = out.place
        return self.steps

    def _note(self, operation: Operation) -> None:
        self.steps.operations.append(operation)

    def _new(self, width: int, rows: Rows) -> Value:
        self.steps.widths.append(width)
        self.steps.rows.append(rows)
        return Value(self, Place(len(self.steps.widths) - 1, rows, 0, 1, width, width))

    def _like(self, x: Value, rows: Rows | None = None) -> Value:
        p = x.place
        new = self._new(p.width, p.rows if rows is None else rows)
        return new.in_heads(p.size) if x.by_head else new


MOST_TAPS = 16
"""Tokens that a convolution's kernel sees at most."""

_UNNAMED = frozenset({"forward", "*", "+", "view", "flatten", "unflatten", "split", "indexing", "dropout"})
"""What a Value says of itself, which knows of no module."""


class Reading:
    """What stands for the step while a method is read."""

    def __init__(self, builder: Builder, memory: bool) -> None:
        self._builder = builder
        self.memory = self if memory else None

    def like(self, x: Value, branch: Value) -> Value:
        return x if branch.place.rows == x.place.rows else self._builder.picked(x)

    def only_wanted(self, x: Value) -> Value:
        return self._builder.only_wanted(x)

    def __getattr__(self, name: str) -> NoReturn:
        raise CannotLower("forward", f"asks the step for its {name}")


class _Part:
    """What stands for a part of a module while a method of it is read."""

    def __init__(self, builder: Builder, module: nn.Module) -> None:
        self._builder, self.module = builder, module

    def __call__(self, *given: object) -> object:
        values = [x for x in given if isinstance(x, Value)]
        if any(x is not self._builder.ctx for x in given if not isinstance(x, Value)):
            raise CannotLower(self.module, "is given more than values and the step")
        if len(values) == 2:
            return self._builder.turn(self.module, *values)
        if len(values) != 1:
            raise CannotLower(self.module, f"is given {len(values)} values")
        return self._builder.of(self.module, values[0])

    def __getattr__(self, name: str) -> NoReturn:
        raise CannotLower(self.module, f"is asked for its {name}")


def _changed(module: object, name: str) -> dict[type, str]:
    """Classes that compute otherwise than the one that says how it is lowered, and a method that tells."""
    kind = type(module)
    told = next(base for base in kind.__mro__ if name in vars(base))
    fine = NEUTRAL | getattr(kind, "READ", frozenset())
    found: dict[type, str] = {}
    for base in kind.__mro__[: kind.__mro__.index(told)]:
        if not issubclass(base, told):
            continue
        for key, what in vars(base).items():
            said = isinstance(what, FunctionType | property | classmethod | staticmethod) and key not in fine
            if said and any(key in vars(above) for above in base.__mro__[1:]):
                found[base] = key
    return found


def _is_matrix(layer: nn.Linear | HoldsMatrix) -> bool:
    """Whether a layer is a matmul and a bias, nothing else."""
    return type(layer) is nn.Linear or isinstance(layer, PlainMatrix | HoldsMatrix)


def _drops(module: nn.Module) -> bool:
    return bool(getattr(module, "dropout", 0.0) or (isinstance(module, nn.Dropout) and module.p))
