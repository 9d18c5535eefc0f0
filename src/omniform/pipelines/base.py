"""What all pipelines share: parts, parameters, and the way of an input through ``preprocess``, ``_forward`` and
``postprocess``.

A subclass says what its three steps do with one input, or one batch; everything else is here and in ``running.py``. The
names are the ecosystem's, so a pipeline written for it works when its imports are changed.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar, cast

import torch
from torch import nn

from omniform.architectures.model import Model
from omniform.architectures.named import PreTrainedModel
from omniform.core.errors import InputError, UnknownArgumentError, brief, check_arguments
from omniform.core.generation import GenerationConfig
from omniform.core.pushing import PushToHub
from omniform.core.settings import SETTINGS
from omniform.hub.auto import AutoModel, tasks_of
from omniform.hub.code.saving import write_pipeline
from omniform.hub.folders import files_in, folder_of, replace_files
from omniform.hub.push import send, sending_of
from omniform.hub.save import MODEL_OPTIONS
from omniform.hub.stale import stale_beside
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.processors import Processor
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos import BaseVideoProcessor, VideoProcessor
from omniform.pipelines.assisted import assistant_of
from omniform.pipelines.batching import BatchSize, Inputs, Padding, as_inputs, collated, groups, moved, parted
from omniform.pipelines.chats import chats_told
from omniform.pipelines.given import PipelineException as PipelineException
from omniform.pipelines.notes import PIPELINE_INIT_ARGS as PIPELINE_INIT_ARGS
from omniform.pipelines.notes import GenericTensor as GenericTensor
from omniform.pipelines.notes import build_pipeline_init_args as build_pipeline_init_args
from omniform.pipelines.places import place_of
from omniform.pipelines.pt_utils import KeyDataset as KeyDataset
from omniform.pipelines.pt_utils import KeyPairDataset as KeyPairDataset
from omniform.pipelines.running import (
    WINDOW,
    Answers,
    Failure,
    OnError,
    Run,
    check_batch_size,
    check_on_error,
    check_workers,
    draw_for_a_loader,
    items_of,
)

log = logging.getLogger("omniform")

Params = dict[str, object]
"""Parameters of one step, by name."""

_INERT = ("args_parser", "torch_dtype", "dtype", "modelcard", "binary_output")
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")


T = TypeVar("T")


class _Saves(Protocol):
    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> object: ...


class Pipeline(PushToHub, ABC):
    """From raw inputs to answers: ``preprocess``, ``_forward`` and ``postprocess``, whatever way inputs come.

    Args:
        model: what computes.
        tokenizer, feature_extractor, image_processor, video_processor, processor: what reads the inputs; those that the
            task needs.
        task: the name that it was asked for by.
        device: where the model computes: an accelerator's index, a name, -1 for the CPU; by default the first
            accelerator if there is one.
        kwargs: ``batch_size``, ``num_workers``, ``on_error``, ``progress_bar`` (see :meth:`__call__`), and the task's
            own parameters, for all calls.

    Raises:
        InputError: something that is no model; a device that is not there.
        UnknownArgumentError: a parameter that the task does not have.
    """

    # Which parts a pipeline needs: True: it must be there; None: it is loaded where there is one; False: not loaded.
    _load_processor: bool | None = None
    _load_image_processor: bool | None = None
    _load_video_processor: bool | None = False
    _load_feature_extractor: bool | None = None
    _load_tokenizer: bool | None = None

    _pipeline_calls_generate = False
    _default_generation_config: GenerationConfig | None = None
    _non_generation_params: tuple[str, ...] = ()
    default_input_names: str | None = None
    _registered_impl: ClassVar[Mapping[str, object]] = {}
    """The task that a class was registered for, and what is registered: it is saved with its code."""

    framework: ClassVar[str] = "pt"  # as releases that knew others called this one

    default_batch_size: ClassVar[BatchSize] = 1
    """How many inputs of a list share a batch where nobody says; a class with steps of its own says so itself."""

    window: ClassVar[int] = WINDOW
    """How many inputs of a list are prepared before any is computed; a task whose inputs are large says fewer."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        # Steps that somebody overrides may know single inputs only, as the ecosystem's do unless batches are asked for.
        if {"preprocess", "_forward"} & vars(cls).keys() and "default_batch_size" not in vars(cls):
            cls.default_batch_size = 1

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None = None,
        feature_extractor: FeatureExtractor | None = None,
        image_processor: ImageProcessor | None = None,
        processor: Processor | None = None,
        task: str = "",
        device: int | str | torch.device | None = None,
        video_processor: BaseVideoProcessor | None = None,
        **kwargs: object,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError("this is no model", where="model", expected="a loaded model", found=brief(model))
        if kwargs.pop("framework", None) not in (None, "pt"):
            raise InputError("there is one framework", where="framework", expected="'pt' or nothing", found="another")
        for name in _INERT:
            kwargs.pop(name, None)
        self.task, self.model = task, model
        self.tokenizer, self.feature_extractor = tokenizer, feature_extractor
        self.image_processor, self.processor = image_processor, processor
        self.video_processor = video_processor
        self.device = place_of(model, device)
        if self.model.device != self.device:
            self.model.to(self.device)
        if self._pipeline_calls_generate and self.model.can_generate():
            self._take_generation(kwargs)
        self._batch_size = _taken(kwargs, "batch_size", check_batch_size)
        self._num_workers = _taken(kwargs, "num_workers", check_workers)
        self._on_error: OnError = _taken(kwargs, "on_error", check_on_error) or "raise"
        self._progress_bar = bool(kwargs.pop("progress_bar", False))
        steps = self._parameters(kwargs)
        self._preprocess_params, self._forward_params, self._postprocess_params = steps
        if processor is not None and tokenizer is None and feature_extractor is None and image_processor is None:
            self._take_parts(processor)

    # -- what a subclass says --------------------------------------------------------------------------------------

    @abstractmethod
    def _sanitize_parameters(self, **pipeline_parameters: object) -> tuple[Params, Params, Params]:
        """The parameters of each of the three steps, out of those of ``__init__`` or of a call.

        Only what the caller said is to be in them, so that a call's parameters lie over those of ``__init__``.
        """

    @abstractmethod
    def preprocess(self, input_: object, **preprocess_parameters: object) -> Inputs:
        """What ``_forward`` needs of one input: a mapping with tensors of one row."""

    @abstractmethod
    def _forward(self, input_tensors: Inputs, **forward_parameters: object) -> object:
        """What the model makes of an input, or of a batch of them: tensors and lists with an entry for each row."""

    @abstractmethod
    def postprocess(self, model_outputs: object, **postprocess_parameters: object) -> object:
        """The answer, out of what ``_forward`` made of one input."""

    @classmethod
    def further_parts(cls, source: object, where: Mapping[str, object]) -> Params:
        """What else the pipeline of a checkpoint is made with, besides its usual parts, by keyword.

        Args:
            source: the checkpoint's folder or Hub id.
            where: which version of it, and where to look.
        """
        return {}

    # -- calls -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        inputs: object,
        *args: object,
        num_workers: int | None = None,
        batch_size: int | str | None = None,
        on_error: str | None = None,
        progress_bar: bool | None = None,
        **kwargs: object,
    ) -> object:
        """Answer one input, or many.

        Args:
            inputs: one input; a list of them; a dataset (rows by index) or a stream (a generator), which are answered
                as their answers are asked for. A list of messages is one input: a chat.
            num_workers: threads that prepare inputs beside one another; 0: none.
            batch_size: how many inputs go through the model at once, ``"auto"`` for as many as keep it busy. Inputs of
                like length share a batch, whatever order they come in. One by default, where a task does not say more.
            on_error: ``"raise"``: an input that cannot be answered ends the call; ``"return"``: its error stands in the
                place of its answer, and the others are answered.
            progress_bar: show on stderr how far the call has come.
            kwargs: the task's own parameters, over those that the pipeline was made with.

        Returns:
            An answer; a list of answers to a list, in its order; an iterator over them for a dataset or a stream.

        Raises:
            InputError: an input that cannot be read.
            UnknownArgumentError: a parameter that the task does not have.
        """
        if args:
            raise UnknownArgumentError(
                f"{type(self).__name__} takes one input by position", found=f"{1 + len(args)} of them"
            )
        inputs = chats_told(inputs)
        steps = self._parameters(kwargs)
        own = self._preprocess_params, self._forward_params, self._postprocess_params
        preprocess, forward, postprocess = ({**usual, **said} for usual, said in zip(own, steps, strict=True))
        many = self._batch_size if batch_size is None else check_batch_size(batch_size)
        workers = self._num_workers if num_workers is None else check_workers(num_workers)
        run = Run(
            self, self, preprocess, forward, postprocess,
            batch_size=self.default_batch_size if many is None else many,
            workers=0 if workers is None else workers,
            on_error=self._on_error if on_error is None else check_on_error(on_error),
            progress=self._progress_bar if progress_bar is None else bool(progress_bar),
        )  # fmt: skip
        if isinstance(inputs, list):
            return [*run.each(inputs)]
        if (items := items_of(inputs)) is not None:
            return Answers(run, items)
        self.begin_single()
        if self.is_plain_call(run):
            return self.run_single(inputs, preprocess, forward, postprocess)
        return run.one(inputs)

    def begin_single(self) -> None:
        """What is done before a single input is answered."""

    def is_plain_call(self, run: Run) -> bool:
        """Whether a single input goes through :meth:`run_single`."""
        return run.on_error == "raise"

    def run_single(
        self, inputs: object, preprocess_params: Params, forward_params: Params, postprocess_params: Params
    ) -> object:
        """The three steps for one input."""
        model_inputs = self.preprocess(inputs, **preprocess_params)
        return self.postprocess(self.forward(model_inputs, **forward_params), **postprocess_params)

    def transform(self, X: object) -> object:
        """The same as a call, under scikit-learn's name."""
        return self(X)

    def predict(self, X: object) -> object:
        """The same as a call, under scikit-learn's name."""
        return self(X)

    def forward(self, model_inputs: Inputs, **forward_params: object) -> object:
        """``_forward`` on the pipeline's device, without gradients; what it gives lies on the CPU."""
        with self.device_placement(), self.get_inference_context()():
            if self.device.type == "cpu":
                return self._forward(model_inputs, **forward_params)
            outputs = self._forward(cast(Inputs, moved(model_inputs, self.device)), **forward_params)
            return moved(outputs, torch.device("cpu"))

    def get_inference_context(self) -> Callable[[], contextlib.AbstractContextManager[object]]:
        """What ``_forward`` runs in: without gradients."""
        return torch.no_grad

    @contextlib.contextmanager
    def device_placement(self) -> Iterator[None]:
        """Within it, tensors that are made without a device lie on the pipeline's accelerator."""
        if self.device.type == "cuda":
            with torch.cuda.device(self.device):
                yield
        else:
            yield

    def ensure_tensor_on_device(self, **inputs: object) -> Mapping[str, object]:
        """The same inputs, tensors on the pipeline's device."""
        return cast("Mapping[str, object]", moved(inputs, self.device))

    # -- steps of a run, see running.py ----------------------------------------------------------------------------

    def prepare(self, item: object, params: Params) -> Sequence[Inputs]:
        """What the model is to compute for one input."""
        return [as_inputs(self.preprocess(item, **params), f"{type(self).__name__}.preprocess")]

    def prepare_many(self, items: Sequence[object], run: Run) -> list[Sequence[Inputs] | Failure]:
        """The same for many inputs; what goes wrong with one stands in its place."""
        return [run.tried(self.prepare, item, run.preprocess) for item in items]

    def compute(self, chunks: Sequence[Inputs], size: BatchSize, run: Run) -> list[object | Failure]:
        """What the model makes of each, in batches of like ones."""
        if size == 1:
            return [run.tried(self._alone, chunk, run.forward) for chunk in chunks]
        found: list[object | Failure] = [None] * len(chunks)
        padding = self.padding()
        for places in self.together(chunks, size, padding):
            rows = [chunks[at] for at in places]
            outputs = run.tried(lambda rows, params: self._together(rows, padding, params), rows, run.forward)
            if isinstance(outputs, Failure) and len(places) > 1:  # whose fault it is shows when each is alone
                each = [
                    run.tried(lambda row, params: self._together([row], padding, params), row, run.forward)
                    for row in rows
                ]
                outputs = [one if isinstance(one, Failure) else one[0] for one in each]
            for number, at in enumerate(places):
                found[at] = outputs if isinstance(outputs, Failure) else outputs[number]
        return found

    def together(self, chunks: Sequence[Inputs], size: BatchSize, padding: Padding) -> list[list[int]]:
        """The places of inputs that share a batch, batch by batch: those of like length."""
        return groups(chunks, size, padding, self.device.type)

    def padding(self) -> Padding:
        """How the rows of a batch are brought to one length."""
        return Padding.of(self.tokenizer, self.feature_extractor or self.image_processor)

    def finish(self, outputs: list[object], params: Params) -> object:
        """The answer to one input."""
        (output,) = outputs
        return self.postprocess(output, **params)

    def _alone(self, chunk: Inputs, params: Params) -> object:
        return self.forward(chunk, **params)

    def _together(self, rows: Sequence[Inputs], padding: Padding, params: Params) -> list[object]:
        return parted(self.forward(collated(rows, padding), **params), len(rows))

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype

    @property
    def torch_dtype(self) -> torch.dtype:
        """The older name of :attr:`dtype`."""
        return self.model.dtype

    def __repr__(self) -> str:
        facts = f"task={self.task!r}, model={type(self.model).__name__}, dtype={str(self.dtype).removeprefix('torch.')}"
        return f"{type(self).__name__}({facts}, device={str(self.device)!r})"

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: object
    ) -> None:
        """Save the model and what reads its inputs to a folder.

        The code of a pipeline of the user's own that is registered for its task is saved beside it, and named in
        ``custom_pipelines``.

        Args:
            push_to_hub: also send all of it to a repository, in one commit.
            kwargs: to which, and how (see :class:`~omniform.core.pushing.SaveOptions`); options of the model's own
                ``save_pretrained``.

        Raises:
            RepoError: the folder cannot be written, or the Hub refuses the files.
        """
        sending = sending_of(push_to_hub, save_directory, kwargs, MODEL_OPTIONS)
        target = folder_of(save_directory)
        options = {name: value for name, value in kwargs.items() if name in MODEL_OPTIONS}
        names: list[str] = []

        def write(folder: Path) -> None:
            self.model.save_pretrained(folder, **options)
            parts = (self.tokenizer, self.feature_extractor, self.image_processor, self.video_processor, self.processor)
            for part in parts:
                if part is not None:
                    cast(_Saves, part).save_pretrained(folder)
            write_pipeline(folder, self, self._registered_impl)
            names.extend(files_in(folder))

        replace_files(target, write, stale=lambda name: bool(stale_beside(names, [name])))
        if sending is not None:
            send(self, target, names, sending)

    def check_model_type(self, supported_models: Iterable[str] | Mapping[object, object] | type[AutoModel]) -> None:
        """Log an error if the model is none that the task is for.

        Args:
            supported_models: names of classes; a mapping whose values are such; or the Auto class that loads them.
        """
        name = type(self.model).__name__
        if isinstance(supported_models, type):
            mine = isinstance(self.model, PreTrainedModel) and self.model.place is None
            does = tasks_of(type(self.model)) if mine else self.model.origin.architecture.tasks
            fits = bool({*supported_models.tasks} & {*does}) or not does
            expected = f"a model that {supported_models.__name__} loads"
        else:
            names = supported_models.values() if isinstance(supported_models, Mapping) else supported_models
            known = [n for entry in names for n in (entry if isinstance(entry, tuple) else (entry,))]
            fits, expected = name in known, "one of " + ", ".join(map(str, known))
        if not fits:
            log.error("a %s is not meant for %s; expected %.500s", name, self.task or type(self).__name__, expected)

    # -- parameters ------------------------------------------------------------------------------------------------

    def _parameters(self, given: Mapping[str, object]) -> tuple[Params, Params, Params]:
        """Those of each step; a name that the task does not know is refused with the nearest."""
        takes = inspect.signature(self._sanitize_parameters).parameters.values()
        if not any(p.kind is p.VAR_KEYWORD for p in takes):
            check_arguments(type(self).__name__, given, [*(p.name for p in takes), "batch_size", "num_workers"])
        return self._sanitize_parameters(**given)

    def _take_parts(self, processor: Processor) -> None:
        self.tokenizer = processor.tokenizer
        for part in processor.parts().values():
            if isinstance(part, FeatureExtractor):
                self.feature_extractor = part
            elif isinstance(part, VideoProcessor):
                self.video_processor = part
            else:
                self.image_processor = part

    def _take_generation(self, kwargs: Params) -> None:
        """Take out the settings of generation, which hold for all calls."""
        helper = kwargs.pop("assistant_model", None), kwargs.pop("assistant_tokenizer", None)
        self.assistant_model, self.assistant_tokenizer = assistant_of(self.model, *helper)
        prefix = self.model.config.get("prefix")
        self.prefix = prefix if isinstance(prefix, str) else None
        names = {*SETTINGS, "generation_config"} - {*self._non_generation_params}
        self._generate_kwargs: Params = {name: kwargs.pop(name) for name in [*kwargs] if name in names}
        usual = self._default_generation_config
        self._generation_defaults: Params = {} if usual is None else usual.to_diff_dict()
        if self.tokenizer is not None and self.tokenizer.pad_token_id is not None:
            self._generation_defaults["pad_token_id"] = self.tokenizer.pad_token_id

    def _prepare_generate_kwargs(self, generate_kwargs: Mapping[str, object], **overrides: object) -> Params:
        """Keywords of ``generate`` for one call.

        The call's lie over those of ``__init__``, unless it brings a ``generation_config`` of its own; the task's
        defaults hold where neither the user nor the checkpoint says anything, those of sampling only where rows are
        drawn.
        """
        given = dict(generate_kwargs)
        if "generation_config" not in given:
            given = {**self._generate_kwargs, **given}
        said = self._get_set_generation_params(given)
        added = {
            name: value
            for name, value in self._generation_defaults.items()
            if name not in said and not (name == "max_new_tokens" and "max_length" in said)
        }
        if not {**said, **added}.get("do_sample"):
            added = {name: value for name, value in added.items() if name not in _SAMPLING}
        added.update(overrides)
        own = given.get("generation_config")
        if not isinstance(own, GenerationConfig):
            return {**given, **added}
        return {**given, "generation_config": GenerationConfig(**{**own.to_diff_dict(), **added})}

    def _get_set_generation_params(self, generate_kwargs: Mapping[str, object]) -> Params:
        """What the checkpoint, a call's ``generation_config`` and its keywords say, the later over the earlier."""
        own = generate_kwargs.get("generation_config")
        layers = [self.model.generation_config.to_diff_dict()]
        layers += [own.to_diff_dict()] if isinstance(own, GenerationConfig) else []
        return {name: value for layer in (*layers, generate_kwargs) for name, value in layer.items()}


