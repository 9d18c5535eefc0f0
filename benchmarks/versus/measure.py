"""The measurements, the same for every library."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .side import Side, draw_chats
from .workloads import Job, Sample, ragged, tokens

T = TypeVar("T")


def timed(job: Job, action: Callable[[], T]) -> tuple[float, T]:
    """Seconds that an action takes, and what it returns."""
    _wait_for(job)
    started = time.perf_counter()
    result = action()
    _wait_for(job)
    return time.perf_counter() - started, result


def _wait_for(job: Job) -> None:
    if job.device != "cpu":
        import torch

        torch.cuda.synchronize()


def decode(side: Side, job: Job) -> Sample:
    """Tokens per second of one row: decoding, and reading a long prompt.

    A decoding step's time is that of an answer of ``new`` tokens less that of an answer of one, per further token, so
    that reading the prompt is not in it. Every call has a prompt of its own, which no cache can know.
    """
    side.prepare()
    side.load()
    sizes = job.sizes
    side.write(tokens(job, "warm", sizes.prompt), min(4, sizes.new))
    short, _ = timed(job, lambda: side.write(tokens(job, "short", sizes.prompt), 1))
    long, written = timed(job, lambda: side.write(tokens(job, "long", sizes.prompt), sizes.new))
    side.write(tokens(job, "warm prefill", sizes.prefill), 1)
    reading, first = timed(job, lambda: side.write(tokens(job, "prefill", sizes.prefill), 1))
    # Of runs as short as those of a smoke test, the longer one may be the faster.
    step = max(long - short, 1e-9) / (sizes.new - 1)
    seconds = {"one_token_s": short, "all_tokens_s": long, "prefill_s": reading}
    return Sample({"decode": 1 / step, "prefill": sizes.prefill / reading}, [written, first], seconds)


def batch(side: Side, job: Job) -> Sample:
    """Seconds for all the ragged prompts."""
    return _batch(side, job, [])


def prefix(side: Side, job: Job) -> Sample:
    """Seconds for all the ragged prompts behind a common prefix; no cache has seen it before."""
    return _batch(side, job, tokens(job, "prefix", job.sizes.prefix))


def _batch(side: Side, job: Job, common: list[int]) -> Sample:
    side.prepare()
    side.load()
    # As long as those that count, so that every shape has been met; other tokens, so that no cache knows them.
    other = tokens(job, "another prefix", len(common))
    side.batch()([other + row for row in ragged(job, "warm")], 2)
    run = side.batch()
    prompts = [common + row for row in ragged(job, "batch")]
    seconds, answers = timed(job, lambda: run(prompts, job.sizes.row_new))
    return Sample({"seconds": seconds}, answers, {"new_tokens_per_s": sum(map(len, answers)) / seconds})


def parity(side: Side, job: Job) -> Sample:
    """What is answered in float32."""
    side.prepare()
    side.load("float32")
    rows = ragged(job, "parity")[: job.sizes.checked_rows]
    return Sample({}, side.batch()(rows, job.sizes.checked_new))


def load(side: Side, job: Job) -> Sample:
    """Seconds from nothing to the first token, with the import of torch and the library and without; peak memory."""
    started = time.perf_counter()
    side.prepare()
    imported = time.perf_counter()
    side.load()
    loaded = time.perf_counter()
    first = side.write(tokens(job, "first", job.sizes.first), 1)
    ended = time.perf_counter()
    figures = {"load": ended - imported, "with_import": ended - started, "memory": peak_memory() / 1e6}
    return Sample(figures, [first], {"import_s": imported - started, "from_pretrained_s": loaded - imported})


def chats(side: Side, job: Job) -> Sample:
    """Seconds for all the chats, pictures' preparation included."""
    side.prepare()
    side.load_chats()
    side.chat(draw_chats(job, 1, "warm chat"))
    talks = draw_chats(job, job.sizes.chats, "chat")
    seconds, answers = timed(job, lambda: side.chat(talks))
    return Sample({"seconds": seconds}, answers)


def peak_memory() -> float:
    """Most bytes of host memory that this process ever held, mapped files included; on Linux."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024.0 * int(line.split()[1])
    return float("nan")


MEASURES: dict[str, Callable[[Side, Job], Sample]] = {
    "decode": decode,
    "batch": batch,
    "prefix": prefix,
    "load": load,
    "chats": chats,
    "parity": parity,
}
