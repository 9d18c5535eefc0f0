"""A benchmark: contenders side by side, in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, cast

from omniform.bench import machine
from omniform.bench.commits import Commits
from omniform.bench.config import BackendConfig, BenchmarkConfig, scenario_of
from omniform.bench.contender import ContenderError, Process, interpreter
from omniform.bench.exported import onnx_of
from omniform.bench.gguf import IN_A_FILE, gguf_of
from omniform.bench.job import Job
from omniform.bench.made import model_folder
from omniform.bench.noise import Disturbance, Reading, judged, told
from omniform.bench.recorder import MetricsRecorder
from omniform.bench.report.figures import base_of
from omniform.bench.results import Better, Measure, Result, passes_of
from omniform.bench.roofline import Peak
from omniform.bench.stats import difference

OnResult = Callable[[Result], object]
"""Hears of a result when it is begun (its status is ``running``) and when it has ended."""

OUT_OF: Final = "config"

FAR: Final = 1.25
"""Contenders that differ by more do so in any process."""


@dataclass(slots=True)
class Turn:
    """What a turn of a contender gave.

    Attributes:
        values: samples by measure.
        used: samples of the recorder by measure.
        disturbance: what disturbed it.
    """

    values: dict[str, list[float]]
    used: dict[str, list[float]]
    disturbance: Disturbance


@dataclass(slots=True)
class Contender:
    """One of those who take turns.

    Attributes:
        backend: what it is.
        result: what is known of it.
        python: its interpreter.
        paths: where that looks for packages; None for where this process does.
        process: its own, where it has one for all turns.
        turns: of whole rounds.
        notes: what is to be said of its numbers beside noise.
        work: FLOP and bytes of a sample, and the kind of numbers, where it is known.
        answer: what its work comes to, in a few numbers, where the scenario tells.
    """

    backend: BackendConfig
    result: Result
    python: str = ""
    paths: list[str] | None = None
    process: Process | None = None
    turns: list[Turn] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    work: dict[str, Any] = field(default_factory=dict)
    answer: list[float] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether it is still in."""
        return self.result.status == "running"

    def fail(self, why: str) -> None:
        """It is out."""
        self.result.status, self.result.error = "failed", why
        if self.process is not None:
            self.process.kill()
            self.process = None


