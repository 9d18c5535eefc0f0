"""The runner: one step through the model, all rows end to end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.context import Memory, Taps
from omniform.core.host import sent
from omniform.core.packed import PackedContext, Segment, SlotRange, Table
from omniform.engine.adapters import Adapters
from omniform.engine.encoders import Encoders
from omniform.engine.paged_state import ROWS, PagedState, Pool
from omniform.engine.recorded import Played, Recorded
from omniform.engine.recorder import Likeliest
from omniform.engine.scheduler import ScheduledChunk, StepPlan
from omniform.engine.together import Together

# Layers look whether there is a memory at all; what they read of it lies in paged state.
_ELSEWHERE = Memory(torch.empty(0))


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """What a step gave for the wanted tokens of one row, its last ones.

    Attributes:
        chunk: the row's part in the step.
        first: the place in the row of the first of them.
        scored: of how many of them there are scores.
        hidden: what the decoder made of them. Shape: [W, D].
        logits: the scores of what follows, where the row has been read to its end: after each guess, and before the
            first; nothing elsewhere, :attr:`project` makes them. Shape: [1 + drafted, V].
        layers: the hidden states on the way, the embeddings first and the normed ones last, where the request's
            strategy asked for them. Shape: [W, D] each.
        project: hidden states to scores. Shape: [..., D] to [..., V].
    """

    chunk: ScheduledChunk
    first: int
    scored: int
    project: Callable[[Tensor], Tensor]
    _rows: slice
    _scored_rows: slice
    _step: StepTensors

    @property
    def hidden(self) -> Tensor:
        return self._step.hidden[self._rows]

    @property
    def logits(self) -> Tensor:
        return self._step.logits[self._scored_rows]

    @property
    def layers(self) -> tuple[Tensor, ...]:
        return tuple(x[self._rows] for x in self._step.layers)


def logits_of(outputs: Sequence[ChunkOutput]) -> Tensor:
    """The scores of some outputs of a step, one after the other: a view where they stand so. Shape: [R, V]."""
    spans = [output._scored_rows for output in outputs]
    if all(left.stop == right.start for left, right in pairwise(spans)):
        return outputs[0]._step.logits[spans[0].start : spans[-1].stop]
    return torch.cat([output.logits for output in outputs])


@dataclass(frozen=True, slots=True)
class StepTensors:
    """What a step gave for all wanted tokens; see :class:`ChunkOutput`, which hands out each row's share on demand.

    Attributes:
        hidden: Shape: [all W, D].
        logits: Shape: [all R, V].
        layers: Shape: [all W, D] each.
    """

    hidden: Tensor
    logits: Tensor
    layers: tuple[Tensor, ...]


class Runner:
    """Computes plans.

    Args:
        model: any model that writes.
        state: the paged state that its layers read and write.
        pools: which pools of blocks the decoder's own layers use.
        encoders: what pictures and sounds became.
        adapters: which of them each row computes with.
        together: the processes that hold the model.
        recorded: computes steps of single tokens from records; None where nothing is recorded.
    """

    def __init__(
        self,
        model: Generative,
        state: PagedState,
        pools: Sequence[Pool],
        encoders: Encoders,
        adapters: Adapters,
        together: Together,
        recorded: Recorded | None = None,
    ) -> None:
        self._model = model
        self._state = state
        self._pools = tuple(pools)
        self._token_pools = [pool for pool in pools if not isinstance(pool, str)]
        self._encoders = encoders
        self._adapters = adapters
        self._together = together
        self.recorded = recorded

    @torch.inference_mode()
    def run(
        self, plan: StepPlan, *, calm: bool = False, glance: object | None = None
    ) -> tuple[list[ChunkOutput], Tensor, Likeliest | None]:
        """Compute one step.

        Args:
            calm: nobody waits to join the rows of this step in the next.
            glance: see :class:`~omniform.core.packed.PackedContext`.

        Returns:
            What it gave for each chunk of which something is wanted, in order; the scores in all of them, Shape:
            [R, V]; and their likeliest tokens, where these are on their way to the host already.
        """
        self._together.copied(plan.copies)
        for copy in plan.copies:
            self._state.copy(*copy)
        played = None if self.recorded is None else self.recorded.run(plan, calm=calm)
        if played is not None:
            return _outputs_of(plan, played, self._model.project), played.logits, played.likeliest
        model, device = self._model, self._model.device
        ids: list[int] = []
        lengths: list[int] = []
        segments: list[Segment] = []
        wanted: list[int] = []
        wants = [chunk.wanted for chunk in plan.chunks]
        for chunk, last in zip(plan.chunks, wants, strict=True):
            row, count = chunk.row, chunk.count
            first, start = row.computed, len(ids)
            stop, length = first + count, row.regime_length
            spans = chunk.request.layout_of(row).bidirectional
            segments.append(Segment(start, count, first, tuple(t for t in spans if t[0] < stop and t[1] > first)))
            ids += row.tokens[first:stop]
            lengths += [length] * count if stop <= length else [max(length, at + 1) for at in range(first, stop)]
            wanted += range(start + count - last, start + count)
        named = sent(np.maximum(np.array([ids], np.int64), 0), device)  # a vector's place has no id
        scored = [_scored(chunk, count) for chunk, count in zip(plan.chunks, wants, strict=True)]
        with self._adapters.step(plan.chunks, wants, scored):
            embeds = model.embed(named)
            for chunk, segment in zip(plan.chunks, segments, strict=True):
                if chunk.request.placed or chunk.row.fed:
                    embeds = self._place_features(embeds, chunk, segment)
            for pool in self._pools:
                self._begin(pool, plan.chunks)
            reads_memory = plan.chunks[0].request.memory is not None
            ctx = PackedContext(
                positions=model.stand(named, sent(_positions(plan.chunks), device)),
                lengths=sent(np.array([lengths], np.int64), device),
                segments=tuple(segments),
                tables={pool: [s.row.tables[pool] for s in plan.chunks] for pool in self._token_pools},
                memory=_ELSEWHERE if reads_memory else None,
                memory_tables=[self._memory(chunk) for chunk in plan.chunks] if reads_memory else (),
                state=self._state,
                backend=model.decoder.attn_backend,
                # Where only beginnings are read, no output is asked for; one is computed, and not looked at.
                wanted=tuple(wanted) or (len(ids) - 1,) if len(wanted) < len(ids) else None,
                taps=Taps({"output_hidden_states": True}) if _reads_layers(plan) else Taps(),
                glance=glance,
            )
            self._together.decoding(embeds, ctx)
            hidden = model.decoder.decode(embeds, ctx)[0]
            layers = _wanted_of(ctx.taps.hidden_states, wanted)
            return *_outputs(plan, wants, hidden, layers, self._together.project, self._adapters), None

    def _place_features(self, embeds_1ND: Tensor, chunk: ScheduledChunk, segment: Segment) -> Tensor:
        """Put the features of pictures and sounds in the places of the placeholders that this step reads.

        Features may be wider than tokens' vectors, which then have zeros behind their own numbers (deep stacks).
        """
        first, stop = segment.past, segment.past + segment.count
        for placed in chunk.request.placed_of(chunk.row, first, stop):
            low, high = max(first, placed.start), min(stop, placed.start + placed.length)
            if low < high:
                part = self._encoders.vectors(placed)[placed.within(low) : placed.within(high)]
                at = segment.start - first
                if part.shape[-1] > embeds_1ND.shape[-1]:
                    embeds_1ND = F.pad(embeds_1ND, (0, part.shape[-1] - embeds_1ND.shape[-1]))
                embeds_1ND[0, at + low : at + high, : part.shape[-1]] = part.to(embeds_1ND)
        return embeds_1ND

    def _begin(self, pool: Pool, chunks: Sequence[ScheduledChunk]) -> None:
        """Say where the step writes."""
        if pool != ROWS:
            ranges = _written(chunks, pool)
            self._state.begin(pool, ranges)
            self._state.hold(pool, lambda: _held(chunks, pool))
            self._together.begun(pool, ranges, lambda: _held(chunks, pool))
            return
        blocks = [s.row.tables[ROWS].held()[0] for s in chunks]
        fresh = [block for block, s in zip(blocks, chunks, strict=True) if s.row.computed == 0]
        self._state.begin_rows(blocks, fresh)
        self._together.begun_rows(blocks, fresh)

    def _memory(self, chunk: ScheduledChunk) -> tuple[Table, int]:
        assert chunk.request.memory is not None
        entry = self._encoders.memories[chunk.request.memory]
        return entry.table, entry.length


def _reads_layers(plan: StepPlan) -> bool:
    return any(chunk.request.contrast is not None and chunk.request.contrast.reads_layers for chunk in plan.chunks)


def _wanted_of(layers: Sequence[Tensor], wanted: list[int]) -> tuple[Tensor, ...]:
    """The wanted tokens' hidden states. Shape: [1, N or W, D] each, to [W, D] each."""
    return tuple(x[0] if x.shape[1] == len(wanted) else taken(x[0], wanted) for x in layers)


