"""What a process uses while it works: a sampler in the background."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from omniform.bench.nvml import Nvml
from omniform.bench.results import Measure
from omniform.core.errors import DependencyError, InputError

if TYPE_CHECKING:
    import psutil

RAPL: Final = Path("/sys/class/powercap")
MOST_SHARE: Final = 0.005
"""Of a processor's time that sampling may take: where samples cost more, they become rarer."""
LOOK_EVERY: Final = 10
"""Samples after which it is looked again what children there are."""

UNITS: Final = {"memory.rss": "B", "memory.pss": "B", "memory.gpu": "B", "cpu.use": "%", "gpu.use": "%",
                "energy.cpu": "J", "energy.gpu": "J", "memory.peak": "B"}  # fmt: skip


@dataclass(slots=True)
class Span:
    """What was sampled between two moments.

    Attributes:
        values: samples by measure.
        seconds: that it took.
        cpu: seconds that processors worked for the processes.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    cpu: float = 0.0


class MetricsRecorder:
    """Samples memory and use of a process and its children, in a thread of its own; energy from begin to end.

    Safe to use from several threads; :meth:`span` may be entered again once it was left. Samples are dropped to one
    in so many that sampling takes no more than :data:`MOST_SHARE` of a processor.

    Args:
        pid: of the process; this one by default.
        interval: seconds between samples.
        gpu: index of the GPU; None for none.
        rapl: where the kernel tells of the processors' energy.

    Raises:
        InputError: the interval is not positive, or there is no such process.
        DependencyError: psutil is not installed.

    Example:
        >>> with MetricsRecorder(interval=0.05) as recorder:
        ...     work()
        >>> recorder.measures()["memory.rss"].summary.max
    """

    def __init__(
        self, pid: int | None = None, *, interval: float = 0.1, gpu: int | None = 0, rapl: Path | str = RAPL
    ) -> None:
        if not interval > 0:
            raise InputError("samples need time between them", where="interval", expected="more than 0 seconds",
                             found=str(interval))  # fmt: skip
        self.interval = interval
        self.spans: list[Span] = []
        """What was sampled, span by span."""
        self.spent = 0.0
        """Processor seconds that sampling took."""
        self._process = _process(os.getpid() if pid is None else pid)
        self._gpu = None if gpu is None else Nvml.open(gpu)
        self._energy = Rapl(Path(rapl))
        self._lock = threading.Lock()
        self._span: Span | None = None
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._before: tuple[float, float] | None = None
        self._pids: list[int] = []
        self._count = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin a span.

        Raises:
            InputError: one is under way.
        """
        with self._lock:
            if self._span is not None:
                raise InputError("this recorder is recording", where="MetricsRecorder.start", remedy="Stop it first.")
            self._span, self._ended = Span(), threading.Event()
            self._before = None
            self._reset_peak()
            self._begun = time.perf_counter(), self._cpu(), self._energy.joules(), self._gpu_joules()
            self._sample()
            self._thread = threading.Thread(target=self._run, args=(self._ended,), daemon=True, name="MetricsRecorder")
            self._thread.start()

    def stop(self) -> Span:
        """End the span, and give what it sampled.

        Raises:
            InputError: none is under way.
        """
        with self._lock:
            if self._span is None:
                raise InputError("this recorder is not recording", where="MetricsRecorder.stop")
            self._ended.set()
            self._sample(last=True)
            span, thread, self._span = self._span, self._thread, None
            started, cpu, joules, gpu = self._begun
            span.seconds = time.perf_counter() - started
            span.cpu = max(self._cpu() - cpu, 0.0)
            self._note_energy(span, "energy.cpu", joules, self._energy.joules())
            self._note_energy(span, "energy.gpu", gpu, self._gpu_joules())
            before = time.thread_time()
            pss = sum(map(_pss, self._pids))  # the kernel walks all pages for it: not while anything is timed
            self.spent += time.thread_time() - before
            if pss:
                span.values["memory.pss"] = [pss]
            peak = self._peak()
            if peak:
                span.values["memory.peak"] = [max(peak, *span.values.get("memory.rss", [0.0]))]
            self.spans.append(span)
        if thread is not None:
            thread.join()
        return span

    @contextmanager
    def span(self) -> Iterator[None]:
        """Record what happens meanwhile."""
        self.start()
        try:
            yield
        finally:
            self.stop()

    def measures(self) -> dict[str, Measure]:
        """What was sampled, a round for every span."""
        with self._lock:
            names = dict.fromkeys(name for span in self.spans for name in span.values)
            return {
                name: Measure(name, UNITS[name], tuple(tuple(span.values.get(name, ())) for span in self.spans))
                for name in names
            }

    def _run(self, ended: threading.Event) -> None:
        wait = self.interval
        while not ended.wait(wait):
            before = time.thread_time()
            with self._lock:
                if ended.is_set():
                    return
                self._sample()
            took = time.thread_time() - before
            wait = max(self.interval, took / MOST_SHARE)

    def _sample(self, *, last: bool = False) -> None:
        """Note how things are; the lock is held."""
        assert self._span is not None
        before = time.thread_time()
        values = self._span.values
        if self._count % LOOK_EVERY == 0 or last:
            self._pids = self._family()
        now = time.perf_counter()
        cpu, rss = (sum(found) for found in zip(*(_used(pid) for pid in self._pids), strict=True))
        if rss:
            values.setdefault("memory.rss", []).append(rss)
        if self._before is not None and now - self._before[0] > self.interval / 10:
            use = max(cpu - self._before[1], 0.0) / (now - self._before[0])
            values.setdefault("cpu.use", []).append(100 * use)
        self._before = now, cpu
        self._count += 1
        if self._gpu is not None:
            for name, value in (("gpu.use", self._gpu.use()), ("memory.gpu", self._gpu.memory(set(self._pids)))):
                if value is not None:
                    values.setdefault(name, []).append(value)
        self.spent += time.thread_time() - before

    def _family(self) -> list[int]:
        """The process and all that it started."""
        found = [self._process.pid]
        for pid in found:  # it grows meanwhile
            if not _TELLS:
                with suppress(Exception):  # a process may end at any moment
                    return [pid, *(child.pid for child in self._process.children(recursive=True))]
            found.extend(_children(pid))
        return found

    def _cpu(self) -> float:
        return sum(_used(pid)[0] for pid in self._family())

    def _gpu_joules(self) -> float | None:
        return None if self._gpu is None else self._gpu.joules()

    def _reset_peak(self) -> None:
        with suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _peak(self) -> float:
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024.0 * int(line.split()[1])
        return 0.0

    @staticmethod
    def _note_energy(span: Span, name: str, before: float | None, after: float | None) -> None:
        if before is not None and after is not None and after >= before:
            span.values[name] = [after - before]


