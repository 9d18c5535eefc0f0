"""The scheduler: which rows go into the next step, with how many tokens each, and who is preempted.

Every row has tokens whose state is not computed yet: a prompt not read to its end, or the one token written last. A
step takes some of each, up to a number of tokens, the most urgent requests first; long prompts are read in chunks
beside rows that write. A request that finds no room preempts the least urgent one, which gives up its blocks and is
computed again later, from what is still remembered of it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from omniform.core.errors import LengthError
from omniform.engine.block_pool import WHOLE, BlockPool, BlockTable, Content, first_needed, longest_prefix
from omniform.engine.paged_state import ROWS, Pool
from omniform.engine.request import Request, Row

if TYPE_CHECKING:
    from omniform.engine.handover import Given


@dataclass(frozen=True, slots=True)
class ScheduledChunk:
    """A row's part in a step: the next ``count`` of its tokens."""

    request: Request
    row: Row
    count: int

    @property
    def is_last(self) -> bool:
        """Whether the row has been read to its end by then, so that its next token can be chosen."""
        return self.count == self.row.pending

    @property
    def is_read(self) -> bool:
        """The same, once the step was computed."""
        return self.row.pending == 0

    @property
    def wanted(self) -> int:
        """Of how many of its last tokens the output is wanted: guesses are confirmed by that of the token before."""
        last = 1 + self.row.drafted if self.is_last else 0
        first = None if self.row.is_shadow else self.request.first_wanted
        return last if first is None else max(last, min(self.count, self.row.computed + self.count - first))


@dataclass(slots=True)
class StepPlan:
    """One step.

    Attributes:
        chunks: what is computed.
        copies: blocks to copy first: pool, source, target.
    """

    chunks: list[ScheduledChunk] = field(default_factory=list)
    copies: list[tuple[Pool, int, int]] = field(default_factory=list)

    @property
    def requests(self) -> list[Request]:
        """Whose rows take part."""
        return list({id(s.request): s.request for s in self.chunks}.values())


