"""A model of a server in several processes: the server's own leads, the others compute what it tells.

The others are started when the model is loaded. They end with the server, however that ends (their standard input
does); where one of them ends by itself, the server ends too, and says which it was: half a model answers nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol

import torch
import torch.distributed as dist

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError, OmniformError
from omniform.engine.calls import Reader
from omniform.engine.engine import Engine
from omniform.hub.checkpoint import load_as_saved

log = logging.getLogger("omniform.serve")

FAILED: Final = 70
"""How a server ends whose model has lost a process."""

GRACE: Final = 10.0
"""Seconds that the others have to end in, once they are let go."""


LAST_WORDS: Final = 1.0
"""Seconds in which requests still hear that the model has lost a process, before the server ends."""

STEP: Final = timedelta(minutes=10)
"""The longest that one process waits in a step for what another computes."""


def divided(tensor: int, pipeline: int) -> dict[str, object]:
    """How a model is loaded whose layers ``tensor`` processes divide, in ``pipeline`` stages."""
    sizes = {"tp": tensor, "pp": pipeline}
    plans = {f"{kind}_plan": "auto" for kind, size in sizes.items() if size > 1}
    return {**plans, **{f"{kind}_size": size for kind, size in sizes.items() if size > 1}}


class Others(Protocol):
    """The processes beside the server's own that hold a model with it."""

    def meet(self) -> None:
        """Have a group of processes with them."""
        ...

    def end(self) -> None:
        """See them end, once they are let go."""
        ...

    def fail(self, error: BaseException) -> None:
        """A step failed here, and others may be in the midst of it: end, once the cause of it was told."""
        ...


Start = Callable[[str, int, Mapping[str, object], Mapping[str, object]], Others]
"""Starts them: for a checkpoint, so many with the server's own, with options to load it and the engine's settings, of
which JSON can say both."""


class Processes:
    """Others that are processes of this machine; on a cluster they are those of :mod:`omniform.serve.ray.ranks`.

    Args:
        source: the checkpoint.
        count: how many processes hold it together, this one included.
        options: how it is loaded; what JSON can say.
        how: the engine's settings.
    """

    def __init__(self, source: str, count: int, options: Mapping[str, object], how: Mapping[str, object]) -> None:
        self._ending = False
        self._folder = tempfile.TemporaryDirectory(prefix="omniform-ranks-", ignore_cleanup_errors=True)
        self._meeting = str(Path(self._folder.name) / "meeting")
        threads = max(1, (os.cpu_count() or 1) // count)
        settings = {"source": source, "count": count, "meeting": self._meeting, "options": options, "how": how}
        self._count = count
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, count):
            places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
            process = subprocess.Popen(
                [sys.executable, "-m", "omniform.serve.together", json.dumps({**settings, "rank": rank})],
                stdin=subprocess.PIPE,
                env={"OMP_NUM_THREADS": str(threads), **os.environ, **places},
                start_new_session=True,  # Ctrl-C is for the server, which lets them go
            )
            self._processes.append(process)
            threading.Thread(target=self._watch, args=(rank, process), daemon=True, name=f"rank-{rank}").start()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(threads)

    def meet(self) -> None:
        """See :class:`Others`."""
        _meet(self._meeting, 0, self._count)

    def end(self) -> None:
        """See :class:`Others`."""
        self._ending = True
        until = time.monotonic() + GRACE
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._folder.cleanup()

    def fail(self, error: BaseException) -> None:
        """See :class:`Others`."""
        why = f"a step of a model in {self._count} processes failed: {error}"
        threading.Timer(LAST_WORDS / 2, self._give_up, (why,)).start()

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        if not self._ending and code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
            self._give_up(f"process {rank} of {self._count}, which holds a part of the model, {how}")

    def _give_up(self, why: str) -> None:
        if self._ending:
            return
        self._ending = True
        log.critical("%s: the server ends", why)
        print(f"omniform: {why}: the server ends", file=sys.stderr, flush=True)
        threading.Thread(target=self._end_all, name="ranks-end").start()

    def _end_all(self) -> None:
        time.sleep(LAST_WORDS)  # whoever waits for an answer hears that there is none, and whose fault it was is told
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.kill()
        os._exit(FAILED)


def load_together(
    source: str, tensor: int, pipeline: int, options: Mapping[str, object], how: Mapping[str, object],
    start: Start = Processes,
) -> tuple[Model, Others]:  # fmt: skip
    """This process's part of a model, and the others, which hold theirs.

    Args:
        source: the checkpoint.
        tensor: among how many processes each layer is divided.
        pipeline: in how many of these groups layers lie, one after another.
        options: how it is loaded; what JSON can say.
        how: the engine's settings.
        start: starts the others.

    Raises:
        OmniformError: it cannot be loaded, or does not write.
    """
    if dist.is_initialized():
        raise InputError(
            "the processes hold a model already",
            where="--tensor-parallel, --pipeline-parallel",
            remedy="Start the server anew to reload it.",
        )
    options = {**options, **divided(tensor, pipeline)}
    others = start(source, tensor * pipeline, options, how)
    try:
        others.meet()
        return part_of(source, options), others
    except BaseException:
        others.end()
        raise


def part_of(source: str, options: Mapping[str, object]) -> Model:
    """This process's part of a model that its group of processes holds together.

    Raises:
        OmniformError: it cannot be loaded, or does not write.
    """
    model = load_as_saved(source, **options)
    if not isinstance(model, Generative) or not model.can_generate():
        raise InputError(
            f"a {type(model).__name__} does not write, and is served by one process",
            where="--tensor-parallel, --pipeline-parallel",
        )
    return model


def led(model: Model, reader: Reader, others: Others, how: Mapping[str, object]) -> Engine:
    """An engine that the others follow."""
    engine = Engine(model, reader, **how)  # type: ignore[arg-type]
    engine.lead(others.fail)
    return engine


def backend() -> str:
    """How processes of a group talk to one another."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def _meet(meeting: str, rank: int, count: int) -> None:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here, whatever this machine is called
    dist.init_process_group(backend(), init_method=f"file://{meeting}", rank=rank, world_size=count, timeout=STEP)


def _end_with_server() -> None:
    """End when standard input does, which the server holds."""
    while sys.stdin.buffer.read(1):
        pass
    time.sleep(GRACE)  # for a server that lets go in order
    os._exit(1)


def main(settings: Mapping[str, object]) -> None:
    """Follow a server, as one of its model's processes."""
    match settings:
        case {
            "source": str() as source, "rank": int() as rank, "count": int() as count, "meeting": str() as meeting,
            "options": dict() as options, "how": dict() as how,
        }:  # fmt: skip
            threading.Thread(target=_end_with_server, daemon=True).start()
            _meet(meeting, rank, count)
            Engine(part_of(source, options), **how).follow()
        case _:
            raise InputError("no settings of a follower", where="omniform.serve.together")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except OmniformError as error:
        print(f"omniform: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    except Exception as error:
        print(f"omniform: rank {os.environ.get('RANK')}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)
