"""What a loaded model does besides writing: vectors of texts, scores of pairs, pipelines, speech written down."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from omniform.architectures.model import Model
from omniform.core.errors import InputError, RepoError, UnknownNameError
from omniform.embeddings.cross import CrossEncoder
from omniform.embeddings.embedder import Embedder
from omniform.embeddings.layout import MODULES, read_told
from omniform.hub.auto import AutoConfig
from omniform.hub.checkpoint import saved_class
from omniform.hub.files import locate
from omniform.pipelines.base import Pipeline
from omniform.pipelines.factory import pipeline_around
from omniform.pipelines.registry import PIPELINE_REGISTRY
from omniform.serve.config import ModelSource
from omniform.serve.errors import APIError

log = logging.getLogger("omniform.serve")

Stacked = Embedder | CrossEncoder
T = TypeVar("T")


def stacked(source: ModelSource, options: Mapping[str, object]) -> Stacked | None:
    """A checkpoint of texts to vectors, or of pairs to scores; None where it is another.

    Such are those in the layout of sentence-transformers, plain encoders of text (their vectors are the mean of the
    tokens'), and classifiers of one label.

    Args:
        options: of loading its weights.
    """
    found = locate(source.source)
    if found.find(MODULES) is not None:
        kind = CrossEncoder if read_told(found).model_type == "CrossEncoder" else Embedder
        return kind(source.source, model_kwargs=options)
    config = AutoConfig.from_pretrained(source.source)
    try:
        saved = saved_class(config)
    except UnknownNameError:
        return None
    place = saved.place
    if place is None or place.architecture.skeleton.main_input != "input_ids":
        return None
    does, names = set(place.architecture.tasks), config.common.architectures
    if "base" in does <= {"base", "text-encoding"} and names and not config.raw.get("is_encoder_decoder"):
        return Embedder(source.source, model_kwargs=options)
    if "sequence-classification" in does and config.common.num_labels == 1:
        return CrossEncoder(source.source, model_kwargs=options)
    return None


class Crafts:
    """What a model does besides writing; each thing is made when it is first asked for.

    Args:
        origin: where the model came from.
        model: it.
        stack: the same as what makes vectors or scores; None where it does not.
        seconds: that a text of a pipeline may take to write.
    """

    def __init__(self, origin: ModelSource, model: Model, stack: Stacked | None, seconds: float) -> None:
        self._origin, self._model, self._stack, self._seconds = origin, model, stack, seconds
        self._pipelines: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        # A pipeline answers one caller at a time: its model may hold buffers, and two would only share the cores.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="omniform-crafts")

    def embedder(self) -> Embedder:
        """What makes vectors of texts.

        Raises:
            APIError: the model does not.
        """
        if not isinstance(self._stack, Embedder):
            raise self._unable("makes no vectors of texts", "model_does_not_embed")
        return self._stack

    def stack(self) -> Stacked:
        """What compares texts: by their vectors, or pair by pair.

        Raises:
            APIError: the model does not.
        """
        if self._stack is None:
            raise self._unable("compares no texts", "model_does_not_rank")
        return self._stack

    def pipeline(self, task: str) -> Pipeline:
        """The pipeline of a task.

        Raises:
            APIError: there is no such task.
            InputError: the model does not do it.
        """
        try:
            name = PIPELINE_REGISTRY.check_task(task)[0]
        except UnknownNameError as error:
            raise APIError(404, str(error), param="task", code="task_not_found") from None
        key = task if name == "translation" else name
        with self._lock:
            if key not in self._pipelines:
                impl = PIPELINE_REGISTRY.check_task(task)[1]["impl"]
                longest = {"max_time": self._seconds} if impl._pipeline_calls_generate else {}
                if not self._model.can_generate():
                    longest = {}
                try:
                    self._pipelines[key] = pipeline_around(
                        key, self._model, self._origin.source, device=self._model.device, **longest
                    )
                except RepoError as error:  # of the server's files, which are nothing to clients
                    log.error("the model %r cannot do %s: %s", self._origin.name, key, error)
                    raise self._unable(f"lacks what it needs for {key} here", "model_unusable") from error
            return self._pipelines[key]

    def pipeline_for(self, task: str, what: str, code: str) -> Pipeline:
        """The pipeline of a task that has a door of its own, where clients name no task.

        Args:
            what: a model does not do that cannot do it.
            code: the same for a program.

        Raises:
            APIError: the model does not do it.
        """
        try:
            return self.pipeline(task)
        except InputError as error:
            if error.where != "task":
                raise
            raise self._unable(what, code) from error

    async def done(self, work: Callable[[], T]) -> T:
        """What some work gives, in a thread, one work after another; it knows for whose request it is done."""
        within = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._worker, lambda: within.run(work))

    def close(self) -> None:
        """Take no more work."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _unable(self, what: str, code: str) -> APIError:
        return APIError(400, f"the model {self._origin.name!r} {what}", param="model", code=code)
