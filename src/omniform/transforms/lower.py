"""Stacks of layers that compute a step by one call of the native library, where nobody watches or learns from them.

:func:`lower` finds the stacks of a model and changes the class of each, in place: modules, parameters, names and what
is saved stay as they are. A stack makes its program when it is first needed, and looks before every step whether it is
still that of its modules. Where something stands against it torch computes, layer by layer: :func:`lowered_reason` says
what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, is_, methodcaller
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from omniform.blocks.grid_rotary import GridContext
from omniform.blocks.lowering import CannotLower, Stack
from omniform.blocks.operations import Multiplies, Steps
from omniform.blocks.packed_patches import PatchContext
from omniform.core.context import FirstContext, Memory, StepContext
from omniform.core.host import is_traced
from omniform.core.packed import PackedContext
from omniform.native import program_abi
from omniform.native.library import Library, library, why_not
from omniform.native.matrix import KINDS
from omniform.transforms.compiled import Compiled
from omniform.transforms.cut import Run, cut, told
from omniform.transforms.matrices import Product, forget_written, is_current, matrix_of
from omniform.transforms.precision import is_watched
from omniform.transforms.program import lowered
from omniform.transforms.runnable import Runnable
from omniform.transforms.stacks import forget_stacks, stack_of
from omniform.transforms.step_inputs import NoRanges
from omniform.weights.pages import one_look_at_maps
from omniform.weights.transform import Transform
from omniform.weights.version import Memory as Watched

VALUES, VERSION = methodcaller("values"), attrgetter("_version")

AT_ONCE = 2**13
"""Tokens of a padded batch that are computed at once, at least a row."""

KNOWN_STEPS = (StepContext, PackedContext, FirstContext, GridContext, PatchContext)
"""Contexts that say no more than programs know of."""


class LoweredLayers(Stack):
    """A stack of layers that has a program; to everybody else the list of modules that it was."""

    def through(
        self, x_BTD: Tensor, ctx: StepContext, norm: nn.Module | None, part: slice = slice(None)
    ) -> Tensor | None:
        if is_traced():
            return None
        by = library()
        if by is None or not _suits(self, x_BTD, ctx):
            return None
        held = _HELD.get(self)
        if held is None:
            held = _HELD[self] = _Held()
        ready = held.ready(self, x_BTD, ctx, norm, part)
        if ready is None:
            return None
        x, last, normed = x_BTD, ctx.last_layer(), False
        for piece in ready.pieces:
            made = None if piece.program is None else held.computed(by, piece.program, x, ctx)
            if made is None and len(ready.pieces) == 1:
                return None
            if made is None:
                for number in range(len(self))[part][piece.first : piece.stop]:
                    x = self[number](x, last if number + 1 == len(self) else ctx)
            x, normed = x if made is None else made, made is not None and piece.normed
        if range(len(self))[part].stop == len(self):
            x = last.only_wanted(x)
        if normed:
            return x.to(x_BTD.dtype)  # of a stream that a layer widened
        return x if norm is None else norm(x)


def lower(model: nn.Module) -> int:
    """Have every stack of layers of a model compute its steps by a program where it can; changes the model in place.

    Returns:
        How many stacks are lowered now that were not.
    """
    by = library()
    if by is None or not program_abi.knows_programs(by):
        return 0
    stacks = [m for m in model.modules() if type(m) is nn.ModuleList and len(m) and m[0] is not None]
    for stack in stacks:
        stack.__class__ = LoweredLayers
    return len(stacks)


class Lower(Transform):
    """Programs for the stacks of a model whose weights are halves, in whatever it computes; see :func:`lower`.

    In float32 torch is as quick where there are many rows, and an engine lowers what it runs.
    """

    def finish(self, model: nn.Module) -> None:
        if any(p.dtype in HALVES and p.device.type == "cpu" for p in model.parameters()):
            lower(model)


HALVES = frozenset({torch.bfloat16, torch.float16})


def lowered_reason(layers: nn.Module) -> str:
    """Why a stack's last step, or some of its layers, was computed by torch; empty where none was, or none yet."""
    if not isinstance(layers, LoweredLayers):
        return why_not() or "it was not asked to be lowered"
    held = _HELD.get(layers)
    return "" if held is None else held.reason


def computed_by(layers: nn.Module) -> str:
    """What computed a stack's last step."""
    reason, held = lowered_reason(layers), _HELD.get(layers)
    if not reason:
        return "one native program"
    if held is not None and held.partly:
        return f"native programs ({reason})"
    return f"torch, layer by layer ({reason})"


def forget(model: nn.Module) -> None:
    """Have the stacks of a model make their programs anew: somebody has written to its weights."""
    forget_stacks(model)
    forget_written(model)
    for module in model.modules():
        _HELD.pop(module, None)


