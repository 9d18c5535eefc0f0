"""What is to be measured: typed, checked, and composed of files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast

from omniform.bench import scenarios
from omniform.bench.backends import MODULES, backend_class
from omniform.bench.compose import Composed, compose
from omniform.bench.job import RefusedError
from omniform.bench.made import PREFIX, is_file
from omniform.bench.results import split_metric
from omniform.bench.scenarios.base import Scenario
from omniform.bench.typed import Where, typed
from omniform.core.errors import ConfigError, nearest

C = TypeVar("C", bound="BenchmarkConfig")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """A contender, or what all contenders have in common.

    Attributes:
        kind: the library: ``omniform``, ``transformers``, ``llama_cpp``, ``onnxruntime``, or ``none``.
        name: what results call it; made of what differs, where it is not said.
        model: a model of its own: a GGUF file, an exported folder.
        dtype: of weights, as ``from_pretrained`` takes it.
        device: a torch device.
        quantize: fewer bits, made at load, as ``omniform run --quantize`` takes it.
        compile: whether the forward goes through ``torch.compile``.
        python: the interpreter that has the library, where it is another one.
        env: variables of its process.
        options: the library's own, handed to it as they are.
        load_class: the class to load with, where the task does not say.
        generate: keywords of ``generate``, beside those of greedy search: ``{do_sample: true, top_k: 50}``.
        continuous: whether several prompts go to the library's continuous batching, omniform's ``Engine`` or
            transformers' ``generate_batch``, and not to ``generate``.
        engine: what that is made with: keywords of ``Engine``, or of ``ContinuousBatchingConfig``.
        commit: of the code, measured in an environment of its own.
    """

    kind: str = "omniform"
    name: str = ""
    model: str = ""
    dtype: str = "auto"
    device: str = "cpu"
    quantize: str | None = None
    compile: bool = False
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    load_class: str | None = None
    generate: Mapping[str, object] = field(default_factory=dict)
    continuous: bool = False
    engine: Mapping[str, object] = field(default_factory=dict)
    commit: str | None = None

    def title(self) -> str:
        """What it is called."""
        if self.name:
            return self.name
        plain = BackendConfig()
        differs = [called(self.commit)] if self.commit else []
        differs += [str(getattr(self, key)) for key in ("dtype", "device", "quantize") if
                    getattr(self, key) != getattr(plain, key)]  # fmt: skip
        differs += [word for word, said in (("compiled", self.compile), ("continuous", self.continuous)) if said]
        told = {**self.options, **self.generate, **self.engine}
        differs += [f"{key}={value}" for key, value in told.items()]
        return " ".join([self.kind, *differs])


def called(commit: str) -> str:
    """A commit as titles name it: the beginning of a hash, else the whole name."""
    return commit[:12] if re.fullmatch("[0-9a-f]{12,64}", commit) else commit


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupConfig:
    """How long a contender warms up; see :func:`omniform.bench.warmup.warm_up`.

    Attributes:
        window: samples of which two medians are compared.
        tolerance: share by which they may differ.
        limit: seconds.
    """

    window: int = 4
    tolerance: float = 0.05
    limit: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseConfig:
    """When a turn counts as disturbed, and how often its round is taken again.

    Attributes:
        repeats: rounds taken again in all.
        others: share of the processors' time that others may use where they compete for them.
        steal: share that the host may take.
        faults: pages a second that may come from the disk.
        spread: share by which a contender's turns may differ.
    """

    repeats: int = 4
    others: float = 0.1
    steal: float = 0.02
    faults: float = 20.0
    spread: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    """The sampler in the background; see :class:`omniform.bench.recorder.MetricsRecorder`.

    Attributes:
        interval: seconds between samples.
    """

    interval: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkConfig:
    """What is to be measured.

    Attributes:
        name: of the config.
        scenario: what is done: ``kind``, and the parameters of that kind.
        backend: what all contenders have in common; the only contender, where none is listed.
        contenders: those who do it; a name stands for a backend of that kind.
        model: a folder, a file, a Hub id, the name of a bundled checkpoint, or one of random weights
            (:mod:`omniform.bench.made`): ``made:llama-60m``, or ``made:models/bert.json`` of a raw config, beside the
            file that says so.
        threads: that may compute; 0 for as many as there are processors for this process.
        clock: ``wall``, or ``cpu`` for the time that processors worked.
        rounds: turns of every contender.
        seconds: of a turn, about.
        least, most: samples of a turn.
        agree: by which share of their largest number a contender's answer may differ from the first one's; 0: they are
            not compared.
        again: how often all is measured again, in new processes, where contenders differ or where it is unclear whether
            they do.
        limit: seconds of measuring after which it is not.
        timeout: seconds after which a contender that does not answer is given up.
        roofline: whether what the machine can do is measured too, and told beside what was done.
        metrics: what tables show where nobody asks for others.
        goals: how many times as good as a contender the first one is to be, by the contender's name: in the first of
            the metrics, or in those that a mapping names.
        overrides: what was typed, or swept over, in place of the files' values.
        swept: those of them that make this run one of several.
    """

    name: str
    scenario: Mapping[str, object]
    backend: BackendConfig = field(default_factory=BackendConfig)
    contenders: tuple[BackendConfig, ...] = ()
    model: str = "made:llama-60m"
    threads: int = 0
    clock: Literal["wall", "cpu"] = "wall"
    rounds: int = 8
    seconds: float = 0.5
    least: int = 1
    most: int = 1000
    agree: float = 0.0
    again: int = 2
    limit: float = 120.0
    timeout: float = 600.0
    roofline: bool = True
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    recorder: RecorderConfig = field(default_factory=RecorderConfig)
    metrics: tuple[str, ...] = ()
    goals: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    swept: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def load(
        cls, name: str, *, config_dir: str | None = None, overrides: Sequence[str] = (), multirun: bool = False,
        commits: Sequence[str] = (),
    ) -> list[Self]:  # fmt: skip
        """The config of a name, or all of its sweep.

        Args:
            name: of a file in the folder.
            config_dir: the folder; the one that comes with omniform by default.
            overrides: values in place of the files', as the command line takes them.
            multirun: whether values parted by commas are one run each.
            commits: at which every contender is measured that is of the repository: omniform, and scenarios that bring
                their own work; other libraries are measured as they are, unless there is but one contender.

        Raises:
            ConfigError: there is none, or it cannot be measured; says what is wrong, and in which file.
        """
        return [cls.of(one, commits) for one in compose(config_dir, name, overrides, multirun=multirun)]

    @classmethod
    def of(cls, composed: Composed | Mapping[str, Any], commits: Sequence[str] = ()) -> Self:
        """A config of plain values.

        Raises:
            ConfigError: an unknown key, a value of a wrong type, values that contradict one another.
        """
        whole = composed if isinstance(composed, Composed) else Composed(dict(composed))
        known = {one.name for one in fields(cls)}
        values = {name: value for name, value in whole.values.items() if name in known or name not in whole.groups}
        values.setdefault("name", "benchmark")
        values["goals"] = values.get("goals") or {}
        common = values.get("backend", {})
        common = {"kind": common} if isinstance(common, str) else common
        values["backend"] = common
        if isinstance(values.get("contenders"), Sequence) and isinstance(common, Mapping):
            values["contenders"] = [_over(common, one) for one in values["contenders"]]
        made = _found(typed(cls, values, whole.where), whole.where)
        contenders = made.contenders or (made.backend,)
        made = replace(made, contenders=_at(contenders, commits) if commits else contenders, overrides=whole.overrides,
                       swept=whole.swept)  # fmt: skip
        check(made, whole.where)
        return made


def _found(config: C, where: Where) -> C:
    """Files that a config names lie where the file that names them says: beside it."""
    kind = config.scenario.get("kind")
    if isinstance(kind, str) and ".py:" in kind:
        config = replace(config, scenario={**config.scenario, "kind": _beside(kind, where("scenario.kind"))})
    contenders = tuple(
        replace(one, model=_made_beside(one.model, where(f"contenders[{place}]")))
        for place, one in enumerate(config.contenders)
    )
    backend = replace(config.backend, model=_made_beside(config.backend.model, where("backend.model")))
    return replace(config, model=_made_beside(config.model, where("model")), backend=backend, contenders=contenders)


def _made_beside(model: str, origin: str) -> str:
    own = model.removeprefix(PREFIX)
    return PREFIX + _beside(own, origin) if model.startswith(PREFIX) and is_file(own) else model


def _beside(name: str, origin: str) -> str:
    """A file's name as it is from this folder; as it was where it does not lie beside the file that names it."""
    path = Path(origin).parent / name.partition(".py:")[0]
    there = path.with_name(path.name + ".py") if ".py:" in name else path
    if not Path(origin).is_file() or not there.exists():
        return name
    return os.path.relpath(Path(origin).parent / name)