class Benchmark:
    """Measures what a config says.

    Every contender has a process of its own. All are prepared and warm before the first turn; then they take turns, in
    an order that turns round from round to round. A round in which a turn was disturbed is taken again, up to a limit.

    Args:
        config: what is to be measured.
        on_result: told of each contender's result, at its begin and at its end.
        say: told what is going on, in words.
        commits: environments of commits; needed where a contender names one.

    Example:
        >>> config, = BenchmarkConfig.load("generate", overrides=["rounds=3"])
        >>> for result in Benchmark(config).run():
        ...     print(result.contender, result.value("per_token.latency.median"))
    """

    PEAKS: ClassVar[dict[tuple[int, str, str], Peak | None]] = {}
    """What this machine can do, by threads, device and kind of numbers: measured once."""

    def __init__(
        self,
        config: BenchmarkConfig,
        *,
        on_result: Sequence[OnResult] = (),
        say: Callable[[str], object] = lambda line: None,
        commits: Commits | None = None,
    ) -> None:
        self.config = config
        self.scenario = scenario_of(config, lambda path: OUT_OF)
        self.threads = config.threads or machine.cores()
        self.interrupted = False
        """Whether Ctrl-C ended the last run; what it gave is whole as far as it goes."""
        self._on_result = tuple(on_result)
        self._say = say
        self._commits = commits
        self._repeats = config.noise.repeats

    def run(self) -> list[Result]:
        """Measure.

        Returns:
            A result for every contender, in the config's order; one that could not be measured says why.
        """
        contenders = [self._contender(one) for one in self.config.contenders]
        for one in contenders:
            self._tell(one.result)
        started = time.perf_counter()
        try:
            self._prepare(contenders)
            self._measure(contenders)
            if self.scenario.FRESH:
                self._hold(contenders)
            self._roofline(contenders)
        except KeyboardInterrupt:
            self.interrupted = True
            self._say("interrupted: what is whole is kept")
        finally:
            for one in contenders:
                if one.process is not None:
                    one.process.kill() if self.interrupted else one.process.close()
                    one.process = None
        for one in contenders:
            self._conclude(one, time.perf_counter() - started)
        return [one.result for one in contenders]

    def _measure(self, contenders: Sequence[Contender]) -> None:
        """All rounds; and once more in new processes while contenders differ, or nobody knows whether they do.

        What one process takes and another does not (where its memory lies) is no property of what it runs: a
        difference that is one comes again.
        """
        begun = time.perf_counter()
        for pass_number in range(1 + self.config.again):
            if pass_number:
                unsettled = [] if time.perf_counter() - begun > self.config.limit else self._unsettled(contenders)
                if not unsettled:
                    return
                self._say(f"measuring again, in new processes: {', '.join(unsettled)}")
                self._renew(contenders)
            for number in range(self.config.rounds):
                if not any(one.alive for one in contenders):
                    return
                self._round(contenders, number)

    def _unsettled(self, contenders: Sequence[Contender]) -> list[str]:
        """Those who differ from the one that they are compared with, but not by far, or of whom that is unclear."""
        main = next(iter(self.scenario.GIVES))
        alive = [one for one in contenders if one.alive and any(turn.values.get(main) for turn in one.turns)]
        results, better = [one.result for one in alive], self.scenario.GIVES[main].better
        found = []
        for one in alive:
            base = alive[results.index(base_of(one.result, results))]
            rounds = [[turn.values.get(main, ()) for turn in each.turns] for each in (base, one)]
            if base is one or any(value <= 0 for each in rounds for turn in each for value in turn):
                continue
            told = difference(*rounds, better=better, passes=self._passes(one.turns))
            far = told.sure and (told.low > FAR or told.high < 1 / FAR)
            if told.verdict != "same" and not far:
                found.append(f"{one.result.contender} {'is unclear' if told.verdict == 'unclear' else 'differs'}")
        return found

    def _renew(self, contenders: Sequence[Contender]) -> None:
        """A new process for everyone who has one."""
        for one in contenders:
            if one.alive and one.process is not None:
                one.process.close()
                one.process = None
                try:
                    one.process = self._start(one)
                    self._warm(one)
                except ContenderError as error:
                    self._say(f"{one.result.contender}: {error}")
                    one.fail(str(error))

    def _contender(self, backend: BackendConfig) -> Contender:
        own = {**self.config.told(), "contender": backend.title()}
        result = Result(
            name=self.config.name, scenario=str(self.config.scenario["kind"]), contender=backend.title(), config=own,
            machine=dict(machine.facts()), versions=machine.own_versions(),
        )  # fmt: skip
        return Contender(backend, result)

    def _tell(self, result: Result) -> None:
        for hears in self._on_result:
            hears(result)

    def _prepare(self, contenders: Sequence[Contender]) -> None:
        """Find interpreters, start processes, load, warm up: whoever cannot is out."""
        for one in contenders:
            try:
                self._place(one)
                if not self.scenario.FRESH:
                    self._say(f"{one.result.contender}: preparing")
                    one.process = self._start(one)
                    self._warm(one)
            except ContenderError as error:
                self._say(f"{one.result.contender}: {error}")
                one.fail(str(error))
        self._hold(contenders)

    def _hold(self, contenders: Sequence[Contender]) -> None:
        """Whoever comes to something else than the first one is out, where the config says so."""
        answered = [one for one in contenders if one.alive and one.answer]
        for one in answered[1:]:
            apart = apart_of(answered[0].answer, one.answer)
            if not apart <= self.config.agree:
                why = f"its answer is {apart:.2g} apart from that of {answered[0].result.contender}"
                self._say(f"{one.result.contender}: {why}")
                one.fail(f"{why}, and may be {self.config.agree:g}")

    def _place(self, one: Contender) -> None:
        if one.backend.commit is None:
            one.python = interpreter(one.backend)
            return
        if self._commits is None:
            self._commits = Commits(Path.cwd())
        cpu = one.backend.env.get("OMNIFORM_CPU", os.environ.get("OMNIFORM_CPU", ""))
        built = self._commits.environment(one.backend.commit, cpu=cpu, say=self._say)
        one.python, one.paths, one.result.commit = str(built.python), [], built.sha
        one.notes += [built.note] if built.note else []

    def _start(self, one: Contender) -> Process:
        """Its process, with all done that is not measured."""
        config = self.config
        model = model_folder(one.backend.model or config.model)
        if one.backend.kind == "onnxruntime":
            model = onnx_of(model, one.backend)
        elif one.backend.kind == "llama_cpp" or str(one.backend.quantize).startswith(IN_A_FILE):
            model = gguf_of(model, one.backend)
        job = Job(
            scenario=dict(config.scenario), backend=_plain(one.backend), model=model,
            threads=self.threads, clock=config.clock,
        )  # fmt: skip
        process = Process(one.backend, job, timeout=config.timeout, python=one.python, paths=one.paths)
        try:
            begun = process.ask("begin")
        except BaseException:
            process.kill()
            raise
        one.result.versions = {**one.result.versions, **begun["versions"]}
        return process

    def _warm(self, one: Contender) -> None:
        assert one.process is not None
        own = self.config.warmup
        warmed = one.process.ask("warm", window=own.window, tolerance=own.tolerance, limit=own.limit)
        self._say(f"{one.result.contender}: warm after {len(warmed['samples'])} samples, {warmed['seconds']:.1f} s")
        if not warmed["settled"]:
            one.notes.append(f"it had not settled after warming up for {warmed['seconds']:.0f} s")
        one.work = one.process.ask("work")
        one.answer = self._answer(one.process)

    def _answer(self, process: Process) -> list[float]:
        return list(process.ask("answer")["answer"]) if self.config.agree else []

    def _round(self, contenders: Sequence[Contender], number: int) -> None:
        """A turn of everyone who is in; taken again where it was disturbed and may be."""
        kept = self._turns(contenders, number)
        while self._repeats > 0 and any(turn.disturbance.reasons for turn in kept.values()):
            self._repeats -= 1
            self._say(f"round {number + 1} was disturbed, and is taken again: {_reasons(kept.values())}")
            again = self._turns(contenders, number)
            before, now = _weight(kept), _weight(again)
            if again and now < before:
                kept = again
            if not now < before / 2:
                break  # it is never quieter
        for place, turn in kept.items():
            contenders[place].turns.append(turn)

    def _turns(self, contenders: Sequence[Contender], number: int) -> dict[int, Turn]:
        order = range(len(contenders)) if number % 2 == 0 else range(len(contenders) - 1, -1, -1)
        done: dict[int, Turn] = {}
        for place in order:
            one = contenders[place]
            if not one.alive:
                continue
            try:
                done[place] = self._turn(one)
            except ContenderError as error:
                self._say(f"{one.result.contender}: {error}")
                one.fail(str(error))
        return {place: turn for place, turn in done.items() if contenders[place].alive}

    def _turn(self, one: Contender) -> Turn:
        config = self.config
        fresh = one.process is None
        process = self._start(one) if one.process is None else one.process
        try:
            recorder = MetricsRecorder(process.pid, interval=config.recorder.interval, gpu=_gpu(one.backend.device))
            before = Reading.now(process.pid)
            recorder.start()
            try:
                how = {"seconds": 0.0 if fresh else config.seconds, "least": 1 if fresh else config.least,
                       "most": 1 if fresh else config.most}  # fmt: skip
                told = process.ask("turn", **how)
            finally:
                span = recorder.stop()
            grown = Reading.now(process.pid).since(before)
            if fresh and not one.work:
                one.work = process.ask("work")
                one.answer = self._answer(process)
        except BaseException:
            if fresh:
                process.kill()
            raise
        if fresh:
            process.close()
        own = span.cpu + recorder.spent
        found = judged(grown, span.seconds, own, machine.cores(), self.threads, config.noise, config.clock)
        values = {name: list(map(float, one)) for name, one in told["values"].items()}
        return Turn(values, span.values, found)

    def _roofline(self, contenders: Sequence[Contender]) -> None:
        """What the machine can do with such numbers, in a process of its own, once."""
        for one in contenders if self.config.roofline else ():
            if not one.work or not one.turns:
                continue
            key = self.threads, one.backend.device, str(one.work["dtype"])
            if key not in self.PEAKS:
                self.PEAKS[key] = self._peak(one, key)

    def _peak(self, one: Contender, key: tuple[int, str, str]) -> Peak | None:
        job = Job(scenario={"kind": "nothing"}, backend={"kind": "none"}, model="", threads=self.threads)
        process = None
        try:
            process = Process(BackendConfig(kind="none"), job, timeout=120, python=interpreter(BackendConfig()))
            found = process.ask("peak", device=key[1], dtype=key[2])
            return Peak(**found)
        except ContenderError as error:
            self._say(f"what the machine can do was not measured: {error}")
            return None
        finally:
            if process is not None:
                process.kill()

    def _conclude(self, one: Contender, seconds: float) -> None:
        """Samples become measures, and the result ends."""
        result = one.result
        result.seconds = seconds
        result.measures = self._measures(one)
        main = next(iter(self.scenario.GIVES))
        rounds = result.measures[main].rounds if main in result.measures else ()
        result.noise = [
            *dict.fromkeys(one.notes),
            *told([turn.disturbance for turn in one.turns], rounds, self.config.noise),
        ]
        if self.interrupted and result.status == "running":
            if one.turns:
                result.noise.append(f"interrupted after {len(one.turns)} rounds of each")
            else:
                result.status, result.error = "failed", "interrupted before the first round was over"
        if result.status == "running":
            result.status = "done"
        self._tell(result)

    def _passes(self, turns: Sequence[Turn]) -> int:
        return passes_of({"rounds": self.config.rounds}, len(turns))

    def _measures(self, one: Contender) -> dict[str, Measure]:
        made, passes = {}, self._passes(one.turns)
        for name, kind in self.scenario.GIVES.items():
            rounds = tuple(tuple(turn.values.get(name, ())) for turn in one.turns)
            if any(rounds):
                made[name] = Measure(name, kind.unit, rounds, cast("Better", kind.better), passes)
        from omniform.bench.recorder import UNITS

        for name, unit in UNITS.items():
            rounds = tuple(tuple(turn.used.get(name, ())) for turn in one.turns)
            if any(rounds):
                made[name] = Measure(name, unit, rounds, passes=passes)
        return made | self._shares(one, made)

    def _shares(self, one: Contender, made: dict[str, Measure]) -> dict[str, Measure]:
        """What a sample comes to, and what share of what the machine can do that is."""
        main = made.get(next(iter(self.scenario.GIVES)))
        if not one.work or main is None or main.unit != "s":
            return {}
        flop, moved = float(one.work["flop"]), float(one.work["bytes"])
        found = {
            "flop": Measure("flop", "FLOP", ((flop,),)),
            "bytes": Measure("bytes", "B", ((moved,),)),
        }
        peak = self.PEAKS.get((self.threads, one.backend.device, str(one.work["dtype"])))
        if peak is not None and self.config.roofline:
            one.result.machine = {**one.result.machine, "flops": peak.flops, "bandwidth": peak.bandwidth}
            least = peak.seconds(flop, moved)
            rounds = tuple(tuple(100 * least / max(s, 1e-12) for s in turn) for turn in main.rounds)
            found["roofline"] = Measure("roofline", "%", rounds, "higher", main.passes)
        return found


def apart_of(first: Sequence[float], second: Sequence[float]) -> float:
    """How far apart two answers are: their largest difference, as a share of the first's largest number; infinite where
    they differ in kind."""
    if len(first) != len(second):
        return float("inf")
    most = max((abs(a - b) for a, b in zip(first, second, strict=True)), default=0.0)
    return most / (max(map(abs, first), default=0.0) or 1.0)


def _plain(backend: BackendConfig) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(backend)


def _gpu(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    with suppress(ValueError):
        return int(device.partition(":")[2] or 0)
    return 0


def _weight(turns: dict[int, Turn]) -> float:
    return sum(turn.disturbance.weight for turn in turns.values())


def _reasons(turns: Any) -> str:
    worst = max((turn.disturbance for turn in turns if turn.disturbance.reasons), key=lambda one: one.weight)
    return "; ".join(worst.reasons)
