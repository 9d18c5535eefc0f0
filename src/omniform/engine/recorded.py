"""Steps of single tokens that a GPU plays from a record.

A step in which every row brings one token starts hundreds of kernels, each of some microseconds; starting them from
Python takes several times as long as they run. So such a step is recorded once for a number of rows and a length that
they may reach (https://pytorch.org/blog/accelerating-pytorch-with-cuda-graphs/), and played for any rows from then on.
What differs between steps lies in one tensor on the device: tokens, places, blocks. A record ends by moving these on by
one token, the likeliest, so that the next step of the same rows can be played before anybody has looked at the tokens
of this one: the host reads them while the GPU computes on. What was played ahead counts only if the next plan turns out
to be that very step; else it is as if it had never been, since it has written nothing that anybody reads.

Rows are filled up to one of a few numbers by rows that write into a block of nobody's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from omniform.architectures.generative import Generative
from omniform.core.context import Memory
from omniform.core.reached import DecodeContext, DecodeRows, NoLimitsError, rows_of
from omniform.engine.encoders import Encoders
from omniform.engine.paged_state import MEMORY, ROWS, PagedState, Pool
from omniform.engine.recorder import Likeliest, Made, Recorder
from omniform.engine.request import Request, Row
from omniform.engine.scheduler import ScheduledChunk, StepPlan
from omniform.engine.tops import highest
from omniform.transforms.lora import layers_of

log = logging.getLogger("omniform")

COUNTS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Numbers of rows that steps are filled up to; of more rows none is recorded: they keep a GPU busy for as long as it
takes to start them."""

SHORTEST: Final = 512
"""Keys of the shortest rows that are told apart; from there on by powers of two."""

FEW: Final = 3
"""Steps that are to come at least, where one is recorded for them: recording takes as long as about two."""

RECORDS: Final = 32
"""Records that are kept; the one that was used longest ago goes first."""

# Layers look whether there is a memory at all; what they read of it lies in paged state.
_ELSEWHERE = Memory(torch.empty(0))


@dataclass(frozen=True, slots=True)
class Shape:
    """What a record is made for.

    Attributes:
        rows: how many, those that fill up included.
        keys: how long each may become.
        memory: how long the memory that each reads may be; 0 without.
    """

    rows: int
    keys: int
    memory: int


class Told:
    """What a step is told, as parts of one tensor on the device.

    Args:
        shape: of the step.
        pools: those of tokens, and whether there is one of rows.
        size: tokens in a block.
        device: where the tensor lies.
    """

    def __init__(
        self, shape: Shape, pools: Sequence[Pool], size: int, device: torch.device, spare: Callable[[Pool], int]
    ) -> None:
        rows, width, memory = shape.rows, shape.keys // size, -(-shape.memory // size)
        sizes: dict[Pool, int] = {pool: 1 if pool == ROWS else width for pool in pools}
        if memory:
            sizes[MEMORY] = memory
        self.shape, self.size = shape, size
        total = rows * (4 + sum(sizes.values()))
        self.host = np.zeros(total, np.int64)
        self.device = torch.zeros(total, dtype=torch.int64, device=device)
        self.ids, self.index, self.lengths, self.memory = self.device[: 4 * rows].view(4, rows)
        self._columns = self.host[: 4 * rows].reshape(4, rows)
        self.tables: dict[Pool, Tensor] = {}
        self.blocks: dict[Pool, np.ndarray[tuple[int, int], np.dtype[np.int64]]] = {}
        self._spare: dict[Pool, int] = {}
        at = 4 * rows
        for pool, columns in sizes.items():
            self.tables[pool] = self.device[at : at + rows * columns].view(rows, columns)
            self.blocks[pool] = self.host[at : at + rows * columns].reshape(rows, columns)
            self._spare[pool] = spare(pool)
            at += rows * columns
        self.clear()
        self.upload()

    def clear(self) -> None:
        """Nobody's rows: each reads and writes a block that is nobody's."""
        self._columns[:] = 0
        for pool, blocks in self.blocks.items():
            blocks[:] = self._spare[pool]

    def fill(self, chunks: Sequence[ScheduledChunk], memories: Sequence[tuple[Sequence[int], int]]) -> None:
        """The rows of a step."""
        self.clear()
        ids, index, lengths, memory = self._columns
        for i, chunk in enumerate(chunks):
            row = chunk.row
            at, length = row.computed, row.regime_length
            ids[i], index[i], lengths[i] = max(row.tokens[at], 0), at, max(length, at + 1)
            for pool, blocks in self.blocks.items():
                if pool != MEMORY:
                    _told(blocks[i], row, pool)
        for i, (held, length) in enumerate(memories):
            self.blocks[MEMORY][i, : len(held)] = held
            memory[i] = length

    def upload(self) -> None:
        """One copy to the device, which nobody waits for."""
        whole = torch.from_numpy(self.host)
        if self.device.device.type == "cuda":
            whole = whole.pin_memory()
        self.device.copy_(whole, non_blocking=True)


