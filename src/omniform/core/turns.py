"""Films and their sounds taking turns by time, as processors write them and models count them (Qwen2.5-Omni)."""

from __future__ import annotations

from collections.abc import Iterable


def turns(times: Iterable[float], length: float) -> list[tuple[int, int]]:
    """Where stretches of ever later times begin and end, the first of times below ``length``.

    A step over a whole stretch ends one only, and each of the next times another, until they have caught up.
    """
    found: list[tuple[int, int]] = []
    start = at = 0
    for time in times:
        if time >= (len(found) + 1) * length:
            found.append((start, at))
            start = at
        at += 1
    return [*found, (start, at)]
