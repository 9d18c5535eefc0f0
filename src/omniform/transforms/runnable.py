"""One step of a program: what changes with the step, laid out as the library takes it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from omniform.blocks.operations import ByDistance, ByStep, Place
from omniform.core.context import StepContext
from omniform.core.dense import DenseFixed, DenseKV, DenseLatent, DenseTokens
from omniform.core.packed import PackedContext
from omniform.core.state import FixedView, KVView, LatentView, State, StateSpec
from omniform.core.stores import Bounded, Grown
from omniform.native import program_abi
from omniform.native.library import Library
from omniform.native.matrix import CODES, KINDS, aligned, rows_of
from omniform.transforms import step_inputs
from omniform.transforms.compiled import Compiled
from omniform.transforms.steady import Steady, can_go_on
from omniform.transforms.step_inputs import NoRanges, Paged, Seen, slots_of

KEPT_BYTES = 2**26
"""Bytes of buffers that a thread keeps from one step to the next."""

Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

PAGES = {**KINDS, **CODES}
"""What numbers in slots are, by the dtype of the tensors that hold them."""

Struct = tuple[object, ...]
"""The fields of one entry of an array that the library reads."""


class _Arena(threading.local):
    """The memory of each thread's buffers."""

    def __init__(self) -> None:
        self.memory = torch.empty(0, dtype=torch.uint8, device="cpu")

    def of(self, size: int) -> Tensor:
        """So many bytes, kept for the next step unless they are very many."""
        if self.memory.numel() >= size:
            return self.memory
        with torch.inference_mode(False):
            made = aligned(size)
        if size <= KEPT_BYTES:
            self.memory = made
        return made


_ARENA = _Arena()


class _Call:
    """What is alive until a call returns.

    Args:
        rows: of the batch.
        tokens: of each.
        ctx: the step.

    Attributes:
        alive: what the library is given the addresses of; nothing of it knows the step's state.
    """

    def __init__(self, rows: int, tokens: int, ctx: StepContext) -> None:
        self.rows, self.tokens, self.ctx = rows, tokens, ctx
        self.alive: list[object] = []

    def at(self, array: Array) -> int:
        """Where an array begins, which stays until then."""
        self.alive.append(array)
        return array.ctypes.data

    def kept(self, x: Tensor) -> Tensor:
        """A tensor, which stays until then."""
        self.alive.append(x)
        return x

    def array(self, kind: np.dtype[np.void], entries: Sequence[Struct]) -> int | None:
        """An array of structs; none of none."""
        return self.at(np.array(entries, kind)) if entries else None

    def sight(self, seen: Seen, apart: int) -> Struct:
        """What queries see, where rows lie so many slots apart."""
        ranges = step_inputs.ranges_apart(self.ctx, seen, apart)
        arrays = (seen.segments, ranges, seen.low, seen.high, seen.query, seen.origin)
        return (*(self.at(array) for array in arrays), len(seen.segments))

    def table(self, cos: Tensor, sin: Tensor) -> Struct:
        """A rotary table."""
        self.alive += [cos, sin]
        return cos.data_ptr(), sin.data_ptr(), cos.shape[1]

    def pair(self, k: Tensor, v: Tensor) -> tuple[Struct, Struct, int]:
        """Keys and values, Shape: [B, G, S, D] each, and how many slots apart their rows lie."""
        self.alive += [k, v]
        apart = _apart(k)
        assert apart == _apart(v), "keys and values of a layer are kept alike"
        return _state(k), _state(v), apart


def _state(x_BGSD: Tensor) -> Struct:
    _, heads, _, width = x_BGSD.shape
    assert x_BGSD.stride(3) == 1 or width == 1
    strides = x_BGSD.stride(1), x_BGSD.stride(2)
    return x_BGSD.data_ptr(), 0, heads, width, *strides, 0, KINDS[x_BGSD.dtype], 0


def _paged_state(x_1GSD: Tensor, scales_1GS1: Tensor | None, width: int) -> Struct:
    _, heads, slots, _ = x_1GSD.shape
    assert x_1GSD.is_contiguous() and (scales_1GS1 is None or scales_1GS1.is_contiguous())
    scales = 0 if scales_1GS1 is None else scales_1GS1.data_ptr()
    return x_1GSD.data_ptr(), scales, heads, width, *x_1GSD.stride()[1:3], slots, PAGES[x_1GSD.dtype], 0


