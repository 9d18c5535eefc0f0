"""A graph as the engine's decoder: what rows keep lies in the engine's blocks, and onnxruntime computes the steps.

The engine hands a decoder rows end to end (:mod:`omniform.core.packed`). A graph reads a rectangle. So rows that bring
equally many tokens go together, what was kept of each copied out of its blocks, with padding in front of the shorter
ones; and what the step adds is written into the blocks again. Where the next step has the same rows, what the graph
gave last goes in again as it lies, and nothing is copied out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from omniform.core.context import Backend, Memory, StepContext
from omniform.core.packed import PackedContext, Segment, SlotRange, Table
from omniform.core.state import State, StatefulModule, StateSpec
from omniform.engine.paged_state import PagedState
from omniform.export.onnx.layout import BRANCH, Graph
from omniform.export.onnx.pieces import IDS, READ, Pieces
from omniform.export.onnx.sessions import Held, Runs, held, nothing

Key = tuple[tuple[SlotRange, ...], ...]
"""Where rows' tokens lie in the engine's blocks, row by row."""


class Kept(StatefulModule):
    """What one layer of a graph keeps.

    Args:
        slot: its number.
        spec: what that is.
        decoder: whose; None for those that have nothing to do with an encoder's output.
    """

    def __init__(self, slot: int, spec: StateSpec, decoder: GraphDecoder | None) -> None:
        super().__init__()
        self.slot, self._spec = slot, spec
        self.__dict__["decoder"] = decoder  # which holds this one

    def state_spec(self) -> StateSpec:
        return self._spec

    def remember(self, memory: Memory, state: State) -> None:
        decoder = cast("GraphDecoder | None", self.__dict__["decoder"])
        if decoder is not None:
            decoder.remember(memory, cast(PagedState, state))


@dataclass(frozen=True, slots=True)
class Carried:
    """What a step gave, for the next one.

    Attributes:
        tables: whose rows these are.
        ends: tokens of each row so far.
        slots: where they lie.
        memories: the tables of what the rows' encoders gave.
        padding: places in front of each row that are nobody's.
        past: as the graph's inputs.
    """

    tables: list[Table]
    ends: list[int]
    slots: Key
    memories: list[Table]
    padding: list[int]
    past: Mapping[str, Held]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a step that go through the graph together.

    Attributes:
        numbers: which rows of the step.
        tokens: which tokens of the step, row by row. Shape: [R, T].
        pasts: tokens of each before.
        tables: where these lie; nothing where no tokens are kept.
        memories: where what their encoders gave lies, and how long it is.
    """

    numbers: list[int]
    tokens: Tensor
    pasts: list[int]
    tables: list[Table]
    memories: list[tuple[Table, int]]

    @property
    def width(self) -> int:
        """Tokens before, of the longest row."""
        return max(self.pasts)


