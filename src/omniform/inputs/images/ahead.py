"""Work on several pictures at a time: torch's and Pillow's kernels for one picture use one thread each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

From = TypeVar("From")
To = TypeVar("To")


def ahead(work: Callable[[From], To], items: Iterable[From]) -> list[To]:
    """What a function makes of each item, in their order.

    While items are taken (pictures decoded), those before are worked on; no more are held than there are threads
    (``torch.get_num_threads()``, so that whoever bounds torch bounds this). Whatever an item or the work raises is
    raised here, and nothing goes on after it.
    """
    threads = torch.get_num_threads()
    rest = iter(items)
    first = list(islice(rest, 2))
    if threads < 2 or len(first) < 2:
        return [work(item) for item in chain(first, rest)]
    done: list[To] = []
    waiting: deque[Future[To]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in chain(first, rest):
            if len(waiting) == threads:
                done.append(waiting.popleft().result())
            waiting.append(pool.submit(work, item))
        done.extend(future.result() for future in waiting)
    return done