def taken(x: Tensor, places: Sequence[int]) -> Tensor:
    """Some rows of a tensor: a view where they follow one another. Shape: [N, ...] to [len(places), ...]."""
    first = places[0] if places else 0
    if list(places) == list(range(first, first + len(places))):
        return x[first : first + len(places)]
    return x.index_select(0, sent(np.array(places, np.int64), x.device))


def _outputs_of(plan: StepPlan, played: Played, project: Callable[[Tensor], Tensor]) -> list[ChunkOutput]:
    """What a step of single tokens gave, chunk by chunk."""
    step = StepTensors(played.hidden, played.logits, ())
    spans = [slice(i, i + 1) for i in range(len(plan.chunks))]
    return [
        ChunkOutput(chunk, chunk.row.computed, 1, project, span, span, step)
        for chunk, span in zip(plan.chunks, spans, strict=True)
    ]


def _outputs(
    plan: StepPlan,
    wants: Sequence[int],
    hidden_WD: Tensor,
    layers: tuple[Tensor, ...],
    project: Callable[[Tensor], Tensor],
    adapters: Adapters,
) -> tuple[list[ChunkOutput], Tensor]:
    """What a step gave, chunk by chunk; all scores that are looked at for certain are made in one go."""
    shares: list[tuple[ScheduledChunk, int, int]] = []  # each chunk, its wanted tokens, and those with scores
    places: list[int] = []
    stop = 0
    for chunk, wanted in zip(plan.chunks, wants, strict=True):
        if wanted:
            stop += wanted
            scored = _scored(chunk, wanted)
            places += range(stop - scored, stop)
            shares.append((chunk, wanted, scored))
    if not places:
        logits = hidden_WD.new_empty(0, 0)
    else:
        logits = project(hidden_WD if len(places) == hidden_WD.shape[0] else taken(hidden_WD, places))
    step = StepTensors(hidden_WD, logits, layers)
    outputs: list[ChunkOutput] = []
    stop = at = 0
    for chunk, wanted, scored in shares:
        stop += wanted
        first = chunk.row.computed + chunk.count - wanted
        rows, scores = slice(stop - wanted, stop), slice(at, at + scored)
        later = adapters.within(chunk.request, project)
        outputs.append(ChunkOutput(chunk, first, scored, later, rows, scores, step))
        at += scored
    return outputs, logits


