"""``ContinuousBatchingManager``: the ecosystem's door to requests that come and go while a model works."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from omniform.architectures.model import Model
from omniform.core.background import Background
from omniform.core.errors import InputError
from omniform.core.generation import GenerationConfig, as_settings
from omniform.engine.batch_outputs import GenerationOutput, Tracked
from omniform.engine.batching_config import ContinuousBatchingConfig, batching
from omniform.engine.calls import AnyPrompt, Call, Reader, read_call
from omniform.engine.generate import engine_of
from omniform.engine.request import Request

log = logging.getLogger("omniform")

PATIENCE = 10.0
"""Seconds that somebody waits who adds a request to a full queue."""


@dataclass(slots=True, eq=False)
class _Added:
    """A request, from its coming to its end."""

    call: Call
    sink: Tracked
    seed: int | None
    request: Request | None = None
    cancelled: bool = False


class ContinuousBatchingManager:
    """Works on requests in a thread of its own, as many at a time as there is room for; results come as they are done.

    Args:
        model: any model that writes.
        generation_config: settings of all requests, over the checkpoint's own.
        continuous_batching_config: how to batch.
        workload_hints: the ecosystem's; memory is divided by what is free instead.
        tokenizer: reads prompts and answers, for texts and ``stop_strings``.

    Raises:
        InputError: the model does not write, or there is no memory for a single row.
    """

    def __init__(
        self,
        model: Model,
        generation_config: GenerationConfig | Mapping[str, object] | None = None,
        continuous_batching_config: ContinuousBatchingConfig | None = None,
        workload_hints: object = None,
        *,
        tokenizer: Reader | None = None,
    ) -> None:
        config = batching(continuous_batching_config, generation_config) or ContinuousBatchingConfig()
        self.model = model
        self.generation_config = model.generation_config if generation_config is None else generation_config
        self.continuous_batching_config = config
        self.warmed_up = False
        self._settings = as_settings(generation_config)
        self.engine = engine_of(model, config, tokenizer)
        self._changed = threading.Condition()
        self._inbox: deque[_Added] = deque()
        self._working: dict[str, _Added] = {}
        self._results: deque[GenerationOutput] = deque()
        self._handlers: dict[str, tuple[Callable[[GenerationOutput], None], asyncio.AbstractEventLoop]] = {}
        self._names = 0
        self._thread: Background | None = None
        self._stopping: BaseException | bool = False
        self._pausing: list[int] = []
        self._paused = False

    # -- its thread --------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Whether its thread is at work."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin to work."""
        if self.is_running():
            log.warning("the manager is running already")
            return
        self._stopping = False
        self._thread = Background(self._work, lambda: self._ask_to_stop(_given_up()), "omniform-manager")

    def warmup(self) -> None:
        """The ecosystem records steps beforehand; here there is nothing to record."""
        self.warmed_up = True

    def stop(
        self,
        block: bool = True,
        timeout: float | None = None,
        keep_for_next_session: bool = False,
        hard_stop: bool = False,
    ) -> None:
        """End the thread once all requests are answered; with ``hard_stop`` they are given up.

        Args:
            block: wait until it has ended.
            timeout: for so many seconds at most.
            keep_for_next_session: what was remembered is kept in any case, for as long as the manager lives.
            hard_stop: end at once; requests that are not done fail.

        Raises:
            InputError: from inside a pause, which would wait for itself.
        """
        if self._thread is None:
            log.warning("the manager was not started")
            return
        if threading.get_ident() in self._pausing:
            raise InputError("a manager that is paused cannot stop", where="stop", remedy="Leave pause() first.")
        started = time.perf_counter()
        self._ask_to_stop(_given_up() if hard_stop else True)
        if block:
            self.join(started, timeout)

    def join(self, stop_trigger_time: float | None = None, timeout: float | None = None) -> None:
        """Wait until the thread has ended, for so many seconds at most.

        Args:
            stop_trigger_time: when that was asked for, in seconds of ``time.perf_counter``, for the log.
        """
        thread = self._thread
        if thread is None:
            return
        thread.join(timeout)
        if thread.is_alive():
            log.warning("the manager has not ended within %s s", timeout)
            return
        if stop_trigger_time is not None:
            log.debug("the manager ended after %.2f s", time.perf_counter() - stop_trigger_time)
        self._thread = None

    def destroy(self) -> None:
        """End the thread and let go of what it kept."""
        if self.is_running():
            self.stop(block=True)
        self.engine.close()

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """No step is computed inside, so that the model may be changed; requests go on behind it.

        Raises:
            InputError: nothing is running.
        """
        if not self.is_running():
            raise InputError("nothing is running that could pause", where="pause", remedy="Call start() first.")
        own = threading.get_ident()
        with self._changed:
            self._pausing.append(own)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._paused or not self.is_running())
        try:
            yield
        finally:
            with self._changed:
                self._pausing.remove(own)
                self._changed.notify_all()

    # -- requests ----------------------------------------------------------------------------------------------------

    def add_request(
        self,
        input_ids: AnyPrompt,
        request_id: str | None = None,
        max_new_tokens: int | None = None,
        streaming: bool = False,
        record_timestamps: bool = False,
        eos_token_id: int | Sequence[int] | None = None,
        **settings: object,
    ) -> str | None:
        """Ask for an answer.

        Args:
            input_ids: token ids, or any prompt that :meth:`omniform.engine.engine.Engine.submit` takes.
            request_id: a name for it; ``"req_0"`` and so on by default.
            max_new_tokens: instead of the settings of all.
            streaming: results come token by token.
            record_timestamps: results say when each token came.
            eos_token_id: instead of the settings of all; -1 for none.
            settings: any others of its own.

        Returns:
            Its name; None if the manager is ending and takes no more.

        Raises:
            InputError: a prompt or a setting that cannot be used, or a name that is taken.
            queue.Full: as many wait as ``max_queue_size`` allows.
        """
        if self._stopping:
            log.warning("the manager is ending and takes no more requests")
            return None
        own = dict(settings)
        if max_new_tokens is not None:
            own["max_new_tokens"] = max_new_tokens
        ends = self._settings.get("eos_token_id") if eos_token_id is None else eos_token_id
        if ends is not None:
            given = list(ends) if isinstance(ends, (list, tuple)) else [ends]
            own["eos_token_id"] = [one for one in given if not (isinstance(one, int) and one < 0)] or None
        return self._add(self._read(input_ids, own), request_id, streaming, record_timestamps)

    def add_requests(
        self,
        inputs: Sequence[AnyPrompt],
        max_new_tokens: int | None = None,
        streaming: bool = False,
        record_timestamps: bool = False,
        eos_token_id: int | Sequence[int] | None = None,
        **settings: object,
    ) -> list[str]:
        """Ask for several answers; see :meth:`add_request`. Returns their names in the order of the inputs."""
        names: list[str] = []
        for prompt in inputs:
            name = self.add_request(
                prompt, None, max_new_tokens, streaming, record_timestamps, eos_token_id, **settings
            )
            names += [] if name is None else [name]
        return names

    def cancel_request(self, request_id: str) -> None:
        """Give a request up: its result says so. Nothing happens to one that is over or unknown."""
        with self._changed:
            for added in [*self._inbox, *self._working.values()]:
                if added.sink.request_id == request_id:
                    added.cancelled = True
            self._changed.notify_all()

    def get_result(self, request_id: str | None = None, timeout: float | None = None) -> GenerationOutput | None:
        """The next result, or the next of one request.

        Args:
            timeout: seconds to wait; None waits as long as there may be one.

        Returns:
            None if there was none in time, or the thread has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._place(request_id) is not None or not self.is_running(), timeout)
            place = self._place(request_id)
            if place is None:
                return None
            result = self._results[place]
            del self._results[place]
            return result

    def __iter__(self) -> Iterator[GenerationOutput]:
        """Results as they come, until the thread has ended."""
        while (result := self.get_result()) is not None:
            yield result

    def request_id_iter(self, request_id: str) -> Iterator[GenerationOutput]:
        """The results of one request as they come; the last is finished."""
        while (result := self.get_result(request_id)) is not None:
            yield result
            if result.is_finished():
                return

    def register_result_handler(self, request_id: str, callback: Callable[[GenerationOutput], None]) -> None:
        """Have the results of a request handed to a function, in the event loop that runs now, instead of kept."""
        loop = asyncio.get_running_loop()
        with self._changed:
            self._handlers[request_id] = callback, loop

    # -- inside ------------------------------------------------------------------------------------------------------

    def _read(self, prompt: AnyPrompt, own: Mapping[str, object]) -> Call:
        asked: dict[str, object] = {"generation_config": self._settings, **own}
        if self.continuous_batching_config.return_logprobs:
            asked["output_scores"] = True
        return read_call(self.model, self.engine.processor, prompt, asked)  # type: ignore[arg-type]

    def _add(self, call: Call, name: str | None, streaming: bool, timed: bool) -> str:
        config, prompt = self.continuous_batching_config, list(call.prompt.tokens)
        with self._changed:
            number, self._names = self._names, self._names + (name is None)
            name = f"req_{number}" if name is None else name
            taken = {added.sink.request_id for added in [*self._inbox, *self._working.values()]}
            if name in taken:
                raise InputError("another request has this name", where="request_id", found=repr(name))
            if config.max_queue_size and not self._changed.wait_for(
                lambda: len(self._inbox) < config.max_queue_size, PATIENCE
            ):
                raise queue.Full
            sink = Tracked(name, prompt, self._deliver, streaming=streaming, timed=timed, likely=config.return_logprobs)
            seed = call.settings(len(prompt) or 1).seed if config.seed is None else config.seed + number
            self._inbox.append(_Added(call, sink, seed))
            self._changed.notify_all()
        return name

    def _place(self, request_id: str | None) -> int | None:
        wanted = (at for at, one in enumerate(self._results) if request_id is None or one.request_id == request_id)
        return next(wanted, None)

    def _deliver(self, output: GenerationOutput) -> None:
        with self._changed:
            handler = self._handlers.get(output.request_id)
            if handler is None:
                self._results.append(output)
            elif output.is_finished():
                del self._handlers[output.request_id]
            self._changed.notify_all()
        if handler is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed, so nobody waits any more
                handler[1].call_soon_threadsafe(handler[0], output)

    def _ask_to_stop(self, how: BaseException | bool) -> None:
        with self._changed:
            self._stopping = how
            self._changed.notify_all()

    def _work(self) -> None:
        """Step while there is work; wait while there is none, or somebody pauses."""
        try:
            while self._may_go_on():
                self._take_in()
                self.engine.step()
                for name in [name for name, added in self._working.items() if added.sink.done]:
                    del self._working[name]
        except BaseException as error:  # a bug of ours must not leave anybody waiting for ever
            log.exception("the manager ended")
            self._stopping = error
        finally:
            if isinstance(self._stopping, BaseException):
                self._fail_all(self._stopping)
            threading.Thread(target=self._told_of_end, args=(threading.current_thread(),), daemon=True).start()

    def _told_of_end(self, thread: threading.Thread) -> None:
        """Wake those who wait for results, once the thread is no more."""
        thread.join()
        with self._changed:
            self._changed.notify_all()

    def _may_go_on(self) -> bool:
        with self._changed:
            while True:
                if isinstance(self._stopping, BaseException):
                    return False
                if not self._pausing and (self._inbox or self._working):
                    return True
                if self._stopping and not self._pausing:
                    return False
                self._paused = bool(self._pausing)
                self._changed.notify_all()
                self._changed.wait()
                self._paused = False

    def _take_in(self) -> None:
        """Put those who wait into the engine's queue, and tell it who is not wanted any more."""
        most = self.continuous_batching_config.max_requests_per_batch
        with self._changed:
            fresh: list[_Added] = []
            while self._inbox and (most is None or len(self._working) < most):
                fresh.append(self._inbox.popleft())
                self._working[fresh[-1].sink.request_id] = fresh[-1]
            self._changed.notify_all()
        for added in fresh:
            call, added.sink.begun = added.call, time.perf_counter()
            try:
                added.request = self.engine.enqueue(
                    call.prompt, call.settings, added.sink, tokenizer=self.engine.processor, seed=added.seed,
                    parts=call.parts,
                )  # fmt: skip
            except Exception as error:
                added.sink.end(None, error)
        for added in self._working.values():
            if added.cancelled and added.request is not None:
                added.request.cancelled = True

    def _fail_all(self, error: BaseException) -> None:
        with self._changed:
            left = [*self._inbox, *self._working.values()]
            self._inbox.clear()
            self._working.clear()
        for added in left:
            if added.request is not None:
                added.request.cancelled = True
                added.request.sink = _NOBODY
            if not added.sink.done:
                added.sink.end(None, error)
        self.engine.close()