def _apart(x_BGSD: Tensor) -> int:
    if x_BGSD.shape[0] == 1:
        return 0
    apart, rest = divmod(x_BGSD.stride(0), x_BGSD.stride(2))
    assert not rest, "a row's keys begin at a slot"
    return apart


class Runnable:
    """A program, and what of one step can be kept for the next.

    Args:
        program: as the library takes it.

    Attributes:
        width: numbers of a token that go in.
    """

    def __init__(self, program: Compiled) -> None:
        self._program, self.width = program, program.steps.width
        self._pages: WeakKeyDictionary[State, tuple[Array, list[step_inputs.Mapping]]] = WeakKeyDictionary()
        self._biases: dict[int, tuple[int, Tensor]] = {}
        self._steady: WeakKeyDictionary[State, Steady] = WeakKeyDictionary()

    def run(self, by: Library, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Compute a step. Shape: [B, T, D] in; out of the tokens that are wanted.

        Raises:
            NoRanges: the step is of another kind; nothing was changed.
        """
        p, (rows, tokens, _) = self._program, x_BTD.shape
        x = x_BTD.detach().reshape(rows * tokens, -1)
        x = x if x.stride(1) == 1 else x.contiguous()
        if self._goes_on(ctx):
            return self._next(by, x, ctx)
        call = _Call(rows, tokens, ctx)
        wanted = step_inputs.wanted_rows(ctx, rows, tokens)
        count = len(x) if wanted is None else len(wanted)
        seen = [step_inputs.seen(ctx, rule, which, rows, tokens) for rule, which in p.steps.rules]
        readings = self._readings(call)
        fixed = self._fixed_of(ctx.state)
        biases = [self._bias(n, seen, call) for n in range(len(p.biases))]
        memories, looked = self._memories(call)
        kept, slots, sights, written = self._kept(by, call, seen, x.dtype)
        first = len(sights)
        for apart in looked:
            across = (step_inputs.seen_across(ctx, which, rows, tokens, looked[apart]) for which in p.looks)
            sights += [call.sight(s, apart) for s in across]
        offsets = {apart: first + n * len(p.looks) for n, apart in enumerate(looked)}
        tables = [call.table(*step_inputs.turns(ctx, turning, rows, tokens)) for turning in p.steps.tables]
        out = torch.empty(count if p.out.rows == "wanted" else len(x), p.out.width, dtype=x.dtype, device="cpu")
        arena = _ARENA.of(self._arena(len(x), count))
        step = program_abi.Step(
            rows_of(x),
            rows_of(out),
            None if wanted is None else call.at(wanted),
            kept,
            slots,
            call.array(program_abi.KEPT, [(k, v, 0, offsets[apart]) for k, v, apart in memories]),
            call.array(program_abi.SIGHT, sights),
            call.array(program_abi.TABLE, tables),
            call.array(program_abi.BIAS, biases),
            call.array(program_abi.READING, readings),
            call.array(program_abi.FIXED, [self._row_states(view, spec, call, x.dtype) for view, spec in fixed]),
            len(readings),
            arena.data_ptr(),
        )
        by.call("of_run", ctypes.byref(p.c), ctypes.byref(step))
        if written and isinstance(ctx, PackedContext) and ctx.state is not None and self._can_go_on(ctx):
            rules = [(rule, s) for (rule, _), s in zip(p.steps.rules, seen, strict=True)]
            if can_go_on(ctx, rules):
                self._steady[ctx.state] = Steady(step, call.alive, ctx, rules, written, p.steps.tables)
        return out.view(rows, -1, p.out.width)

    def _can_go_on(self, ctx: PackedContext) -> bool:
        """Whether what the library is told of the next step differs from this one by places of tokens alone."""
        p = self._program
        by_distance = all(isinstance(bias, ByDistance) for bias in p.biases)
        return by_distance and not p.fixed and not p.memories and all(t.by_position for t in p.steps.tables)

    def _goes_on(self, ctx: StepContext) -> bool:
        """Whether this is the next step of the rows of the last one, which is told by now."""
        if type(ctx) is not PackedContext or ctx.state is None:
            return False
        last = self._steady.get(ctx.state)
        if last is None or last.moved(ctx):
            return last is not None
        del self._steady[ctx.state]
        return False

    def _next(self, by: Library, x: Tensor, ctx: StepContext) -> Tensor:
        assert ctx.state is not None
        p = self._program
        out = torch.empty(len(x), p.out.width, dtype=x.dtype, device="cpu")
        arena = _ARENA.of(self._arena(len(x), len(x)))
        step = self._steady[ctx.state].between(x, out, arena.data_ptr())
        by.call("of_run", ctypes.byref(p.c), ctypes.byref(step))
        return out[None]

    def _arena(self, tokens: int, wanted: int) -> int:
        """Bytes of buffers for so many tokens, of which so many are wanted."""
        return sum(((wanted if few else tokens) * width * 4 + 63) // 64 * 64 for width, few in self._program.storages)

    def _readings(self, call: _Call) -> list[step_inputs.Reading]:
        """The step as recurrences read it, where there are any."""
        if self._program.steps.unpadded and call.ctx.padding is not None:
            raise NoRanges("a convolution sees padding as it is")
        return step_inputs.readings(call.ctx, call.rows, call.tokens) if self._program.fixed else []

    def _fixed_of(self, state: State | None) -> list[tuple[FixedView, StateSpec]]:
        """The states of fixed size, and what they are."""
        if state is None:
            return []
        views = [(state.fixed(slot), spec) for slot, spec in self._program.fixed]
        if not all(isinstance(view, DenseFixed | step_inputs.PagedRows) for view, _ in views):
            raise NoRanges("what is kept of rows is not kept as it is")
        return views

    def _row_states(self, view: FixedView, spec: StateSpec, call: _Call, dtype: torch.dtype) -> Struct:
        """Where one of them is read, and where it is written."""
        if isinstance(view, step_inputs.PagedRows):
            at = view.mapping.slots
            assert isinstance(at, Tensor) and view.whole.is_contiguous()
            where = view.whole.data_ptr()
            return where, where, call.kept(at).data_ptr(), view.whole.stride(0), KINDS[view.whole.dtype], 0
        kept = spec.stored_as(dtype)
        before = view.read(slice(None))
        # Anew: who keeps the state before this step may go back to it.
        after = torch.empty(call.rows, *spec.shapes[0], dtype=kept, device="cpu")
        view.write(slice(None), after)
        origin = 0 if before is None else call.kept(before.to(kept).contiguous()).data_ptr()
        return origin, after.data_ptr(), 0, after.stride(0), KINDS[kept], 0

    def _memories(self, call: _Call) -> tuple[list[tuple[Struct, Struct, int]], dict[int, int]]:
        """What is kept of an encoder's output; and how far apart its rows lie, with how long they are."""
        found: list[tuple[Struct, Struct, int]] = []
        lengths: dict[int, int] = {}
        for source in self._program.memories:
            k, v = source.keys_values(call.ctx)
            found.append(call.pair(k, v))
            lengths[found[-1][2]] = k.shape[2]
        return found, lengths

    def _kept(
        self, by: Library, call: _Call, seen: list[Seen], dtype: torch.dtype
    ) -> tuple[int | None, int | None, list[Struct], list[tuple[step_inputs.Mapping, Array]]]:
        """Where keys and values lie and go to, what is seen of them, and the slots of paged ones."""
        state = call.ctx.state
        if state is None:
            return None, None, [call.sight(s, call.tokens) for s in seen], []
        paged = self._paged(by, state)
        if paged is not None:
            pages, mappings = paged
            written: list[tuple[step_inputs.Mapping, Array]] = [(mapping, slots_of(mapping)) for mapping in mappings]
            slots = [call.at(at) for _, at in written]
            return call.at(pages), call.at(np.array(slots, np.uint64)), [call.sight(s, 0) for s in seen], written
        layers = [call.pair(*pair) for pair in self._extended(state, call, dtype)]
        aparts = list(dict.fromkeys(apart for _, _, apart in layers))
        slots = [call.at(step_inputs.stored_at(call.ctx, call.rows, call.tokens, apart)) for apart in aparts]
        sights = [call.sight(s, apart) for apart in aparts for s in seen]
        entries = [(k, v, aparts.index(apart), aparts.index(apart) * len(seen)) for k, v, apart in layers]
        return call.array(program_abi.KEPT, entries), call.at(np.array(slots, np.uint64)), sights, []

    def _paged(self, by: Library, state: State) -> tuple[Array, list[step_inputs.Mapping]] | None:
        """A paged state's layers, which never move, and where their steps' keys go; None of another state."""
        known = self._pages.get(state)
        if known is not None:
            return known
        views = self._views(state)
        paged = [view for view in views if isinstance(view, Paged)]
        if not paged or len(paged) < len(views):
            return None
        mappings: list[step_inputs.Mapping] = []
        entries = []
        for slot, view in zip(self._program.slots, paged, strict=True):
            number = next((n for n, known in enumerate(mappings) if known is view.mapping), len(mappings))
            mappings += [view.mapping] if number == len(mappings) else []
            if view.whole[0].dtype == torch.uint8 and not program_abi.keeps_nibbles(by):
                raise NoRanges("these kernels do not know pages of four bits")
            entries.append((*self._coded(slot, view), number, 0))
        made = self._pages[state] = np.array(entries, program_abi.KEPT), mappings
        return made

    def _extended(self, state: State, call: _Call, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """A padded batch's layers, with room for the step's keys at their ends. Shape: [B, G, S, D] each."""
        views = self._views(state)
        if not all(isinstance(view, DenseKV | DenseLatent) and type(view.store) in (Grown, Bounded) for view in views):
            raise NoRanges("what is kept of tokens is not kept as it is")

        def room(place: Place) -> Tensor:
            return torch.empty(call.rows, place.heads, call.tokens, place.size, dtype=dtype, device="cpu")

        found: list[tuple[Tensor, Tensor]] = []
        for slot, view in zip(self._program.slots, views, strict=True):
            assert isinstance(view, DenseTokens)
            k, v, _ = self._program.states[slot]
            found.append(self._pair(slot, view.store.append(room(k), *(() if v is None else (room(v),)))))
        return found

    def _views(self, state: State) -> list[KVView | LatentView]:
        """What is kept of tokens."""
        latent = {slot for slot, (_, v, _) in self._program.states.items() if v is None}
        return [state.latent(slot) if slot in latent else state.kv(slot) for slot in self._program.slots]

    def _pair(self, slot: int, kept: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of what is kept of tokens; the first numbers of keys where these hold them."""
        k, v = kept[0], kept[-1]
        return k, v if len(kept) == 2 else v[..., : self._program.states[slot][2]]

    def _coded(self, slot: int, view: Paged) -> tuple[Struct, Struct]:
        """Keys and values of slots, or what stands for them."""
        width = view.widths[1] if len(view.widths) == 2 else self._program.states[slot][2]
        keys = _paged_state(view.whole[0], view.scales[0], view.widths[0])
        return keys, _paged_state(view.whole[-1], view.scales[-1], width)

    def _bias(self, number: int, seen: list[Seen], call: _Call) -> Struct:
        """A score bias as a table, made again where it is for more keys than any before."""
        bias = self._program.biases[number]
        if isinstance(bias, ByStep):
            table, places = step_inputs.bias_of(call.ctx, bias, call.rows, call.tokens)
            return call.kept(table).data_ptr(), table.shape[1], 0, 0, call.at(places)
        known = self._biases.get(number)
        if isinstance(bias, ByDistance):
            if known is None:
                least, table = bias.distances()
                known = self._biases[number] = -least, table.contiguous()
            return known[1].data_ptr(), known[1].shape[1], known[0], 0, 0
        most = max(int((s.high - s.origin).max()) for s in seen)
        if known is None or known[1].shape[1] < most:
            known = self._biases[number] = 0, bias.places(max(64, 1 << (most - 1).bit_length())).contiguous()
        return known[1].data_ptr(), known[1].shape[1], 0, 1, 0