class GraphDecoder(nn.Module):
    """A decoder that onnxruntime computes.

    Args:
        first: the graph that reads an encoder's output; the same as ``later`` without an encoder.
        later: the graph that goes on from what was kept.
        pieces: what is kept.
        max_positions: the longest row that the model can make sense of; None without a limit.
    """

    attn_backend: Backend = "sdpa"

    def __init__(self, first: Runs, later: Runs, pieces: Pieces, max_positions: int | None) -> None:
        super().__init__()
        self.first, self.later, self.pieces = first, later, pieces
        self.max_positions = max_positions
        reads = [slot for slot, spec in pieces.specs.items() if spec.kept == "memory"]
        self.layers = nn.ModuleList(
            nn.ModuleList(Kept(s, pieces.specs[s], self if s in reads[:1] else None) for s in slots)
            for slots in pieces.layers
        )
        self._carried: list[Carried] = []
        self._names = {port.name for port in later.graph.inputs}
        ids = next((port for port in later.graph.inputs if port.name == "input_ids"), None)
        self._single = ids is not None and ids.dims[-1] == 1

    def embed(self, input_ids: Tensor) -> Tensor:
        """The ids themselves: the graph has the table. Shape: [B, T] to [B, T, 1]."""
        return input_ids[..., None]

    @torch.no_grad()
    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Ids, or vectors, to scores of what follows. Shape: [B, T, 1 or D] to [B, T or wanted, V]."""
        if isinstance(ctx, PackedContext):
            return self._packed(embeds_BTD, ctx)
        told = self._told(self.first.graph, embeds_BTD, torch.ones(embeds_BTD.shape[:2], dtype=torch.int64), 0)
        if ctx.memory is not None:
            told |= _of_memory(ctx.memory.hidden, ctx.memory.padding)
        return self._computed(self.first, told)["logits"].tensor()

    # -- an encoder's output -------------------------------------------------------------------------------------------

    def remember(self, memory: Memory, state: PagedState) -> None:
        """Keep what cross-attention will read of a memory, at the places of :meth:`PagedState.begin`."""
        whole = {piece.name: piece for piece in self.pieces.memory}
        if READ in whole:
            state.tokens(whole[READ].slot).write(memory.hidden[:, None].float())
            return
        ids = torch.zeros(1, 1, dtype=torch.int64)
        told = self._told(self.first.graph, ids[..., None], torch.ones_like(ids), 0)
        found = self._computed(self.first, told | _of_memory(memory.hidden, memory.padding))
        parts: dict[int, dict[int, Tensor]] = {}
        for piece in whole.values():
            parts.setdefault(piece.slot, {})[piece.part] = found[cast(str, piece.present)].tensor().float()
        for slot, both in parts.items():
            state.set_cross(slot, both[0], both[1])

    # -- a step --------------------------------------------------------------------------------------------------------

    def _packed(self, embeds_1ND: Tensor, ctx: PackedContext) -> Tensor:
        state = cast(PagedState, ctx.state)
        logits: dict[int, Tensor] = {}
        carried: list[Carried] = []
        for rows in self._together(ctx):
            logits |= dict(zip(rows.numbers, self._step(embeds_1ND[0], rows, ctx, state, carried), strict=True))
        self._carried = carried
        wanted = ctx.wanted if ctx.wanted is not None else range(embeds_1ND.shape[1])
        bounds = [bisect_left(wanted, segment.start) for segment in ctx.segments] + [len(wanted)]
        counts = [stop - begin for begin, stop in pairwise(bounds)]
        found = [logits[row][-count:] for row, count in enumerate(counts) if count]
        return (found[0] if len(found) == 1 else torch.cat(found))[None].float()

    def _together(self, ctx: PackedContext) -> list[Rows]:
        """The rows of a step, those that the graph can read in one rectangle together.

        A row may begin with tokens that another brings in the same step: it comes after that one.
        """
        masked = "encoder_attention_mask" in self._names
        tables = ctx.tables.get(None, ())
        turns = _turns(ctx.segments, tables) if tables else [0] * len(ctx.segments)
        alike: dict[tuple[int, ...], list[int]] = {}
        for number, segment in enumerate(ctx.segments):
            memory = ctx.memory_tables[number][1] if ctx.memory_tables and not masked else 0
            past = segment.past if "cache_position" in self._names else 0
            alike.setdefault((turns[number], segment.count, memory, past), []).append(number)
        return [
            Rows(
                numbers,
                torch.tensor([[*range(s.start, s.start + s.count)] for s in (ctx.segments[n] for n in numbers)]),
                [ctx.segments[n].past for n in numbers],
                [tables[n] for n in numbers] if tables else [],
                [ctx.memory_tables[n] for n in numbers] if ctx.memory_tables else [],
            )
            for _, numbers in sorted(alike.items())
        ]

    def _step(
        self, embeds_ND: Tensor, rows: Rows, ctx: PackedContext, state: PagedState, carried: list[Carried]
    ) -> Tensor:
        """Scores of some rows' tokens; what they keep is written, and added to ``carried``. Shape: [R, T, V]."""
        embeds, count = embeds_ND[rows.tokens], rows.tokens.shape[1]
        before = self._past(rows, state)
        if IDS in before.past:  # nothing is kept: all is read again
            self._write(rows, state, {IDS: embeds[:, None].float()})
            embeds = torch.cat((before.past[IDS].tensor()[:, 0].to(embeds.dtype), embeds), 1)
        width = max(p + e for p, e in zip(before.padding, before.ends, strict=True))
        mask = torch.ones(len(rows.pasts), width + count, dtype=torch.int64)
        for row, padding in enumerate(before.padding):
            mask[row, :padding] = 0
        told = self._told(self.later.graph, embeds, mask, width)
        if ctx.positions.dim() == 3 and "position_ids" in told:
            told["position_ids"] = ctx.positions[:, 0][:, rows.tokens].long()
        lengths = [length for _, length in rows.memories]
        if lengths:
            there = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
            told["encoder_attention_mask"] = there.long()
        whole: dict[str, Tensor | Held] = {**told, **before.past}
        if READ in whole:
            whole[READ] = cast(Held, whole[READ]).tensor()[:, 0]
        fixed = torch.tensor(rows.numbers)
        for piece in self.pieces.rows:
            whole[piece.name] = state.fixed(piece.slot).read(fixed)
        goes_on = bool(self.pieces.memory) or width > 0
        if self._single and count > 1 and goes_on:
            found = self._single_steps(whole, count)
        else:
            found = self._computed(self.later if goes_on else self.first, whole, goes_on=goes_on)
        for piece in self.pieces.rows:
            state.fixed(piece.slot).write(fixed, found[cast(str, piece.present)].tensor())
        past = {**before.past, **{p.name: found[p.present] for p in self.pieces.tokens if p.present is not None}}
        if rows.tables and IDS not in past:
            self._write(rows, state, {p.name: past[p.name].tensor()[:, :, -count:].float() for p in self.pieces.tokens})
            if self._carries(state):
                ends = [own + count for own in rows.pasts]
                memories = [table for table, _ in rows.memories]
                carried.append(Carried(rows.tables, ends, _slots(rows.tables, ends), memories, before.padding, past))
        return found["logits"].tensor()[:, -count:]

    def _write(self, rows: Rows, state: PagedState, new: Mapping[str, Tensor]) -> None:
        """Write what a step adds into the blocks of its rows.

        Args:
            new: by name. Shape: [R, G, T, D].
        """
        count = rows.tokens.shape[1]
        ranges = [
            own for t, past in zip(rows.tables, rows.pasts, strict=True) for own in t.slot_ranges(past, past + count)
        ]
        state.begin(None, ranges)
        for slot in dict.fromkeys(piece.slot for piece in self.pieces.tokens):
            parts = (new[piece.name].transpose(0, 1).flatten(1, 2)[None] for piece in self.pieces.of(slot))
            state.tokens(slot).write(*parts)

    def _carries(self, state: PagedState) -> bool:
        """Whether what is in the blocks is what the graph gave, to the last bit."""
        kept = state.tokens(self.pieces.tokens[0].slot)
        return kept.coding.as_it_is(state.dtype)

    def _past(self, rows: Rows, state: PagedState) -> Carried:
        """What rows bring along: as the last step left it, or out of the blocks."""
        memories = [table for table, _ in rows.memories]
        slots = _slots(rows.tables, rows.pasts)
        for one in self._carried:
            same = _same(one.tables, rows.tables) and _same(one.memories, memories)
            if same and one.ends == rows.pasts and one.slots == slots:
                return one
        width, past = rows.width, dict[str, Held]()
        for slot in dict.fromkeys(piece.slot for piece in self.pieces.tokens):
            parts = [state.tokens(slot).taken(own, torch.float32) for own in slots]
            for piece in self.pieces.of(slot):
                past[piece.name] = held(_padded([row[piece.part] for row in parts], width), piece.dtype)
        longest = max((length for _, length in rows.memories), default=0)
        for slot in dict.fromkeys(piece.slot for piece in self.pieces.memory):
            parts = [state.tokens(slot).taken(t.slot_ranges(0, n), torch.float32) for t, n in rows.memories]
            for piece in self.pieces.of(slot):
                past[piece.name] = held(_padded([row[piece.part] for row in parts], longest, after=True), piece.dtype)
        return Carried(rows.tables, rows.pasts, slots, memories, [width - own for own in rows.pasts], past)

    def _single_steps(self, whole: Mapping[str, Tensor | Held], count: int) -> dict[str, Held]:
        """Several tokens, one after another, through a graph that reads one at a time."""
        given, logits = dict(whole), []
        found: dict[str, Held] = {}
        for at in range(count):
            told = dict(given)
            for name in ("input_ids", "position_ids"):
                if name in told:
                    told[name] = cast(Tensor, told[name])[:, at : at + 1]
            for name in ("attention_mask", "decoder_attention_mask"):
                if name in told:
                    own = cast(Tensor, told[name])
                    told[name] = own[:, : own.shape[1] - count + at + 1]
            found = self._computed(self.later, told, goes_on=True)
            logits.append(found["logits"].tensor())
            given |= {p.name: found[p.present] for p in (*self.pieces.tokens, *self.pieces.rows) if p.present in found}
        return {**found, "logits": held(torch.cat(logits, 1))}

    def _computed(self, session: Runs, told: Mapping[str, Tensor | Held], *, goes_on: bool = False) -> dict[str, Held]:
        """Run a graph; what it reads of the past and nobody told is empty.

        Args:
            goes_on: whether it goes on from a past, where it can do either.
        """
        rows = len(cast(Tensor, told["input_ids"] if "input_ids" in told else told["inputs_embeds"]))
        given = dict(told)
        for port in session.graph.inputs:
            if port.name not in given:
                given[port.name] = nothing(port, rows)
        if BRANCH in given:
            given[BRANCH] = torch.tensor([goes_on])
        return session.run(given)

    def _told(self, graph: Graph, embeds: Tensor, mask: Tensor, past: int) -> dict[str, Tensor | Held]:
        """What a graph reads of a step, as far as it reads it.

        Args:
            embeds: ids or vectors. Shape: [R, T, 1 or D].
            mask: Shape: [R, past + T].
            past: tokens before, those that are nobody's included.
        """
        count = embeds.shape[1]
        if not self.pieces.tokens:  # nothing of single tokens is kept: the mask tells of the new ones alone
            mask = mask[:, -count:]
        every: dict[str, Tensor] = {
            "attention_mask": mask, "decoder_attention_mask": mask, "num_logits_to_keep": torch.tensor(count),
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, -count:],
            "cache_position": torch.arange(past, past + count),
        }  # fmt: skip
        if "inputs_embeds" in {port.name for port in graph.inputs}:
            every["inputs_embeds"] = embeds
        else:
            every["input_ids"] = embeds[..., 0].long()
            every["token_type_ids"] = torch.zeros_like(every["input_ids"])
        return {port.name: every[port.name] for port in graph.inputs if port.name in every}