def _told(blocks: np.ndarray[tuple[int], np.dtype[np.int64]], row: Row, pool: Pool) -> None:
    """A row's blocks, and behind them those that are kept free for it."""
    table = row.tables[pool]
    known = [0 if block is None else block for block in table.blocks]
    count = min(len(known), len(blocks))
    blocks[:count] = known[:count]
    first, stop = table.reserve
    more = min(stop - first, len(blocks) - count)
    if more > 0:
        blocks[count : count + more] = range(first, first + more)


@dataclass(frozen=True, slots=True)
class Played:
    """What a played step gave.

    Attributes:
        hidden: of its rows. Shape: [R, D].
        logits: Shape: [R, V].
        likeliest: their tokens.
    """

    hidden: Tensor
    logits: Tensor
    likeliest: Likeliest


@dataclass(slots=True)
class Record:
    """One shape's."""

    told: Told
    play: Callable[[], object]
    made: Made


@dataclass(slots=True)
class Ahead:
    """A step that was played before it was planned.

    Attributes:
        rows: whose it is.
        index: where each row's token stands.
        before: the tokens that it read.
        record: what played it.
        result: what it gave.
    """

    rows: list[Row]
    index: list[int]
    before: Likeliest
    record: Record
    result: Played


@dataclass(slots=True)
class Counts:
    """What was recorded and played.

    Attributes:
        recorded: records made.
        played: steps played.
        ahead: those among them that were played before they were planned, and counted.
        vain: those that did not count.
        why: why no step is recorded; None where steps are, or none was asked for yet.
    """

    recorded: int = 0
    played: int = 0
    ahead: int = 0
    vain: int = 0
    why: str | None = None


@dataclass(slots=True)
class _Suits:
    """Whether a model's steps can be recorded; the reason where they cannot."""

    why: str | None = None
    looked: bool = False


