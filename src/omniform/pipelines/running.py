"""One call of a pipeline: its inputs in windows, prepared, computed in batches, finished, and given back in order."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch

from omniform.core.errors import InputError
from omniform.inputs.images.load import ReadableFile
from omniform.pipelines.batching import BatchSize, Inputs

if TYPE_CHECKING:
    from omniform.pipelines.base import Params, Pipeline

T = TypeVar("T")
R = TypeVar("R")

OnError = Literal["raise", "return"]
"""What becomes of an input that cannot be answered: the call fails, or the error stands in the answer's place."""

WINDOW = 1024
"""So many inputs of a list or a dataset are prepared at once, to be sorted into batches of like length, unless the
pipeline says otherwise."""

STREAMED = 4
"""So many batches are read ahead of a stream whose batches were asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Stands for what could not be computed."""

    error: Exception


def draw_for_a_loader() -> None:
    """Draw what torch's ``DataLoader`` draws when it is begun, from which the ecosystem reads many inputs, or parts of
    one: so the same seed means the same draws in what is written then."""
    torch.empty((), dtype=torch.int64).random_()


class Steps(Protocol):
    """A pipeline's own steps, as :class:`Run` calls them."""

    def prepare(self, item: object, params: Params) -> Sequence[Inputs]: ...

    def prepare_many(self, items: Sequence[object], run: Run) -> list[Sequence[Inputs] | Failure]: ...

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]: ...

    def finish(self, outputs: list[object], params: Params) -> object: ...


@dataclass(frozen=True, slots=True)
class Run:
    """How one call is carried out.

    Attributes:
        pipeline: whose steps these are.
        steps: the pipeline's steps.
        preprocess, forward, postprocess: the parameters of each step.
        batch_size: how many inputs share a batch.
        workers: threads that prepare inputs; 0 for the caller's own.
        on_error: what becomes of an input that cannot be answered.
        progress: whether to show on stderr how far it has come.
    """

    pipeline: Pipeline
    steps: Steps
    preprocess: Params
    forward: Params
    postprocess: Params
    batch_size: BatchSize
    workers: int
    on_error: OnError
    progress: bool

    def one(self, item: object) -> object:
        """The answer to a single input."""
        (answer,) = self._window([item])
        if isinstance(answer, Failure) and self.on_error == "raise":
            raise answer.error
        return answer.error if isinstance(answer, Failure) else answer

    def each(self, items: Iterable[object]) -> Iterator[object]:
        """The answers to many inputs, in their order; a stream is read as its answers are asked for."""
        draw_for_a_loader()
        total = len(items) if isinstance(items, Sized) else None
        bar = Progress(total) if self.progress else None
        source, done = iter(items), 0
        while window := list(islice(source, self._window_size(total))):
            for answer in self._window(window):
                if isinstance(answer, Failure):
                    if self.on_error == "raise":
                        answer.error.add_note(f"while answering input {done}")
                        raise answer.error
                    yield answer.error
                else:
                    yield answer
                done += 1
                if bar is not None:
                    bar.show(done)
        if bar is not None:
            bar.end(done)

    def _window_size(self, total: int | None) -> int:
        if self.batch_size == "auto":
            return self.pipeline.window if total is not None else 1
        if total is None or self.batch_size == 1:
            return 1 if self.batch_size == 1 else STREAMED * self.batch_size
        return max(self.pipeline.window, self.batch_size)

    def _window(self, items: Sequence[object]) -> list[object | Failure]:
        prepared = self._prepared(items)
        chunks = [chunk for one in prepared if not isinstance(one, Failure) for chunk in one]
        computed = iter(self.steps.compute(chunks, self.batch_size, self)) if chunks else iter(())
        answers: list[object | Failure] = []
        for one in prepared:
            if isinstance(one, Failure):
                answers.append(one)
                continue
            outputs = [next(computed) for _ in one]
            failed = next((output for output in outputs if isinstance(output, Failure)), None)
            answers.append(self.tried(self.steps.finish, outputs, self.postprocess) if failed is None else failed)
        return answers

    def _prepared(self, items: Sequence[object]) -> list[Sequence[Inputs] | Failure]:
        def prepare(item: object) -> Sequence[Inputs] | Failure:
            return self.tried(self.steps.prepare, item, self.preprocess)

        if self.workers and len(items) > 1:
            with ThreadPoolExecutor(self.workers, "omniform-pipeline") as pool:
                return [*pool.map(prepare, items)]
        return self.steps.prepare_many(items, self)

    def tried(self, step: Callable[[T, Params], R], given: T, params: Params) -> R | Failure:
        """What a step gives, or what went wrong with it.

        What went wrong is told where its answer is asked for, so that the answers before it come first.
        """
        try:
            return step(given, params)
        except Exception as error:
            return Failure(error)


