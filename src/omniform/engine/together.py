"""Engines of one model that lies in several processes: alike in all of them, or one that leads and others that follow.

*Alike*: the same program runs in every process (``torchrun``), asks for the same answers in the same order, and each
engine plans the same steps. Engines are deterministic but for how much memory they find, for what torch's global
generator gives, and for the time: of these the first process's count.

*Led*: requests come to the first process alone, whose engine plans, draws and ends answers as ever, and tells the
others what to compute: the step's vectors, where its rows lie, which blocks are copied. They know of no requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor

from omniform.architectures.generative import Generative
from omniform.core.context import Memory, StepContext
from omniform.core.errors import InputError, WorkerError
from omniform.core.packed import SlotRange
from omniform.core.state import StateSpec, mixers
from omniform.engine.channel import Channel
from omniform.engine.paged_state import MEMORY, PagedState, Pool
from omniform.engine.request import Request
from omniform.transforms.shard import ranks_of
from omniform.transforms.stage import far_slots

MANY: Final = 2**62
"""Blocks of a pool in which a process keeps nothing."""


class Together:
    """What an engine does with the other processes that hold its model; nothing where one process holds it.

    Args:
        model: the model.

    Attributes:
        ranks: the processes; None for one.
        leads: whether the others compute what this one tells them.
    """

    def __init__(self, model: Generative) -> None:
        self.ranks = ranks_of(model)
        self.leads = False
        self._model = model
        self._channel: Channel | None = None
        self._state: PagedState | None = None
        self._notes: list[tuple[str, tuple[object, ...]]] = []
        self._until: dict[int, float] = {}  # when requests are late, by the clock of this process
        self._failed: BaseException | None = None
        self._on_failure: Callable[[BaseException], None] | None = None

    # -- alike ---------------------------------------------------------------------------------------------------------

    def own(self, specs: Mapping[int, StateSpec]) -> dict[int, StateSpec]:
        """What is kept by the layers that this process computes, of what all layers keep."""
        far = far_slots(self._model.decoder)
        return {slot: spec for slot, spec in specs.items() if slot not in far}

    def blocks(self, found: dict[Pool, int], pools: Iterable[Pool]) -> dict[Pool, int]:
        """How many blocks of each pool all of them have.

        Args:
            found: how many this process has room for.
            pools: of all layers; those of which none is here have room for any number.
        """
        named = list(dict.fromkeys(pools))
        if self.ranks is None or not named:
            return found
        least = self.ranks.least([found.get(pool, MANY) for pool in named])
        return dict(zip(named, least, strict=True))

    @contextmanager
    def step(self, arrived: Iterable[Request], there: Iterable[Request]) -> Iterator[None]:
        """One step: before it is planned, what is drawn and who is late is agreed on.

        Args:
            arrived: requests that came since the last step.
            there: all others.
        """
        if self.ranks is None:
            yield
            return
        if self._failed is not None:
            raise WorkerError("a step failed, after which the processes disagree", where="engine") from self._failed
        if not self.leads:
            self._agree(list(arrived), there)
        self.ranks.lead.speaker = threading.get_ident()
        try:
            yield
        finally:
            self.ranks.lead.speaker = None

    def _agree(self, arrived: Sequence[Request], there: Iterable[Request]) -> None:
        assert self.ranks is not None
        if any(request.settings.do_sample and request.seed is None for request in arrived):
            self.ranks.draw_alike()
        timed = [request for request in (*arrived, *there) if request.deadline is not None]
        if timed:
            self._until = {r.arrival: self._until.get(r.arrival, r.deadline or 0.0) for r in timed}
            late = [time.monotonic() > until for until in self._until.values()]
            told = self.ranks.told(torch.tensor(late, dtype=torch.uint8, device=self.ranks.device))
            for request, over in zip(timed, told.tolist(), strict=True):
                request.deadline = 0.0 if over else float("inf")

    def refuse_thread(self) -> None:
        """Raise InputError where requests would join the steps of a thread, at other moments in each process."""
        if self.ranks is not None and not self.leads:
            raise InputError(
                "requests reach the steps of a thread at other moments in each process",
                where="submit",
                remedy="Call engine.lead() in the first process and engine.follow() in the others, or generate_batch.",
            )

    def refuse(self, what: str, where: str) -> None:
        """Raise InputError for what a request cannot have of a model in several processes."""
        if self.ranks is not None:
            raise InputError(f"{what} of a model in several processes", where=where, remedy="Load it without tp_plan.")

    # -- leading -------------------------------------------------------------------------------------------------------

    def lead(self, state: PagedState, failed: Callable[[BaseException], None] | None = None) -> None:
        """From now on tell the others what to compute.

        Args:
            failed: told when a step failed, after which they do not know where they are.
        """
        if self.ranks is None or self.leads:
            return
        if self.ranks.rank:
            raise InputError(
                "the first process leads", where="lead", expected="rank 0", found=f"rank {self.ranks.rank}"
            )
        self._channel, self._state = Channel(self.ranks, state, self._model.device), state
        self.leads = self.ranks.lead.leads = True
        self._on_failure = failed

    def end(self) -> None:
        """Let those who follow go."""
        if self.leads and self._failed is None:
            self._tell("over")
        self.leads = False
        if self.ranks is not None:
            self.ranks.lead.leads = False

    def fail(self, error: BaseException) -> bool:
        """Note that a step failed; whether that is the end, since others may be in the midst of it."""
        if self.leads:
            self._failed = error
            if self._on_failure is not None:
                self._on_failure(error)
        return self.leads

    def _tell(self, what: str, *given: object) -> None:
        assert self._channel is not None
        self._channel.tell((what, self._notes, given))
        self._notes = []

    def _note(self, what: str, *given: object) -> None:
        if self.leads:
            self._notes.append((what, given))

    def copied(self, copies: Sequence[tuple[Pool, int, int]]) -> None:
        """Blocks are copied before a step."""
        for copy in copies:
            self._note("copy", *copy)

    def begun(self, pool: Pool, ranges: Sequence[SlotRange], held: Callable[[], Sequence[SlotRange]]) -> None:
        """A step writes there, and its rows have that."""
        if self.leads:
            self._note("begin", pool, list(ranges))
            self._note("hold", pool, list(held()))

    def begun_rows(self, blocks: Sequence[int], fresh: Sequence[int]) -> None:
        """A step's rows have these states."""
        self._note("begin_rows", list(blocks), list(fresh))

    def decoding(self, embeds: Tensor, ctx: StepContext) -> None:
        """A step is computed now."""
        if self.leads:
            self._tell("decode", embeds, ctx)

    def project(self, hidden: Tensor) -> Tensor:
        """Hidden states to scores. Shape: [..., D] to [..., V]."""
        if self.leads:
            self._tell("project", hidden)
        return self._model.project(hidden)

    def encode(self, inputs: Mapping[str, Tensor]) -> Memory | None:
        """What an encoder makes of a request's inputs."""
        if self.leads:
            self._tell("encode", dict(inputs))
        return self._model.encode(**inputs)

    def remembered(self, memory: Memory, ranges: Sequence[SlotRange]) -> None:
        """A memory is written there."""
        if self.leads:
            self._tell("remember", memory, list(ranges))

    # -- following -----------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def follow(self, state: PagedState) -> None:
        """Compute what the first process tells, until it lets go."""
        if self.ranks is None or not self.ranks.rank:
            raise InputError("the first process leads, the others follow", where="follow", remedy="Call lead() there.")
        channel, model = Channel(self.ranks, state, self._model.device), self._model
        while True:
            what, notes, given = channel.heard()
            for name, own in notes:
                _noted(state, name, own)
            match what, given:
                case "decode", (Tensor() as embeds, StepContext() as ctx):
                    model.decoder.decode(embeds, ctx)
                case "project", (Tensor() as hidden,):
                    model.project(hidden)
                case "encode", (dict() as inputs,):
                    model.encode(**inputs)
                case "remember", (Memory() as memory, list() as ranges):
                    state.begin(MEMORY, ranges)
                    for mixer in mixers(model.decoder):
                        mixer.remember(memory, state)
                case _:
                    return


def _noted(state: PagedState, name: str, given: tuple[object, ...]) -> None:
    """Do to the state what the leader has done to its own."""
    match name, given:
        case "copy", (pool, int() as source, int() as target):
            state.copy(pool, source, target)  # type: ignore[arg-type]
        case "begin", (pool, list() as ranges):
            state.begin(pool, ranges)  # type: ignore[arg-type]
        case "hold", (pool, list() as ranges):
            state.hold(pool, lambda: ranges)  # type: ignore[arg-type]
        case "begin_rows", (list() as blocks, list() as fresh):
            state.begin_rows(blocks, fresh)
        case _:
            raise AssertionError(f"a leader that says {name}")
