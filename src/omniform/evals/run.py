"""Evaluating a model on tasks of lm-eval: those that the package carries, of a folder, or our own small ones."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from omniform.core.errors import DependencyError, InputError, OmniformError, RepoError
from omniform.evals.lm import OmniformLM

Results = dict[str, dict[str, dict[str, object]]]
"""What lm-eval found: under ``results``, and ``groups``, values by task and by metric, as ``acc,none``."""


class Task(Protocol):
    """A task of lm-eval."""

    def get_config(self, key: str) -> object:
        """A setting."""

    def set_config(self, key: str, value: object) -> None:
        """Change a setting."""

    def set_fewshot_seed(self, seed: int) -> None:
        """Of the choice of questions that stand before others."""


Loaded = dict[str, dict[str, Task]]
"""``tasks`` and ``groups`` by name, and ``group_map``: which are in which."""

OWN: Final = Path(__file__).parent / "tasks"
"""Small tasks that need no network: ``omniform_choices``, ``omniform_sums``, ``omniform_sentences``."""

SEED: Final = 1234
"""Of the choice of questions that stand before others: lm-eval's."""

LARGE: Final = 1e6
"""From here on values are shown with an exponent: untrained models have perplexities of thirty digits."""

RESAMPLINGS: Final = 1000
"""How often results are drawn anew to tell how sure they are, where no formula does."""


def evaluate(
    lm: OmniformLM,
    tasks: Sequence[str],
    *,
    limit: float | None = None,
    num_fewshot: int | None = None,
    tasks_dir: str | os.PathLike[str] | None = None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    log_samples: bool = False,
    metadata: Mapping[str, object] | None = None,
) -> Results:
    """Evaluate a model.

    Args:
        lm: the model.
        tasks: names of tasks, groups or tags.
        limit: so many questions of each task; below 1, such a part of them.
        num_fewshot: how many questions with their answers stand before each; as the task says by default.
        tasks_dir: a folder of lm-eval's YAML files; data that they name without a leading slash lie in that folder. A
            file may name functions in Python files beside it, which run.
        apply_chat_template: questions are put as a conversation.
        system_instruction: stands at its beginning.
        log_samples: keep every question and answer.
        metadata: what tasks are told that make up their questions, as RULER's ``max_seq_lengths`` and ``pretrained``.

    Returns:
        lm-eval's results: ``results`` by task and metric, and with which settings they were found.

    Raises:
        InputError: no such task, or a setting that cannot be used.
        RepoError: a task's data is not here and cannot be fetched.
    """
    if limit is not None and limit <= 0:
        raise InputError("this value cannot be", where="limit", expected="a number > 0", found=limit)
    if num_fewshot is not None and num_fewshot < 0:
        raise InputError("this value cannot be", where="num_fewshot", expected="an integer >= 0", found=num_fewshot)
    found = load_tasks(tasks, tasks_dir, metadata)
    for task in found["tasks"].values():
        if num_fewshot is not None and task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    random.seed(0)  # as lm-eval has them: tasks draw from these
    np.random.seed(SEED)
    with _quiet():
        results = evaluator.evaluate(
            lm=lm,
            task_dict=found,
            limit=int(limit) if limit is not None and limit >= 1 else limit,
            bootstrap_iters=RESAMPLINGS,
            apply_chat_template=apply_chat_template,
            fewshot_as_multiturn=apply_chat_template,
            system_instruction=system_instruction,
            log_samples=log_samples,
            verbosity=None,
        )
    return cast(Results, dict(results))


