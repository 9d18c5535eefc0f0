"""What a model makes of a picture before any head: a vector for each patch, or one for the whole picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief
from omniform.hub.auto import AutoModel
from omniform.pipelines.base import Params
from omniform.pipelines.batching import Inputs
from omniform.pipelines.given import flag
from omniform.pipelines.registry import Task
from omniform.pipelines.seeing import READING, Cell, Seeing

if TYPE_CHECKING:
    from PIL.Image import Image


class ImageFeatureExtractionPipeline(Seeing):
    """Gives the numbers that a model makes of a picture.

    ``pipe(picture)`` gives nested lists of the shape of the model's first output, [1, T, D] of a transformer.

    Options, for the pipeline or for a call, besides those of :class:`~omniform.pipelines.seeing.Seeing`:
        pool: the pooled output instead, [1, D].
        return_tensors: True (or ``"pt"``) for a tensor instead of lists.
        image_processor_kwargs: options of the image processor.
    """

    columns = ("shape", "mean", "std")

    def _sanitize_parameters(self, **given: object) -> tuple[Params, Params, Params]:
        before = self.reading(given, "pool", "return_tensors", "image_processor_kwargs")
        options = given.get("image_processor_kwargs")
        if options is not None:
            if not isinstance(options, Mapping):
                raise InputError("not a mapping of options", where="image_processor_kwargs", found=brief(options))
            before = {**{str(name): value for name, value in options.items()}, **before}
        after: Params = {}
        if given.get("pool") is not None:
            after["pool"] = flag(given["pool"], "pool")
        if given.get("return_tensors") is not None:
            value = given["return_tensors"]
            after["return_tensors"] = value == "pt" or flag(value, "return_tensors")
        return before, {}, after

    def preprocess(self, input_: object, **given: object) -> Inputs:
        """The pixels of a picture."""
        options = {name: value for name, value in given.items() if name not in READING}
        return self.pixels(self.picture(input_, given), **options)

    def _forward(self, input_tensors: Inputs, **given: object) -> object:
        return self.look(input_tensors)

    def postprocess(self, model_outputs: object, **given: object) -> Tensor | list[object]:
        """The features of one picture."""
        outputs = cast("Mapping[str, Tensor]", model_outputs)
        name = "pooler_output" if given.get("pool") else next(iter(outputs), "last_hidden_state")
        if name not in outputs:
            raise InputError(
                "the model gives no such output",
                where=name,
                expected=", ".join(outputs),
                found=type(self.model).__name__,
                remedy="Leave pool out." if given.get("pool") else None,
            )
        found = outputs[name]
        return found if given.get("return_tensors") else cast("list[object]", found.tolist())

    def draw(self, picture: Image, answer: object) -> Image:
        """Features are numbers that no picture shows.

        Raises:
            InputError: always.
        """
        self.check_drawn()
        return picture

    def check_drawn(self) -> None:
        """Features are numbers that no picture shows.

        Raises:
            InputError: always.
        """
        raise InputError(
            "features are not drawn", where=self.task, remedy="Ask for --json, or for --show attention, which is drawn."
        )

    def plain(self, answer: object) -> object:
        """The numbers as nested lists."""
        return cast(object, answer.tolist()) if isinstance(answer, Tensor) else answer

    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """The shape, the mean and the spread of the features."""
        found = Batch({"features": answer}).as_tensors("pt").tensor("features").float()
        shape = "x".join(map(str, found.shape))
        return [{"shape": shape, "mean": found.mean().item(), "std": found.std(correction=0).item()}]


TASKS = (
    Task(
        name="image-feature-extraction",
        pipeline=ImageFeatureExtractionPipeline,
        models=(AutoModel,),
        kind="image",
        inferred=("image-embedding", "base of pixel_values"),
    ),
)

__all__ = ["TASKS", "ImageFeatureExtractionPipeline"]
