"""Where the time of omniform's decoding steps goes, and how far they are from what the memory allows.

The same prompts are answered at two lengths; what the longer answers take more, over the steps that they take more, is
one step. Wall time is taken without the profiler, which slows everything down; the profiler then tells the kernels
apart, each by the time in itself and not in what it calls. A dispatch from Python to a kernel counts as no kernel's:
"Python and dispatch" is the wall time that no kernel accounts for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .measure import timed
from .ours import Ours
from .workloads import Job, Sample, tokens

PARTS = ("weights", "attention", "sampling", "other kernels", "Python and dispatch")

# By the last part of a kernel's name. Weights are matrices; products of batches of matrices are queries with keys.
_MATMULS = frozenset({"linear", "addmm", "mm", "matmul", "mv", "addmv", "_addmm_activation"})
_ATTENTION = frozenset({"bmm", "baddbmm"})
_SOFTMAX = frozenset({"softmax", "_softmax"})
_SAMPLERS = frozenset({"argmax", "topk", "sort", "multinomial", "log_softmax", "_log_softmax", "exponential_"})
_CACHE = frozenset({"index", "index_select", "index_put_", "_index_put_impl_", "index_copy_", "gather", "scatter_"})


def steps(job: Job) -> Sample:
    """The step profile of one row and of many, the memory's speed, and the most tokens per second that it allows."""
    ours = Ours(job)
    ours.prepare()
    ours.load()
    speed = read_bandwidth(job)
    limit = speed / job.weights
    profiles = {}
    for rows in (1, job.sizes.rows):
        profile = _profile(ours, job, rows)
        profile["tokens_per_s"] = rows * 1000 / profile["step_ms"]
        profile["share_of_limit"] = 1000 / profile["step_ms"] / limit
        profiles[str(rows)] = profile
    facts = {
        "read_bytes_per_s": speed,
        "weight_bytes_per_step": job.weights,
        "limit_steps_per_s": limit,
        "profiles": profiles,
    }
    return Sample({}, [], facts)


def read_bandwidth(job: Job, size: int = 1 << 30, attempts: int = 5) -> float:
    """Bytes per second at which all threads together read memory, the best of some attempts."""
    # A small one for a smoke test; caches make that one faster than memory, and it is not a benchmark.
    numbers = torch.ones((size if job.weights > 1 << 26 else 1 << 22) // 4, dtype=torch.int32, device=job.device)
    return max(4 * numbers.numel() / timed(job, numbers.max)[0] for _ in range(attempts))


def _profile(ours: Ours, job: Job, rows: int) -> dict[str, Any]:
    """Milliseconds of one step, and of its parts."""
    more = job.sizes.profiled

    def answer(name: str, new: int) -> tuple[float, int]:
        """Seconds and steps that the engine takes, with prompts of their own."""
        run = ours.batch()
        prompts = [tokens(job, f"{name} {rows} {row}", job.sizes.prompt) for row in range(rows)]
        seconds, _ = timed(job, lambda: run(prompts, new))
        return seconds, int(ours.facts()["steps"])

    answer("warm", 2)
    short, few = answer("short", 1)
    long, many = answer("long", 1 + more)
    step = max(long - short, 1e-9) / max(many - few, 1)
    result: dict[str, Any] = {"rows": rows, "steps": many - few, "step_ms": 1000 * step}
    if job.device != "cpu":
        return result  # the kernels of a GPU run beside Python: there is nothing to be subtracted
    before = _kernels(job, lambda: answer("few kernels", 1))
    after = _kernels(job, lambda: answer("many kernels", 1 + more))
    parts = {name: max(after[name] - before[name], 0) / (many - few) for name in PARTS[:-1]}
    parts[PARTS[-1]] = max(step - sum(parts.values()), 0)
    result["parts_ms"] = {name: 1000 * seconds for name, seconds in parts.items()}
    slowest = Counter({name: after[name] - before[name] for name in after if name.startswith("aten::")})
    result["kernels_ms"] = {name: 1000 * seconds / (many - few) for name, seconds in slowest.most_common(12)}
    return result


def _kernels(job: Job, action: Callable[[], object]) -> Counter[str]:
    """Seconds within kernels while an action runs, by part and by name, whatever the thread."""
    every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, experimental_config=every_thread
    ) as profiler:
        action()
    seconds: Counter[str] = Counter()
    for event in profiler.events():
        if "::" not in event.name:
            continue  # a range, not a kernel
        spent = event.self_cpu_time_total / 1e6
        seconds[event.name] += spent
        seconds[_part(event, job.vocabulary)] += spent
    return seconds


def _part(event: Any, vocabulary: int) -> str:
    """Which part of a step a kernel belongs to: by its name, the kernels that it runs within, and its shapes."""
    names = {name.rpartition("::")[2] for name in (event.name, *_callers(event))}
    over_vocabulary = any(shape[-1] == vocabulary for shape in _shapes(event))
    if names & _ATTENTION or any("scaled_dot_product" in name or "flash_attention" in name for name in names):
        return "attention"
    if names & _MATMULS or any("linear" in name for name in names):
        return "weights"
    if names & _SAMPLERS or over_vocabulary:
        return "sampling"
    if names & _SOFTMAX or (names & _CACHE and any(len(shape) >= 3 for shape in _shapes(event))):
        return "attention"  # scores; keys and values, written to the cache and read from it
    return "other kernels"  # norms, rotary, activations, copies


def _callers(event: Any) -> Iterator[str]:
    while event.cpu_parent is not None:
        event = event.cpu_parent
        yield event.name


def _shapes(event: Any) -> list[list[int]]:
    return [shape for shape in event.input_shapes or () if isinstance(shape, list) and shape]
