"""The measurements, the same for every library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from .clocks import now, peak_memory, resident_memory
from .side import Side, draw_chats
from .workloads import Job, Sample, ragged, tokens

T = TypeVar("T")


def timed(job: Job, action: Callable[[], T]) -> tuple[float, T]:
    """Seconds that an action takes by the job's clock, and what it returns."""
    _wait_for(job)
    started = now(job.clock)
    result = action()
    _wait_for(job)
    return now(job.clock) - started, result


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


def step(side: Side, job: Job) -> Sample:
    """Milliseconds of a decoding step of many rows: those of longer answers less those of answers of one token."""
    side.prepare()
    side.load()
    sizes = job.sizes

    def answered(name: str, new: int) -> tuple[float, list[list[int]]]:
        run = side.batch()
        prompts = [tokens(job, f"{name} {row}", sizes.prompt) for row in range(sizes.rows)]
        return timed(job, lambda: run(prompts, new))

    answered("warm", 2)
    short, _ = answered("short", 1)
    long, written = answered("long", 1 + sizes.profiled)
    seconds = {"one_token_s": short, "all_tokens_s": long}
    return Sample({"step": max(1000 * (long - short), 1e-6) / sizes.profiled}, written, seconds)


def encode(side: Side, job: Job) -> Sample:
    """Seconds for all the texts, or all the pictures."""
    from .encoders import batches, winners

    side.prepare()
    side.load_encoder(job.workload)
    inputs = batches(job, job.workload)
    side.encode(inputs[-1])
    seconds, outputs = timed(job, lambda: [side.encode(batch) for batch in inputs])
    return Sample({"seconds": seconds}, winners(outputs))


def parity(side: Side, job: Job) -> Sample:
    """What is answered in float32."""
    side.prepare()
    side.load("float32")
    rows = ragged(job, "parity")[: job.sizes.checked_rows]
    return Sample({}, side.batch()(rows, job.sizes.checked_new))


def load(side: Side, job: Job) -> Sample:
    """Seconds from nothing to the first token, with and without imports; peak memory, and of it what is not imports."""
    started = now(job.clock)
    import torch  # noqa: F401

    torch_there = now(job.clock)
    side.prepare()
    imported = now(job.clock)
    before = resident_memory()
    side.load()
    loaded = now(job.clock)
    first = side.write(tokens(job, "first", job.sizes.first), 1)
    ended = now(job.clock)
    weights = (Path(job.folder) / "model.safetensors").stat().st_size
    figures = {
        "cold": ended - torch_there,
        "load": ended - imported,
        "with_import": ended - started,
        "memory": peak_memory() / 1e6,
        "held": (peak_memory() - before) / weights,
    }
    spent = {"import_torch_s": torch_there - started, "import_s": imported - started}
    return Sample(figures, [first], {**spent, "from_pretrained_s": loaded - imported})


def chats(side: Side, job: Job) -> Sample:
    """Seconds for all the chats, pictures' preparation included."""
    side.prepare()
    side.load_chats()
    side.chat(draw_chats(job, 1, "warm chat"))
    talks = draw_chats(job, job.sizes.chats, "chat")
    seconds, answers = timed(job, lambda: side.chat(talks))
    return Sample({"seconds": seconds}, answers)


MEASURES: dict[str, Callable[[Side, Job], Sample]] = {
    "decode": decode,
    "batch": batch,
    "prefix": prefix,
    "step": step,
    "encode": encode,
    "load": load,
    "chats": chats,
    "parity": parity,
}