class Recorded:
    """Computes the steps of single tokens from records.

    Args:
        model: any model that writes.
        state: the paged state that its layers read and write.
        pools: which pools of blocks the decoder's own layers use.
        encoders: hold the memories that rows read.
        recorder: records on the model's device.
        most: how many records are kept.
    """

    def __init__(
        self,
        model: Generative,
        state: PagedState,
        pools: Sequence[Pool],
        encoders: Encoders,
        recorder: Recorder,
        most: int = RECORDS,
    ) -> None:
        self._model, self._state, self._encoders, self._recorder = model, state, encoders, recorder
        self._pools = tuple(pools)
        self._most = most
        self._records: OrderedDict[Shape, Record] = OrderedDict()
        self._ahead: Ahead | None = None
        self._suits = _Suits()
        self.counts = Counts()

    def told(self) -> Counts:
        """What was recorded so far."""
        return replace(self.counts, why=self._suits.why)

    def look(self) -> None:
        """Look at the model anew before the next step: somebody may have put something around its layers."""
        self._suits.looked = False

    def forget(self) -> None:
        """The weights are others: nothing that was recorded holds any longer."""
        self._records.clear()
        self._ahead = None
        self._suits = _Suits()

    def run(self, plan: StepPlan, *, calm: bool) -> Played | None:
        """Compute a step from a record; None where it has to be computed otherwise.

        Args:
            calm: nobody waits to join the rows of this step in the next.
        """
        ahead, self._ahead = self._ahead, None
        shape = self._shape(plan)
        if shape is None:
            self.counts.vain += ahead is not None
            return None
        if ahead is not None and _came_true(ahead, plan):
            self.counts.ahead += 1
            record, result = ahead.record, ahead.result
            told = record.told
        else:
            self.counts.vain += ahead is not None
            found = self._record(shape) if shape in self._records or _lasts(plan) else None
            if found is None:
                return None
            record = found
            told = record.told
            told.fill(plan.chunks, [self._memory(chunk) for chunk in plan.chunks] if shape.memory else ())
            told.upload()
            result = self._play(record, len(plan.chunks))
        if calm and self._goes_on(plan, told):
            rows = [chunk.row for chunk in plan.chunks]
            following = self._play(record, len(rows))
            self._ahead = Ahead(rows, [row.computed + 1 for row in rows], result.likeliest, record, following)
            return result
        # What comes next is written over it.
        return Played(result.hidden.clone(), result.logits.clone(), result.likeliest)

    def _play(self, record: Record, count: int) -> Played:
        record.play()
        self.counts.played += 1
        made = record.made
        return Played(made.hidden[:count], made.logits[:count], Likeliest(made.tokens, count))

    # -- what is recorded --------------------------------------------------------------------------------------------

    def _shape(self, plan: StepPlan) -> Shape | None:
        """What a step needs; None for one that is not recorded."""
        if not plan.chunks or len(plan.chunks) > COUNTS[-1] or not all(map(_is_single, plan.chunks)):
            return None
        if self._model.decoder.attn_backend != "sdpa" or self._recorder.why_not() is not None:
            return None
        if not self._suits.looked:
            self._suits.why, self._suits.looked = self._suits.why or why_not(self._model), True
        if self._suits.why is not None:
            return None
        rows = next(count for count in COUNTS if count >= len(plan.chunks))
        longest = max(chunk.row.computed + 1 for chunk in plan.chunks)
        memories = [self._memory(chunk)[1] for chunk in plan.chunks if chunk.request.memory is not None]
        memory = _bucket(max(memories)) if memories else 0
        return Shape(rows, _bucket(longest), memory)

    def _memory(self, chunk: ScheduledChunk) -> tuple[Sequence[int], int]:
        assert chunk.request.memory is not None, "rows of an encoder-decoder have memories"
        entry = self._encoders.memories[chunk.request.memory]
        return entry.table.held(), entry.length

    def _record(self, shape: Shape) -> Record | None:
        """The record of a shape; made if there is none, unless too few steps are to come."""
        if shape in self._records:
            self._records.move_to_end(shape)
            return self._records[shape]
        state, device = self._state, self._model.device
        told = Told(shape, self._pools, state.block_size, device, state.spare)
        try:
            play, made = self._recorder.record(lambda: self.compute(told))
        except (RuntimeError, NoLimitsError, AssertionError) as error:
            self._suits.why = f"a step could not be recorded: {error}"
            log.warning("steps are computed one kernel at a time: %s", self._suits.why)
            return None
        self.counts.recorded += 1
        while len(self._records) >= self._most:
            self._records.popitem(last=False)
        self._records[shape] = Record(told, play, made)
        return self._records[shape]

    def compute(self, told: Told) -> Made:
        """One step, by operations on the device alone; it leaves in ``told`` the step after it."""
        model, state, index = self._model, self._state, told.index
        slots: dict[int | None, Tensor] = {}
        for pool in self._pools:
            if isinstance(pool, str):
                state.place(pool, told.tables[pool][:, 0])
                continue
            slots[pool] = rows_of(told.tables[pool], told.size)
            state.place(pool, slots[pool].gather(1, index[:, None])[:, 0].long())
        memory = None
        if told.shape.memory:
            memory = rows_of(told.tables[MEMORY], told.size), told.memory.int()
        named = told.ids[None]
        ctx = DecodeContext(
            positions=model.stand(named, index[None].clone()),
            lengths=told.lengths[None].clone(),
            rows=DecodeRows(index, slots, memory),
            memory=None if memory is None else _ELSEWHERE,
            state=state,
            backend=model.decoder.attn_backend,
        )
        hidden = model.decoder.decode(model.embed(named), ctx)[0]
        logits = model.project(hidden)
        values, indices = highest(logits)
        tokens = torch.where(values.isnan(), -1, indices)
        told.ids.copy_(tokens.clamp(min=0))
        index.add_(1)
        told.lengths.copy_(torch.maximum(told.lengths, index + 1))
        return Made(hidden, logits, tokens)

    # -- what is played ahead ----------------------------------------------------------------------------------------

    def _goes_on(self, plan: StepPlan, told: Told) -> bool:
        """Whether the same rows will most likely read their likeliest tokens next, into blocks that are known."""
        # A state of fixed size cannot be as it was before, should the next step be another one.
        return ROWS not in self._pools and all(
            _reads_likeliest(chunk.request, chunk.row) and _has_room(chunk.row, told) for chunk in plan.chunks
        )