class ChunkPipeline(Pipeline):
    """A pipeline whose ``preprocess`` yields several parts of one input, each a mapping with ``is_last``; its
    ``postprocess`` gets the list of what ``_forward`` made of them."""

    @abstractmethod
    def preprocess(self, input_: object, **preprocess_parameters: object) -> Iterator[Inputs]:  # type: ignore[override]
        """The parts of one input."""

    def begin_single(self) -> None:
        """The ecosystem reads the parts of one input from a loader."""
        draw_for_a_loader()

    def is_plain_call(self, run: Run) -> bool:
        """Parts of one input may share a batch, so a single one goes the way of many."""
        return False

    def run_single(
        self, inputs: object, preprocess_params: Params, forward_params: Params, postprocess_params: Params
    ) -> object:
        """The three steps for one input, part by part."""
        parts = self.preprocess(inputs, **preprocess_params)
        return self.postprocess([self.forward(part, **forward_params) for part in parts], **postprocess_params)

    def prepare(self, item: object, params: Params) -> Sequence[Inputs]:
        where = f"{type(self).__name__}.preprocess"
        return [as_inputs(part, where) for part in self.preprocess(item, **params)]

    def finish(self, outputs: list[object], params: Params) -> object:
        for output in outputs:
            if isinstance(output, dict):
                output.pop("is_last", None)
        return self.postprocess(outputs, **params)


def _taken(kwargs: Params, name: str, read: Callable[[object], T]) -> T | None:
    value = kwargs.pop(name, None)
    return None if value is None else read(value)
