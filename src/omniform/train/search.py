"""Searching settings of a training: many short runs, whose objective a search backend makes small or large."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, cast

from omniform.core.errors import DependencyError, InputError, UnknownArgumentError, brief, nearest
from omniform.core.logs import get_logger

if TYPE_CHECKING:
    from omniform.train.metrics import Metrics
    from omniform.train.trainer import Trainer

logger = get_logger(__name__)

Direction = str | list[str]
Objective = Callable[["Metrics"], float | list[float]]
Trial = object
"""A backend's own: an ``optuna.Trial``, or with Ray the mapping of settings itself."""


class HPSearchBackend(StrEnum):
    """Names of backends."""

    OPTUNA = "optuna"
    RAY = "ray"
    WANDB = "wandb"


class BestRun(NamedTuple):
    """The best run of a search.

    Attributes:
        run_id: its number; checkpoints are in ``run-{run_id}``.
        objective: what it reached; several numbers where there are several objectives.
        hyperparameters: its settings.
        run_summary: what the backend has to say of all runs.
    """

    run_id: str
    objective: float | list[float]
    hyperparameters: dict[str, object]
    run_summary: object = None


def default_compute_objective(metrics: Mapping[str, float]) -> float:
    """The evaluation's loss or, where there are other metrics, their sum; speeds and the epoch do not count."""
    told = {k: v for k, v in metrics.items() if k not in ("eval_loss", "epoch")}
    told = {k: v for k, v in told.items() if not k.endswith(("_runtime", "_per_second", "_model_preparation_time"))}
    return sum(told.values()) if told else metrics["eval_loss"]


class _Suggesting(Protocol):
    """What an ``optuna.Trial`` is asked."""

    number: int
    params: dict[str, object]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...
    def suggest_categorical(self, name: str, choices: list[int]) -> int: ...


def default_hp_space_optuna(trial: _Suggesting) -> dict[str, object]:
    """The space that is searched with optuna where nobody gives one."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5),
        "seed": trial.suggest_int("seed", 1, 40),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
    }


def default_hp_space_ray(trial: Trial) -> dict[str, object]:
    """The same space as Ray Tune writes it."""
    from ray import tune

    return {
        "learning_rate": tune.loguniform(1e-6, 1e-4),
        "num_train_epochs": tune.choice(list(range(1, 6))),
        "seed": tune.randint(1, 41),
        "per_device_train_batch_size": tune.choice([4, 8, 16, 32, 64]),
    }


def default_hp_space_wandb(trial: Trial) -> dict[str, object]:
    """The same space as a sweep of Weights & Biases writes it, for ``wandb.sweep``."""
    return {
        "method": "random",
        "metric": {"name": "objective", "goal": "minimize"},
        "parameters": {
            "learning_rate": {"distribution": "uniform", "min": 1e-6, "max": 1e-4},
            "num_train_epochs": {"distribution": "int_uniform", "min": 1, "max": 6},
            "seed": {"distribution": "int_uniform", "min": 1, "max": 40},
            "per_device_train_batch_size": {"values": [4, 8, 16, 32, 64]},
        },
    }


class Backend(Protocol):
    """One way to search."""

    package: str

    def space(self) -> Callable[..., dict[str, object]]:
        """The space that is searched where nobody gives one."""

    def run(self, trainer: Trainer, n_trials: int, direction: Direction, options: dict[str, object]) -> object:
        """All runs; the best, or the best ones where there are several objectives."""

    def settings(self, search: Search, trial: Trial) -> dict[str, object]:
        """The settings of one run."""

    def run_id(self, trial: Trial) -> str:
        """What a run is called."""

    def report(self, trainer: Trainer, trial: Trial, step: int, objective: float | list[float]) -> None:
        """Tell of an evaluation; may end the run."""


@dataclass(slots=True)
class Search:
    """A search under way, as the Trainer holds it.

    Attributes:
        objective: of the run's last evaluation; None before it.
    """

    name: HPSearchBackend
    backend: Backend
    hp_space: Callable[..., dict[str, object]]
    hp_name: Callable[..., str] | None
    compute_objective: Objective
    objective: float | list[float] | None = None


def backend_of(trainer: Trainer) -> HPSearchBackend | None:
    """``Trainer.hp_search_backend``: what the search under way is led by; None where there is none."""
    return None if trainer.search is None else trainer.search.name


def namer_of(trainer: Trainer) -> Callable[..., str] | None:
    """``Trainer.hp_name``: what names the folders of the search under way."""
    return None if trainer.search is None else trainer.search.hp_name


def hyperparameter_search(
    trainer: Trainer,
    hp_space: Callable[..., dict[str, object]] | None,
    compute_objective: Objective | None,
    n_trials: int,
    direction: Direction,
    backend: str | HPSearchBackend | None,
    hp_name: Callable[..., str] | None,
    options: dict[str, object],
) -> BestRun | list[BestRun]:
    """``Trainer.hyperparameter_search``: see there."""
    if trainer.model_init is None:
        raise InputError(
            "every run begins with a model of its own",
            where="model_init",
            expected="a function that makes the model",
            remedy="Trainer(model_init=lambda: AutoModel...from_pretrained(...)) instead of Trainer(model=...).",
        )
    name, chosen = _backend(backend)
    space = chosen.space() if hp_space is None else hp_space
    trainer.search = Search(name, chosen, space, hp_name, compute_objective or default_compute_objective)
    try:
        return cast("BestRun | list[BestRun]", chosen.run(trainer, n_trials, direction, options))
    finally:
        trainer.search = None


def begin(trainer: Trainer, trial: Trial | None) -> None:
    """Put a run's settings into the Trainer's arguments, of their fields' kinds."""
    trainer._trial = trial
    search = trainer.search
    if search is None or trial is None:
        return
    args = trainer.args
    found = search.backend.settings(search, trial)
    for key, value in found.items():
        if not hasattr(args, key):
            raise UnknownArgumentError(
                "the search names a setting that training does not have",
                where="hp_space",
                found=key,
                remedy=nearest(key, vars(args)),
            )
        before = getattr(args, key)
        setattr(args, key, value if before is None else type(before)(value))
    logger.info("trial: %s", found)
    trainer._train_batch_size = args.train_batch_size
    trainer.create_accelerator_and_postprocess()


