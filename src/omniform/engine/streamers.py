"""Streamers: what ``generate(streamer=...)`` tells of an answer while it writes it.

A streamer gets the prompt first, then every step's tokens (``put``), and the end. Those for text hand out whole words,
made of whole characters. If ``generate`` raises, a streamer is told (``fail``), so that whoever reads from another
thread is not left waiting: the error is raised there as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Queue
from typing import Final, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, MissingPartError, brief
from omniform.engine.text import Decodes, Detokenizer


@runtime_checkable
class Streamer(Protocol):
    """What ``generate(streamer=...)`` feeds: the prompt first, then each step's tokens."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


class BaseStreamer:
    """Base of streamers of one's own."""

    def put(self, value: Tensor) -> None:
        """Take the prompts, Shape: [B, T]; then, once a step, the next token of each row, Shape: [B]."""
        raise MissingPartError(f"{type(self).__name__} has no put")

    def end(self) -> None:
        """No more tokens come."""
        raise MissingPartError(f"{type(self).__name__} has no end")

    def fail(self, error: BaseException) -> None:
        """Called instead of :meth:`end` when ``generate`` raises, which it does afterwards; ends, unless overridden."""
        self.end()


@contextmanager
def told_of_failures(streamer: object) -> Iterator[None]:
    """Tell a streamer of what is raised meanwhile; a foreign one, which knows no failures, is told that it ends."""
    try:
        yield
    except BaseException as error:
        with suppress(Exception):  # what went wrong first is what is raised
            if isinstance(streamer, BaseStreamer):
                streamer.fail(error)
            elif isinstance(streamer, Streamer):
                streamer.end()
        raise


_IDEOGRAPH: Final = re.compile(
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
    "\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f]"
)
"""Chinese characters: each is a word of its own. The scripts of Japanese and Korean are not among them."""


class _Words:
    """One row's tokens as text, word by word.

    A word ends with a space, a line or a Chinese character: what may still become a part of one (an accent that
    combines with the letter before it, the rest of a joined emoji) is held back.

    Args:
        tokenizer: decodes token ids.
        options: of ``decode``.
    """

    def __init__(self, tokenizer: Decodes, options: dict[str, object]) -> None:
        self._characters = Detokenizer(tokenizer, **{"skip_special_tokens": False, **options})
        self._held = ""

    def push(self, tokens: Iterable[int]) -> str:
        """Add tokens; returns the words that are whole now."""
        self._held += "".join([self._characters.push(token) for token in tokens])
        text = self._held
        whole = text.endswith("\n") or bool(text and _IDEOGRAPH.match(text[-1]))
        end = len(text) if whole else text.rfind(" ") + 1
        self._held = text[end:]
        return text[:end]

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        held, self._held = self._held, ""
        return held + self._characters.rest()


