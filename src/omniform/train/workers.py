"""What went wrong in the processes that load data, in plain words: which died and of what, or what it raised."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from torch._C import _error_if_any_worker_fails

from omniform.core.errors import OmniformError, WorkerError

__all__ = ["next_of", "plain_error", "plainly"]

T = TypeVar("T")

_ENDED: Final = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.+?)\.|exited (.+))"
)
_CODE: Final = re.compile(r"exit code (-?\d+)")
_CAUGHT: Final = re.compile(r"Caught (\w+) in ([^\n]*?)\.?\nOriginal Traceback")

_REMEDIES: Final = {
    signal.SIGKILL: "Most likely memory ran out, and the system ended the largest process: use fewer "
    "dataloader_num_workers, a smaller dataloader_prefetch_factor, or examples that are read when they are asked for.",
    signal.SIGBUS: "Most likely there is too little shared memory for the batches that wait: enlarge /dev/shm "
    "(docker run --shm-size=8g), or call torch.multiprocessing.set_sharing_strategy('file_system').",
    signal.SIGSEGV: "Compiled code that the dataset or the collator calls has crashed: dataloader_num_workers=0 shows "
    "where (run python with -X faulthandler), dataloader_multiprocessing_context='spawn' often avoids it.",
}
_EXITED: Final = (
    "Something in the dataset or the collator ended its process (os._exit, an assertion of compiled code): "
    "dataloader_num_workers=0 shows where."
)


def plainly(batches: Iterable[T]) -> Iterator[T]:
    """The same batches, each by :func:`next_of`."""
    iterator = iter(batches)
    while True:
        try:
            batch = next_of(iterator)
        except StopIteration:
            return
        yield batch


def next_of(batches: Iterator[T]) -> T:
    """``next(batches)``; what goes wrong in the loader's processes is told as :func:`plain_error` does."""
    try:
        return next(batches)
    except (RuntimeError, OmniformError, ConnectionError, EOFError) as error:
        lost = isinstance(error, (ConnectionError, EOFError))
        told = plain_error((_death() or error) if lost else error)
        if told is None:
            raise
        raise told from error


def _death() -> RuntimeError | None:
    """What torch says of a worker that has died; asked where the connection to one was lost, which is seen first."""
    try:
        for _ in range(20):  # the system needs a moment to say so; torch may also tell by raising in the midst of it
            _error_if_any_worker_fails()
            time.sleep(0.05)
    except RuntimeError as death:
        return death
    return None


def plain_error(error: BaseException) -> OmniformError | None:
    """The error of a process that died, or an error of omniform's that a process raised; None for any other."""
    if isinstance(error, OmniformError):
        return _raised(error)
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(texts) < 4:
        texts.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    ended = [found for text in texts for found in [_ENDED.search(text)] if found]
    if not ended:
        return None
    pids = ended[0][1].strip()
    killed = next((found[2] for found in ended if found[2]), None)
    code = next((int(found[1]) for text in texts for found in [_CODE.search(text)] if found), None)
    number = _signal(killed) if killed else (signal.Signals(-code) if code is not None and code < 0 else None)
    if number is not None:
        found = f"ended by {number.name} ({signal.strsignal(number)})"
    else:
        found = f"killed by {killed}" if killed else ("it ended by itself" if code is None else f"exit code {code}")
    remedy = _REMEDIES.get(number, _EXITED) if number is not None else _EXITED
    return WorkerError("a process that loads data has died", where=f"worker, pid {pids}", found=found, remedy=remedy)


def _signal(words: str) -> signal.Signals | None:
    """The signal that the C library calls so."""
    for number in signal.Signals:
        if signal.strsignal(number) == words:
            return number
    return None


def _raised(error: OmniformError) -> OmniformError | None:
    # torch makes the error anew in this process, of one text: the worker's whole traceback, which our errors cut.
    found = _CAUGHT.match(error.message)
    if found is None:
        return None
    last = error.message.rstrip().rpartition(f"{found[1]}: ")[2]
    try:
        made = type(error)(last)
    except TypeError:  # a class with arguments of its own
        return None
    made.where = found[2]
    return made
