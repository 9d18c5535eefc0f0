"""The processes behind the door: started, started again where they end, asked, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

import torch

from omniform.engine.memory import available
from omniform.serve.calls import Message
from omniform.serve.config import ServeConfig
from omniform.serve.copies.frames import asked, message_in, read, settings_of, written
from omniform.serve.ray_routes import Call, ordered

log = logging.getLogger("omniform.serve")

GRACE: Final = 10.0
"""Seconds that a process has to end in, once it is let go."""

PAUSE: Final = 0.5
"""Seconds before a process that died is started again; twice as long each time, where it does not live long."""

LONGEST_PAUSE: Final = 30.0

GLANCE: Final = 0.2
"""Seconds between two looks at a process that is not ready yet."""

LIVES: Final = 30.0
"""Seconds after which a process is no longer one that does not live long."""

LINGER: Final = 10.0
"""Seconds in which a process says what a request cost whose client is gone."""

Told = Callable[[Mapping[str, object]], object]
"""Is told what a request was and cost."""


class GoneError(Exception):
    """A process ended before its answer did."""


@dataclass(slots=True, eq=False)
class Copy:
    """A process that holds the models.

    Attributes:
        name: its number.
        place: of its socket.
        running: requests that it has.
        lives: whether it can be asked.
        ready: whether it has loaded what it is to load at once.
        process: it, while there is one.
        starts: how often it was started.
    """

    name: str
    place: str
    running: int = 0
    lives: bool = False
    ready: bool = False
    process: asyncio.subprocess.Process | None = None
    starts: int = 0


@dataclass(slots=True, eq=False)
class Copies:
    """Processes of this machine that answer alike.

    Attributes:
        config: of the server; each of them has the same, but for what the door does.
        count: how many there are.
    """

    config: ServeConfig
    count: int
    all: list[Copy] = field(default_factory=list)
    _folder: tempfile.TemporaryDirectory[str] | None = None
    _tending: list[asyncio.Task[None]] = field(default_factory=list)
    _lingering: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: bool = False

    # -- living --------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start them."""
        self._ending = False
        self._folder = tempfile.TemporaryDirectory(prefix="omniform-copies-", ignore_cleanup_errors=True)
        self.all = [Copy(str(n), str(Path(self._folder.name) / str(n))) for n in range(self.count)]
        each = own_config(self.config, self.count)
        self._tending = [asyncio.create_task(self._tend(one, each)) for one in self.all]

    @property
    def ready(self) -> bool:
        """Whether one of them is."""
        return any(one.ready for one in self.all)

    async def _tend(self, one: Copy, config: ServeConfig) -> None:
        """Have a process run, and another where it ends."""
        pause = PAUSE
        told = json.dumps({"config": settings_of(config), "place": one.place})
        while not self._ending:
            began = time.monotonic()
            one.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "omniform.serve.copies.process", told, stdin=asyncio.subprocess.PIPE,
                env={**os.environ, **surroundings(int(one.name), self.count, config.processes, os.environ)},
                start_new_session=True,  # Ctrl-C is for the door, which lets them go
            )  # fmt: skip
            one.starts += 1
            greeting = asyncio.create_task(self._greet(one))
            try:
                code = await one.process.wait()
            finally:
                greeting.cancel()
                one.lives = one.ready = False
            if self._ending:
                return
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            pause = PAUSE if time.monotonic() - began > LIVES else min(2 * pause, LONGEST_PAUSE)
            log.error("process %s of %d %s; it is started again", one.name, self.count, how)
            await asyncio.sleep(pause)

    async def _greet(self, one: Copy) -> None:
        """Find out when a process can be asked, and when it is ready."""
        while not one.ready:
            with contextlib.suppress(GoneError):
                status, _ = await self.whole(one, "GET", "/ready")
                one.lives, one.ready = True, status == 200
            await asyncio.sleep(0.0 if one.ready else GLANCE)

    async def end(self) -> None:
        """Let them go."""
        self._ending = True
        for task in (*self._lingering,):
            task.cancel()
        await asyncio.gather(*(self._ended(one) for one in self.all))
        for tending in self._tending:
            tending.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        if self._folder is not None:
            self._folder.cleanup()

    async def _ended(self, one: Copy) -> None:
        process = one.process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(GRACE):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    # -- asking --------------------------------------------------------------------------------------------------------

    def choice(self, call: Call, failed: Sequence[Copy] = ()) -> Copy | None:
        """The process that a request goes to; None where none lives."""
        there = [one for one in self.all if one.ready] or [one for one in self.all if one.lives]
        there = [one for one in there if one not in failed] or there
        by_name = {one.name: one for one in there}
        names = ordered(call, [(one.name, one.running) for one in there])
        return by_name[names[0]] if names else None

    async def ask(self, one: Copy, call: Call, more: Mapping[str, object], cost: Told) -> AsyncGenerator[Message, None]:
        """A process's answer, piece by piece.

        Args:
            more: what the door knows of the request.
            cost: is told at the end what it was and cost, be it later, where whoever asked is gone.

        Raises:
            GoneError: the process ended before its answer did.
        """
        writer: asyncio.StreamWriter | None = None
        whole = False
        one.running += 1
        try:
            reader, writer = await asyncio.open_unix_connection(one.place)
            await written(writer, *asked(call, more))
            while True:
                frame = await read(reader)
                if "account" in frame[0]:
                    whole = True
                    _charge(frame[0]["account"], cost)
                    return
                yield message_in(frame)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise GoneError(f"process {one.name}: {type(error).__name__}") from error
        finally:
            one.running -= 1
            if writer is not None:
                if whole or one.process is None or one.process.returncode is not None:
                    writer.close()
                else:
                    self._linger(reader, writer, cost)

    def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cost: Told) -> None:
        """Tell a process that whoever asked is gone, and hear what that has cost."""

        async def hear() -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                writer.write_eof()
                async with asyncio.timeout(LINGER):
                    while True:
                        told, _ = await read(reader)
                        if "account" in told:
                            _charge(told["account"], cost)
                            break
            writer.close()

        task = asyncio.create_task(hear())
        self._lingering.add(task)
        task.add_done_callback(self._lingering.discard)

    async def whole(self, one: Copy, method: str, path: str) -> tuple[int, bytes]:
        """A process's status and body, of a request of the door's own.

        Raises:
            GoneError: it does not live.
        """
        call = Call(method, path, b"", ((b"host", b"door"),), b"", "")
        status, pieces = 0, []
        async with contextlib.aclosing(self.ask(one, call, {}, lambda told: None)) as messages:
            async for message in messages:
                if message["type"] == "http.response.start":
                    status = cast(int, message["status"])
                else:
                    pieces.append(cast(bytes, message["body"]))
        return status, b"".join(pieces)

    async def each(self, method: str, path: str) -> dict[str, tuple[int, bytes]]:
        """What all that live say, by their names."""

        async def said(one: Copy) -> tuple[int, bytes] | None:
            try:
                async with asyncio.timeout(LINGER):
                    return await self.whole(one, method, path)
            except (GoneError, TimeoutError):
                return None

        there = [one for one in self.all if one.lives]
        found = await asyncio.gather(*map(said, there))
        return {one.name: answer for one, answer in zip(there, found, strict=True) if answer is not None}


