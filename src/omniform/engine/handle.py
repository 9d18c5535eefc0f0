"""The caller's end of a request: read it piece by piece, await it, cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

from omniform.engine.request import Completion, Piece, Row, TokenLogprob
from omniform.engine.stop import ShownText, StopStrings, stop_strings
from omniform.engine.text import Decodes


class RowTexts:
    """The texts of one request's rows as they come.

    Args:
        tokenizer: turns tokens into text; None for no text.
        stop_strings: end an answer by its text; such a text and what follows it are not shown.
    """

    def __init__(self, tokenizer: Decodes | None, stop_strings: StopStrings | None) -> None:
        self._tokenizer = tokenizer
        self._stop_strings = stop_strings
        self._words: dict[int, ShownText] = {}

    @classmethod
    def of(cls, tokenizer: Decodes | None, strings: Sequence[str]) -> RowTexts:
        """Those of a call with these stop strings."""
        return cls(tokenizer, stop_strings(strings, tokenizer))

    def next(self, row: Row) -> str:
        """What is new and final in a row that has another token."""
        if self._tokenizer is None:
            return ""
        words = self._words.setdefault(row.number, ShownText(self._tokenizer, self._stop_strings))
        text = words.push(row.named, row.prompt - row.nameless)
        return text if row.finished is None else text + words.rest(row.named, row.prompt - row.nameless)


@dataclass(slots=True)
class Times:
    """When a request was where, in seconds of ``time.perf_counter``.

    Attributes:
        submitted: when it was submitted.
        first, last: when the first and the last of its tokens came, of all its answers; None before.
        tokens: how many came so.
    """

    submitted: float
    first: float | None = None
    last: float | None = None
    tokens: int = 0

    def token(self) -> None:
        """Another one came."""
        self.last = time.perf_counter()
        if self.first is None:
            self.first = self.last
        self.tokens += 1


class Bell:
    """Wakes an event loop from another thread for many who wait: once for all that a step has news for.

    A loop that is woken for every token of every request spends more on waking than on what the tokens cost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._news: deque[asyncio.Event] = deque()
        self._rung = False

    @staticmethod
    def of(loop: asyncio.AbstractEventLoop) -> Bell:
        """The bell of a loop; all who wait in it have the same."""
        found = _BELLS.get(loop)
        if found is None:
            found = _BELLS[loop] = Bell(loop)
        return found

    def ring(self, event: asyncio.Event) -> None:
        """Have an event set in the loop's thread."""
        self._news.append(event)
        if not self._rung:
            self._rung = True
            loop = self._loop()
            with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits any more
                if loop is not None:
                    loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._rung = False  # first, so that what comes from here on rings anew
        while self._news:
            self._news.popleft().set()


_BELLS: WeakKeyDictionary[asyncio.AbstractEventLoop, Bell] = WeakKeyDictionary()


class Handle:
    """A request that was submitted.

    Iterate over it (or ``async for``) for its pieces as they come, several readers if you like, each from the start;
    ``await`` it or call :meth:`result` for the whole. Nobody needs to read: an answer that is not read does not hold up
    the others.

    Args:
        cancel: called to give the request up.
        tokenizer: turns tokens into text; None for tokens only.
        stop_strings: ends the answer by its text; such a text and what follows it are not shown.
    """

    def __init__(
        self, cancel: Callable[[], None], tokenizer: Decodes | None, stop_strings: StopStrings | None = None
    ) -> None:
        self._cancel = cancel
        self._texts = RowTexts(tokenizer, stop_strings)
        self._pieces: list[Piece] = []
        self._completion: Completion | None = None
        self._error: BaseException | None = None
        self._over = False
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._done: list[Callable[[Handle], None]] = []
        self.times = Times(time.perf_counter())

    # -- the caller's side -------------------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether the request is over, for better or worse."""
        return self._over

    @property
    def completion(self) -> Completion | None:
        """The whole answer; None while it is not, and where the request failed."""
        return self._completion

    def add_done_callback(self, call: Callable[[Handle], None]) -> None:
        """Have something called when the request is over, in the thread that ends it; at once if it is already."""
        with self._changed:
            if not self._over:
                self._done.append(call)
                return
        call(self)

    def cancel(self) -> None:
        """Give the request up; what was written so far stays. Has no effect on a request that is over."""
        if not self._over:
            self._cancel()

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the whole answer.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: it took longer.
            OmniformError: the request failed.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout):
                raise TimeoutError(f"the request has not finished within {timeout} s")
        return self._outcome()

    def __iter__(self) -> Iterator[Piece]:
        at = 0
        while True:
            with self._changed:
                while not (self._over or len(self._pieces) > at):
                    self._changed.wait()
                fresh = self._pieces[at:]
            if not fresh:
                self._outcome()
                return
            at += len(fresh)
            yield from fresh

    async def __aiter__(self) -> AsyncIterator[Piece]:
        at = 0
        while True:
            await self._wait(at)
            fresh = self._pieces[at:]
            if not fresh:
                self._outcome()
                return
            at += len(fresh)
            for piece in fresh:
                yield piece

    def __await__(self) -> Generator[object, None, Completion]:
        yield from self._wait(sys.maxsize).__await__()
        return self._outcome()

    async def _wait(self, pieces: int) -> None:
        """Wait for more than so many pieces, or for the end."""
        changed = asyncio.Event()
        bell = Bell.of(asyncio.get_running_loop())

        def tell() -> None:
            bell.ring(changed)

        self._listeners.append(tell)
        try:
            while not (self._over or len(self._pieces) > pieces):
                await changed.wait()
                changed.clear()
        finally:
            self._listeners.remove(tell)

    def _outcome(self) -> Completion:
        if self._error is not None:
            raise self._error
        assert self._completion is not None, "a request that is over has an outcome"
        return self._completion

    # -- the engine's side: a Sink -------------------------------------------------------------------------------------

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """A token as it comes."""
        text = self._texts.next(row)
        self.times.token()
        with self._changed:
            self._pieces.append(Piece(token, text, logprob, row.number))
            self._tell()

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """The request is over."""
        with self._changed:
            if completion is not None and not self._pieces:
                self._pieces += _pieces(completion)
            self._completion, self._error, self._over = completion, error, True
            self._tell()
            calls, self._done = self._done, []
        for call in calls:
            call(self)

    def _tell(self) -> None:
        self._changed.notify_all()
        for listener in list(self._listeners):
            listener()


def _pieces(completion: Completion) -> list[Piece]:
    """The pieces of answers that are known at their end only, as those of beam search are."""
    return [
        Piece(token, (one.text or "") if at == len(one.tokens) - 1 else "", sequence=number)
        for number, one in enumerate(completion.sequences)
        for at, token in enumerate(one.tokens)
    ]
