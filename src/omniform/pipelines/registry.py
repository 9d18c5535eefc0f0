"""Which tasks there are. A task is one file: it ends with ``TASKS``, and whatever stands there is found here."""

from __future__ import annotations

import logging
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Literal, TypedDict, cast, get_args

from omniform.core.errors import InputError, UnknownNameError, brief, listed, nearest
from omniform.hub.auto import AutoModel
from omniform.pipelines.base import Pipeline

log = logging.getLogger("omniform")

Kind = Literal["text", "image", "audio", "video", "multimodal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a task's file tells.

    Attributes:
        name: ``"text-classification"``.
        pipeline: what does it.
        models: the Auto classes that load its models, tried in this order.
        kind: what it reads.
        aliases: other names of it.
        inferred: what a model does (:data:`omniform.architectures.family.Task`) whose pipeline this is where nobody
            names a task; ``"base of pixel_values"`` where only those are meant that read pictures.
    """

    name: str
    pipeline: type[Pipeline]
    models: tuple[type[AutoModel], ...]
    kind: Kind = "text"
    aliases: tuple[str, ...] = ()
    inferred: tuple[str, ...] = ()


class TaskInfo(TypedDict, total=False):
    """A registered task, as the ecosystem lays it out."""

    impl: type[Pipeline]
    pt: tuple[type, ...]
    default: Mapping[str, object]
    type: str


class PipelineRegistry:
    """The tasks that ``pipeline`` knows: omniform's own and the user's."""

    def __init__(self) -> None:
        self._tasks: dict[str, TaskInfo] | None = None
        self._aliases: dict[str, str] = {}
        self._inferred: dict[str, str] = {}

    @property
    def supported_tasks(self) -> dict[str, TaskInfo]:
        """All tasks by name; the files of tasks are read when this is first asked for."""
        if self._tasks is None:
            self._tasks = {}
            for task in own_tasks():
                self._tasks[task.name] = {"impl": task.pipeline, "pt": task.models, "type": task.kind}
                self._aliases.update(dict.fromkeys(task.aliases, task.name))
                self._inferred.update(dict.fromkeys(task.inferred, task.name))
        return self._tasks

    @property
    def task_aliases(self) -> dict[str, str]:
        """Other names of tasks."""
        return self._aliases if self.supported_tasks else {}

    @property
    def inferred(self) -> dict[str, str]:
        """Which task is taken for what a model does, where nobody names one."""
        return self._inferred if self.supported_tasks else {}

    def get_supported_tasks(self) -> list[str]:
        """The names of all tasks, aliases included."""
        return sorted([*self.supported_tasks, *self.task_aliases])

    def check_task(self, task: str) -> tuple[str, TaskInfo, tuple[str, str] | None]:
        """A task's own name, what is registered for it, and the languages that its name holds.

        Args:
            task: a name, an alias, or ``translation_xx_to_yy``.

        Raises:
            UnknownNameError: there is no such task.
        """
        name = self.task_aliases.get(task, task) if isinstance(task, str) else str(task)
        if name in self.supported_tasks:
            return name, self.supported_tasks[name], None
        languages = languages_in(name)
        if languages is not None and "translation" in self.supported_tasks:
            return "translation", self.supported_tasks["translation"], languages
        if name.startswith("translation_"):
            raise UnknownNameError("no task's name", where="task", expected="translation_xx_to_yy", found=repr(task))
        raise UnknownNameError(
            "there is no such task",
            where="task",
            found=f"{task!r:.100}",
            remedy=nearest(name, self.get_supported_tasks()),
        )

    def register_pipeline(
        self,
        task: str,
        pipeline_class: type[Pipeline],
        pt_model: type | tuple[type, ...] | None = None,
        default: Mapping[str, object] | None = None,
        type: str | None = None,
    ) -> None:
        """Add a task of the user's own, or put another pipeline in a task's place.

        Args:
            task: its name.
            pipeline_class: what does it.
            pt_model: the class, or classes, that load its models; what a checkpoint was saved as by default.
            default: the model of ``pipeline(task)``, ``{"pt": (name, revision)}``.
            type: what it reads: ``"text"``, ``"image"``, ``"audio"``, ``"video"``, ``"multimodal"``.

        Raises:
            InputError: this is no pipeline, or a class that loads no models.
        """
        _check(task, pipeline_class, pt_model, type)
        if task in self.supported_tasks or task in self.task_aliases:
            log.warning("%s is already registered. Overwriting pipeline for task %s...", task, task)
        models = pt_model if isinstance(pt_model, tuple) else () if pt_model is None else (pt_model,)
        info: TaskInfo = {"impl": pipeline_class, "pt": models}
        if default is not None:
            info["default"] = default if "model" in default else {"model": default}
        if type is not None:
            info["type"] = type
        self.supported_tasks[task] = info
        self._aliases.pop(task, None)
        pipeline_class._registered_impl = {task: info}

    def to_dict(self) -> dict[str, TaskInfo]:
        """All tasks by name."""
        return self.supported_tasks


def _check(task: object, kind: object, models: object, reads: object) -> None:
    """Refuse what cannot be registered."""
    where = f"register_pipeline({task!r:.60})"
    if not isinstance(task, str) or not task:
        raise InputError("no task's name", where="register_pipeline", expected="a text", found=brief(task))
    if not (isinstance(kind, type) and issubclass(kind, Pipeline)):
        raise InputError("this is no pipeline", where=where, expected="a subclass of Pipeline", found=brief(kind))
    for one in models if isinstance(models, tuple) else () if models is None else (models,):
        if not isinstance(one, type) or not any("from_pretrained" in vars(base) for base in one.__mro__):
            expected = "an Auto class or a class of models"
            raise InputError("this loads no models", where=f"{where}: pt_model", expected=expected, found=brief(one))
    if reads is not None and reads not in get_args(Kind):
        raise InputError("no such kind of input", where=f"{where}: type", expected=listed(get_args(Kind)), found=reads)


PIPELINE_REGISTRY: Final = PipelineRegistry()


def languages_in(task: str) -> tuple[str, str] | None:
    """The languages of ``translation_xx_to_yy``; None for a name of another form."""
    words = task.removeprefix("translation_").split("_to_") if task.startswith("translation_") else []
    return (words[0], words[1]) if len(words) == 2 and all(words) else None


def own_tasks() -> list[Task]:
    """The tasks of all files of this package."""
    return [task for file in task_files() for task in cast("tuple[Task, ...]", file.get("TASKS", ()))]


def task_files() -> list[dict[str, object]]:
    """The names in each file of this package."""
    package = import_module("omniform.pipelines")
    return [vars(import_module(f"{package.__name__}.{found.name}")) for found in pkgutil.iter_modules(package.__path__)]