def _bucket(tokens: int) -> int:
    """The next power of two, and not less than :data:`SHORTEST`."""
    return max(SHORTEST, 1 << (tokens - 1).bit_length())


def _lasts(plan: StepPlan) -> bool:
    """Whether enough steps are to come for a record to pay."""
    return any(chunk.request.settings.max_new_tokens - chunk.row.written >= FEW for chunk in plan.chunks)


def _is_single(chunk: ScheduledChunk) -> bool:
    """Whether a row's part in a step is its last token and nothing but a token."""
    row, request = chunk.row, chunk.request
    at = row.computed
    return (
        chunk.count == 1
        and chunk.wanted == 1
        and chunk.is_last
        and not row.drafted
        and not row.fed
        and at > 0
        and request.adapter is None
        and (request.contrast is None or not request.contrast.reads_layers)
        and request.layout_of(row).positions is None
        and not any(placed.start <= at < placed.start + placed.length for placed in request.placed)
    )


def _reads_likeliest(request: Request, row: Row) -> bool:
    """Whether a row goes on with its likeliest token, whatever that is, and has another to write after it."""
    settings = request.settings
    shown = (request.strategy, request.hooks, request.grammar, request.contrast, request.feeder, request.drafter)
    return (
        all(one is None for one in shown)
        and settings.is_plain
        and not settings.notes
        and row.shadow is None
        and not request.cancelled
        and row.written + 1 < settings.max_new_tokens
    )


def _has_room(row: Row, told: Told) -> bool:
    """Whether the block of a row's next token is among those that a step was told."""
    at = row.computed + 1
    if at >= told.shape.keys:
        return False
    number = at // told.size
    for pool in told.blocks:
        if pool == MEMORY:
            continue
        table = row.tables[pool]
        if number > len(table.blocks) or (number == len(table.blocks) and table.reserve[0] >= table.reserve[1]):
            return False
    return True


def _came_true(ahead: Ahead, plan: StepPlan) -> bool:
    """Whether a plan is the step that was played ahead of it."""
    if plan.copies or len(plan.chunks) != len(ahead.rows):
        return False
    told = ahead.record.told
    tokens = ahead.before.tokens()
    for i, (chunk, row, at) in enumerate(zip(plan.chunks, ahead.rows, ahead.index, strict=True)):
        if chunk.row is not row or row.computed != at or row.tokens[at] != tokens[i]:
            return False
        for pool, blocks in told.blocks.items():
            if pool != MEMORY and row.tables[pool].blocks[at // told.size] != blocks[i, at // told.size]:
                return False
    return True


def why_not(model: nn.Module) -> str | None:
    """Why the steps of a model are not recorded; None where they can be, as far as can be seen."""
    assert isinstance(model, Generative)
    if model.training:
        return "the model is in training mode"
    if len({p.device for p in model.parameters()}) > 1:
        return "its parts lie on several devices"
    if next(iter(layers_of(model)), None) is not None:
        return "it has adapters, which may be switched"
    for path, module in model.named_modules():
        # Nobody calls the model itself: a step goes by its parts.
        if path and (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)):
            return f"somebody hooked into {path}"
    every = nn.modules.module
    if every._global_forward_hooks or every._global_forward_pre_hooks:
        return "somebody hooked into every module"
    return None