def _of_memory(hidden: Tensor, padding: Tensor | None) -> dict[str, Tensor]:
    """What a graph reads of an encoder's output. Shape: [B, S, D] and [B, S]."""
    mask = torch.ones(hidden.shape[:2], dtype=torch.int64) if padding is None else padding.long()
    return {READ: hidden, "encoder_attention_mask": mask}


def _same(left: Sequence[object], right: Sequence[object]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _slots(tables: Sequence[Table], ends: Sequence[int]) -> Key:
    return tuple(
        tuple(table.slot_ranges(0, end)) if end else () for table, end in zip(tables, ends, strict=True)
    )  # fmt: skip


def _padded(rows: Sequence[Tensor], width: int, *, after: bool = False) -> Tensor:
    """Rows side by side, zeros before the shorter ones or after them. Shape: [G, n, D] each, to [R, G, width, D]."""
    if len(rows) == 1:
        return rows[0][None]
    whole = rows[0].new_zeros(len(rows), rows[0].shape[0], width, rows[0].shape[2])
    for own, row in zip(whole, rows, strict=True):
        count = row.shape[1]
        own[:, slice(0, count) if after else slice(width - count, width)] = row
    return whole


def _turns(segments: Sequence[Segment], tables: Sequence[Table]) -> list[int]:
    """In which turn each row of a step can be computed: after those whose tokens of this step it begins with."""
    ranges = [t.slot_ranges(s.past, s.past + s.count) for s, t in zip(segments, tables, strict=True)]
    writes = sorted((low, high, row) for row, own in enumerate(ranges) for low, high in own)
    starts = [low for low, _, _ in writes]
    turns: list[int] = []
    for segment, table in zip(segments, tables, strict=True):
        turn = 0
        for low, high in table.slot_ranges(0, segment.past) if segment.past else ():
            for _, stop, other in writes[max(0, bisect_left(starts, low) - 1) : bisect_left(starts, high)]:
                if stop > low and other < len(turns):
                    turn = max(turn, turns[other] + 1)
        turns.append(turn)
    return turns