class _Nobody:
    """Receives what nobody wants any more."""

    def piece(self, row: object, token: int, logprob: object) -> None:
        """Nobody listens."""

    def end(self, completion: object, error: object) -> None:
        """Nobody listens."""


_NOBODY = _Nobody()


def _given_up() -> InputError:
    return InputError("the manager was stopped before the request was done", where="stop")


def init_continuous_batching(
    model: Model,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    continuous_batching_config: ContinuousBatchingConfig | None = None,
    workload_hints: object = None,
    *,
    tokenizer: Reader | None = None,
) -> ContinuousBatchingManager:
    """A manager that is not running yet; see :class:`ContinuousBatchingManager`."""
    return ContinuousBatchingManager(
        model, generation_config, continuous_batching_config, workload_hints, tokenizer=tokenizer
    )


@contextlib.contextmanager
def continuous_batching_context_manager(
    model: Model,
    generation_config: GenerationConfig | Mapping[str, object] | None = None,
    block: bool = True,
    timeout: float | None = None,
    continuous_batching_config: ContinuousBatchingConfig | None = None,
    persistent_manager: bool = False,
    warmup: bool = True,
    workload_hints: object = None,
    *,
    tokenizer: Reader | None = None,
) -> Iterator[ContinuousBatchingManager]:
    """A manager that runs inside the block and is stopped behind it.

    Args:
        block, timeout: of :meth:`ContinuousBatchingManager.stop`.
        persistent_manager, warmup: the ecosystem's; nothing here needs either.
    """
    manager = init_continuous_batching(
        model, generation_config, continuous_batching_config, workload_hints, tokenizer=tokenizer
    )
    manager.start()
    try:
        yield manager
    finally:
        manager.stop(block=block, timeout=timeout)