def folder_of(trainer: Trainer, trial: Trial | None) -> str:
    """Where a run keeps its checkpoints: in a folder of its own while a search is under way."""
    root = str(trainer.args.output_dir)
    if trainer.search is None or trial is None:
        return root
    search = trainer.search
    name = f"run-{search.backend.run_id(trial)}" if search.hp_name is None else search.hp_name(trial)
    return str(Path(root) / name)


def report(trainer: Trainer, trial: Trial | None, step: int, metrics: Metrics) -> None:
    """Tell a search of an evaluation within a run."""
    search = trainer.search
    if search is None or trial is None:
        return
    search.objective = search.compute_objective(dict(metrics))
    search.backend.report(trainer, trial, step, search.objective)


def _outcome(trainer: Trainer, trial: Trial, **training: object) -> float | list[float]:
    """Train once; the objective of the last evaluation, or of one now."""
    search = trainer.search
    assert search is not None
    search.objective = None
    trainer.train(trial=trial, **training)  # type: ignore[arg-type]
    if search.objective is None:
        search.objective = search.compute_objective(trainer.evaluate())
    return search.objective


class Optuna:
    """Runs one after another, proposed and pruned by optuna."""

    package: str = "optuna"

    def space(self) -> Callable[..., dict[str, object]]:
        return default_hp_space_optuna

    def settings(self, search: Search, trial: Trial) -> dict[str, object]:
        known = cast(_Suggesting, trial).params
        return search.hp_space(trial) if not known else dict(known) | search.hp_space(trial)

    def run_id(self, trial: Trial) -> str:
        return str(cast(_Suggesting, trial).number)

    def run(
        self, trainer: Trainer, n_trials: int, direction: Direction, options: dict[str, object]
    ) -> BestRun | list[BestRun] | None:
        import optuna

        if trainer.args.world_size > 1:
            return self._over_processes(trainer, n_trials, direction, options)
        return self._study(trainer, n_trials, direction, options, optuna, lambda trial: _outcome(trainer, trial))

    def _over_processes(
        self, trainer: Trainer, n_trials: int, direction: Direction, options: dict[str, object]
    ) -> BestRun | list[BestRun] | None:
        """The first process asks optuna and tells the others what it said."""
        import optuna
        import torch.distributed as dist

        def told(trial: object) -> object:
            box = [trial]
            dist.broadcast_object_list(box, src=0)
            return box[0]

        def objective(trial: object) -> float | list[float]:
            assert trainer.search is not None
            trainer.search.hp_space(trial)  # draws what the others are told
            asked = cast(_Suggesting, trial)
            told(optuna.trial.FixedTrial(asked.params, asked.number))
            return _outcome(trainer, trial)

        if trainer.args.process_index == 0:
            return self._study(trainer, n_trials, direction, options, optuna, objective)
        for _ in range(n_trials):
            _outcome(trainer, told(None))
        return None

    def _study(
        self,
        trainer: Trainer,
        n_trials: int,
        direction: Direction,
        options: dict[str, object],
        optuna: object,
        objective: Callable[[object], float | list[float]],
    ) -> BestRun | list[BestRun]:
        several = isinstance(direction, list)
        running = {
            name: options.pop(name) for name in ("timeout", "n_jobs", "gc_after_trial", "catch") if name in options
        }
        if running.get("n_jobs", 1) != 1:
            raise InputError("runs share one Trainer", where="n_jobs", expected="1", found=running["n_jobs"])
        goals = {"directions": direction} if several else {"direction": direction}
        study = optuna.create_study(**goals, **options)  # type: ignore[attr-defined]
        study.optimize(objective, n_trials=n_trials, **running)
        if several:
            return [BestRun(str(best.number), best.values, best.params) for best in study.best_trials]
        return BestRun(str(study.best_trial.number), study.best_trial.value, study.best_trial.params)

    def report(self, trainer: Trainer, trial: Trial, step: int, objective: float | list[float]) -> None:
        import optuna

        if isinstance(objective, list) or not isinstance(trial, optuna.Trial):
            return
        trial.report(objective, step)
        if trial.should_prune():
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
            raise optuna.TrialPruned()


