"""Several gloo processes for a test, forked from it: nothing is imported again."""

from __future__ import annotations

import gc
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import accelerate
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.multiprocessing as mp

import omniform.engine.generate
import omniform.train.seq2seq

IMPORTED = (accelerate, torch._dynamo, torch.distributed.fsdp, torch.distributed.tensor, omniform)
"""What each process would import by itself, once more; here, once for all."""

LONGEST = 280.0
"""Seconds, only against processes that wait for one another for ever: below pytest's own limit for two launches."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _run(
    rank: int, world: int, port: int, folder: Path, work: Callable[..., object], given: tuple[object, ...]
) -> None:
    gc.freeze()  # every training collects once: not what the tests' process has made, which would copy all of it
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    # What earlier tests set up is inherited, and this process is another one.
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()
    try:
        result: object = work(rank, world, *given)
    except BaseException as error:
        result = error
        (folder / f"{rank}.txt").write_text(traceback.format_exc())
    try:
        made = pickle.dumps(result)
    except Exception:
        made = pickle.dumps(RuntimeError(repr(result)))
    (folder / f"{rank}.pickle").write_bytes(made)
    if not isinstance(result, BaseException) and dist.is_initialized():
        dist.destroy_process_group()
    os._exit(0)  # without what the test's own process registered for its end


def each(
    work: Callable[..., object], world: int, folder: Path, *given: object, timeout: float = LONGEST
) -> list[object]:
    """What ``work(rank, world, *given)`` returned in every process, or the error that it raised.

    Raises:
        TimeoutError: they did not end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("fork")
    port = free_port()
    children = [context.Process(target=_run, args=(rank, world, port, folder, work, given)) for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + timeout
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
    late = [child for child in children if child.is_alive()]
    for child in late:
        child.kill()
    if late:
        raise TimeoutError(f"{len(late)} of {world} processes did not end in {timeout} s")
    return [_read(folder, rank) for rank in range(world)]


def _read(folder: Path, rank: int) -> object:
    path = folder / f"{rank}.pickle"
    return pickle.loads(path.read_bytes()) if path.exists() else ProcessLookupError(f"process {rank} died")


def all_of(
    work: Callable[..., object], world: int, folder: Path, *given: object, timeout: float = LONGEST
) -> list[object]:
    """The same, of processes that must all end well."""
    results = each(work, world, folder, *given, timeout=timeout)
    for rank, result in enumerate(results):
        if isinstance(result, BaseException):
            told = folder / f"{rank}.txt"
            raise AssertionError(f"process {rank}:\n{told.read_text() if told.exists() else result}")
    return results
