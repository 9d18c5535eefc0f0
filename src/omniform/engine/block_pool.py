"""The block manager: which blocks of paged state belong to which row, and which may be shared.

State is cut into blocks of a few tokens. A row's :class:`BlockTable` lists its blocks; a block may be in several tables
(a common prefix, the beams of one search) and is copied before one of them writes into it. Full blocks are remembered
by their content, so that another row that begins the same takes them over instead of computing them again; they are
forgotten, the least recently used first, when room is needed.

A row's blocks are kept side by side wherever there is room, because attention reads neighbours in one go.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from omniform.core.packed import SlotRange

WHOLE = 1 << 60
"""The size of a block that holds a state of fixed size: one per row, which no number of tokens fills."""

Content = bytes
"""What a full block holds, and all before it, as a digest."""


class FreeBlocks:
    """Free blocks, as a sorted list of stretches."""

    def __init__(self, blocks: int) -> None:
        self._starts = [0] if blocks else []
        self._stops = [blocks] if blocks else []
        self.count = blocks

    def take(self, wanted: int) -> int | None:
        """The first of ``wanted`` neighbouring blocks, or None if there are none."""
        for i, (start, stop) in enumerate(zip(self._starts, self._stops, strict=True)):
            if stop - start >= wanted:
                self._cut(i, start + wanted)
                self.count -= wanted
                return start
        return None

    def take_any(self, most: int) -> tuple[int, int]:
        """A stretch of at most ``most`` blocks, as long as can be; there must be a free block."""
        i = max(range(len(self._starts)), key=lambda j: self._stops[j] - self._starts[j])
        start = self._starts[i]
        stop = min(start + most, self._stops[i])
        self._cut(i, stop)
        self.count -= stop - start
        return start, stop

    def give(self, start: int, stop: int) -> None:
        """Take blocks back."""
        self.count += stop - start
        i = bisect_left(self._starts, start)
        joins_left = i > 0 and self._stops[i - 1] == start
        joins_right = i < len(self._starts) and self._starts[i] == stop
        if joins_left and joins_right:
            self._stops[i - 1] = self._stops.pop(i)
            del self._starts[i]
        elif joins_left:
            self._stops[i - 1] = stop
        elif joins_right:
            self._starts[i] = start
        else:
            self._starts.insert(i, start)
            self._stops.insert(i, stop)

    def _cut(self, i: int, start: int) -> None:
        if start == self._stops[i]:
            del self._starts[i], self._stops[i]
        else:
            self._starts[i] = start


@dataclass(slots=True, eq=False)
class BlockTable:
    """One row's blocks in one pool.

    Attributes:
        size: tokens in a block.
        blocks: the row's blocks in order; None where a window has moved past them.
        reserve: free blocks after the last, kept for this row's growth while nobody else needs them.
    """

    size: int
    blocks: list[int | None] = field(default_factory=list)
    reserve: tuple[int, int] = (0, 0)
    _runs: list[tuple[int, int | None]] = field(default_factory=list, repr=False)  # runs of neighbours: number, block
    _noted: int = 0  # so many blocks are among them

    def slot_ranges(self, first: int, stop: int) -> list[SlotRange]:
        """The slots of the row's indices from ``first`` to ``stop``, neighbours joined."""
        size, number = self.size, first // self.size
        if stop - first == 1:
            block = self.blocks[number]
            assert block is not None, "a query looks at keys that were let go"
            slot = block * size + first - number * size
            return [(slot, slot + 1)]
        ranges: list[SlotRange] = []
        after = self._known_runs()
        for begin, block in reversed(self._runs):
            if begin * size < stop:
                assert block is not None, "a query looks at keys that were let go"
                shift = (block - begin) * size
                ranges.append((max(first, begin * size) + shift, min(stop, after * size) + shift))
                if begin <= number:
                    break
            after = begin
        ranges.reverse()
        return ranges

    def _known_runs(self) -> int:
        """Note the runs of neighbours among blocks that were appended since; returns how many blocks there are."""
        runs, blocks = self._runs, self.blocks
        for number in range(self._noted, len(blocks)):
            block = blocks[number]
            before = blocks[number - 1] if number else None
            if number == 0 or block != (None if before is None else before + 1):
                runs.append((number, block))
        self._noted = len(blocks)
        return self._noted

    def changed(self) -> None:
        """Say that blocks were replaced or taken away."""
        self._runs.clear()
        self._noted = 0

    def twin(self) -> BlockTable:
        """Another table of the same blocks."""
        return BlockTable(self.size, self.blocks.copy(), _runs=self._runs.copy(), _noted=self._noted)

    @property
    def first(self) -> int:
        """The first token whose block it holds: those before it are behind a window."""
        blocks = self.blocks
        if blocks and blocks[0] is not None:
            return 0
        return next((number for number, block in enumerate(blocks) if block is not None), len(blocks)) * self.size

    def held(self) -> list[int]:
        """The blocks that it holds."""
        return [b for b in self.blocks if b is not None]


