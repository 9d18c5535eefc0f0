"""The block manager by itself: thousands of random operations, checked against a plain account of who holds what."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from omniform.engine.block_pool import BlockPool, BlockTable, FreeBlocks, first_needed, longest_prefix


@pytest.mark.parametrize("seed", range(6))
def test_extents_hand_out_every_block_once(seed):
    chance = random.Random(seed)
    total = chance.choice((1, 7, 64))
    extents, taken = FreeBlocks(total), set()
    for _ in range(3000):
        assert extents.count == total - len(taken)
        if chance.random() < 0.5 and extents.count:
            wanted = chance.randint(1, 6)
            if chance.random() < 0.5:
                first = extents.take(wanted)
                longest = max(len(run) for run in "".join("x" if b in taken else "." for b in range(total)).split("x"))
                assert (first is None) == (longest < wanted)
                found = range(0) if first is None else range(first, first + wanted)
            else:
                found = range(*extents.take_any(wanted))
                assert 1 <= len(found) <= wanted
            assert not taken.intersection(found) and all(0 <= b < total for b in found)
            taken.update(found)
        elif taken:
            start = chance.choice(sorted(taken))
            stop = start + 1
            while stop in taken and chance.random() < 0.5:
                stop += 1
            extents.give(start, stop)
            taken.difference_update(range(start, stop))
    for block in sorted(taken, key=lambda _: chance.random()):
        extents.give(block, block + 1)
    assert extents.take(total) == 0 and extents.count == 0


class Model:
    """Rows in a pool, and beside them what each of their blocks must hold."""

    def __init__(self, seed: int, blocks: int, size: int, window: int | None) -> None:
        self.chance = random.Random(seed)
        self.pool = BlockPool(blocks, size, window=window)
        self.rows: list[tuple[BlockTable, list[bytes]]] = []
        self.held: dict[int, bytes] = {}  # what was written into each block last

    def check(self) -> None:
        pool = self.pool
        holders = Counter(b for table, _ in self.rows for b in table.held())
        assert [holders[b] for b in range(pool.blocks)] == pool._holders
        reserved = [range(*table.reserve) for table, _ in self.rows]
        spare = [b for run in reserved for b in run]
        assert len(spare) == len(set(spare)) and not set(spare) & set(holders)
        assert pool.used == len(holders), "no block was lost, none is counted twice"
        assert pool.available == pool.blocks - len(holders)
        assert pool.cached == len(pool._idle) and not set(pool._idle) & set(holders)
        assert len(pool._found) == sum(c is not None for c in pool._content)
        for content, block in pool._found.items():
            assert self.held[block] == content, "a block is remembered for what it holds"
        for table, contents in self.rows:
            for number, block in enumerate(table.blocks):
                assert block is None or self.held[block] == contents[number], "nobody else wrote into a row's block"

    def write(self, table: BlockTable, contents: list[bytes], number: int, content: bytes) -> None:
        pool, copied = self.pool, None
        if pool.is_shared(table, number) and not pool.available:
            return
        was_shared = pool.is_shared(table, number)
        copied = pool.copy_for(table, number)
        assert (copied is not None) == was_shared
        block = table.blocks[number]
        assert block is not None and (copied is None or copied[1] == block != copied[0])
        self.held[block] = contents[number] = content
        if self.chance.random() < 0.7:
            pool.remember(block, content)

    def step(self) -> None:
        chance, pool = self.chance, self.pool
        action = chance.random()
        if action < 0.2 or not self.rows:
            table, contents = BlockTable(pool.size), []
            start = [chance.choice("ab") * n for n in range(1, 5)]
            for text in start:
                block = pool.find(text.encode())
                if block is None:
                    break
                table.blocks.append(pool.hold(block))
                contents.append(text.encode())
            self.rows.append((table, contents))
        elif action < 0.5 and pool.available:
            table, contents = chance.choice(self.rows)
            count = chance.randint(1, min(3, pool.available))
            pool.grow(table, count, chance.randint(count, count + 5))
            for number in range(len(contents), len(table.blocks)):
                content = (chance.choice("ab") * (number + 1)).encode()
                block = table.blocks[number]
                self.held[block] = content
                contents.append(content)
                if chance.random() < 0.6:
                    pool.remember(block, content)
        elif action < 0.6:
            table, contents = chance.choice(self.rows)
            self.rows.append((pool.fork(table), list(contents)))
        elif action < 0.75:
            table, contents = chance.choice(self.rows)
            numbers = [n for n, b in enumerate(table.blocks) if b is not None]
            if numbers:
                self.write(table, contents, chance.choice(numbers), str(chance.random()).encode())
        elif action < 0.85:
            table, _ = chance.choice(self.rows)
            tokens = len(table.blocks) * pool.size
            pool.slide(table, tokens)
            if pool.window is not None:
                # What the token after them sees is there, and nothing before the window's first block is kept.
                first = max(0, tokens - pool.window + 1)
                assert [b is None for b in table.blocks] == [
                    (n + 1) * pool.size <= first for n in range(len(table.blocks))
                ]
        else:
            at = chance.randrange(len(self.rows))
            pool.release(self.rows.pop(at)[0])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("blocks", "size", "window"), [(5, 1, None), (24, 4, None), (24, 4, 6), (40, 2, 5), (12, 1, 3)]
)
def test_random_operations_keep_the_account(seed, blocks, size, window):
    model = Model(seed, blocks, size, window)
    for _ in range(1000):
        model.step()
        model.check()
    for table, _ in model.rows:
        model.pool.release(table)
    model.rows.clear()
    model.check()
    assert model.pool.used == 0 and model.pool.available == blocks


def test_neighbours_are_kept_for_growth_until_somebody_needs_them():
    pool = BlockPool(8, 2)
    first, second, third = BlockTable(2), BlockTable(2), BlockTable(2)
    pool.grow(first, 1, 4)
    pool.grow(second, 1, 4)
    pool.grow(first, 3, 3)
    assert first.slot_ranges(0, 8) == [(0, 8)], "one range, although another row came between"
    pool.grow(third, 3, 3)
    assert pool.available == 0 and sorted(third.held() + first.held() + second.held()) == list(range(8))


def test_the_least_recently_used_is_forgotten_first_and_ends_before_beginnings():
    pool = BlockPool(4, 1)
    old, new = BlockTable(1), BlockTable(1)
    for table, names in ((old, (b"a", b"ab")), (new, (b"x", b"xy"))):
        pool.grow(table, 2, 2)
        for block, name in zip(table.held(), names, strict=True):
            pool.remember(block, name)
    pool.release(old)
    pool.release(new)
    for expected in ((b"ab",), (b"ab", b"a"), (b"ab", b"a", b"xy")):
        pool.grow(BlockTable(1), 1, 1)
        assert [n for n in (b"ab", b"a", b"xy", b"x") if pool.find(n) is None] == list(expected)


def test_a_pool_that_does_not_remember():
    pool = BlockPool(3, 1, remembers=False)
    table = BlockTable(1)
    pool.grow(table, 3, 3)
    pool.remember(table.held()[0], b"a")
    pool.release(table)
    assert pool.find(b"a") is None and pool.cached == 0 and pool.available == 3


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [1, 2, 3, 5, 8, 100])
def test_a_known_beginning_needs_its_window_only(size, window):
    """Of a window's pool, exactly the blocks that the next token looks into must be known."""
    chain = [bytes([n]) for n in range(6)]
    for missing in range(6):
        full, narrow = BlockPool(6, size), BlockPool(6, size, window=window)
        for pool in (full, narrow):
            table = BlockTable(size)
            pool.grow(table, 6, 6)
            for number, block in enumerate(table.held()):
                if pool is full or number != missing:
                    pool.remember(block, chain[number])
        known = longest_prefix([full, narrow], chain)
        # By hand: the longest beginning whose next token does not look into the missing block.
        sees = {n: range(max(0, n * size - window + 1) // size, n) for n in range(7)}
        assert known == max(n for n in range(7) if missing not in sees[n])
        assert [*range(first_needed(narrow, known), known)] == [*sees[known]]
