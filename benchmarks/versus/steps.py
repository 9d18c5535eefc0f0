"""Where the time of omniform's decoding steps goes, and how far they are from what the memory allows.

The same prompts are answered at two lengths; what the longer answers take more, over the steps that they take more, is
one step. Wall time is taken without the profiler, which slows everything down; the profiler then tells the kernels
apart, each by the time in itself and not in what it calls. "Python and dispatch" is the wall time that no kernel
accounts for; as the profiler makes every kernel a little slower, it is at least that. Operations of omniform's native
library are no kernels of torch: the library says itself what they take.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from .measure import timed
from .native import kernels, operations, part_of
from .ours import Ours
from .workloads import Job, Sample, tokens

PARTS = ("weights", "attention", "sampling", "other kernels", "Python and dispatch")
Seconds = dict[str, float]
ATTEMPTS = 3
"""How often every length is answered, with the profiler and without; medians are kept."""

# By the last part of a kernel's name. Views and new tensors compute nothing: they are dispatch. Weights are matrices;
# products of batches of matrices are those of queries with keys.
_VIEWS = frozenset({
    "alias", "as_strided", "chunk", "detach", "empty", "empty_like", "empty_strided", "expand", "narrow", "permute",
    "reshape", "select", "slice", "split", "squeeze", "t", "transpose", "unbind", "unflatten", "unsqueeze", "view",
    "_reshape_alias", "_unsafe_view",
})  # fmt: skip
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
    one = next(iter(profiles.values()))
    parts = one.get("parts_ms", {})
    share = (parts.get("weights", 0.0) + parts.get("attention", 0.0)) / one["step_ms"]
    return Sample({"share": share}, [], {**facts, "kernels": kernels()})


def read_bandwidth(job: Job, size: int = 1 << 30, attempts: int = 5) -> float:
    """Bytes per second at which all threads together read memory, the best of some attempts."""
    # A small one for a smoke test; caches make that one faster than memory, and it is not a benchmark.
    numbers = torch.ones((size if job.weights > 1 << 26 else 1 << 22) // 4, dtype=torch.int32, device=job.device)
    return max(4 * numbers.numel() / timed(job, numbers.max)[0] for _ in range(attempts))


def _profile(ours: Ours, job: Job, rows: int) -> dict[str, Any]:
    """Milliseconds of one step, and of its parts."""
    more = job.sizes.profiled
    names = (f"{rows} rows, {number}" for number in itertools.count())

    def asked(new: int) -> Callable[[], object]:
        """What answers prompts that nobody has seen, with an engine that was made beforehand."""
        run, name = ours.batch(), next(names)
        prompts = [tokens(job, f"{name} {row}", job.sizes.prompt) for row in range(rows)]
        return lambda: run(prompts, new)

    def clocks(new: int) -> Seconds:
        """Seconds of the wall clock and of the engine's own phases, and the number of steps."""
        seconds, _ = timed(job, asked(new))
        facts = ours.facts()
        return {"wall": seconds, "steps": facts["steps"], **facts["seconds"]}

    clocks(2)
    walls = [_minus(clocks(1 + more), clocks(1)) for _ in range(ATTEMPTS)]
    steps_more, step = walls[0]["steps"], _median(walls, "wall")
    result: dict[str, Any] = {"rows": rows, "steps": steps_more, "step_ms": 1000 * step}
    result["phases_ms"] = {name: 1000 * _median(walls, name) for name in walls[0] if name not in ("wall", "steps")}
    if job.device != "cpu":
        return result  # the kernels of a GPU run beside Python: there is nothing to be subtracted
    kernels = [_minus(_kernels(job, asked(1 + more)), _kernels(job, asked(1))) for _ in range(ATTEMPTS)]
    for seconds in kernels:
        seconds["steps"] = steps_more
    parts = {name: _median(kernels, name) for name in PARTS[:-1]}
    parts[PARTS[-1]] = max(step - sum(parts.values()), 0.0)
    result["parts_ms"] = {name: 1000 * seconds for name, seconds in parts.items()}
    each = {name: 1000 * _median(kernels, name) for name in kernels[0] if "::" in name}
    result["kernels_ms"] = dict(sorted(each.items(), key=lambda kernel: -kernel[1])[:12])
    return result


def _minus(more: Seconds, fewer: Seconds) -> Seconds:
    return {name: seconds - fewer.get(name, 0.0) for name, seconds in more.items()}


def _median(attempts: list[Seconds], name: str) -> float:
    """The median of something per step; with a smoke test's tiny sizes, noise may be all there is."""
    return max(median(attempt.get(name, 0.0) / attempt["steps"] for attempt in attempts), 1e-9)


def _kernels(job: Job, action: Callable[[], object]) -> Seconds:
    """Seconds within kernels while an action runs, by part and by name, whatever the thread."""
    every_thread = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with (
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True, experimental_config=every_thread
        ) as profiler,
        operations() as native,
    ):
        action()
    seconds: Seconds = defaultdict(float)
    for name, spent in native.items():
        seconds[f"native::{name}"] += spent
        seconds[part_of(name)] += spent
    for event in profiler.events():
        if "::" not in event.name:
            continue  # a range, not a kernel
        spent = event.self_cpu_time_total / 1e6
        seconds[event.name] += spent
        seconds[_part(event, job.vocabulary)] += spent
    return seconds


def _part(event: Any, vocabulary: int) -> str:
    """Which part of a step a kernel belongs to: by its name, the kernels that it runs within, and its shapes."""
    if event.name.rpartition("::")[2] in _VIEWS:
        return PARTS[-1]
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