def _at(contenders: Sequence[BackendConfig], commits: Sequence[str]) -> tuple[BackendConfig, ...]:
    """Contenders at each of some commits; what is of another library stays as it is.

    Raises:
        ConfigError: none of several is of the repository.
    """
    own = [one for one in contenders if one.kind in ("omniform", "none") and one.commit is None and one.python is None]
    own = list(contenders) if len(contenders) == 1 else own
    if not own:
        raise ConfigError("none of the contenders is of the repository", where="--commit",
                          found=", ".join(one.kind for one in contenders),
                          remedy="Name the commit of each: contenders=[{kind: ..., commit: ...}].")  # fmt: skip
    found: list[BackendConfig] = []
    titles: dict[str, int] = {}
    for one in contenders:
        for commit in commits if one in own else (one.commit,):
            name = f"{one.name} {called(commit)}" if one.name and commit and one in own else one.name
            made = replace(one, commit=commit, name=name)
            titles[made.title()] = times = titles.get(made.title(), 0) + 1
            # The same commit twice tells what the machine alone makes of a difference.
            found.append(made if times == 1 else replace(made, name=f"{made.title()} ({times})"))
    return tuple(found)


def _over(common: Mapping[str, Any], own: object) -> object:
    if isinstance(own, str):
        return {**common, "kind": own}
    if not isinstance(own, Mapping):
        return own
    return {**{key: value for key, value in common.items() if key != "name"}, **own}