def _charge(told: object, cost: Told) -> None:
    if isinstance(told, Mapping):
        cost(told)


def own_config(config: ServeConfig, count: int) -> ServeConfig:
    """The settings of one of several processes: the door has done what concerns all of them together.

    Memory that is to be found out is found out once, and divided: all of them would see the same as free.
    """
    memory = config.memory
    if memory in (None, "auto") and not torch.cuda.is_available():
        memory = available(torch.device("cpu")) // ((4 if memory is None else 2) * count)
    limits = replace(config.limits, running=config.limits.running * count)  # turns are given at the door
    return replace(config, data_parallel=1, cors=(), memory=memory, limits=limits)


def surroundings(number: int, count: int, each: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What a process's environment says otherwise: its share of the threads, and of the GPUs.

    Args:
        number: of the process.
        count: how many there are.
        each: processes that hold one of their models together.
        environment: the door's own.
    """
    found: dict[str, str] = {}
    if "OMP_NUM_THREADS" not in environment:
        found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // (count * each)))
    given = environment.get("CUDA_VISIBLE_DEVICES")
    chips = given.split(",") if given else [str(n) for n in range(torch.cuda.device_count())]
    if chips and given != "":
        wanted = [chips[(number * each + n) % len(chips)] for n in range(each)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(wanted))
    return found
