"""Work in threads, for requests whose clients may go away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

Made = TypeVar("Made")


async def in_thread(work: Callable[[], Made], undo: Callable[[Made], object] | None = None) -> Made:
    """Have a thread work.

    A thread cannot be stopped. Where nobody waits for it any more, its place is kept until it is through, so that no
    more of them work than may; and what it made is given up.

    Args:
        undo: gives up what was made.
    """
    working = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        try:
            await asyncio.wait({working})
        finally:
            working.add_done_callback(lambda made: _given_up(made, undo))
        raise


def _given_up(made: asyncio.Future[Made], undo: Callable[[Made], object] | None) -> None:
    if not made.cancelled() and made.exception() is None and undo is not None:
        undo(made.result())
