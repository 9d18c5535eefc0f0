"""``model.stream`` and ``model.astream``: the pieces of all rows of a call as they come, each with its row's number."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar
from weakref import WeakKeyDictionary

from omniform.architectures.model import Model
from omniform.core.generation import GenerationConfig
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.engine.generate import Answers, Job, check_streamable, enqueue, prepare
from omniform.engine.handle import RowTexts
from omniform.engine.handover import Legacy
from omniform.engine.request import Completion, Piece, Request, Row, TokenLogprob


@dataclass(frozen=True, slots=True)
class _Over:
    """One prompt's answers have ended, for better or worse."""

    error: BaseException | None


class _Pieces(Answers):
    """Receives what one prompt gives, and hands it on as pieces.

    Args:
        job: the call.
        number: which of its prompts it is.
        out: takes the pieces, and then the end.
    """

    def __init__(self, job: Job, number: int, out: Callable[[Piece | _Over], None]) -> None:
        super().__init__(Legacy() if job.caches.wanted else None)
        settings = job.settings(1)
        self._first = number * settings.num_return_sequences
        self._texts = RowTexts.of(job.tokenizer, settings.stop_strings)
        self._out = out

    def piece(self, row: Row, token: int, logprob: TokenLogprob | None) -> None:
        """A token as it comes."""
        super().piece(row, token, logprob)
        self._out(Piece(token, self._texts.next(row), logprob, self._first + row.number))

    def end(self, completion: Completion | None, error: BaseException | None) -> None:
        """The request is over."""
        super().end(completion, error)
        self._out(_Over(error))


def _understood(
    model: Model,
    inputs: object,
    generation_config: GenerationConfig | Mapping[str, object] | None,
    tokenizer: Reader | None,
    kwargs: Mapping[str, object],
) -> Job:
    job = prepare(model, inputs, generation_config, kwargs, tokenizer)
    check_streamable(job.settings(1))
    return job


def stream_pieces(
    model: Model,
    inputs: object = None,
    *,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    tokenizer: Reader | None = None,
    **kwargs: object,
) -> Iterator[Piece]:
    """Write on from prompts, and tell every token as soon as it is there.

    The tokens are those of :func:`omniform.engine.generate.generate`, which takes the same arguments.

    Yields:
        Pieces, those of several rows mixed: ``token``; ``text``, whole characters that are new, if there is a
        ``tokenizer``; ``sequence``, which row of what ``generate`` returns it belongs to; ``logprob``, if asked for.

    Raises:
        InputError: an input or a setting that cannot be used; beams, which are known at the end only.
    """
    job = _understood(model, inputs, generation_config, tokenizer, kwargs)
    engine = job.engine()
    fresh: deque[Piece | _Over] = deque()
    answers = [_Pieces(job, number, fresh.append) for number in range(len(job.prompts))]
    enqueue(engine, job, answers)
    running = len(job.prompts)
    while running:
        engine.step()
        while fresh:
            item = fresh.popleft()
            if isinstance(item, Piece):
                yield item
                continue
            if item.error is not None:
                raise item.error
            running -= 1
    job.cache(answers)


async def astream(
    model: Model,
    inputs: object = None,
    *,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    tokenizer: Reader | None = None,
    **kwargs: object,
) -> AsyncIterator[Piece]:
    """The same as :func:`stream_pieces` for an event loop, which is free meanwhile.

    Calls that run at the same time are computed side by side, by one engine in a thread of its own. Whoever stops
    reading (``break``, a cancelled task) gives the rest of the answers up.

    Yields, Raises: see :func:`stream_pieces`.
    """
    loop = asyncio.get_running_loop()
    fresh: asyncio.Queue[Piece | _Over] = asyncio.Queue()

    def out(item: Piece | _Over) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits any more
            loop.call_soon_threadsafe(fresh.put_nowait, item)

    job = await asyncio.to_thread(_understood, model, inputs, generation_config, tokenizer, kwargs)
    with _Shared.of(model) as shared:
        engine = await asyncio.to_thread(shared.engine)
        requests: list[Request] = []
        answers = [_Pieces(job, number, out) for number in range(len(job.prompts))]
        try:
            for number, (prompt, answer) in enumerate(zip(job.prompts, answers, strict=True)):
                requests.append(
                    engine.enqueue(
                        prompt,
                        job.settings,
                        answer,
                        tokenizer=job.tokenizer,
                        seed=job.seed(number),
                        parts=job.asked.parts,
                        legacy=answer.legacy,
                    )
                )
            engine.work()
            running = len(requests)
            while running:
                item = await fresh.get()
                if isinstance(item, Piece):
                    yield item
                    continue
                if item.error is not None:
                    raise item.error
                running -= 1
            job.cache(answers)
        finally:
            engine.cancel(requests)


class _Shared:
    """The engine of all calls of ``astream`` to one model that run at the same time; there is none between them."""

    _all: ClassVar[WeakKeyDictionary[Model, _Shared]] = WeakKeyDictionary()
    _guard = threading.Lock()

    def __init__(self, model: Model) -> None:
        self._model = model
        self._users = 0
        self._engine: Engine | None = None
        self._making = threading.Lock()

    @classmethod
    def of(cls, model: Model) -> _Shared:
        """The one of a model."""
        with cls._guard:
            found = cls._all.get(model)
            if found is None:
                found = cls._all[model] = cls(model)
            found._users += 1
            return found

    def __enter__(self) -> _Shared:
        return self

    def __exit__(self, *error: object) -> None:
        with self._guard:
            self._users -= 1
            if not self._users:
                del self._all[self._model]

    def engine(self) -> Engine:
        """It, made where there is none yet."""
        with self._making:
            if self._engine is None:
                self._engine = Engine(self._model)
            return self._engine
