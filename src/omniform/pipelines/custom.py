"""``custom_pipelines``: pipelines that a checkpoint brings, whose code runs if the user trusts it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from omniform.architectures.family import Task
from omniform.core.config import ModelConfig
from omniform.core.errors import CodeError, InputError, listed
from omniform.hub import auto
from omniform.hub.checkpoint import Name
from omniform.hub.code.doors import input_of, model_of
from omniform.hub.code.mode import mode_of, untrusted
from omniform.hub.code.named import in_sandbox, loaded
from omniform.hub.code.promises import home_of
from omniform.hub.code.reference import Reference
from omniform.hub.files import Source, locate, read_json
from omniform.models import registry
from omniform.pipelines.base import Pipeline
from omniform.pipelines.registry import PIPELINE_REGISTRY, TaskInfo


@dataclass(frozen=True, slots=True)
class Brought:
    """A pipeline that a checkpoint brings.

    Attributes:
        task: its name.
        kind: its class.
        info: what is known of it, as of a registered task.
        source: the checkpoint.
    """

    task: str
    kind: type
    info: TaskInfo
    source: Source

    @property
    def is_foreign(self) -> bool:
        """Whether it is written for transformers."""
        return home_of(self.kind) == "transformers"


def brought(name: Name, task: str | None, where: Mapping[str, object], trust: object) -> Brought | None:
    """The pipeline that a checkpoint brings for a task; None where it brings none, or is not trusted and not needed.

    Args:
        task: the task; the only one that the checkpoint brings a pipeline for, by default.
        where: where to look.
        trust: what the user says: ``trust_remote_code``.

    Raises:
        InputError: the checkpoint brings several, and none is named.
        TrustError: the task is known to the checkpoint only, and the user does not trust it.
        CodeError, DependencyError, RepoError: its code cannot be used.
    """
    mode = mode_of(trust)
    source = locate(name, **where)  # type: ignore[arg-type]
    path = source.find("config.json")
    tasks = None if path is None else read_json(path).get("custom_pipelines")
    if not isinstance(tasks, Mapping) or not tasks:
        return None
    if task is None:
        known = [str(one) for one in tasks if one in PIPELINE_REGISTRY.supported_tasks]
        if mode == "never" and len(known) == 1:  # the user has a class of that name
            return None
        if len(tasks) > 1:
            raise InputError(
                "the checkpoint brings several pipelines", where="task", expected=f"one of {listed(tasks)}"
            )
        task = str(next(iter(tasks)))
    if task not in tasks:
        return None
    if mode == "never":
        if task in PIPELINE_REGISTRY.get_supported_tasks():
            return None
        raise untrusted(
            source.name, f"the pipeline for {task!r} is code that the checkpoint brings", "custom_pipelines"
        )
    return _load(task, tasks[task], source, mode == "sandbox")


def brought_tasks(config: object) -> tuple[Task, ...]:
    """What a model does whose class the checkpoint brings, told from the Auto classes that it is named for."""
    raw = config.raw if isinstance(config, ModelConfig) else vars(config)
    names, kind = raw.get("auto_map"), raw.get("model_type")
    if not isinstance(names, Mapping) or (isinstance(kind, str) and registry.is_known(kind)):
        return ()
    kinds = [vars(auto).get(str(name)) for name in names]
    found = [one.tasks for one in kinds if isinstance(one, type) and issubclass(one, auto.AutoModel)]
    return tuple(task for tasks in found for task in tasks if task != "base")


def _load(task: str, raw: object, source: Source, in_child: bool) -> Brought:
    where = f"{source.name}: custom_pipelines[{task!r}]"
    info = raw if isinstance(raw, Mapping) else {}
    asked = Reference.parse(info.get("impl"), where)
    if in_child:
        in_sandbox(asked, source)
    kind = loaded(asked, source)
    theirs = isinstance(kind, type) and home_of(kind) == "transformers" and _is_theirs(kind)
    if not isinstance(kind, type) or not (issubclass(kind, Pipeline) or theirs):
        raise CodeError("this is no pipeline", where=f"{where} = {asked}", expected="a subclass of Pipeline")
    names = info.get("pt") or ()
    names = [names] if isinstance(names, str) else list(names) if isinstance(names, (list, tuple)) else [names]
    models = tuple(vars(auto).get(str(name)) for name in names)
    if not theirs and not all(isinstance(one, type) and issubclass(one, auto.AutoModel) for one in models):
        raise CodeError("no such Auto class", where=where, found=listed(names))
    made: TaskInfo = {"impl": cast("type[Pipeline]", kind), "pt": cast("tuple[type, ...]", models)}
    if isinstance(info.get("type"), str):
        made["type"] = str(info["type"])
    if issubclass(kind, Pipeline):
        kind._registered_impl = {task: made}  # so that it is saved with its code
    return Brought(task, kind, made, source)


def _is_theirs(kind: type) -> bool:
    return any(base.__name__ == "Pipeline" and base.__module__.startswith("transformers.") for base in kind.__mro__)


def foreign_pipeline(found: Brought, name: Name, where: Mapping[str, object], given: Mapping[str, object]) -> object:
    """A pipeline that is written for transformers, made by transformers, from the same commit.

    Args:
        given: keywords of ``pipeline``; what the checkpoint brings for them is loaded first.
    """
    trusted = {**where, "trust_remote_code": True}
    made = dict(given)
    models = [str(one) for one in _names(found)]
    if made.get("model") is None:
        model = next((one for one in (model_of(kind, name, trusted) for kind in models) if one is not None), None)
        made["model"] = os.fspath(name) if model is None else model
    if made.get("tokenizer") is None:
        made["tokenizer"] = input_of("AutoTokenizer", name, trusted) or (
            None if isinstance(made["model"], str) else os.fspath(name)
        )
    places = {**found.source.places(), "revision": found.source.commit or found.source.revision}
    usual = {key: value for key, value in places.items() if key in ("revision", "token") and value is not None}
    library = sys.modules["transformers"]  # it is there: the class inherits from it
    door = cast("Callable[..., object]", library.__getattr__("pipeline"))
    model = made["model"]
    if not isinstance(model, str):  # of a model itself it does not look at what its config says of pipelines
        made["config"] = vars(model).get("config")
    chosen = {key: value for key, value in made.items() if value is not None}
    return door(task=found.task, pipeline_class=found.kind, **usual, **chosen)


def their_pipeline(
    task: str, model: object, name: Name, where: Mapping[str, object], given: Mapping[str, object]
) -> object:
    """A usual pipeline of transformers for a model of its that the checkpoint brings, which ours cannot call.

    Args:
        where: where to look, and ``trust_remote_code``.
        given: keywords of ``pipeline``.
    """
    made = {key: value for key, value in given.items() if value is not None}
    made.setdefault("tokenizer", input_of("AutoTokenizer", name, where) or os.fspath(name))
    library = sys.modules["transformers"]  # it is there: the class inherits from it
    return cast("Callable[..., object]", library.__getattr__("pipeline"))(task=task, model=model, **made)


def _names(found: Brought) -> list[object]:
    path = found.source.need("config.json")
    info = cast("dict[str, dict[str, object]]", read_json(path)["custom_pipelines"])[found.task]
    names = info.get("pt") or []
    return [names] if isinstance(names, str) else list(cast("list[object]", names))