@runtime_checkable
class Indexed(Protocol):
    """A dataset of the ecosystem's: rows by index, and how many there are."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


@dataclass(frozen=True, slots=True)
class Items:
    """The rows of a dataset in their order."""

    rows: Indexed

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[object]:
        return (self.rows[at] for at in range(len(self.rows)))


def items_of(inputs: object) -> Iterable[object] | None:
    """The inputs that a dataset or a stream holds; None for what is an input itself."""
    if isinstance(inputs, ReadableFile):  # an open file, which counts as an iterator of lines
        return None
    if isinstance(inputs, (Iterator, torch.utils.data.IterableDataset)):
        return cast("Iterable[object]", inputs)
    # Datasets of the ecosystem's own packages know no base class in common; texts, mappings and arrays are inputs.
    single = (str, bytes, bytearray, Mapping, tuple, torch.Tensor, np.ndarray)
    return Items(inputs) if isinstance(inputs, Indexed) and not isinstance(inputs, single) else None


class Answers(Iterator[object]):
    """The answers to a dataset or a stream, one by one as they are asked for; ``len`` where it is known."""

    def __init__(self, run: Run, items: Iterable[object]) -> None:
        self._items = items
        self._answers = run.each(items)

    def __next__(self) -> object:
        return next(self._answers)

    def __len__(self) -> int:
        if isinstance(self._items, Sized):
            return len(self._items)
        raise TypeError("nobody knows how many answers a stream has")


class Progress:
    """One line on stderr that says how far a call has come."""

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._started = self._shown = time.perf_counter()
        self._width = 0

    def show(self, done: int) -> None:
        """Write the line anew, a few times a second."""
        now = time.perf_counter()
        if now - self._shown >= 0.2 and sys.stderr.isatty():
            self._shown = now
            self._write("\r" + self._line(done, now))

    def end(self, done: int) -> None:
        """Write the last line, and leave it."""
        self._write(("\r" if self._width else "") + self._line(done, time.perf_counter()) + "\n")

    def _line(self, done: int, now: float) -> str:
        rate = done / max(now - self._started, 1e-9)
        if self._total is None:
            return f"{done} answers, {rate:.1f}/s"
        filled = 24 * done // max(self._total, 1)
        left = (self._total - done) / max(rate, 1e-9)
        return f"[{'=' * filled:24}] {done}/{self._total}, {rate:.1f}/s, {left:.0f} s left"

    def _write(self, line: str) -> None:
        padded, self._width = line.ljust(self._width), len(line)
        print(padded, end="", file=sys.stderr, flush=True)


def check_batch_size(value: object) -> BatchSize:
    """A batch size as a caller says it.

    Raises:
        InputError: it is no number of inputs.
    """
    if value == "auto" and isinstance(value, str):
        return "auto"
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError("this is no size of batches", where="batch_size", expected="a number >= 1", found=repr(value))
    return value


def check_workers(value: object) -> int:
    """A number of workers as a caller says it.

    Raises:
        InputError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(
            "this is no number of workers", where="num_workers", expected="a number >= 0", found=repr(value)
        )
    return value


def check_on_error(value: object) -> OnError:
    """What is to become of errors, as a caller says it.

    Raises:
        InputError: neither of the two words.
    """
    if value == "raise":
        return "raise"
    if value == "return":
        return "return"
    raise InputError("no such way", where="on_error", expected="'raise' or 'return'", found=repr(value))
