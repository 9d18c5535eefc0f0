"""What the pipelines that look at pictures share: how pictures come, and how an answer is drawn and told in a table."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.outputs import ModelOutput
from omniform.inputs.images.base import ImageProcessingMixin
from omniform.inputs.images.load import ImageSource, load_image
from omniform.inputs.media_access import MediaAccess, checked_access
from omniform.pipelines.base import Params, Pipeline
from omniform.pipelines.batching import Inputs

if TYPE_CHECKING:
    from PIL.Image import Image

Cell: TypeAlias = str | int | float | None
"""What a table holds."""

READING = ("timeout", "media_access")
"""The options of all pipelines of pictures: how a picture is read."""


class Seeing(Pipeline):
    """A pipeline that looks at pictures.

    A picture is whatever :func:`~omniform.inputs.images.load.load_image` reads. Options of all of them, for the
    pipeline or for a call:

        timeout: seconds that a download may take.
        media_access: which files and addresses may be read, and how many pixels.
    """

    _load_image_processor = True
    _load_processor = _load_feature_extractor = False
    _load_tokenizer: bool | None = False

    window: ClassVar[int] = 32  # prepared pictures are large

    def __call__(self, inputs: object = None, *args: object, **given: object) -> object:
        """Answer for one picture or several, as :meth:`Pipeline.__call__` has it; ``images`` is the older name.

        Raises:
            InputError: there is no picture, or it cannot be read.
        """
        if inputs is None:
            inputs = given.pop("images", None)
        if inputs is None:
            raise InputError("there is no picture", where=self.task or type(self).__name__, expected="at least one")
        return super().__call__(inputs, *args, **given)  # type: ignore[arg-type]

    def reading(self, given: Mapping[str, object], *others: str) -> Params:
        """How pictures are read, out of a call's options; a name that is neither among these nor ``others`` is refused.

        Raises:
            UnknownArgumentError: there is no such option.
            InputError: a timeout that is none.
        """
        check_arguments(type(self).__name__, given, (*READING, *others))
        found: Params = {}
        if given.get("media_access") is not None:
            found["media_access"] = checked_access(cast(MediaAccess, given["media_access"]))
        if given.get("timeout") is not None:
            seconds = given["timeout"]
            if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
                raise InputError("no time", where="timeout", expected="seconds", found=brief(seconds))
            access = cast(MediaAccess, found.get("media_access", MediaAccess()))
            found["timeout"] = replace(access, timeout=float(seconds)).timeout
        return found

    def picture(self, source: object, given: Params) -> Image:
        """A picture, upright and in RGB.

        Args:
            given: the parameters of ``preprocess``.
        """
        access = cast("MediaAccess | None", given.get("media_access"))
        if given.get("timeout") is not None:
            access = replace(access or MediaAccess(), timeout=cast(float, given["timeout"]))
        return load_image(cast(ImageSource, source), media_access=access)

    def pixels(self, image: object, **options: object) -> Batch:
        """The model's inputs of one picture, in the dtype that it computes in.

        Raises:
            InputError: the pipeline has no image processor.
        """
        if not isinstance(self.image_processor, ImageProcessingMixin):
            raise InputError(
                "the pipeline has no image processor", where="image_processor", remedy="Pass it beside the model."
            )
        read = self.image_processor(images=[image], return_tensors="pt", **options)  # type: ignore[arg-type]
        return read.to(self.dtype)

    def look(self, inputs: Inputs, names: Sequence[str] = ("target_size",)) -> Batch:
        """What the model makes of prepared pictures: the tensors of its output that have an entry for each picture.

        Args:
            names: entries of the inputs that are not the model's, and are handed on.
        """
        given = {name: value for name, value in inputs.items() if name not in names}
        if "pixel_mask" not in self.model.accepts():  # processors made for DETR give one to all
            given.pop("pixel_mask", None)
        count = len(cast(Tensor, inputs["pixel_values"]))
        found = rows_of(self.model(**given), count)
        return Batch({**found, **{name: inputs[name] for name in names if name in inputs}})

    @property
    def classes(self) -> Mapping[int, str]:
        """The names of the model's classes."""
        return self.model.config.common.id2label

    def name_of(self, index: int) -> str:
        """The name of a class."""
        return self.classes.get(index, f"LABEL_{index}")

    # -- what is shown of an answer --------------------------------------------------------------------------------

    @abstractmethod
    def draw(self, picture: Image, answer: object) -> Image:
        """The picture with its answer drawn on or beside it."""

    def check_drawn(self) -> None:
        """Refuse tasks whose answers are not drawn.

        Raises:
            InputError: this is one.
        """

    @abstractmethod
    def rows(self, answer: object) -> list[Mapping[str, Cell]]:
        """The answer as the rows of a table."""

    says: ClassVar[str | None] = None
    """The option that a text beside the picture is; None where the task reads none."""

    columns: ClassVar[tuple[str, ...]] = ()
    """The columns of :meth:`rows`."""

    def plain(self, answer: object) -> object:
        """The answer as JSON can hold it."""
        return answer

    def check(self, given: Mapping[str, object]) -> None:
        """Refuse options that no picture could be answered with.

        Raises:
            UnknownArgumentError: there is no such option.
            InputError: it takes other values.
        """
        self._parameters(given)

    def for_model(self, prepared: Inputs) -> Mapping[str, object]:
        """What the model reads of a prepared picture."""
        known = self.model.accepts()
        return {name: value for name, value in prepared.items() if name in known}


def rows_of(output: ModelOutput, count: int) -> dict[str, Tensor]:
    """The tensors of a model's output with an entry for each of so many pictures."""
    return {
        name: value
        for name, value in output.items()
        if isinstance(value, Tensor) and value.dim() > 0 and len(value) == count
    }


def size_of(picture: Image) -> Tensor:
    """A picture's height and width in pixels. Shape: [1, 2]."""
    return torch.tensor([[picture.height, picture.width]])