class Ray:
    """Runs side by side on a Ray cluster, each in a process that gets a copy of the Trainer."""

    package: str = "ray"

    def space(self) -> Callable[..., dict[str, object]]:
        return default_hp_space_ray

    def settings(self, search: Search, trial: Trial) -> dict[str, object]:
        return dict(cast("Mapping[str, object]", trial))

    def run_id(self, trial: Trial) -> str:
        from ray import tune

        return str(tune.get_context().get_trial_id())

    def run(self, trainer: Trainer, n_trials: int, direction: Direction, options: dict[str, object]) -> BestRun:
        from ray import tune

        if isinstance(direction, list):
            raise InputError("Ray makes one objective small or large", where="direction", found=brief(direction))
        space = trainer.search.hp_space(None) if trainer.search is not None else {}
        options.setdefault("resources_per_trial", {"cpu": 1, **({"gpu": 1} if trainer.args.n_gpu > 0 else {})})
        trainer.model = None  # type: ignore[assignment] # each run makes its own, and what is sent stays small
        mode = direction[:3]
        runs = tune.run(tune.with_parameters(_ray_run, trainer=trainer), config=space, num_samples=n_trials, **options)
        best = runs.get_best_trial(metric="objective", mode=mode)
        return BestRun(best.trial_id, best.last_result["objective"], best.config, runs)

    def report(self, trainer: Trainer, trial: Trial, step: int, objective: float | list[float]) -> None:
        from ray import tune

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if trainer.control.should_save:
                trainer.save_model(str(Path(folder) / f"checkpoint-{trainer.state.global_step}"), _internal_call=True)
                checkpoint = tune.Checkpoint.from_directory(folder)
            tune.report({"objective": objective, "step": step}, checkpoint=checkpoint)


def _ray_run(config: dict[str, object], trainer: Trainer) -> None:
    from ray import tune

    own = copy.copy(trainer)
    tune.report({"objective": _outcome(own, config)})


BACKENDS: Final[Mapping[HPSearchBackend, Backend]] = {HPSearchBackend.OPTUNA: Optuna(), HPSearchBackend.RAY: Ray()}
_REFUSED: Final = "Sweeps of Weights & Biases are led by its servers: call trainer.train() from wandb.agent."


def _backend(asked: str | HPSearchBackend | None) -> tuple[HPSearchBackend, Backend]:
    """The backend of a name; the first that is installed where none is named."""
    if asked is None:
        for name, backend in BACKENDS.items():
            if importlib.util.find_spec(backend.package) is not None:
                return name, backend
        raise DependencyError(
            "no search backend is installed", where="backend", expected="optuna or ray", remedy="pip install optuna"
        )
    if asked not in list(HPSearchBackend):
        raise InputError("no such backend", where="backend", expected="optuna or ray", found=brief(asked))
    name = HPSearchBackend(asked)
    if name not in BACKENDS:
        raise InputError("it is not searched with this", where="backend", found=name.value, remedy=_REFUSED)
    backend = BACKENDS[name]
    if importlib.util.find_spec(backend.package) is None:
        raise DependencyError(
            f"{backend.package} is not installed", where="backend", remedy=f"pip install {backend.package}"
        )
    return name, backend


__all__ = [
    "BestRun",
    "HPSearchBackend",
    "default_compute_objective",
    "default_hp_space_optuna",
    "default_hp_space_ray",
    "default_hp_space_wandb",
]