class Scheduler:
    """Holds the requests that are not finished.

    Args:
        pools: the blocks of the decoder's own state.
        block_size: tokens in a block.
        max_tokens: of one step.
        prepare: makes a request ready to be read (encodes its pictures); False if there is no room for that now.
        foresee: told who waits, in the order in which they will be made ready.
        let_go: undoes that, so that whoever waits takes no room.
        root: what a request's first block depends on besides its tokens.
        bring: writes the state that a row was given into its blocks.
    """

    def __init__(
        self,
        pools: Mapping[Pool, BlockPool],
        *,
        block_size: int,
        max_tokens: int,
        prepare: Callable[[Request], bool],
        foresee: Callable[[Sequence[Request]], None],
        let_go: Callable[[Request], None],
        root: Callable[[Request], bytes],
        bring: Callable[[Given, Mapping[Pool, BlockTable]], None],
    ) -> None:
        self.pools = dict(pools)
        self._windows = [(key, pool) for key, pool in pools.items() if pool.window is not None]
        self.max_tokens = max_tokens
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.preemptions = 0
        self._gone: set[int] = set()  # requests that were preempted since the present plan was begun
        self._size = block_size
        self._prepare = prepare
        self._foresee = foresee
        self._let_go = let_go
        self._root = root
        self._bring = bring

    # -- coming and going --------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Let a request wait for its turn."""
        insort(self.waiting, request, key=lambda r: r.order)

    def remove(self, request: Request) -> None:
        """Strike a request out and let go of all its blocks."""
        for row in request.every_row:
            self.release(row)
        for queue in (self.waiting, self.running):
            if request in queue:
                queue.remove(request)

    def release(self, row: Row) -> None:
        """Let go of a row's blocks, and forget those whose content was planned and never computed."""
        if row.kept is not None:
            self.pools[ROWS].release(row.kept[1])
            row.kept = None
        for pool, table in row.tables.items():
            held = self.pools[pool]
            for block in table.blocks[row.computed // held.size :]:
                if block is not None:
                    held.forget(block)
            held.release(table)
        row.tables.clear()

    def roll_back(self, row: Row, tokens: int) -> None:
        """Forget what was computed of a row after its first ``tokens`` tokens.

        A state of fixed size cannot be shortened. The row goes back to the one that was kept before it read what may
        be taken back, or to its beginning, and reads anew from there.
        """
        if ROWS in row.tables:
            tokens = self._restored(row, tokens)
        for key, table in row.tables.items():
            if key != ROWS:
                self.pools[key].shrink(table, tokens)
        del row.contents[tokens // self._size :]
        row.computed = min(row.computed, tokens)

    def _restored(self, row: Row, tokens: int) -> int:
        """Put the right state of fixed size into a row's table; returns how many tokens it has read."""
        pool, kept = self.pools[ROWS], row.kept
        row.kept = None
        if tokens >= row.computed:
            if kept is not None:
                pool.release(kept[1])
            return row.computed
        if kept is None or kept[0] > tokens:
            self.release(row)
            return 0
        pool.release(row.tables[ROWS])
        row.tables[ROWS] = kept[1]
        return kept[0]

    def preempt(self, request: Request) -> None:
        """Take all blocks from a request and let it wait again; its rows will be computed anew."""
        for row in request.every_row:
            self.release(row)
            row.take_drafts()
            row.computed = 0
        self._let_go(request)
        self._gone.add(id(request))
        self.running.remove(request)
        self.add(request)

    def fork(self, row: Row, number: int) -> Row:
        """A second row that continues the first, sharing all its blocks."""
        twin = row.continued(number)
        twin.tables = {pool: self.pools[pool].fork(table) for pool, table in row.tables.items()}
        twin.shadow = None if row.shadow is None else self.fork(row.shadow, number)
        return twin

    def most_blocks(self, prompt: int, new: int, rows: int) -> dict[Pool, int]:
        """The blocks that a request may come to need in each pool.

        Args:
            prompt: tokens of its prompt.
            new: tokens that it may write; the last one is never read.
            rows: how many rows it writes at once.
        """
        needs: dict[Pool, int] = {}
        for key, pool in self.pools.items():
            tokens = prompt + max(new, 1) - 1
            if pool.window is not None:
                tokens = min(tokens, pool.window + self.max_tokens + pool.size)
            # Rows that fork share a block half full, until each has a copy of its own.
            needs[key] = pool.blocks_for(tokens) * rows + (rows if rows > 1 and pool.size != WHOLE else 0)
        return needs

    # -- planning ----------------------------------------------------------------------------------------------------

    def plan(self) -> StepPlan:
        """What the next step computes; empty if nothing can be."""
        plan = StepPlan()
        self._gone.clear()
        everyone = [*self.running, *self.waiting]
        suspect = next((r for r in everyone if r.alone), None)
        budget = self.max_tokens
        # Running requests come before waiting ones of the same priority.
        starting = {id(r) for r in self.waiting}
        blocked = False
        if starting:
            everyone.sort(key=lambda r: (-r.priority, id(r) in starting, r.arrival))
            if suspect is None:
                self._foresee(self.waiting)
        for request in everyone:
            if budget <= 0 or (suspect is not None and request is not suspect):
                continue
            # Whoever waits longest is not overtaken: it would wait for ever behind smaller ones. That goes for those
            # too that were preempted a moment ago.
            if id(request) in starting:
                blocked = blocked or not self._admit(request, plan)
                if blocked:
                    continue
            elif id(request) in self._gone:
                blocked = True
                continue
            budget -= self._plan_chunks(request, budget, plan)
            blocked = blocked or id(request) in self._gone
        guessing = [row for request in self.running for row in request.rows if row.drafted]
        planned = {id(chunk.row) for chunk in plan.chunks} if guessing else ()
        for row in guessing:
            if id(row) not in planned:
                row.take_drafts()  # guesses are for one step, and this is not the row's
        return plan

    def done(self, plan: StepPlan) -> None:
        """Note that a step was computed."""
        for chunk in plan.chunks:
            chunk.row.computed += chunk.count
            for key, pool in self._windows:
                behind = chunk.row.computed - max(chunk.row.drafted, chunk.row.tentative)
                pool.slide(chunk.row.tables[key], behind if chunk.row.kept is None else chunk.row.kept[0])
        for chunk in plan.chunks:
            if chunk.request.alone:
                # Whoever was in a step that failed is alone until it has come that far again.
                chunk.request.alone = any(row.pending for row in chunk.request.reading)

    def _admit(self, request: Request, plan: StepPlan) -> bool:
        """Let a waiting request run, if there is room for all that it holds so far."""
        while not (self._prepare(request) and self._fits(request)):
            if request not in self.waiting:
                return False  # it could not be prepared, and is over
            if not self._preempt_another(request, plan, only_lesser=True):
                self._let_go(request)
                return False
        self.waiting.remove(request)
        insort(self.running, request, key=lambda r: r.order)
        return True

    def _fits(self, request: Request) -> bool:
        rows = request.reading
        contents = [self._contents(row, request) for row in rows]
        widest = max((end - start for start, end in request.layout.bidirectional), default=0)
        for pool in self.pools.values():
            need = 0
            for row, chain in zip(rows, contents, strict=True):
                tokens = len(row.tokens)
                if pool.window is not None:
                    tokens = min(tokens, pool.window + max(self.max_tokens, widest) + pool.size)
                else:
                    known = longest_prefix(list(self.pools.values()), chain)
                    need -= sum(pool.is_held(content) for content in chain[:known])
                need += pool.blocks_for(tokens)
            if need > pool.available:
                return False
        return True

    def _plan_chunks(self, request: Request, budget: int, plan: StepPlan) -> int:
        """Plan a running request's tokens; returns how many."""
        rows = request.reading
        lockstep = len(rows) > 1 and request.in_lockstep
        if lockstep and any(row.pending > 1 for row in rows):
            # Beams choose together: those that are ahead wait with their last token.
            wishes = [(row, row.pending - 1) for row in rows if row.pending > 1]
        elif lockstep and len(rows) > budget:
            return 0
        else:
            wishes = [(row, row.pending) for row in rows]
        chunks: list[ScheduledChunk] = []
        copies: list[tuple[Pool, int, int]] = []
        left = budget
        for row, wish in wishes:
            if self.pools and not row.tables:  # a model without any state has nothing to take over
                wish -= self._reuse_prefix(request, row)
            if row.drafted:
                most = row.drafted - max(0, wish - left)
                wish -= len(row.take_drafts(most if self._can_keep(row) else 0))
            count = _unsplit(request, row, min(wish, left)) if left > 0 else 0
            if count == 0:
                continue
            if self._is_within_blocks(row, count):
                chunks.append(ScheduledChunk(request, row, count))
                left -= count
                continue
            while not self._has_room(row, count):
                if not self._preempt_another(request, plan, only_lesser=False):
                    self.preempt(request)
                    self.preemptions += 1
                    return 0
            copies += self._grow(request, row, count)
            copies += self._keep(row)
            chunks.append(ScheduledChunk(request, row, count))
            left -= count
        plan.chunks += chunks
        plan.copies += copies
        return budget - left

    def _preempt_another(self, request: Request, plan: StepPlan, *, only_lesser: bool) -> bool:
        """Preempt the least urgent running request; False if there is none that may be.

        A request is preempted by those of higher priority and, unless ``only_lesser``, by those that came before it;
        not if the step counts on it already. One that must be alone preempts all: they do not run before it has.
        """
        planned = {id(chunk.request) for chunk in plan.chunks}
        for victim in sorted(self.running, key=lambda r: r.order, reverse=True):
            if victim is request or id(victim) in planned:
                continue
            later = victim.order > request.order and not only_lesser
            if victim.priority < request.priority or later or request.alone:
                self.preempt(victim)
                self.preemptions += 1
                return True
        return False

    # -- blocks of a row ---------------------------------------------------------------------------------------------

    def _reuse_prefix(self, request: Request, row: Row) -> int:
        """Give a row that has no blocks those that hold what it begins with; returns the tokens saved."""
        given = request.prompt.given
        if given is not None and not row.outgrew:
            return self._take_given(given, request, row)
        chain = self._contents(row, request)
        known = longest_prefix(list(self.pools.values()), chain)
        # Tokens that see one another are read in one step, so none of them is reused without the others.
        while cut := [start for start, end in request.layout_of(row).bidirectional if start < known * self._size < end]:
            known = longest_prefix(list(self.pools.values()), chain[: cut[0] // self._size])
        for key, pool in self.pools.items():
            table = row.tables[key] = BlockTable(pool.size)
            first = first_needed(pool, known)
            for number, content in enumerate(chain[:known]):
                block = pool.find(content)
                if number < first:
                    table.blocks.append(None)
                else:
                    assert block is not None, "longest_prefix has found it"
                    table.blocks.append(pool.hold(block))
        row.computed = known * self._size
        if not request.begun:
            request.begun, request.cached_tokens = True, min(row.computed, row.prompt)
        return row.computed

    def _take_given(self, given: Given, request: Request, row: Row) -> int:
        """Blocks for what a row was given, as far as later tokens look at it; there is room, or it would not run."""
        row.computed = len(given)
        for key, pool in self.pools.items():
            table = row.tables[key] = BlockTable(pool.size)
            if row.computed:
                table.blocks += [None] * pool.passed(row.computed)
                need = pool.blocks_for(row.computed) - len(table.blocks)
                pool.grow(table, need, pool.blocks_for(row.prompt + request.settings.max_new_tokens))
        if row.computed:
            self._bring(given, row.tables)
        if not request.begun:
            request.begun, request.cached_tokens = True, row.computed
        return row.computed

    def _contents(self, row: Row, request: Request) -> list[Content]:
        """Digests of a row's full blocks, as far as they may be reused: the last token is always computed."""
        last, first = len(row.tokens) - 1, None if row.is_shadow else request.first_wanted
        blocks = (last if first is None else min(first, last)) // self._size
        self._digest(row, request, blocks)
        return row.contents[:blocks]

    def _digest(self, row: Row, request: Request, blocks: int) -> None:
        size = self._size
        for number in range(len(row.contents), blocks):
            before = row.contents[-1] if row.contents else self._root(request)
            whole = blake2b(before, digest_size=16)
            first = number * size
            whole.update(repr(row.tokens[first : first + size]).encode())
            for placed in request.placed_of(row, first, first + size):
                if placed.start < first + size and placed.start + placed.length > first:
                    whole.update(placed.content + str(placed.within(first)).encode())
            self._digest_layout(whole, row, request, first)
            row.contents.append(whole.digest())

    def _digest_layout(self, whole: blake2b, row: Row, request: Request, first: int) -> None:
        """What a block's keys depend on besides what comes before: its positions, and what its tokens see ahead."""
        layout, stop = request.layout_of(row), first + self._size
        if layout.positions is not None:
            whole.update(layout.of(first, stop).contiguous().numpy().tobytes())
        for start, end in layout.bidirectional:
            if start < stop < end:
                inside = [p for p in request.placed if p.start < end and p.start + p.length > start]
                placed = [(p.content, p.within(start)) for p in inside]
                whole.update(repr((start - first, row.tokens[start:end], placed)).encode())

    def _has_room(self, row: Row, count: int) -> bool:
        return all(
            self._new_blocks(pool, row.tables[key], row, count) <= pool.available for key, pool in self.pools.items()
        )

    def _is_within_blocks(self, row: Row, count: int) -> bool:
        """Whether a row's next tokens need no blocks and fill none: they go into blocks of its own."""
        for key, pool in self.pools.items():
            inside = row.computed % pool.size
            if not inside or inside + count >= pool.size or pool.is_shared(row.tables[key], row.computed // pool.size):
                return False
        return not (row.drafted or row.tentative)

    def _new_blocks(self, pool: BlockPool, table: BlockTable, row: Row, count: int) -> int:
        need = pool.blocks_for(row.computed + count) - len(table.blocks)
        return need + self._writes_into_shared(pool, table, row)

    def _writes_into_shared(self, pool: BlockPool, table: BlockTable, row: Row) -> bool:
        return bool(row.computed % pool.size) and pool.is_shared(table, row.computed // pool.size)

    def _can_keep(self, row: Row) -> bool:
        """Whether there is room for a second state of a row, where it has one of fixed size."""
        if ROWS not in row.tables or row.kept is not None:
            return True
        pool = self.pools[ROWS]
        return pool.available > self._writes_into_shared(pool, row.tables[ROWS], row)

    def _keep(self, row: Row) -> list[tuple[Pool, int, int]]:
        """Keep a row's state of fixed size before tokens are read that may be taken back, if there is room."""
        if not (row.drafted or row.tentative) or ROWS not in row.tables or row.kept is not None:
            return []
        pool, spare = self.pools[ROWS], BlockTable(WHOLE)
        if not pool.available:
            return []
        pool.grow(spare, 1, 1)
        row.kept = row.computed, spare
        return [(ROWS, row.tables[ROWS].held()[0], spare.held()[0])]

    def _grow(self, request: Request, row: Row, count: int) -> list[tuple[Pool, int, int]]:
        copies: list[tuple[Pool, int, int]] = []
        self._digest(row, request, (row.computed + count) // self._size)
        for key, pool in self.pools.items():
            table, size = row.tables[key], pool.size
            full = (row.computed + count) // size
            if self._writes_into_shared(pool, table, row):
                copied = pool.copy_for(table, row.computed // size)
                if copied is not None:
                    copies.append((key, *copied))
            need = pool.blocks_for(row.computed + count) - len(table.blocks)
            if need > 0:
                whole = pool.blocks_for(row.prompt + request.settings.max_new_tokens)
                pool.grow(table, need, max(need, whole - len(table.blocks)))
            for number in range(row.computed // size, full):
                block = table.blocks[number]
                assert block is not None, "a block that is written to is held"
                pool.remember(block, row.contents[number])
        return copies


def _unsplit(request: Request, row: Row, count: int) -> int:
    """How many tokens of a row a step takes, so that it holds stretches that see one another whole, or not at all.

    A stretch that is longer than a step may be makes the step longer.
    """
    stop = row.computed + count
    for start, end in request.layout_of(row).bidirectional:
        if start < stop < end:
            stop = start if start > row.computed else end
    return stop - row.computed


def refuse_if_too_big(needs: Mapping[Pool, int], pools: Mapping[Pool, BlockPool]) -> None:
    """Raise :class:`LengthError` for a request that would not fit even if it were alone."""
    for key, blocks in needs.items():
        pool = pools[key]
        if blocks > pool.blocks:
            raise LengthError(
                "the request cannot fit into the engine's memory",
                where="memory",
                expected=f"at most {pool.spelled(pool.blocks)} at once",
                found=f"{pool.spelled(blocks)} (prompt and answer, rounded up to blocks)",
                remedy="Ask for fewer new tokens, or give the engine more memory.",
            )