class BlockPool:
    """The blocks of the layers that keep the same: all tokens, or the same window.

    Args:
        blocks: how many there are.
        size: tokens in each; :data:`WHOLE` where a block holds all that a row has.
        window: how many of a row's last tokens are looked at again; None for all.
        remembers: whether full blocks are kept for rows that begin the same.
    """

    def __init__(self, blocks: int, size: int, *, window: int | None = None, remembers: bool = True) -> None:
        self.blocks = blocks
        self.size = size
        self.window = window
        self._remembers = remembers
        self._free = FreeBlocks(blocks)
        self._holders = [0] * blocks
        self._content: list[Content | None] = [None] * blocks
        self._found: dict[Content, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered, held by nobody; least recently used first
        self._reserving: dict[int, BlockTable] = {}
        self._reserved = 0  # blocks in their reserves

    @property
    def used(self) -> int:
        """Blocks that rows hold."""
        return self.blocks - self.available

    @property
    def available(self) -> int:
        """Blocks that can be had: free ones, remembered ones that nobody holds, reserves."""
        return self._free.count + len(self._idle) + self._reserved

    @property
    def cached(self) -> int:
        """Blocks that nobody holds and that are remembered for their content."""
        return len(self._idle)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks hold so many tokens of one row."""
        return -(-tokens // self.size)

    def spelled(self, blocks: int) -> str:
        """Some blocks in words."""
        return f"{blocks} rows" if self.size == WHOLE else f"{blocks * self.size} tokens"

    def grow(self, table: BlockTable, blocks: int, expected: int) -> None:
        """Append blocks to a table; there must be as many available.

        Args:
            expected: how many the row may need in the end, these included; neighbours are kept free for it.
        """
        assert blocks <= self.available, "the scheduler must not promise blocks that are not there"
        while blocks:
            if table.reserve[0] == table.reserve[1]:
                self._find_room(table, blocks, expected)
            first = table.reserve[0]
            stop = min(first + blocks, table.reserve[1])
            self._set_reserve(table, (stop, table.reserve[1]))
            for block in range(first, stop):
                self._holders[block] = 1
                table.blocks.append(block)
            blocks -= stop - first
            expected -= stop - first

    def copy_for(self, table: BlockTable, number: int) -> tuple[int, int] | None:
        """Make a block of a table writable: if others hold it too, a fresh one takes its place.

        Returns:
            The shared block and its copy-to-be, or None where the block was the table's alone.
        """
        block = table.blocks[number]
        assert block is not None
        if self._holders[block] == 1:
            self.forget(block)
            return None
        spare = BlockTable(self.size)
        self.grow(spare, 1, 1)
        self._drop_reserve(spare)
        fresh = spare.blocks[0]
        assert fresh is not None
        table.blocks[number] = fresh
        table.changed()
        self._let_go(block)
        return block, fresh

    def is_shared(self, table: BlockTable, number: int) -> bool:
        """Whether another table holds the same block."""
        block = table.blocks[number]
        return block is not None and self._holders[block] > 1

    def is_held(self, content: Content) -> bool:
        """Whether a row holds the block of this content."""
        block = self._found.get(content)
        return block is not None and self._holders[block] > 0

    def hold(self, block: int) -> int:
        """Hold a block once more."""
        self._holders[block] += 1
        self._idle.pop(block, None)
        return block

    def find(self, content: Content) -> int | None:
        """The block that holds this content, or None."""
        return self._found.get(content)

    def remember(self, block: int, content: Content) -> None:
        """Note what a full block holds; of two with the same content the first is remembered."""
        if self._remembers and content not in self._found and self._content[block] is None:
            self._found[content] = block
            self._content[block] = content

    def forget(self, block: int) -> None:
        """Strike a block's content out: it is about to change, or was never computed."""
        content = self._content[block]
        if content is not None:
            del self._found[content]
            self._content[block] = None
            if block in self._idle:
                del self._idle[block]
                self._free.give(block, block + 1)

    def forget_idle(self) -> None:
        """Strike out what is remembered and held by nobody."""
        for block in list(self._idle):
            self.forget(block)

    def fork(self, table: BlockTable) -> BlockTable:
        """A second table of the same blocks."""
        for block in table.blocks:
            if block is not None:
                self.hold(block)
        return table.twin()

    def passed(self, tokens: int) -> int:
        """How many of a row's first blocks no later query sees, once it has ``tokens`` tokens behind it."""
        return 0 if self.window is None else max(0, tokens - self.window + 1) // self.size

    def slide(self, table: BlockTable, tokens: int) -> None:
        """Let go of the blocks that no later query sees, once a row has ``tokens`` tokens behind it."""
        gone = self.passed(tokens)
        for number in range(min(gone, len(table.blocks)) - 1, -1, -1):
            block = table.blocks[number]
            if block is None:
                return
            table.blocks[number] = None
            table.changed()
            self._let_go(block)

    def shrink(self, table: BlockTable, tokens: int) -> None:
        """Take back what a row wrote after its first ``tokens`` tokens: let go of the blocks, forget what they hold."""
        for block in table.blocks[tokens // self.size :]:
            if block is not None:
                self.forget(block)
        table.changed()
        while len(table.blocks) > self.blocks_for(tokens):
            block = table.blocks.pop()
            if block is not None:
                self._let_go(block)

    def release(self, table: BlockTable) -> None:
        """Let go of everything a table holds."""
        self._drop_reserve(table)
        # The last first: a prefix is worth more than what comes after it, so it is to be forgotten later.
        for block in reversed(table.held()):
            self._let_go(block)
        table.blocks.clear()
        table.changed()

    def _let_go(self, block: int) -> None:
        self._holders[block] -= 1
        if self._holders[block]:
            return
        if self._content[block] is None:
            self._free.give(block, block + 1)
        else:
            self._idle[block] = None

    def _find_room(self, table: BlockTable, blocks: int, expected: int) -> None:
        for wanted in dict.fromkeys((max(expected, blocks), blocks)):
            first = self._free.take(wanted)
            if first is not None:
                self._set_reserve(table, (first, first + wanted))
                return
        if self._free.count < blocks:
            for other in list(self._reserving.values()):
                self._drop_reserve(other)
        while self._free.count < blocks and self._idle:
            self.forget(next(iter(self._idle)))
        self._set_reserve(table, self._free.take_any(blocks))

    def _set_reserve(self, table: BlockTable, reserve: tuple[int, int]) -> None:
        self._reserved += reserve[1] - reserve[0] - (table.reserve[1] - table.reserve[0])
        table.reserve = reserve
        if reserve[0] < reserve[1]:
            self._reserving[id(table)] = table
        else:
            self._reserving.pop(id(table), None)

    def _drop_reserve(self, table: BlockTable) -> None:
        if table.reserve[0] < table.reserve[1]:
            self._free.give(*table.reserve)
        self._set_reserve(table, (0, 0))


def longest_prefix(pools: Sequence[BlockPool], contents: Sequence[Content]) -> int:
    """How many leading blocks of a row every pool still remembers, as far as anybody will look at them again."""
    known = 0
    for content in contents:
        if any(pool.window is None and pool.find(content) is None for pool in pools):
            break
        known += 1
    while known and not all(_has_window(pool, contents, known) for pool in pools):
        known -= 1
    return known


def _has_window(pool: BlockPool, contents: Sequence[Content], known: int) -> bool:
    return all(pool.find(content) is not None for content in contents[first_needed(pool, known) : known])


def first_needed(pool: BlockPool, blocks: int) -> int:
    """The first of a row's ``blocks`` full blocks that a query after them looks at."""
    if pool.window is None:
        return 0
    return max(0, blocks * pool.size - pool.window + 1) // pool.size