def _scored(chunk: ScheduledChunk, wanted: int) -> int:
    """Of how many of a chunk's wanted tokens there are scores."""
    return 1 + chunk.row.drafted if wanted and chunk.is_last else 0


def _positions(chunks: Sequence[ScheduledChunk]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Where the tokens of a step stand. Shape: [1, N], or [axes, 1, N] where the model counts on several axes."""
    layouts = [chunk.request.layout_of(chunk.row) for chunk in chunks]
    if all(layout.positions is None for layout in layouts):
        return np.array([[at for s in chunks for at in range(s.row.computed, s.row.computed + s.count)]], np.int64)
    rows = [layout.of(s.row.computed, s.row.computed + s.count) for layout, s in zip(layouts, chunks, strict=True)]
    axes = max(len(row) for row in rows)
    whole = torch.cat([row.expand(axes, -1) for row in rows], dim=1)
    return (whole if axes == 1 else whole[:, None]).numpy()


def _written(chunks: Sequence[ScheduledChunk], pool: Pool) -> list[SlotRange]:
    """The slots that a step writes, neighbours joined."""
    ranges: list[SlotRange] = []
    for chunk in chunks:
        first = chunk.row.computed
        for slots in chunk.row.tables[pool].slot_ranges(first, first + chunk.count):
            if ranges and ranges[-1][1] == slots[0]:
                ranges[-1] = (ranges[-1][0], slots[1])
            else:
                ranges.append(slots)
    return ranges


def _held(chunks: Sequence[ScheduledChunk], pool: Pool) -> list[SlotRange]:
    """The slots that rows of a step have, those that it writes included; what rows share once."""
    found: dict[SlotRange, None] = {}
    for chunk in chunks:
        table = chunk.row.tables[pool]
        found |= dict.fromkeys(table.slot_ranges(table.first, chunk.row.computed + chunk.count))
    return list(found)