def scenario_of(config: BenchmarkConfig, where: Where) -> Scenario:
    """The scenario's typed parameters.

    Raises:
        ConfigError: there is no such kind, or its parameters cannot be.
    """
    given = dict(config.scenario)
    kind = given.pop("kind", None)
    if not isinstance(kind, str):
        raise ConfigError("'scenario.kind' is missing", where=where("scenario"),
                          expected=", ".join(scenarios.MODULES))  # fmt: skip
    try:
        made = typed(scenarios.scenario_class(kind), cast("Mapping[str, object]", given), where, "scenario")
        made.check()
    except KeyError:
        raise ConfigError(f"there is no scenario {kind!r}", where=where("scenario.kind"),
                          remedy=nearest(kind, scenarios.MODULES)) from None  # fmt: skip
    except RefusedError as error:
        raise ConfigError(str(error), where=where("scenario.kind")) from None
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"the scenario contradicts itself: {error}", where=where("scenario")) from None
    return made


SHARES: Final = ("flop", "bytes", "roofline")
"""Measures that are told of what others come to."""

ABLE: Final[Mapping[str, str]] = {
    "write": "write text", "forward": "compute a forward", "engine": "answer requests as they arrive",
    "serve": "serve over HTTP", "pipeline": "run pipelines", "train": "train", "preprocess": "prepare inputs",
    "export": "export", "quantize": "quantize", "prepare": "be imported", "load": "load a model",
    "beams": "search with beams", "continuous": "batch continuously", "settings": "take keywords of generate",
}  # fmt: skip
"""What a backend can or cannot do, in words."""


