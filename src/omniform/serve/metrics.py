"""What a server counts, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omniform.engine.handle import Handle
from omniform.engine.stats import Stats

if TYPE_CHECKING:
    from omniform.serve.desk import Desk

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_WHOLE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_FIRST: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        desk: the server's state, which is looked at whenever somebody asks.
    """

    def __init__(self, desk: Desk) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "omniform_requests", "Requests that were answered.", ("door", "status"), registry=self.registry
        )
        self.refused = Counter("omniform_refusals", "Requests that were not.", ("reason",), registry=self.registry)
        self.seconds = Histogram(
            "omniform_request_seconds", "From the head of a request to the end of its answer.", ("door",),
            buckets=_WHOLE, registry=self.registry,
        )  # fmt: skip
        self.first = Histogram(
            "omniform_first_token_seconds", "From the head of a request to the first token.", ("model",),
            buckets=_FIRST, registry=self.registry,
        )  # fmt: skip
        self.token = Histogram(
            "omniform_token_seconds", "Between two tokens of a request, in the mean of them.", ("model",),
            buckets=_TOKEN, registry=self.registry,
        )  # fmt: skip
        self.prompt = Counter("omniform_prompt_tokens", "Tokens of prompts.", ("model",), registry=self.registry)
        self.written = Counter("omniform_generated_tokens", "Tokens of answers.", ("model",), registry=self.registry)
        self.cached = Counter(
            "omniform_cached_tokens", "Tokens of prompts that were known already.", ("model",), registry=self.registry
        )
        self.registry.register(State(desk))

    def over(self, door: str, status: int, reason: str | None, seconds: float) -> None:
        """Count an answered request."""
        self.requests.labels(door, str(status)).inc()
        self.seconds.labels(door).observe(seconds)
        if reason is not None:
            self.refused.labels(reason).inc()

    def written_by(self, model: str, handle: Handle, began: float) -> None:
        """Count what an engine did for a request.

        Args:
            began: when its head came, in seconds of ``time.perf_counter``.
        """
        times, whole = handle.times, handle.completion
        if times.first is not None:
            self.first.labels(model).observe(times.first - began)
            if times.last is not None and times.tokens > 1:
                self.token.labels(model).observe((times.last - times.first) / (times.tokens - 1))
        if whole is not None:
            self.prompt.labels(model).inc(whole.prompt_tokens)
            self.written.labels(model).inc(sum(len(one.tokens) for one in whole.sequences))
            self.cached.labels(model).inc(whole.cached_tokens)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)


@dataclass(frozen=True, slots=True)
class Shown:
    """A number that an engine says of itself.

    Attributes:
        name: the metric's.
        words: what it is.
        value: of the engine's own account.
        grows: whether it only grows.
    """

    name: str
    words: str
    value: Callable[[Stats], float]
    grows: bool = False


ENGINES: Final = (
    Shown("omniform_engine_running", "Requests that are computed.", lambda stats: stats.running),
    Shown("omniform_engine_waiting", "Requests that wait in the engine.", lambda stats: stats.waiting),
    Shown("omniform_blocks", "Blocks of state.", lambda stats: stats.blocks_total),
    Shown("omniform_blocks_used", "Blocks that requests hold.", lambda stats: stats.blocks_used),
    Shown("omniform_blocks_cached", "Blocks that are remembered.", lambda stats: stats.blocks_cached),
    Shown("omniform_state_bytes", "Memory of the blocks.", lambda stats: stats.memory.taken),
    Shown("omniform_steps", "Steps that were computed.", lambda stats: stats.steps, True),
    Shown("omniform_computed_tokens", "Tokens that were computed.", lambda stats: stats.tokens_computed, True),
    Shown("omniform_preemptions", "Requests that gave up blocks.", lambda stats: stats.preemptions, True),
    Shown("omniform_encoder_runs", "Pictures and sounds that were encoded.", lambda stats: stats.encoder_runs, True),
    Shown("omniform_encoder_hits", "Those that were known already.", lambda stats: stats.encoder_hits, True),
)


class State(Collector):
    """What is so at the moment when somebody asks.

    Args:
        desk: the server's state.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def describe(self) -> Iterator[Metric]:
        """Nothing: to be registered costs no look at an engine."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The numbers."""
        gate, loaded = self._desk.gate, list(self._desk.shelf.loaded())
        yield GaugeMetricFamily("omniform_queue", "Requests that wait for their turn.", value=gate.waiting)
        yield GaugeMetricFamily("omniform_running", "Requests that have theirs.", value=gate.running)
        yield GaugeMetricFamily("omniform_models_loaded", "Models in memory.", value=len(loaded))
        yield GaugeMetricFamily("omniform_resident_bytes", "Memory of the process.", value=_resident())
        weights = GaugeMetricFamily("omniform_weights_bytes", "Memory of a model's weights.", labels=["model"])
        for one in loaded:
            weights.add_metric([one.origin.name], one.nbytes)
        yield weights
        stats: Mapping[str, Stats] = {one.origin.name: one.engine.stats() for one in loaded if one.engine is not None}
        for shown in ENGINES:
            family = (CounterMetricFamily if shown.grows else GaugeMetricFamily)(
                shown.name, shown.words, labels=["model"]
            )
            for name, said in stats.items():
                family.add_metric([name], shown.value(said))
            yield family


def _resident() -> int:
    """Bytes that this process holds; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