class TextStreamer(BaseStreamer):
    """Prints an answer word by word while ``generate`` writes it.

    Args:
        tokenizer: decodes token ids.
        skip_prompt: leave out the prompt.
        decode_kwargs: options of the tokenizer's ``decode``, such as ``skip_special_tokens=True``.
    """

    def __init__(self, tokenizer: Decodes, skip_prompt: bool = False, **decode_kwargs: object) -> None:
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._words = _Words(tokenizer, decode_kwargs)

    def put(self, value: Tensor) -> None:
        """Take the prompt (the first call) or the next tokens of a single row. Shape: [1, T] or [T].

        Raises:
            InputError: there are several rows.
        """
        rows = _rows(value)
        if len(rows) != 1:
            raise InputError(
                f"{type(self).__name__} only supports batch size 1",
                where="streamer",
                expected="one row",
                found=f"{len(rows)} rows",
                remedy="RowTextStreamer and RowTextIteratorStreamer tell rows apart.",
            )
        prompt, self.next_tokens_are_prompt = self.next_tokens_are_prompt, False
        if not (prompt and self.skip_prompt):
            self.on_finalized_text(self._words.push(rows[0]))

    def end(self) -> None:
        """Hand out what was held back; the streamer may be used again."""
        self.next_tokens_are_prompt = True
        self.on_finalized_text(self._words.rest(), stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called with the text that each step has completed, which may be none; prints it."""
        print(text, end="\n" if stream_end else "", flush=True)


@dataclass(frozen=True, slots=True)
class _Failed:
    """Stands in a queue for the error that ended an answer."""

    error: BaseException


class TextIteratorStreamer(TextStreamer):
    """Hands an answer to another thread: iterate over it while ``generate`` runs.

    If ``generate`` raises, so does the iterator, once the text before it was read.

    Args:
        tokenizer, skip_prompt, decode_kwargs: see :class:`TextStreamer`.
        timeout: seconds to wait for the next step's text (``queue.Empty`` after that); None waits for ever.

    Attributes:
        text_queue: what was not read yet.
        stop_signal: stands for the end among the texts.
    """

    def __init__(
        self, tokenizer: Decodes, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: object
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: Queue[object] = Queue()
        self.stop_signal: object = None
        self.timeout = timeout

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put the text into the queue, and at the end the stop signal."""
        self.text_queue.put(text, timeout=self.timeout)
        if stream_end:
            self.text_queue.put(self.stop_signal, timeout=self.timeout)

    def fail(self, error: BaseException) -> None:
        self.next_tokens_are_prompt = True
        self.on_finalized_text(self._words.rest())
        self.text_queue.put(_Failed(error))

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        value = self.text_queue.get(timeout=self.timeout)
        if isinstance(value, _Failed):
            raise value.error
        if value == self.stop_signal:
            raise StopIteration
        return str(value)


class AsyncTextIteratorStreamer(TextStreamer):
    """Hands an answer to the event loop that it was made in: ``async for`` over it while ``generate`` runs in a thread.

    Args:
        tokenizer, skip_prompt, decode_kwargs: see :class:`TextStreamer`.
        timeout: seconds to wait for the next step's text (``TimeoutError`` after that); None waits for ever.

    Raises:
        RuntimeError: it is not made within a coroutine.
    """

    def __init__(
        self, tokenizer: Decodes, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: object
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.text_queue: asyncio.Queue[object] = asyncio.Queue()
        self.stop_signal: object = None
        self.timeout = timeout
        self.loop = asyncio.get_running_loop()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Put the text into the queue, and at the end the stop signal."""
        self._put(text)
        if stream_end:
            self._put(self.stop_signal)

    def fail(self, error: BaseException) -> None:
        self.next_tokens_are_prompt = True
        self.on_finalized_text(self._words.rest())
        self._put(_Failed(error))

    def _put(self, value: object) -> None:
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, value)

    def __aiter__(self) -> AsyncTextIteratorStreamer:
        return self

    async def __anext__(self) -> str:
        async with asyncio.timeout(self.timeout):
            value = await self.text_queue.get()
        if isinstance(value, _Failed):
            raise value.error
        if value == self.stop_signal:
            raise StopAsyncIteration
        return str(value)


class RowStreamer(BaseStreamer):
    """Base of streamers that take each row of a call by itself, as far as it has come and without padding.

    ``generate`` calls ``begin_row``, ``put_row`` and ``end_row``, and ``end`` when all rows are over. Rows are counted
    as they are in what it returns. Fed by ``put`` instead, as other libraries do, it takes columns apart.
    """

    def __init__(self) -> None:
        self._open: list[int] = []

    def begin_row(self, row: int, prompt: Sequence[int]) -> None:
        """A row begins, with these tokens before its answer."""
        self._open.append(row)

    def put_row(self, row: int, token: int) -> None:
        """A row's next token."""
        raise MissingPartError(f"{type(self).__name__} has no put_row")

    def end_row(self, row: int) -> None:
        """A row is over."""
        self._open.remove(row)

    def put(self, value: Tensor) -> None:
        rows = _rows(value)
        if not self._open:
            for row, prompt in enumerate(rows):
                self.begin_row(row, prompt)
            return
        for row, token in zip(self._open, (token for tokens in rows for token in tokens), strict=True):
            self.put_row(row, token)

    def end(self) -> None:
        for row in list(self._open):
            self.end_row(row)


class RowTextStreamer(RowStreamer):
    """Prints the answers of a batch while ``generate`` writes them, line by line, each with its row's number before it.

    Override :meth:`on_row_text` to do something else with them.

    Args:
        tokenizer, skip_prompt, decode_kwargs: see :class:`TextStreamer`.
    """

    def __init__(self, tokenizer: Decodes, skip_prompt: bool = False, **decode_kwargs: object) -> None:
        super().__init__()
        check_tokenizer(tokenizer)
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self._words: dict[int, _Words] = {}
        self._lines: dict[int, str] = {}

    def begin_row(self, row: int, prompt: Sequence[int]) -> None:
        super().begin_row(row, prompt)
        words = self._words[row] = _Words(self.tokenizer, self.decode_kwargs)
        if not self.skip_prompt:
            self.on_row_text(row, words.push(prompt))

    def put_row(self, row: int, token: int) -> None:
        self.on_row_text(row, self._words[row].push([token]))

    def end_row(self, row: int) -> None:
        super().end_row(row)
        self.on_row_text(row, self._words.pop(row).rest(), stream_end=True)

    def on_row_text(self, row: int, text: str, stream_end: bool = False) -> None:
        """Called with the text that a step has completed of a row, which may be none; prints its whole lines."""
        *lines, rest = (self._lines.pop(row, "") + text).split("\n")
        if stream_end:
            lines.append(rest)
        else:
            self._lines[row] = rest
        for line in lines:
            print(f"[{row}] {line}", flush=True)


class RowTextIteratorStreamer(RowTextStreamer):
    """Hands the answers of a batch to another thread: iterate over pairs of a row's number and its next words.

    If ``generate`` raises, so does the iterator, once the text before it was read.

    Args:
        tokenizer, skip_prompt, decode_kwargs: see :class:`TextStreamer`.
        timeout: seconds to wait for the next step's text (``queue.Empty`` after that); None waits for ever.
    """

    def __init__(
        self, tokenizer: Decodes, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: object
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self._queue: Queue[tuple[int, str] | _Failed | None] = Queue()
        self.timeout = timeout

    def on_row_text(self, row: int, text: str, stream_end: bool = False) -> None:
        """Put the text into the queue."""
        self._queue.put((row, text))

    def end(self) -> None:
        super().end()
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        super().end()
        self._queue.put(_Failed(error))

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        value = self._queue.get(timeout=self.timeout)
        if isinstance(value, _Failed):
            raise value.error
        if value is None:
            raise StopIteration
        return value


def _rows(value: object) -> list[list[int]]:
    """The rows of what ``put`` was given; one, for what has a single axis."""
    if not isinstance(value, (Tensor, np.ndarray)):
        raise InputError("these are no tokens", where="streamer.put", expected="a tensor of ids", found=brief(value))
    rows = value.reshape(-1, value.shape[-1]) if value.ndim > 1 else value.reshape(1, -1)
    found: list[list[int]] = rows.tolist()
    return found


def check_tokenizer(tokenizer: object) -> None:
    """Refuse what cannot read tokens.

    Raises:
        InputError: it has no ``decode``.
    """
    if isinstance(tokenizer, bytes) or not isinstance(tokenizer, Decodes):
        raise InputError(
            "this reads no tokens", where="tokenizer", expected="a tokenizer or a processor", found=brief(tokenizer)
        )
