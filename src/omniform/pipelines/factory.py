"""``pipeline(...)``: from a task's name, or a model, to a pipeline with all its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import nn

from omniform.architectures.model import Model
from omniform.core.config import ModelConfig
from omniform.core.errors import InputError, OmniformError, RepoError, UnknownNameError, brief, listed
from omniform.hub.auto import AutoConfig, tasks_of
from omniform.hub.auto_inputs import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from omniform.hub.auto_videos import AutoVideoProcessor
from omniform.hub.bundled import bundled_checkpoints
from omniform.hub.cached import cached_for
from omniform.hub.checkpoint import Name, load_as_saved, saved_class
from omniform.hub.code.promises import home_of
from omniform.hub.remote import together
from omniform.inputs.audio import FeatureExtractionMixin, FeatureExtractor
from omniform.inputs.images import ImageProcessingMixin, ImageProcessor
from omniform.inputs.processors import Processor
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos import BaseVideoProcessor
from omniform.models import registry
from omniform.pipelines.base import Pipeline
from omniform.pipelines.custom import brought, brought_tasks, foreign_pipeline, their_pipeline
from omniform.pipelines.registry import PIPELINE_REGISTRY, TaskInfo

_WHERE: Final = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")

AnyPart = str | os.PathLike[str] | tuple[str, Mapping[str, object]]
"""A part of a pipeline by name: a folder or a Hub id, with settings to change if there are any."""


@together()
def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    config: str | os.PathLike[str] | ModelConfig | None = None,
    tokenizer: AnyPart | Tokenizer | None = None,
    feature_extractor: AnyPart | FeatureExtractor | None = None,
    image_processor: AnyPart | ImageProcessor | None = None,
    video_processor: AnyPart | BaseVideoProcessor | None = None,
    processor: AnyPart | Processor | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: int | str | torch.device | None = None,
    device_map: str | Mapping[str, int | str] | None = None,
    dtype: str | torch.dtype | None = "auto",
    trust_remote_code: bool | None = None,
    model_kwargs: Mapping[str, object] | None = None,
    pipeline_class: type[Pipeline] | None = None,
    **kwargs: object,
) -> Pipeline:
    """Make the pipeline of a task.

    Args:
        task: what is to be done: ``"text-classification"``, ``"translation_en_to_de"``, a name that was registered;
            what the model is for, by default.
        model: a folder, a Hub id or a loaded model. Without one, the checkpoint that comes with omniform if it does
            the task; nothing is downloaded unasked.
        config: a config, or the name of one, to use instead of the checkpoint's.
        tokenizer, feature_extractor, image_processor, video_processor, processor: what reads the inputs, or its name;
            the model's own by default.
        revision: which version of the checkpoint, on the Hub.
        use_fast: accepted and changes nothing: there is one implementation.
        token: for the Hub.
        device: where to compute: an accelerator's index, a name, -1 for the CPU; by default the first accelerator if
            there is one.
        device_map: places of a model too large for one, instead of ``device``.
        dtype: what the weights are loaded in; ``"auto"``: as they were saved. ``torch_dtype`` is its older name.
        trust_remote_code: True: code that the checkpoint brings (its pipeline's, model's, tokenizer's) may run; see
            :mod:`omniform.hub.code`.
        model_kwargs: more keywords for loading the model.
        pipeline_class: a class of the user's own to make the pipeline of.
        kwargs: ``batch_size``, ``num_workers``, ``on_error``, ``progress_bar``, and the task's own parameters.

    Raises:
        InputError: neither task nor model; a model that does not do the task; no model and none at hand.
        UnknownNameError: there is no such task.
        RepoError, ConfigError, WeightsError: as for loading a model.
    """
    del use_fast
    if model is None:
        _check_alone(task, tokenizer, feature_extractor, image_processor, video_processor, processor, config)
    loading = _loading(model_kwargs, kwargs, dtype, device, device_map)
    where = _where(revision, token, kwargs, loading)
    if trust_remote_code is not None:
        where["trust_remote_code"] = trust_remote_code
    own = None
    if pipeline_class is None and isinstance(model, (str, os.PathLike)):
        places = {name: value for name, value in where.items() if name in _WHERE}
        own = brought(model, task, places, trust_remote_code)
        if own is not None and own.is_foreign:
            given = {"device": device, "device_map": device_map, "dtype": dtype, "tokenizer": tokenizer, **kwargs}
            return cast(Pipeline, foreign_pipeline(own, model, places, given))
    config = _config(config, where)
    if config is not None:
        loading["config"] = config
    if own is not None:
        task, name, info = own.task, own.task, own.info
    else:
        if task is None and model is not None:
            task = _task_of(model, config, where)
        name, info, _ = _targeted(task, pipeline_class)
    if model is None:
        model, version = _registered_default(info) or (_at_hand(name, info), None)
        if version is not None:
            where.setdefault("revision", version)
    source = None if isinstance(model, nn.Module) else model
    loaded = model if isinstance(model, nn.Module) else load_model(model, name, info, {**where, **loading})
    if source is not None and home_of(type(loaded)) == "transformers":
        given = {"device": device, "tokenizer": tokenizer, "feature_extractor": feature_extractor}
        given |= {"image_processor": image_processor, "processor": processor, **kwargs}
        return cast(Pipeline, their_pipeline(name, loaded, source, where, given))
    kind = info["impl"]
    parts = _parts(kind, source, where, (tokenizer, feature_extractor, image_processor, video_processor, processor))
    made = {part: value for part, value in parts.items() if value is not None}
    if device is not None:
        made["device"] = device
    if source is not None:
        places = {name: value for name, value in where.items() if name in _WHERE}
        made |= {name: value for name, value in kind.further_parts(source, places).items() if name not in kwargs}
    return kind(model=loaded, task=task or "", **made, **kwargs)  # type: ignore[arg-type]


def pipeline_around(task: str, model: Model, source: Name, **kwargs: object) -> Pipeline:
    """The pipeline of a task around a model that is loaded; what reads its inputs comes from the checkpoint.

    Args:
        source: where the model came from.
        kwargs: as for :func:`pipeline`.

    Raises:
        InputError: the model does not do the task.
        UnknownNameError: there is no such task.
    """
    name, info, _ = PIPELINE_REGISTRY.check_task(task)
    kinds = info.get("pt", ())
    wanted = {str(one) for kind in kinds for one in cast("Iterable[str]", vars(kind).get("tasks", ()))}
    does = tasks_of(type(model)) or model.origin.architecture.tasks
    if wanted and not wanted & {*does}:
        expected = f"a model for {' or '.join(kind.__name__ for kind in kinds)}"
        raise InputError(f"this model does not do {name}", where="task", expected=expected, found=type(model).__name__)
    kind = info["impl"]
    parts = {part: value for part, value in _parts(kind, source, {}, (None,) * 5).items() if value is not None}
    parts |= {part: value for part, value in kind.further_parts(source, {}).items() if part not in kwargs}
    return kind(model=model, task=task, **parts, **kwargs)  # type: ignore[arg-type]


def load_model(name: Name, task: str, info: TaskInfo, loading: Mapping[str, object]) -> Model:
    """Load a checkpoint as what a task needs: by the task's classes, else as it was saved.

    Raises:
        InputError: its family has no head for the task.
        RepoError, ConfigError, WeightsError: it cannot be loaded at all.
    """
    kinds = info.get("pt", ())
    for kind in kinds:
        try:
            return cast(Model, cast("Callable[..., object]", vars_of(kind, "from_pretrained"))(name, **loading))
        except UnknownNameError as error:
            refusal = error
    if not kinds:
        return load_as_saved(name, **loading)
    raise InputError(
        f"this checkpoint does not do {task}",
        where=os.fspath(name),
        expected=f"a model for {' or '.join(kind.__name__ for kind in kinds)}",
        found=str(refusal),
    ) from None


def vars_of(kind: type, method: str) -> object:
    """A method of a class that somebody registered."""
    for base in kind.__mro__:
        if method in vars(base):
            return vars(base)[method].__get__(None, kind)
    raise InputError(f"this class has no {method}", where="pt_model", found=kind.__name__)


def get_task(model: str, token: str | None = None) -> str:
    """The task whose pipeline a checkpoint is for, told from its config."""
    return _task_of(model, None, {} if token is None else {"token": token})


def get_supported_tasks() -> list[str]:
    """The names of all tasks, aliases included."""
    return PIPELINE_REGISTRY.get_supported_tasks()


def check_task(task: str) -> tuple[str, TaskInfo, tuple[str, str] | None]:
    """A task's own name, what is registered for it, and the languages that its name holds."""
    return PIPELINE_REGISTRY.check_task(task)


def _check_alone(task: object, *parts: object) -> None:
    if task is None:
        raise InputError(
            "there is neither a task nor a model", where="pipeline", remedy="Name one: pipeline('text-generation', ...)"
        )
    if any(part is not None for part in parts):
        raise InputError(
            "a tokenizer, a config or a processor is given without the model that it belongs to",
            where="model",
            expected="a folder, a Hub id or a model",
            found="None",
        )


def _loading(
    model_kwargs: object, kwargs: dict[str, object], dtype: object, device: object, device_map: object
) -> dict[str, object]:
    """How the model is loaded; what is said in two places is refused."""
    if model_kwargs is not None and not isinstance(model_kwargs, Mapping):
        raise InputError("these are no keywords", where="model_kwargs", expected="a mapping", found=brief(model_kwargs))
    loading = {str(name): value for name, value in (model_kwargs or {}).items()}
    old = kwargs.pop("torch_dtype", None)
    if old is not None and dtype == "auto":
        dtype = cast("str | torch.dtype", old)
    inner = {"dtype", "torch_dtype"} & loading.keys()
    if inner and dtype not in ("auto", None):
        raise InputError("a dtype is given twice", where="dtype", found=f"dtype and model_kwargs[{min(inner)!r}]")
    if not inner and dtype is not None:
        loading["dtype"] = dtype
    if device_map is not None:
        if "device_map" in loading:
            raise InputError("a device map is given twice", where="device_map", found="device_map and model_kwargs")
        if device is not None:
            raise InputError(
                "device and device_map exclude each other", where="device", found=brief(device), remedy="Leave one out."
            )
        loading["device_map"] = device_map
    return loading


def _where(revision: object, token: object, *more: dict[str, object]) -> dict[str, object]:
    """Where to look; taken out of the other keywords."""
    where = {"revision": revision, "token": token}
    for given in more:
        where.update({name: given.pop(name) for name in _WHERE if name in given})
    return {name: value for name, value in where.items() if value is not None}


def _config(config: object, where: Mapping[str, object]) -> ModelConfig | None:
    if config is None or isinstance(config, ModelConfig):
        return config
    if isinstance(config, (str, os.PathLike)):
        return AutoConfig.from_pretrained(config, **where)
    raise InputError("this is no config", where="config", expected="a config or a name", found=brief(config))


def _targeted(task: object, pipeline_class: object) -> tuple[str, TaskInfo, tuple[str, str] | None]:
    """What is registered for a task, in the class that the user wants."""
    if pipeline_class is None:
        return PIPELINE_REGISTRY.check_task(cast(str, task))
    if not (isinstance(pipeline_class, type) and issubclass(pipeline_class, Pipeline)):
        found = brief(pipeline_class)
        raise InputError("this is no pipeline", where="pipeline_class", expected="a subclass of Pipeline", found=found)
    try:
        name, info, languages = PIPELINE_REGISTRY.check_task(cast(str, task))
    except UnknownNameError:  # a task that nobody registered, which this class does
        return str(task), {"impl": pipeline_class, "pt": ()}, None
    return name, {**info, "impl": pipeline_class}, languages


def _task_of(model: object, config: ModelConfig | None, where: Mapping[str, object]) -> str:
    """The task of a model, or of a checkpoint, by what its architecture does."""
    if isinstance(model, nn.Module):
        if not isinstance(model, Model):
            raise InputError("the task of this model is not known", where="task", found=brief(type(model).__name__))
        does, name = tasks_of(type(model)) or model.origin.architecture.tasks, model.origin.architecture.name
        reads = model.main_input
    else:
        config = AutoConfig.from_pretrained(cast(Name, model), **where) if config is None else config
        custom = config.get("custom_pipelines")
        if isinstance(custom, Mapping) and custom:
            return _custom(custom)
        does = brought_tasks(config)
        name, reads = "model of this kind", ""
        if not does:
            kind = saved_class(config)
            name, place = kind.__name__, kind.place
            does = tasks_of(kind) if place is None else place.architecture.tasks
            reads = kind.main_input if place is None else place.architecture.skeleton.main_input
    known = PIPELINE_REGISTRY.inferred
    # What a model does besides giving hidden states says more of what it is for.
    told = [one for task in sorted(does, key="base".__eq__) for one in (f"{task} of {reads}", task)]
    found = [known[one] for one in told if one in known]
    if not found:
        raise InputError(
            f"there is no pipeline for a {name}",
            where="task",
            expected=f"a task of {listed(PIPELINE_REGISTRY.get_supported_tasks())}",
            found="none",
        )
    return found[0]


def _custom(custom: Mapping[object, object]) -> str:
    """The task of a checkpoint that was saved with a pipeline of somebody's own."""
    known = [str(name) for name in custom if name in PIPELINE_REGISTRY.supported_tasks]
    if len(known) == 1:
        return known[0]
    raise InputError(
        "the checkpoint brings pipelines of its own, whose code is not run here",
        where="config.json: custom_pipelines",
        found=listed(custom),
        remedy="Name a task, and register its class or pass it as pipeline_class=.",
    )


def _registered_default(info: TaskInfo) -> tuple[Name, str | None] | None:
    """The model that the user registered with a task, and its version; None for omniform's own tasks."""
    found: object = info.get("default")
    for key in ("model", "pt"):
        found = found.get(key, found) if isinstance(found, Mapping) else found
    if isinstance(found, (list, tuple)) and found and isinstance(found[0], (str, os.PathLike)):
        return found[0], found[1] if len(found) > 1 and isinstance(found[1], str) else None
    return (found, None) if isinstance(found, (str, os.PathLike)) else None


def _at_hand(task: str, info: TaskInfo) -> Name:
    """A checkpoint that comes with omniform, if one does the task."""
    kinds = info.get("pt", ())
    does = {str(one) for kind in kinds for one in cast("Iterable[str]", vars(kind).get("tasks", ()))} - {"base"}
    for bundled in bundled_checkpoints():
        own = AutoConfig.from_pretrained(bundled)
        if does & {*registry.family(own.model_type).architectures[saved_class(own).__name__].tasks}:
            return bundled
    cached = cached_for(does)
    raise InputError(
        f"which model is to do {task}?",
        where="model",
        expected="a folder or a Hub id",
        found="none, and nothing is downloaded unasked",
        remedy=f"In the Hub's cache on this machine: {listed(cached)}."
        if cached
        else "The Hub's cache on this machine holds none that does it.",
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """One of the things that read inputs: what it is called, how it is loaded, what it must be."""

    name: str
    load: Callable[..., object]
    kind: type


_PARTS: Final = (
    _Part("tokenizer", AutoTokenizer.from_pretrained, Tokenizer),
    _Part("feature_extractor", AutoFeatureExtractor.from_pretrained, FeatureExtractionMixin),
    _Part("image_processor", AutoImageProcessor.from_pretrained, ImageProcessingMixin),
    _Part("video_processor", AutoVideoProcessor.from_pretrained, BaseVideoProcessor),
    _Part("processor", AutoProcessor.from_pretrained, Processor),
)


def _parts(
    kind: type[Pipeline], source: Name | None, where: Mapping[str, object], given: tuple[object, ...]
) -> dict[str, object]:
    needed = (
        kind._load_tokenizer, kind._load_feature_extractor, kind._load_image_processor, kind._load_video_processor,
        kind._load_processor,
    )  # fmt: skip
    return {
        part.name: _part(part, needs, source, where, own)
        for part, needs, own in zip(_PARTS, needed, given, strict=True)
    }


def _part(part: _Part, needs: bool | None, source: Name | None, where: Mapping[str, object], given: object) -> object:
    """A part as it is given, or loaded by its name or the model's; None where there is none and none is needed."""
    if isinstance(given, part.kind):
        return given
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping):
        return part.load(given[0], **{str(k): v for k, v in given[1].items()})
    if isinstance(given, (str, os.PathLike)):
        return part.load(given, **({} if given != source else where))
    if given is not None:
        if part.name == "tokenizer" and callable(given):
            return given  # somebody's own
        raise InputError("this reads no inputs", where=part.name, expected=f"a {part.name}", found=brief(given))
    if needs is False:
        return None
    if source is None:
        if needs:
            raise InputError(
                f"the task needs a {part.name}", where=part.name, found="None", remedy="Pass it beside the model."
            )
        return None
    try:
        found = part.load(source, **where)
    except OmniformError as error:
        if needs or not isinstance(error, (RepoError, UnknownNameError)):
            raise
        return None
    # A tokenizer is what AutoTokenizer gives, a class that the checkpoint brings included.
    return found if isinstance(found, part.kind) or part.name == "tokenizer" else None
