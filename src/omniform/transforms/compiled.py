"""A program as the library takes it: its operations as structs, with the numbers that they were made of.

Matrices are those that layers multiply by themselves (:mod:`omniform.transforms.pack`); norms, biases and tables are
copies in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from omniform.blocks import operations as ops
from omniform.blocks.lowering import CannotLower
from omniform.blocks.operations import Place, Steps
from omniform.core.state import StateSpec
from omniform.native import abi, program_abi
from omniform.native.matrix import Matrix
from omniform.native.program_abi import Code
from omniform.transforms.matrices import Product
from omniform.transforms.precision import AsLoaded, can_pack
from omniform.transforms.program import laid_out

T = TypeVar("T")

MOST_STORAGES = 64
"""As many as ``native/program.cpp`` has room for."""

Matrices = Callable[[ops.Multiplies], Product]
"""What a layer multiplies by. Raises CannotLower where that is torch's matter."""

Stacks = Callable[[nn.Module], Sequence[Matrix]]
"""The matrices of a stack of experts."""

LANES = 16
"""Columns that kernels compute side by side."""

LIKELY = {"softmax": 0, "sigmoid": 1, "chosen": 2}


class Compiled:
    """A program that can be run.

    Args:
        steps: what it does.
        matrices: finds what layers multiply by.
        stacks: finds the matrices of experts.

    Attributes:
        c: what the library is given.
        steps: what it does.
        storages: numbers of a token that each needs, and whether of wanted tokens only.
        slots: of the layers with state, in the order in which operations count them.
        fixed: of the layers that keep states of fixed size, likewise, and what these are.
        memories: what looks at an encoder's output, likewise.
        looks: what of it is seen, by which tokens ask.
        biases: what is added to scores, likewise.
        linears: the layers whose matrices it has, and those.
    """

    def __init__(self, steps: Steps, matrices: Matrices, stacks: Stacks) -> None:
        self.steps, self._matrices, self._stacks = steps, matrices, stacks
        self.slots: list[int] = []
        self.fixed: list[tuple[int, StateSpec]] = []
        self.memories: list[ops.Remembering] = []
        self.looks: list[ops.Rows] = []
        self.biases: list[ops.Biased] = []
        self.linears: list[tuple[ops.Multiplies, Product]] = []
        self.states: dict[int, tuple[Place, Place | None, int]] = {}
        self._kept: list[object] = []
        layout = laid_out(steps)
        if len(layout.storages) > MOST_STORAGES:
            raise CannotLower("program", f"needs {len(layout.storages)} buffers at once")
        self.storages = [(s.width, s.rows == "wanted") for s in layout.storages]
        made = [self._op(o, added) for o, added in zip(layout.operations, layout.added, strict=True)]
        every = (program_abi.Op * len(made))(*made)
        of_buffers = [program_abi.Buffer(*told) for told in zip(layout.widths, layout.storage_of, strict=True)]
        buffers = (program_abi.Buffer * len(of_buffers))(*of_buffers)
        storages = (program_abi.Storage * len(self.storages))(*(program_abi.Storage(*told) for told in self.storages))
        self._kept += [every, buffers, storages]
        self.out = layout.out
        counts = len(made), len(layout.widths), len(self.storages)
        self.c = program_abi.ProgramOf(every, buffers, storages, *counts, _place(layout.out))

    def _op(self, operation: ops.Operation, added: bool) -> program_abi.Op:
        made: program_abi.Op = getattr(self, f"_{type(operation).__name__.lower()}")(operation)
        if added:
            made.m |= abi.Flag.ACCUMULATE
        return made

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _address(self, numbers: Tensor | None) -> int | None:
        """Where a copy in float32 lies, kept as long as this."""
        if numbers is None:
            return None
        copy = numbers.detach().to("cpu", torch.float32).contiguous().flatten().clone()
        self._kept.append(copy)
        return copy.data_ptr()

    def _columns(self, numbers: Tensor | None, place: Place) -> int | None:
        """Numbers of a head, or one for all, as one of each column."""
        if numbers is None:
            return None
        flat = numbers.detach().float().flatten()
        return self._address(flat if len(flat) == place.width else flat.repeat(place.width // len(flat)))

    def _products(self, found: Sequence[tuple[Matrix, int | None, int, int]]) -> ctypes.Array[program_abi.Product]:
        each = [program_abi.Product(ctypes.pointer(matrix.c), *where) for matrix, *where in found]
        array = (program_abi.Product * len(each))(*each)
        self._kept += [array, [matrix for matrix, *_ in found]]
        return array

    # -- operations ----------------------------------------------------------------------------------------------------

    def _matmul(self, o: ops.Matmul) -> program_abi.Op:
        found: list[tuple[Matrix, int | None, int, int]] = []
        at = 0
        for layer in o.layers:
            packed = self._matrices(layer)
            self.linears.append((layer, packed))
            found.append((packed.matrix, None if packed.bias is None else packed.bias.data_ptr(), at, 0))
            at += layer.out_features
        products = self._products(found)
        return _op(Code.PRODUCTS, x=o.x, out=o.out, n=len(found), weight=ctypes.addressof(products))

    def _norm(self, o: ops.Norm) -> program_abi.Op:
        for place in (o.x, o.out):
            if not place.is_whole:
                raise CannotLower("norm", "some of each head's numbers are taken apart")
        step = 0
        for given in (o.weight, o.bias):
            if given is not None and given.numel() == o.x.width:
                step = o.x.size
        weight, bias = (self._columns(given, o.x) if step else self._address(given) for given in (o.weight, o.bias))
        return _op(Code.NORM, x=o.x, out=o.out, m=int(o.centred), n=step, a=o.eps, weight=weight, bias=bias)

    def _rotate(self, o: ops.Rotate) -> program_abi.Op:
        return _op(Code.ROTATE, x=o.x, out=o.out, n=o.table, m=int(o.neighbours))

    def _store(self, o: ops.Store) -> program_abi.Op:
        if not o.k.is_whole or (o.v is not None and not o.v.is_whole):
            raise CannotLower("keys", "some of each head's numbers are taken apart")
        self.states[o.slot] = o.k, o.v, 0
        return _op(Code.STORE, x=o.k, y=o.v, n=_number(self.slots, o.slot))

    def _headmatmul(self, o: ops.HeadMatmul) -> program_abi.Op:
        weight = o.weight.detach()
        if not can_pack(weight, AsLoaded()):
            raise CannotLower("matrices of heads", f"they stay torch's: {weight.dtype} on {weight.device}")
        found = [(Matrix.pack(one), None, head * weight.shape[1], head * o.x.stride) for head, one in enumerate(weight)]
        products = self._products(found)
        return _op(Code.PRODUCTS, x=o.x, out=o.out, n=len(found), weight=ctypes.addressof(products))

    def _join(self, o: ops.Join) -> program_abi.Op:
        return _op(Code.JOIN, x=o.x, y=o.y, out=o.out)

    def _attend(self, o: ops.Attend) -> program_abi.Op:
        how, v = o.how, self.states[o.how.slot][1]
        self.states[how.slot] = o.k, v, o.v.size
        k = -1 if how.bias is None else _number(self.biases, how.bias)
        return _op(
            Code.ATTEND, x=o.q, y=o.k, z=o.v, out=o.out, n=_number(self.slots, how.slot), m=o.sees, k=k,
            a=how.scores.scale, b=how.scores.cap or 0.0, weight=self._address(how.sinks),
        )  # fmt: skip

    def _look(self, o: ops.Look) -> program_abi.Op:
        scores, number = o.source.scores, len(self.memories)
        self.memories.append(o.source)
        sees = _number(self.looks, o.q.rows)
        return _op(Code.LOOK, x=o.q, out=o.out, n=number, m=sees, a=scores.scale, b=scores.cap or 0.0)

    def _act(self, o: ops.Act) -> program_abi.Op:
        match o.kind:
            case "scale":
                return _op(Code.SCALE, x=o.x, out=o.out, a=o.low)
            case "clamp":
                return _op(Code.CLAMP, x=o.x, out=o.out, a=o.low, b=o.high)
            case kind:
                return _op(Code.ACT, x=o.x, out=o.out, m=_act(kind))

    def _gate(self, o: ops.Gate) -> program_abi.Op:
        if o.gating.act == "linear":
            return _op(Code.TIMES, x=o.gate, y=o.up, out=o.out)
        return _op(Code.GATE, x=o.gate, y=o.up, out=o.out, m=_act(o.gating.act))

    def _add(self, o: ops.Add) -> program_abi.Op:
        return _op(Code.ADD, x=o.x, y=o.y, out=o.out, a=o.factor)

    def _weigh(self, o: ops.Weigh) -> program_abi.Op:
        if not o.x.is_whole:
            raise CannotLower("*", "some of each head's numbers are taken apart")
        return _op(Code.WEIGH, x=o.x, out=o.out, weight=self._columns(o.weight, o.x), bias=self._columns(o.bias, o.x))

    def _spread(self, o: ops.Spread) -> program_abi.Op:
        return _op(Code.SPREAD, x=o.x, y=o.factor, out=o.out)

    def _pick(self, o: ops.Pick) -> program_abi.Op:
        if not o.x.is_whole:
            raise CannotLower("pick", "some of each head's numbers are taken apart")
        return _op(Code.PICK, x=o.x, out=o.out)

    def _route(self, o: ops.Route) -> program_abi.Op:
        r = o.routing
        how = program_abi.Routing(
            self._address(r.bias), LIKELY[r.likely], r.top, r.groups, r.top_groups, r.best, r.normed, r.least, r.scale
        )
        self._kept.append(how)
        return _op(Code.ROUTE, x=o.scores, y=o.shares, z=o.chosen, weight=ctypes.addressof(how))

    def _experts(self, o: ops.Experts) -> program_abi.Op:
        stacks = [self._products(self._stacked(stack)) for stack in (o.gate_up, o.down)]
        hidden = int(stacks[1][0].matrix[0].ins)
        how = program_abi.ExpertsOf(
            *stacks, len(stacks[0]), hidden, _act(o.gating.act), o.gating.beside, o.gating.limit, o.gating.alpha
        )
        self._kept.append(how)
        return _op(Code.EXPERTS, x=o.x, y=o.shares, z=o.chosen, out=o.out, weight=ctypes.addressof(how))

    # -- recurrences ---------------------------------------------------------------------------------------------------

    def _convolve(self, o: ops.Convolve) -> program_abi.Op:
        taps, bias = self._address(o.taps.detach().t()), self._address(o.bias)
        return _op(
            Code.CONVOLVE, x=o.x, out=o.out, n=self._of_rows(o.slot, o.spec), k=o.taps.shape[1], weight=taps, bias=bias
        )

    def _recur(self, o: ops.Recur) -> program_abi.Op:
        q, k, g, beta = map(_place, (o.q, o.k, o.g, o.beta))
        how = program_abi.RecurrenceOf(q, k, g, beta, o.v.heads, int(o.corrects))
        self._kept.append(how)
        return _op(Code.RECUR, x=o.v, out=o.out, n=self._of_rows(o.slot, o.spec), weight=ctypes.addressof(how))

    def _scan(self, o: ops.Scan) -> program_abi.Op:
        channels, size = o.rates.shape
        rates = nn.functional.pad(o.rates.detach().float(), (0, 0, 0, -channels % LANES)).view(-1, LANES, size)
        how = program_abi.ScanOf(*map(_place, (o.b, o.c, o.dt)), self._address(rates.transpose(1, 2)))
        self._kept.append(how)
        return _op(Code.SCAN, x=o.x, out=o.out, n=self._of_rows(o.slot, o.spec), weight=ctypes.addressof(how))

    def _of_rows(self, slot: int, spec: StateSpec) -> int:
        """The number of a state of fixed size."""
        self.fixed.append((slot, spec))
        return len(self.fixed) - 1

    def _stacked(self, stack: nn.Module) -> list[tuple[Matrix, int | None, int, int]]:
        bias = stack._parameters.get("bias")
        matrices = self._stacks(stack)
        first = self._address(bias)
        return [
            (matrix, None if first is None else first + 4 * n * matrix.outs, 0, 0) for n, matrix in enumerate(matrices)
        ]


NOWHERE = program_abi.Place(-1, 0, 0, 0, 0, 0)


def _place(place: Place | None) -> program_abi.Place:
    if place is None:
        return NOWHERE
    return program_abi.Place(place.buffer, place.at, place.heads, place.size, place.stride, 0)


def _op(
    code: Code,
    *,
    x: Place,
    y: Place | None = None,
    z: Place | None = None,
    out: Place | None = None,
    m: int = 0,
    n: int = 0,
    k: int = 0,
    a: float = 0.0,
    b: float = 0.0,
    weight: int | None = None,
    bias: int | None = None,
) -> program_abi.Op:
    return program_abi.Op(code, m, _place(x), _place(y), _place(z), _place(out), weight, bias, n, k, a, b)


def _act(name: str) -> int:
    if name == "clamped":
        return abi.Act.CLAMPED_SWISH
    if name not in abi.ACTS:
        raise CannotLower("activation", f"no kernel for {name}")
    return abi.ACTS[name]


def _number(known: list[T], one: T) -> int:
    """The place of something in a list, put there if it is new."""
    for number, other in enumerate(known):
        if other is one or (isinstance(one, (int, str)) and other == one):
            return number
    known.append(one)
    return len(known) - 1