class Rapl:
    """The energy that packages of processors have used, as Linux tells it under ``/sys/class/powercap``.

    Counters begin again at their range; a package's own are read, not those of its parts.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self._files = [
            zone / "energy_uj"
            for zone in sorted(folder.glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and _number(zone / "energy_uj") is not None
        ]
        self._ranges = [_number(file.with_name("max_energy_range_uj")) or 0.0 for file in self._files]
        self._last = [0.0] * len(self._files)
        self._wrapped = [0.0] * len(self._files)

    def joules(self) -> float | None:
        """Since some moment; None where it is not told."""
        total, some = 0.0, False
        for place, file in enumerate(self._files):
            value = _number(file)
            if value is None:
                continue
            if value < self._last[place]:
                self._wrapped[place] += self._ranges[place]
            self._last[place] = value
            total, some = total + value + self._wrapped[place], True
        return total / 1e6 if some else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _process(pid: int) -> psutil.Process:
    try:
        import psutil
    except ImportError:
        raise DependencyError("psutil is needed for this", remedy="pip install 'omniform[bench]'") from None
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        raise InputError("there is no such process", where="pid", found=str(pid)) from None


def _children(pid: int) -> list[int]:
    """Processes that a process has started, as Linux tells them: cheaper than a look at all that run."""
    found: list[int] = []
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found.extend(map(int, file.read().split()))
    return found


_TELLS: Final = os.path.exists(f"/proc/self/task/{os.getpid()}/children")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if sys.platform != "win32" else 4096
_TICK: Final = 1 / (os.sysconf("SC_CLK_TCK") if sys.platform != "win32" else 100)


def _used(pid: int) -> tuple[float, float]:
    """Seconds that processors worked for a process, and bytes of memory that it holds; nothings where it has ended."""
    try:
        if sys.platform != "linux":
            return _used_elsewhere(pid)
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
        return _TICK * (int(words[11]) + int(words[12])), _PAGE * float(words[21])
    except (OSError, ValueError, IndexError):
        return 0.0, 0.0


def _used_elsewhere(pid: int) -> tuple[float, float]:
    process = _process(pid)
    times = process.cpu_times()
    return float(times.user + times.system), float(process.memory_info().rss)


def _pss(pid: int) -> float:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return 1024.0 * int(line.split()[1])
    return 0.0
