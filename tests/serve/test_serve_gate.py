"""Turns at the gate: fair over keys, higher priorities first but not for ever, and no place is lost."""

from __future__ import annotations

import asyncio

import pytest

from omniform.serve.errors import APIError
from omniform.serve.gate import OLDEST, Gate


class Room:
    """People who come to a gate, and in which order they got in."""

    def __init__(self, running: int = 1, waiting: int = 1000) -> None:
        self.gate = Gate(running, waiting)
        self.order: list[str] = []
        self.refused: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.leave = asyncio.Event()

    async def come(self, name: str, key: str, rank: int = 0, own: int = 0) -> asyncio.Task[None]:
        async def stay() -> None:
            try:
                async with self.gate.enter(key, rank, own):
                    self.order.append(name)
                    await self.leave.wait()
            except APIError as error:
                assert error.status in (429, 503) and "Retry-After" in error.headers
                self.refused.append(name)

        task = asyncio.create_task(stay())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task

    async def empty(self) -> list[str]:
        self.leave.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.gate.running == self.gate.waiting == 0
        return self.order


def test_keys_take_turns_however_much_one_asks() -> None:
    async def play() -> list[str]:
        room = Room()
        for number in range(20):
            await room.come(f"a{number}", "a")
        for number in range(3):
            await room.come(f"b{number}", "b")
            await room.come(f"c{number}", "c")
        return await room.empty()

    order = asyncio.run(play())
    # Each of the others' three comes within the three rounds after it came.
    assert {"b0", "b1", "b2", "c0", "c1", "c2"} <= set(order[:12]), order
    assert [name for name in order if name[0] == "a"] == [f"a{number}" for number in range(20)]


def test_priorities_come_first_but_not_for_ever() -> None:
    async def play() -> list[str]:
        room = Room()
        await room.come("first", "x")
        await room.come("low", "l", rank=-5)
        for number in range(3 * OLDEST):
            await room.come(f"h{number}", "h", rank=5)
        return await room.empty()

    order = asyncio.run(play())
    assert order[1] == "h0" and 2 < order.index("low") <= OLDEST + 1, order


def test_a_requests_own_priority_counts_among_those_of_its_key() -> None:
    async def play() -> list[str]:
        room = Room()
        await room.come("first", "x")
        await room.come("a", "k")
        await room.come("b", "k", own=3)
        await room.come("c", "k", own=-3)
        await room.come("other", "o")
        return await room.empty()

    order = asyncio.run(play())
    assert [one for one in order if one in "abc"] == ["b", "a", "c"] and order.index("other") <= 2


def test_a_full_queue_refuses_whoever_fills_it() -> None:
    async def play() -> tuple[list[str], list[str]]:
        room = Room(waiting=4)
        await room.come("first", "a")
        for number in range(6):
            await room.come(f"a{number}", "a")
        await asyncio.sleep(0)
        assert room.refused == ["a4", "a5"]
        await room.come("b0", "b")  # takes the place of one of many
        await asyncio.sleep(0)
        return await room.empty(), room.refused

    order, refused = asyncio.run(play())
    assert "b0" in order and refused == ["a4", "a5", "a3"]


def test_whoever_goes_away_leaves_no_place_taken() -> None:
    async def play() -> list[str]:
        room = Room(running=2)
        for number in range(6):
            await room.come(str(number), f"k{number % 3}")
        room.tasks[3].cancel()  # waits
        room.tasks[0].cancel()  # has its place: another gets it, and is cancelled as its turn comes
        await asyncio.sleep(0)
        room.tasks[2].cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert room.gate.running == 2, "a place was lost"
        return await room.empty()

    order = asyncio.run(play())
    assert set(order) >= {"0", "1", "4", "5"} and "3" not in order


def test_a_closed_gate_sends_away_those_who_wait() -> None:
    async def play() -> tuple[list[str], list[str]]:
        room = Room()
        for name in ("in", "waits"):
            await room.come(name, name)
        room.gate.close()
        await room.come("late", "late")
        await asyncio.sleep(0)
        return await room.empty(), sorted(room.refused)

    assert asyncio.run(play()) == (["in"], ["late", "waits"])


@pytest.mark.parametrize("seed", range(3))
def test_no_place_is_lost_whatever_happens(seed: int) -> None:
    import random

    async def play() -> None:
        dice = random.Random(seed)
        gate = Gate(3, 20)
        inside = 0

        async def visit(key: str, stay: int, rank: int) -> None:
            nonlocal inside
            async with gate.enter(key, rank, dice.randint(-2, 2)):
                inside += 1
                try:
                    assert inside <= 3
                    for _ in range(stay):
                        await asyncio.sleep(0)
                finally:
                    inside -= 1

        tasks = []
        for _ in range(300):
            rank = dice.randint(-1, 1)
            tasks.append(asyncio.create_task(visit(f"k{dice.randint(0, 9)}", dice.randint(0, 4), rank)))
            if dice.random() < 0.3:
                dice.choice(tasks).cancel()
            await asyncio.sleep(0)
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(one is None or isinstance(one, (APIError, asyncio.CancelledError)) for one in found), found
        assert gate.running == gate.waiting == 0

    asyncio.run(play())