def check(config: BenchmarkConfig, where: Where) -> None:
    """Refuse a config before anything runs.

    Raises:
        ConfigError: its values contradict one another, or a contender cannot do what is to be done.
    """
    for name, least in (("threads", 0), ("rounds", 1), ("least", 1), ("most", 1)):
        if getattr(config, name) < least:
            raise ConfigError(f"{name!r} cannot be this", where=where(name), expected=f"{least} or more",
                              found=str(getattr(config, name)))  # fmt: skip
    if config.most < config.least:
        raise ConfigError("'most' is less than 'least'", where=where("most"), found=f"{config.most} < {config.least}")
    if config.clock == "cpu" and config.threads != 1:
        raise ConfigError("clock 'cpu' adds up the time of threads, which is no measure of speed",
                          where=where("clock"), remedy="Set threads=1.")  # fmt: skip
    if config.warmup.window < 2:
        raise ConfigError("'warmup.window' cannot be this", where=where("warmup.window"), expected="2 or more",
                          found=str(config.warmup.window))  # fmt: skip
    if config.agree < 0:
        raise ConfigError("'agree' cannot be this", where=where("agree"), expected="0 or more", found=str(config.agree))
    for name in ("seconds", "timeout"):
        if getattr(config, name) <= 0:
            raise ConfigError(f"{name!r} cannot be this", where=where(name), expected="more than 0",
                              found=str(getattr(config, name)))  # fmt: skip
    scenario = scenario_of(config, where)
    _check_shown(config, scenario, where)
    titles: dict[str, int] = {}
    for place, one in enumerate(config.contenders):
        path = f"contenders[{place}]"
        if one.kind not in MODULES:
            raise ConfigError(f"there is no backend {one.kind!r}", where=where(path), remedy=nearest(one.kind, MODULES))
        title = one.title()
        if title in titles:
            raise ConfigError(f"two contenders are called {title!r}", where=where(path),
                              remedy="Give each a name of its own.")  # fmt: skip
        titles[title] = place
        able = backend_class(one.kind).CAN
        needs = (*scenario.NEEDS, *(("beams",) if getattr(scenario, "beams", 1) > 1 else ()),
                 *(("quantize",) if one.quantize else ()), *(("continuous",) if one.continuous else ()),
                 *(("settings",) if one.generate else ()))  # fmt: skip
        for need in needs:
            if need not in able:
                raise ConfigError(f"{one.kind} does not {ABLE.get(need, need)}, which scenario "
                                  f"{config.scenario['kind']!r} asks for", where=where(path))  # fmt: skip
        if config.clock == "cpu" and one.device != "cpu":
            raise ConfigError("clock 'cpu' tells nothing of another device", where=where("clock"), found=one.device)


def _check_shown(config: BenchmarkConfig, scenario: Scenario, where: Where) -> None:
    """Goals are of contenders that there are, and metrics of measures that somebody takes."""
    from omniform.bench.recorder import UNITS

    known = {*scenario.GIVES, *UNITS, *SHARES}
    asked = [("metrics", metric) for metric in config.metrics]
    titles = [one.title() for one in config.contenders]
    for name, goal in config.goals.items():
        if name not in titles[1:]:
            raise ConfigError(
                f"a goal is of {name!r}, who is none of those that the first contender is compared with",
                where=where("goals"),
                remedy=f"{nearest(name, titles[1:])} goals=null leaves them out.",
            )
        asked += [("goals", metric) for metric in goal] if isinstance(goal, Mapping) else []
    for key, metric in asked:
        if split_metric(metric)[0] not in known:
            raise ConfigError(f"nobody measures {metric!r}", where=where(key), remedy=nearest(metric, known))