def parted(x_BTD: Tensor, ctx: StepContext) -> Iterator[tuple[Tensor, StepContext]]:
    """A step as several of fewer rows each, where its buffers would take much memory and its rows leave nothing."""
    rows, tokens = x_BTD.shape[:2]
    size = max(1, AT_ONCE // tokens)
    if rows <= size or ctx.state is not None or type(ctx) is PackedContext:
        yield x_BTD, ctx
        return
    for first in range(0, rows, size):
        own = slice(first, first + size)
        some = {name: x if x is None or len(x) == 1 else x[own] for name, x in _by_row(ctx).items()}
        positions = ctx.positions.movedim(-2, 0)
        positions = (positions if len(positions) == 1 else positions[own]).movedim(0, -2)
        memory = ctx.memory
        if memory is not None:
            memory = Memory(memory.hidden[own], None if memory.padding is None else memory.padding[own])
        yield x_BTD[own], ctx.with_(positions=positions, memory=memory, **some)


def _by_row(ctx: StepContext) -> dict[str, Tensor | None]:
    return {"padding": ctx.padding, "bidirectional": ctx.bidirectional, "texts": ctx.texts, "allowed": ctx.allowed}


@dataclass(slots=True)
class _Held:
    """The programs of one stack.

    Attributes:
        made: by what a program depends on: the width of the stream, the final norm, whether there is a memory, and
            which layers; or why there is none.
        reason: why the last step, or some of its layers, had none.
        partly: whether others had one.
    """

    made: dict[tuple[int, int, bool, range], _Ready | _Refused] = field(default_factory=dict)
    reason: str = ""
    partly: bool = False

    def ready(
        self, layers: nn.ModuleList, x: Tensor, ctx: StepContext, norm: nn.Module | None, part: slice
    ) -> _Ready | None:
        """A program that is still that of its modules; None where there can be none."""
        # An engine looks at the weights itself.
        by_engine = isinstance(ctx, PackedContext) and ctx.state is not None
        glance = ctx.glance if isinstance(ctx, PackedContext) and by_engine else None
        own = range(len(layers))[part]
        key = x.shape[-1], id(norm), ctx.memory is not None, own
        found = self.made.get(key)
        if found is None or not found.guard.holds(thoroughly=not by_engine, glance=glance):
            found = self.made[key] = _make(layers, own, x.shape[-1], norm, ctx.memory is not None)
        self.reason, self.partly = found.why, isinstance(found, _Ready)
        if isinstance(found, _Refused):
            return None
        if torch.is_grad_enabled() and (x.requires_grad or found.guard.learns()):
            self.reason, self.partly = "somebody takes gradients", False
            return None
        return found

    def computed(self, by: Library, program: Runnable, x: Tensor, ctx: StepContext) -> Tensor | None:
        """What a program makes of a step; None where it is one of another kind, which has changed nothing."""
        if x.shape[-1] != program.width:
            self.reason = f"a program of {program.width} numbers is given {x.shape[-1]}"
            return None
        try:
            made = [program.run(by, some, part) for some, part in parted(x, ctx)]
        except NoRanges as error:
            self.reason = str(error)
            return None
        return made[0] if len(made) == 1 else torch.cat(made)


_HELD: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()
"""Beside the stacks, not in them: copies and pickles go without."""


def _make(layers: nn.ModuleList, own: range, width: int, norm: nn.Module | None, memory: bool) -> _Ready | _Refused:
    parts = [*layers.modules(), *(() if norm is None else norm.modules())]
    forget_written(layers)
    making = _Making([layers[number] for number in own], norm, memory, own.stop == len(layers))
    with torch.no_grad(), one_look_at_maps():
        whole = making.piece(Run(0, len(own), width, ""))
        if whole.program is not None:
            return _Ready(Guard([*parts, *making.read], making.linears), (whole,), "")
        runs = cut(
            making.layers,
            width,
            memory=memory,
            ends=making.ends,
            check=lambda steps: Compiled(steps, matrix_of, stack_of),
        )
        if all(run.why for run in runs):
            return _Refused(Guard(parts, ()), runs[0].why)
        pieces = tuple(making.piece(run) for run in runs)
    return _Ready(Guard([*parts, *making.read], making.linears), pieces, told(runs) or making.wrong)


def _compiled(steps: Steps) -> Compiled:
    return Compiled(steps, matrix_of, stack_of)


class _Making:
    """Makes the programs of a stack.

    Attributes:
        ends: whether the last of its layers are a stack's last.
        read: the modules that they were made of.
        linears: the layers whose matrices they have, and those.
        wrong: why there was none of the last run that was asked for.
    """

    def __init__(self, layers: Sequence[nn.Module], norm: nn.Module | None, memory: bool, ends: bool) -> None:
        self.layers, self._norm, self._memory, self.ends = layers, norm, memory, ends
        self.read: list[nn.Module] = []
        self.linears: list[tuple[Multiplies, Product]] = []
        self.wrong = ""

    def piece(self, run: Run) -> _Piece:
        """Some of the layers, with a program if there can be one."""
        if run.why:
            return _Piece(run.first, run.stop, None)
        ends = self.ends and run.stop == len(self.layers)
        for last in dict.fromkeys((self._norm if ends else None, None)):  # a norm that is no program is called alone
            try:
                some = self.layers[run.first : run.stop]
                steps = lowered(some, run.width, last, memory=self._memory, ends=ends)
                compiled = _compiled(steps)
            except CannotLower as error:
                self.wrong = str(error)
                continue
            self.read += steps.read
            self.linears += compiled.linears
            return _Piece(run.first, run.stop, Runnable(compiled), ends and last is self._norm)
        return _Piece(run.first, run.stop, None)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Layers of a stack from ``first`` to ``stop``; torch's without a program. ``normed``: with the final norm."""

    first: int
    stop: int
    program: Runnable | None
    normed: bool = False


@dataclass(frozen=True, slots=True)
class _Ready:
    """A stack's programs, one after another; ``why``: what is torch's, and for which reason."""

    guard: Guard
    pieces: tuple[_Piece, ...]
    why: str


@dataclass(frozen=True, slots=True)
class _Refused:
    """That a stack has no program, and why."""

    guard: Guard
    why: str


class Guard:
    """Knows whether some modules are still what they were.

    Args:
        modules: the modules, all of them.
        linears: those among them whose matrices are packed, and those, which know by themselves.
    """

    def __init__(self, modules: Sequence[nn.Module], linears: Sequence[tuple[Multiplies, Product]]) -> None:
        every = list(dict.fromkeys(modules))
        self._settings = [m.__dict__ for m in every]
        self._tables = [table for m in every for table in (m._modules, m._parameters, m._buffers) if table]
        self._hooks = [hooks for m in every for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._linears = linears
        self._parts, self._told, self._hooked = [*self._parts_now()], self._told_now(), [*map(len, self._hooks)]
        tensors = [x for m in every for table in (m._parameters, m._buffers) for x in table.values() if x is not None]
        self._tensors, self._counted = tensors, [x for x in tensors if not x.is_inference()]
        self._places, self._versions = self._places_now(), [*map(VERSION, self._counted)]
        packed = {id(linear._parameters.get("weight")) for linear, _ in linears if isinstance(linear, nn.Linear)}
        self._memory = Watched([x for x in tensors if id(x) not in packed])
        self._glance: object | None = None

    # Between two tokens hundreds of things are looked at, so the interpreter is not asked about each.

    def _places_now(self) -> list[int]:
        return [*map(Tensor.data_ptr, self._tensors)]

    def _parts_now(self) -> Iterator[object]:
        return chain.from_iterable(map(VALUES, self._tables))

    def _same_parts(self) -> bool:
        return sum(map(len, self._tables)) == len(self._parts) and all(map(is_, self._parts_now(), self._parts))

    def _told_now(self) -> list[tuple[object, ...]]:
        return [tuple(settings.values()) for settings in self._settings]

    def holds(self, *, thoroughly: bool, glance: object | None = None) -> bool:
        """Whether they are: the same modules and parameters, to which torch has counted no write, and as many hooks.

        Args:
            thoroughly: look at their settings too, and for writes that torch does not count. Engines do so themselves.
            glance: see :class:`~omniform.core.packed.PackedContext`; they held when it was the same.
        """
        if glance is not None and glance is self._glance:
            return True
        held = self._holds(thoroughly=thoroughly)
        self._glance = glance if held else None
        return held

    def _holds(self, *, thoroughly: bool) -> bool:
        if [*map(len, self._hooks)] != self._hooked or [*map(VERSION, self._counted)] != self._versions:
            return False
        if not self._same_parts() or self._places_now() != self._places:
            return False  # and nobody may look at where they were
        try:
            as_told = not thoroughly or self._told_now() == self._told
        except (RuntimeError, ValueError):  # settings that are tensors or arrays, and no longer the same ones
            return False
        if not thoroughly or not as_told:
            return as_told
        return not self._memory.was_written() and all(is_current(*pair) for pair in self._linears)

    def learns(self) -> bool:
        """Whether somebody takes gradients by them."""
        return any(x.requires_grad for x in self._tensors)


def _suits(layers: nn.ModuleList, x: Tensor, ctx: StepContext) -> bool:
    """Whether a step is one that a program could compute, as far as can be seen at once."""
    return (
        type(ctx) in KNOWN_STEPS
        and ctx.backend in BACKENDS
        and ctx.recompute is None
        and not ctx.taps.wants_something
        and not layers.training
        and type(x) is Tensor
        and x.dtype in KINDS
        and x.device.type == "cpu"
        and x.dim() == 3
        and x.numel() > 0
        and not is_watched()
        and not _is_hooked()
    )


BACKENDS = frozenset({"sdpa", "native"})
"""Ways of attention that leave it to the machine which kernel computes."""


def _is_hooked() -> bool:
    """Whether somebody hooked into every module there is."""
    return bool(torch_modules._global_forward_hooks or torch_modules._global_forward_pre_hooks)