def load_tasks(
    names: Sequence[str],
    tasks_dir: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, object] | None = None,
) -> Loaded:
    """The tasks of these names with their data, and the groups that they are in, as lm-eval holds them.

    Raises:
        InputError: there is none of a name, or it is not described as lm-eval can read it.
        RepoError: its data is not here and cannot be fetched.
        DependencyError: it needs a package that is not here.
    """
    if not names:
        raise InputError("there is nothing to evaluate on", where="tasks", expected="names of tasks")
    folders = [OWN]
    if tasks_dir is not None:
        folders.append(Path(tasks_dir).expanduser().resolve())
        if not folders[-1].is_dir():
            raise RepoError("no such folder", where=str(tasks_dir), expected="a folder of task files")
    told = dict(metadata or {})
    managers = [(folder, _manager(folder, told)) for folder in reversed(folders)]
    found: Loaded = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in names:
        folder, manager = next((home for home in managers if name in home[1].all_tasks), (None, None))
        if manager is None:
            manager = _carried(name, [known for _, own in managers for known in own.all_tasks], told)
        for kind, some in _loaded(name, folder, manager).items():
            found[kind] |= some
    return found


def _manager(folder: Path, metadata: dict[str, object]) -> TaskManager:
    try:
        return TaskManager(include_path=folder, include_defaults=False, metadata=metadata)
    except Exception as error:
        raise InputError(
            "the folder's task files cannot be read", where=str(folder), found=_line(error),
            remedy="Each is YAML with the keys of lm-eval's tasks.",
        ) from error  # fmt: skip


def _carried(name: str, others: Sequence[str], metadata: dict[str, object]) -> TaskManager:
    """lm-eval's own tasks, which take seconds to list."""
    manager = TaskManager(metadata=metadata)
    if name in manager.all_tasks:
        return manager
    close = difflib.get_close_matches(name, [*others, *manager.all_tasks], n=1)
    raise InputError(
        f"there is no task {name!r:.100}",
        where="tasks",
        remedy=f"Did you mean {close[0]!r}?" if close else f"Without a network there are {', '.join(sorted(others))}.",
    )


def _loaded(name: str, folder: Path | None, manager: TaskManager) -> Loaded:
    try:
        with _quiet(), contextlib.chdir(folder) if folder is not None else contextlib.nullcontext():
            return dict(manager.load([name]))
    except OmniformError:
        raise
    except ImportError as error:
        raise DependencyError(
            "the task needs a package that is not installed", where=name, found=_line(error)
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if not _is_missing(error):
            raise InputError(
                "the task is not described as lm-eval can read it", where=name, found=_line(error)
            ) from error
        raise _no_data(name, error) from error
    except Exception as error:
        raise _no_data(name, error) from error


def _is_missing(error: BaseException) -> bool:
    """Whether what went wrong is that data could not be found: datasets has errors of several kinds for that."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(
        kinds & {"DatasetNotFoundError", "DataFilesNotFoundError", "OfflineModeIsEnabled"}
    ) or "Couldn't find" in str(error)


def _no_data(name: str, error: BaseException) -> RepoError:
    return RepoError(
        "the task's data is not here and cannot be fetched",
        where=name,
        found=_line(error),
        remedy="Name a folder of tasks with their data (--tasks-dir), or one of omniform_choices, omniform_sums, "
        "omniform_sentences, which need no network.",
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets say only what is wrong, and start no processes beside a model's threads."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def table(results: Results) -> str:
    """Results for people: a line for each task and metric."""
    lines: list[tuple[str, ...]] = [("task", "version", "filter", "shots", "metric", "value", "stderr")]
    for name, found in {**results["results"], **results.get("groups", {})}.items():
        for key, value in sorted(found.items()):
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            error = found.get(f"{metric}_stderr,{kind}")
            shown = f"{error:.4f}" if isinstance(error, float) else ""
            version, shots = results.get("versions", {}).get(name, ""), results.get("n-shot", {}).get(name, "")
            number = f"{value:.4f}" if abs(value) < LARGE else f"{value:.4e}"
            lines.append((name, str(version), kind, str(shots), metric, number, shown))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (1, 3, 5, 6) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(results: Results) -> str:
    """Results for a file: what JSON has no form for is written as text."""
    return json.dumps(results, indent=2, ensure_ascii=False, default=str)
