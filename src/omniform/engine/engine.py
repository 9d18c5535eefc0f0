"""The engine: one scheduler and one paged state for every request to a model, whoever makes it."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.coded import coding_of
from omniform.core.errors import InputError, brief
from omniform.core.state import mixers
from omniform.engine.adapters import Adapters
from omniform.engine.beam_strategy import Company
from omniform.engine.block_pool import WHOLE, BlockPool
from omniform.engine.calls import AnyPrompt, Reader, read_call, settings_of_each
from omniform.engine.contrasts import contrast_of
from omniform.engine.drafters import Drafters
from omniform.engine.drafts import place_drafts
from omniform.engine.encoders import Encoders
from omniform.engine.feeding import Feeder
from omniform.engine.guided import grammar_in
from omniform.engine.handle import Handle
from omniform.engine.handover import Handover, Legacy
from omniform.engine.hooks import hooks_of
from omniform.engine.memory import decoder_specs, divided_memory
from omniform.engine.paged_state import MEMORY, ROWS, PagedState, kept_as, pool_of, unit_bytes
from omniform.engine.parts import NO_PARTS, Parts, refuse_loop
from omniform.engine.prompt_notes import PromptNotes, notes_of
from omniform.engine.recorded import RECORDS, Recorded
from omniform.engine.recorder import recorder_of
from omniform.engine.repairs import isolate, undone_if_interrupted, unstick
from omniform.engine.request import Completion, Prompt, Request, Sink
from omniform.engine.runner import Runner
from omniform.engine.scheduler import Scheduler, refuse_if_too_big
from omniform.engine.scoring import Continued, Score, score_pairs
from omniform.engine.settings import Settings
from omniform.engine.stats import Stats
from omniform.engine.stop import stop_strings
from omniform.engine.strategies import strategy_of
from omniform.engine.telling import told
from omniform.engine.text import Decodes
from omniform.engine.together import Together
from omniform.engine.weights import Weights
from omniform.engine.worker import Worker
from omniform.engine.writer import Writer, is_late

log = logging.getLogger("omniform")

TOKENS_PER_STEP = {"cpu": 512}
"""Tokens of one step by default. On a CPU more of them make no matmul faster, and rows that write would wait longer."""


GLANCE = 16
"""Steps after which the modules that steps are computed with are looked at again, if no request made it sooner."""


class Engine:
    """Runs any number of requests through one model, as many side by side as memory allows.

    Rows of all lengths go through the model end to end, without padding. Requests that begin alike share what was
    computed for their beginnings, pictures included; a picture is encoded once.

    Weights may change while an engine lives (a training step, a merged adapter): whenever requests come, it looks
    whether they did (:class:`~omniform.weights.version.WeightWatch` says what can be seen), and what was computed with
    the old ones is used no more. Requests in the midst of their answers go on with the keys that they have; what they
    are computed with by then is seen within sixteen steps.

    Args:
        model: any model that writes.
        processor: its processor or tokenizer, for prompts and answers as text; None for token ids only.
        memory: the most that state, features and what is remembered may take together: bytes, or a text like
            ``"2GB"``; ``"auto"`` for most of what is free, as far as rows can use it; a quarter of the free memory
            by default. :meth:`stats` says what that came to, and why.
        max_tokens_per_step: how many tokens go through the model at once; long prompts are read in such chunks.
        block_size: tokens in a block of state: small ones share more of a beginning, large ones take less bookkeeping;
            8 by default on a CPU, where bookkeeping is cheap beside a step, and 16 elsewhere.
        prefix_cache: whether beginnings are shared between requests. A model that keeps a recurrent state shares none.
        cuda_graphs: whether steps in which every row brings one token are recorded and played again, on a GPU; a number
            is the most records that are kept. By default they are, but not with a ``cache_dtype`` of few bits.
            :meth:`stats` says how many were.
        cache_dtype: how keys, values and latents of tokens are kept: ``"int8"`` or ``"int4"``, each vector with
            scales of its own (:mod:`omniform.core.coded`); a float's dtype, or its name; the model's own by default.
            States of fixed size and what cross-attention reads keep their own. :meth:`stats` says what that came to.

    Raises:
        InputError: the model does not write, or the memory is too small for anything.
    """

    def __init__(
        self,
        model: Model,
        processor: Reader | None = None,
        *,
        memory: int | str | None = None,
        max_tokens_per_step: int | None = None,
        block_size: int | None = None,
        prefix_cache: bool = True,
        cuda_graphs: bool | int = True,
        cache_dtype: str | torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, Generative) or not model.can_generate():
            raise InputError(
                f"a {type(model).__name__} does not write text",
                where="model",
                remedy="Load the checkpoint with AutoModelForCausalLM, AutoModelForSeq2SeqLM or another that writes.",
            )
        step = TOKENS_PER_STEP.get(model.device.type, 8192) if max_tokens_per_step is None else max_tokens_per_step
        block_size = (8 if model.device.type == "cpu" else 16) if block_size is None else block_size
        for name, value in (("max_tokens_per_step", step), ("block_size", block_size)):
            if not isinstance(value, int) or value < 1:
                raise InputError("this value cannot be", where=name, expected="an integer >= 1", found=repr(value))
        self.model = model
        self.processor = processor
        self._lock = threading.Lock()
        self._inbox: deque[Request] = deque()
        self._worker = Worker(self.step, lambda: self._has_work, self._abandon, self.close)
        self._weights = Weights(model)
        self._together = Together(model)
        self.adapters = Adapters(model)
        self._arrivals = itertools.count()
        self._glance = object()
        self._counts = dict.fromkeys(("steps", "tokens_computed"), 0)
        self._seconds = dict.fromkeys(("plan", "model", "sample"), 0.0)
        self._regimes = list(dict.fromkeys(r for mixer in mixers(model.decoder) for r in mixer.regimes()))
        self._how = memory, step, block_size, prefix_cache
        self._coding = coding_of(cache_dtype)
        graphs = RECORDS if cuda_graphs is True else int(cuda_graphs)
        self._graphs = graphs if self._coding is None or self._coding.as_it_is(model.dtype) else 0
        self._build()
        self._drafters = Drafters(model, self._memory.budget)

    def _build(self) -> None:
        model = self.model
        memory, step, size, prefix_cache = self._how
        self._kept_as = model.dtype, model.device
        assert isinstance(model, Generative)
        every = decoder_specs(model)
        specs = self._together.own(every)
        sizes = self._sizes = unit_bytes(specs, model.dtype, self._coding)
        blocks, features, self._memory = divided_memory(model, memory, size, sizes)
        blocks = self._together.blocks(blocks, [pool_of(spec) for spec in every.values()])
        log.log(logging.INFO if memory == "auto" else logging.DEBUG, "memory of the engine: %s", self._memory)
        recorder = recorder_of(model.device) if self._graphs and self._together.ranks is None else None
        try:
            self._state = PagedState(
                specs, blocks, size, model.dtype, model.device, coding=self._coding, spare=recorder is not None
            )
        except (RuntimeError, TypeError, MemoryError) as error:
            raise InputError("there is not so much memory", where="memory", found=str(self._memory)) from error
        # A state of fixed size is what all tokens before made of it: there is none to reuse from half-way.
        remembers = prefix_cache and ROWS not in blocks
        why = ": the model keeps a recurrent state, of which no beginning is left" if ROWS in blocks else ""
        self._prefix_cache = "on" if remembers else f"off{why}"
        self._pools = {
            key: BlockPool(
                n,
                WHOLE if key == ROWS else size,
                window=key if isinstance(key, int) else None,
                remembers=remembers and key != MEMORY,
            )
            for key, n in blocks.items()
        }
        self._encoders = Encoders(
            model, self._state, self._pools.get(MEMORY), features, self._weights, self.adapters, self._together
        )
        own = {key: pool for key, pool in self._pools.items() if key != MEMORY}
        handover = Handover(specs, self._state, self._encoders)
        self._scheduler = Scheduler(
            own,
            block_size=size,
            max_tokens=step,
            prepare=self._prepare,
            foresee=self._encoders.foresee,
            let_go=self._encoders.release,
            root=self._root_of,
            bring=handover.bring,
        )
        recorded = None
        if recorder is not None:
            recorded = Recorded(model, self._state, list(own), self._encoders, recorder, self._graphs)
        self._recorded = recorded
        self._runner = Runner(model, self._state, list(own), self._encoders, self.adapters, self._together, recorded)
        self._writer = Writer(self._scheduler, self._encoders, handover, model.device)

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(
        self, prompt: AnyPrompt, *, priority: int = 0, reader: Decodes | None = None, **settings: object
    ) -> Handle:
        """Ask for an answer and return at once; a thread in the background works as long as there is work.

        Args:
            prompt: a text; token ids; a processor's batch of one row; or a chat, a list of messages.
            priority: the higher, the sooner.
            reader: makes the text of the answer's pieces as they come; the engine's processor by default, which
                leaves special tokens out.
            settings: as for :func:`omniform.engine.generate.generate`, and ``logprobs=n``.

        Raises:
            InputError: a prompt or a setting that cannot be used, or more than the engine's memory can hold.
            UnknownArgumentError: an unknown setting, with the nearest name.
        """
        self._together.refuse_thread()
        call = read_call(self.model, self.processor, prompt, settings)
        requests: list[Request] = []
        stops = stop_strings(call.settings(1).stop_strings, self.processor)
        handle = Handle(lambda: self.cancel(requests), self.processor if reader is None else reader, stops)
        requests.append(
            self.enqueue(
                call.prompt, call.settings, handle, priority=priority, tokenizer=self.processor, parts=call.parts
            )
        )
        self._worker.wake()
        return handle

    def generate(self, prompt: AnyPrompt, **settings: object) -> Completion:
        """Answer one prompt; see :meth:`submit`."""
        return self.generate_batch([prompt], None, **settings)[0]

    def generate_batch(
        self, prompts: Sequence[AnyPrompt], settings: Sequence[Mapping[str, object]] | None = None, **common: object
    ) -> list[Completion]:
        """Answer many prompts of any lengths side by side.

        Args:
            prompts: see :meth:`submit`.
            settings: of each prompt, over the common ones.
            common: settings of all.

        Returns:
            The completions in the order of the prompts.

        Raises:
            OmniformError: one of the requests cannot be answered; the others are given up.
        """
        each = settings_of_each(prompts, settings, common)
        told: set[str] = set()
        calls = [
            read_call(self.model, self.processor, prompt, own, place, told)
            for place, (prompt, own) in enumerate(zip(prompts, each, strict=True))
        ]
        handles: list[Handle] = []
        requests: list[Request] = []
        try:
            for call in calls:
                handles.append(Handle(lambda: None, None))
                requests.append(
                    self.enqueue(call.prompt, call.settings, handles[-1], tokenizer=self.processor, parts=call.parts)
                )
            while not all(handle.done for handle in handles):
                self.step()
            return [handle.result() for handle in handles]
        finally:
            self.cancel(requests)

    def score(self, pairs: Sequence[tuple[AnyPrompt, Continued]]) -> list[Score]:
        """How likely continuations are after prompts, token by token.

        Prompts are as for :meth:`submit`, continuations texts or token ids. What pairs have in common at their
        beginning is computed once, and scores are made of the continuations' tokens only.

        Raises:
            OmniformError: one of the pairs cannot be read; the others are given up.
        """
        return score_pairs(self, pairs)

    def enqueue(
        self,
        prompt: Prompt,
        settings: Callable[[int], Settings],
        sink: Sink,
        *,
        priority: int = 0,
        tokenizer: Reader | None = None,
        seed: int | None = None,
        lane: tuple[int, int] | None = None,
        parts: Parts = NO_PARTS,
        legacy: Legacy | None = None,
        notes: PromptNotes | None = None,
        company: Company | None = None,
        feeder: Feeder | None = None,
    ) -> Request:
        """Put a prompt that was understood into the queue; somebody has to call :meth:`step`.

        Args:
            settings: how to choose and when to stop, given the number of tokens in the prompt.
            sink: receives what the request gives.
            tokenizer: reads the answer for stop strings and makes its text.
            seed: instead of the settings' own.
            lane: the place of its first row among the rows of the same call, and how many those are.
            parts: the objects that its call brought along.
            legacy: collects what its rows leave behind.
            notes: notes how likely its prompt's tokens are, instead of what the settings ask for.
            company: the beam searches that end together with this one.
            feeder: makes what its rows read next of what they have written.

        Raises:
            InputError: the request can never fit into the engine's memory.
        """
        if not isinstance(priority, int):
            raise InputError("a priority is a number", where="priority", expected="an integer", found=brief(priority))
        adapter = self.adapters.asked(parts, prompt.items)
        if adapter is not None:
            prompt = replace(prompt, items=self.model.alone(prompt.items))
        read = settings(len(prompt.tokens) or 1)
        request = Request(
            prompt, read, priority, next(self._arrivals), sink, read_settings=settings, tokenizer=tokenizer
        )
        request.seed = read.seed if seed is None else seed
        if lane is not None:
            request.lane, request.lanes = lane
        request.parts, request.legacy, request.company, request.feeder = parts, legacy, company, feeder
        request.adapter = adapter
        request.hooks = hooks_of(parts, read, shared=lane is not None)
        request.notes = notes_of(request) if notes is None else notes
        request.strategy = strategy_of(request)
        refuse_loop(parts)
        request.contrast = contrast_of(request, self.model)
        request.drafter = self._drafters.of(request)
        request.stop_strings = stop_strings(read.stop_strings, tokenizer)
        request.grammar = grammar_in(parts, tokenizer)
        if read.max_time is not None:
            request.deadline = time.monotonic() + read.max_time
        self._check_size(request, len(prompt.tokens) or 1)
        if request.hooks is not None:
            request.hooks.join(request)
        self._inbox.append(request)
        return request

    def load_adapter(self, source: str | os.PathLike[str], adapter_name: str, **where: object) -> None:
        """Have requests be able to name a low-rank adapter (``adapter=``), in a folder or on the Hub.

        Args:
            where: where to look, as ``from_pretrained`` takes it.
        """
        with self._lock:
            self._together.refuse("there are no adapters", "load_adapter")
            self.adapters.load(source, adapter_name, where)

    def unload_adapter(self, adapter_name: str) -> None:
        """Take an adapter out of the model; refused while requests compute with it."""
        with self._lock:
            self.adapters.unload(adapter_name, [*self._scheduler.running, *self._scheduler.waiting, *self._inbox])

    def __repr__(self) -> str:
        return told(self.model, sum(pool.blocks for pool in self._pools.values()), self._how[2])

    def stats(self) -> Stats:
        """What the engine did so far and holds now."""
        pools = self._pools.values()
        return Stats(
            blocks_total=sum(pool.blocks for pool in pools),
            blocks_used=sum(pool.used for pool in pools) - self._encoders.idle_blocks,
            blocks_cached=sum(pool.cached for pool in pools) + self._encoders.idle_blocks,
            waiting=len(self._scheduler.waiting) + len(self._inbox),
            running=len(self._scheduler.running),
            encoder_runs=self._encoders.runs,
            encoder_hits=self._encoders.hits,
            preemptions=self._scheduler.preemptions,
            prefix_cache=self._prefix_cache,
            memory=self._memory,
            cache_dtype=kept_as(self._sizes, self.model.dtype, self._coding),
            tokens_cached=self._writer.tokens_cached,
            tokens_drafted=self._writer.tokens_drafted,
            tokens_accepted=self._writer.tokens_accepted,
            seconds=dict(self._seconds),
            graphs=None if self._recorded is None else self._recorded.told(),
            **self._counts,
        )

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Compute one step for whoever has requests here; returns whether there is more to do."""
        there = (*self._scheduler.waiting, *self._scheduler.running) if self._together.ranks is not None else ()
        with self._lock, self._together.step(self._inbox, there), undone_if_interrupted(self._scheduler, self._seat):
            started = time.perf_counter()
            failures = self._writer.failures
            self._receive()
            self._renew()
            self._writer.dismiss()
            place_drafts(self._scheduler.running, self.model.knows, self._regimes, self._writer.fail)
            plan = self._scheduler.plan()
            planned = time.perf_counter()
            if self._counts["steps"] % GLANCE == 0:
                self._glance = object()
            self._seconds["plan"] += planned - started
            if not plan.chunks:
                if self._writer.failures == failures:
                    unstick(self._scheduler, self._writer.fail)
                return self._has_work
            try:
                calm = not self._inbox and not self._scheduler.waiting
                outputs, logits, likeliest = self._runner.run(plan, calm=calm, glance=self._glance)
            except Exception as error:
                if self._together.fail(error):
                    raise
                isolate(plan, self._scheduler, self._writer.fail, error)
                return self._has_work
            computed = time.perf_counter()
            self._scheduler.done(plan)
            self._writer.write(outputs, logits, likeliest)
            self._counts["steps"] += 1
            self._counts["tokens_computed"] += sum(chunk.count for chunk in plan.chunks)
            self._seconds["model"] += computed - planned
            self._seconds["sample"] += time.perf_counter() - computed
            if self._has_work:
                self._weights.prepack()
            return self._has_work

    def weights_changed(self) -> None:
        """Say that weights were written to in a way that nobody can see (a few numbers, through ``.data``)."""
        self._weights.say_changed()

    def _outdated(self) -> None:
        """Forget what was computed with weights that are no more."""
        if (self.model.dtype, self.model.device) != self._kept_as:
            self._rebuild()
        self._encoders.evict_all()
        if self._recorded is not None:
            self._recorded.forget()
        for pool in self._pools.values():
            pool.forget_idle()
        for request in self._scheduler.waiting:
            if not request.rows:
                request.contents = ()
            for row in request.rows:
                row.contents.clear()

    def _rebuild(self) -> None:
        """Keep state as the model now computes it: in another dtype, on another device."""
        scheduler, encoders, writer = self._scheduler, self._encoders, self._writer
        for request in [*scheduler.running]:
            scheduler.preempt(request)
        self._build()
        self._scheduler.preemptions = scheduler.preemptions
        self._encoders.runs, self._encoders.hits = encoders.runs, encoders.hits
        self._writer.counts_of(writer)
        for request in scheduler.waiting:
            self._scheduler.add(request)

    @property
    def _has_work(self) -> bool:
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running)

    def _receive(self) -> None:
        """Let new requests in, and those out that nobody wants any more or whose time is up."""
        if self._inbox and self._recorded is not None:
            self._recorded.look()
        if self._inbox:
            self._glance = object()
            if self._weights.look():
                self._outdated()
        while self._inbox:
            self._scheduler.add(self._inbox.popleft())
        for request in [*self._scheduler.waiting, *self._scheduler.running]:
            # A search that is late ends with its next step, which makes its beams answers.
            late = request.deadline is not None and request.strategy is None and is_late(request)
            if request.rows and not request.running:
                self._writer.finish(request)  # the step that ended it was interrupted
            elif request.cancelled or (late and any(row.written for row in request.rows)):
                for row in request.running:
                    row.finished = "cancelled" if request.cancelled else "length"
                self._writer.finish(request)

    def _prepare(self, request: Request) -> bool:
        """Make a request ready to be read; one that cannot be is over."""
        try:
            fresh = not request.rows
            ready = self._encoders.prepare(request)
            if ready and fresh:
                row = request.rows[0]
                if request.notes is not None:
                    request.notes.seat(row)
                request.settings = request.read_settings(row.prompt)
                self._check_size(request, row.prompt)
                self._seat(request)
        except Exception as error:
            self._writer.fail(request, error)
            return False
        return ready

    def _seat(self, request: Request) -> None:
        """Give a request's first row what it draws with."""
        row = request.rows[0]
        row.generator = self._writer.generator(request, 0)
        row.lane, row.lanes = request.lane, request.lanes
        if request.strategy is not None:
            request.strategy.seat(request)
        if request.contrast is not None:
            row.shadow = request.contrast.shadow(row)

    def _check_size(self, request: Request, prompt: int) -> None:
        settings = request.settings
        strategy = request.strategy
        rows = settings.rows_at_once
        if rows > self._scheduler.max_tokens and strategy is not None and strategy.lockstep:
            raise InputError(
                "a step has no room for so many beams",
                where="num_beams",
                expected=f"at most max_tokens_per_step, {self._scheduler.max_tokens}",
                found=rows,
            )
        needs = self._scheduler.most_blocks(prompt, settings.max_new_tokens, rows)
        refuse_if_too_big(needs, self._scheduler.pools)

    def _root_of(self, request: Request) -> bytes:
        # Keys depend on weights, memory, some on the prompt's length; given ones may be of anything: nobody else's.
        given = request.arrival if request.prompt.given else None
        regimes = [regimes.regime(request.rows[0].regime_length) for regimes in self._regimes]
        return repr((self._weights.version, request.memory, regimes, given, request.adapter)).encode()

    def _renew(self) -> None:
        """Compute anew the rows that outgrew a regime whose keys do not go together with those of the next."""
        kinds = [regimes for regimes in self._regimes if regimes.renews]
        for request in [*self._scheduler.running] if kinds else ():
            rows = request.reading
            if any(kind.regime(row.regime_length) != kind.regime(len(row.tokens)) for kind in kinds for row in rows):
                self._scheduler.preempt(request)
                for row in rows:
                    row.outgrew, row.contents = len(row.tokens), []

    # -- several processes ---------------------------------------------------------------------------------------------

    def lead(self, failed: Callable[[BaseException], None] | None = None) -> None:
        """Have the requests to this engine computed by all processes that hold its model: the first one calls this, and
        the others :meth:`follow`. Nothing happens where one process holds it.

        Args:
            failed: told of a step that failed, after which the processes are of no more use.
        """
        self._together.lead(self._state, failed)

    def follow(self) -> None:
        """Compute what the engine of the first process tells, until that is closed."""
        self._together.follow(self._state)

    # -- the thread in the background ----------------------------------------------------------------------------------

    def work(self) -> None:
        """Have a thread in the background step for as long as there is work; :meth:`submit` does so by itself."""
        self._worker.wake()

    def cancel(self, requests: Sequence[Request]) -> None:
        """Give requests up; what was written of their answers stays."""
        for request in requests:
            request.cancelled = True
        self._worker.wake()

    def close(self) -> None:
        """Give up all requests and end the thread in the background; the engine can be used again."""
        self._worker.stop()
        with self._lock:
            self._receive()
            for request in [*self._scheduler.waiting, *self._scheduler.running]:
                request.cancelled = True
            self._receive()
            self._together.end()
        self._worker.go_on()  # for those who submitted in the meantime

    def _abandon(self, error: BaseException) -> None:
        with self._lock:
            self._receive()
            for request in [*self._scheduler.waiting, *self._scheduler.running]:
                self._writer.fail(request, error)
