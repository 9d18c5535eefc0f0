"""SAM's and SAM 2's processors: pictures, and what is pointed at in them, in pixels of the model's pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, MissingPartError, brief
from omniform.core.file_names import PROCESSOR_FILE
from omniform.core.numbers import is_finite
from omniform.core.reader import ConfigReader
from omniform.inputs.audio import FeatureExtractor
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.automatic_masks import scaled
from omniform.inputs.images.maps import MapInput
from omniform.inputs.images.processor import ImageInput, TensorKind, as_kind
from omniform.inputs.images.sam import Sam2ImageProcessor, SamImageProcessor
from omniform.inputs.processors.base import PartName, Parts, Processor, image_options
from omniform.inputs.processors.options import Part, sort_options

Nested: TypeAlias = "Tensor | np.ndarray | Sequence[object]"
"""Numbers in lists of lists, or as a tensor or an array."""


class _PromptProcessor(Processor):
    """What both share: an image processor, and no tokenizer."""

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor",)
    settings: ClassVar[tuple[str, ...]] = ("target_size", "point_pad_value")
    kind: ClassVar[type[ImageProcessor]]

    def __init__(
        self, image_processor: ImageProcessor, target_size: int | None = None, point_pad_value: int = -10
    ) -> None:
        if not isinstance(image_processor, self.kind):
            raise InputError(
                "this processor knows no prompts",
                where="image_processor",
                expected=self.kind.__name__,
                found=type(image_processor).__name__,
            )
        self.image_processor = image_processor
        size = image_processor.size or {}
        edge = size.get("longest_edge", size.get("height"))
        if target_size is None and edge is None:
            raise InputError("nobody knows how large the model's pictures are", where="size", found=brief(size))
        self.target_size: int = cast(int, edge) if target_size is None else target_size
        self.point_pad_value = point_pad_value
        self.chat_template = None

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None
        r = ConfigReader(parts.settings, where=f"{parts.where}: processor_config.json")
        pad = r.integer("point_pad_value", -10, least=-(2**31))
        return cls(parts.image_processor, target_size=r.maybe_integer("target_size"), point_pad_value=pad)

    def _pixels(
        self, images: ImageInput, maps: MapInput | None, kind: TensorKind | None, options: Mapping[str, object]
    ) -> Batch:
        asked = sort_options(type(self).__name__, options, self._known()).images
        if kind is not None:
            asked["return_tensors"] = kind
        return cast(SamImageProcessor, self.image_processor)(images, maps, **asked)  # type: ignore[arg-type]

    def prompts(self, batch: Batch, given: Mapping[str, Nested | None]) -> None:
        """Add points, their labels and boxes to a batch; lists of other lengths are filled up.

        Raises:
            InputError: they are nested otherwise, or do not fit one another or the pictures.
        """
        told = cast("Sequence[Sequence[int]]", batch["original_sizes"])
        sizes = [(int(height), int(width)) for height, width in told]
        points = self._read(given.get("input_points"), "input_points", 4, 2)
        labels = self._read(given.get("input_labels"), "input_labels", 3, None)
        boxes = self._read(given.get("input_boxes"), "input_boxes", 3, 4)
        if points is not None and labels is not None and points[0].shape[:3] != labels[0].shape:
            raise InputError(
                "every point has one label",
                where="input_labels",
                expected=f"{list(points[0].shape[:3])} of them",
                found=list(labels[0].shape),
            )
        if boxes is not None and not bool(boxes[1].all()):
            raise InputError("all pictures have as many boxes", where="input_boxes", remedy="Ask about each by itself.")
        for name, found, axis in (("input_points", points, 2), ("input_boxes", boxes, 4)):
            if found is not None:
                batch[name] = self._moved(name, *found, sizes, axis)
        if labels is not None:
            batch["input_labels"] = labels[0].to(torch.int64)

    def _moved(self, name: str, numbers: Tensor, real: Tensor, sizes: Sequence[tuple[int, int]], axis: int) -> Tensor:
        if len(sizes) not in (1, len(numbers)):
            raise InputError("every picture has prompts", where=name, expected=len(sizes), found=len(numbers))
        scales = []
        for height, width in sizes:
            new_height, new_width = self.shaped((height, width))
            scales.append([new_width / width, new_height / height] * (axis // 2))
        factors = torch.tensor(scales, dtype=torch.float64).view(len(scales), *[1] * (numbers.dim() - 2), axis)
        return torch.where(real, numbers * factors, numbers).to(self.dtype)

    dtype: ClassVar[torch.dtype] = torch.float64

    def shaped(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the model's picture of a picture."""
        return self.target_size, self.target_size

    def _read(self, value: Nested | None, name: str, depth: int, last: int | None) -> tuple[Tensor, Tensor] | None:
        """The numbers as one tensor, and which of them were given."""
        if value is None:
            return None
        nested = _lists(value)
        found = _depth(nested)
        if found == depth - 1 and self.shallow(name):
            nested, found = [[one] for one in cast("list[object]", nested)], depth
        shape = [0] * depth
        _measure(nested, shape, 0)
        if found != depth or 0 in shape or (last is not None and shape[-1] != last):
            what = "pictures, objects, points" if name != "input_boxes" else "pictures, objects"
            inner = "" if last is None else f", {last} numbers"
            raise InputError("this is nested otherwise", where=name, expected=what + inner, found=brief(value))
        numbers = torch.full(shape, float(self.point_pad_value), dtype=torch.float64)
        real = torch.zeros(shape, dtype=torch.bool)
        _fill(nested, numbers, real, name)
        return numbers, real

    def shallow(self, name: str) -> bool:
        """Whether one object of a picture may stand there without a list of objects."""
        return False

    def _parts(self) -> dict[str, ImageProcessor | FeatureExtractor]:
        return {"image_processor": self.image_processor}

    def _known(self) -> dict[Part, frozenset[str]]:
        return {"images": image_options(self.image_processor)}

    def own_parts(self) -> tuple[object, ...]:
        return (self.image_processor,)

    def to_dict(self) -> dict[str, object]:
        return {**super().to_dict(), "target_size": self.target_size, "point_pad_value": self.point_pad_value}

    def save_files(self, folder: Path) -> None:
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / PROCESSOR_FILE).write_text(text, encoding="utf-8")

    def apply_chat_template(self, *args: object, **options: object) -> str:
        """Refuses: prompts are no texts.

        Raises:
            MissingPartError: always.
        """
        raise MissingPartError(f"a {type(self).__name__} reads no texts")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.image_processor!r})"


class SamProcessor(_PromptProcessor):
    """Pictures and prompts for SAM.

    Args:
        image_processor: of the pictures.
    """

    kind = SamImageProcessor

    def __call__(  # type: ignore[override] # the base takes any keyword
        self,
        images: ImageInput | None = None,
        segmentation_maps: MapInput | None = None,
        input_points: Nested | None = None,
        input_labels: Nested | None = None,
        input_boxes: Nested | None = None,
        return_tensors: TensorKind | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and prompts into the model's inputs.

        Args:
            images: one picture or several.
            segmentation_maps: one for each, to train with.
            input_points: x and y in pixels, for each picture a list of points, or a list of such lists.
            input_labels: 1 for points of the object, 0 for others; nested like the points.
            input_boxes: left, top, right, bottom in pixels, for each picture a list.
            return_tensors: ``"pt"`` or ``"np"``.
            options: of the image processor.

        Returns:
            What the image processor gives, ``input_points [N, objects, points, 2]`` and ``input_boxes [N, objects, 4]``
            in pixels of the model's pictures, ``input_labels [N, objects, points]``.

        Raises:
            InputError: no pictures; prompts that are nested otherwise, or do not fit.
        """
        if images is None:
            raise InputError("there are no pictures", where="images", expected="one or several", found="None")
        batch = self._pixels(images, segmentation_maps, return_tensors, options)
        given = {"input_points": input_points, "input_labels": input_labels, "input_boxes": input_boxes}
        self.prompts(batch, given)
        if return_tensors != "pt":
            for name in given:
                if name in batch:
                    batch[name] = as_kind(cast(Tensor, batch[name]), "np")
        return batch

    def shaped(self, size: tuple[int, int]) -> tuple[int, int]:
        return scaled(size, self.target_size)

    def shallow(self, name: str) -> bool:
        return name != "input_boxes"

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        return [*self.image_processor.model_input_names, "original_sizes", "reshaped_input_sizes"]

    def post_process_masks(self, *args: object, **options: object) -> list[Tensor]:
        """See :meth:`~omniform.inputs.images.sam.SamImageProcessor.post_process_masks`."""
        return cast(SamImageProcessor, self.image_processor).post_process_masks(*args, **options)  # type: ignore[arg-type]


class Sam2Processor(_PromptProcessor):
    """Pictures and prompts for SAM 2.

    Args:
        image_processor: of the pictures.
        target_size: length of the edges that coordinates are brought to; those of the model's pictures by default.
        point_pad_value: what lists that are shorter than others are filled up with.
    """

    kind = Sam2ImageProcessor
    dtype: ClassVar[torch.dtype] = torch.float32

    def __call__(  # type: ignore[override] # the base takes any keyword
        self,
        images: ImageInput | None = None,
        segmentation_maps: MapInput | None = None,
        input_points: Nested | None = None,
        input_labels: Nested | None = None,
        input_boxes: Nested | None = None,
        original_sizes: Nested | None = None,
        return_tensors: TensorKind | None = None,
        **options: object,
    ) -> Batch:
        """Turn pictures and prompts into the model's inputs; see :meth:`SamProcessor.__call__`.

        Args:
            original_sizes: height and width of pictures, where these themselves are not needed.
        """
        if images is not None:
            batch = self._pixels(images, segmentation_maps, return_tensors, options)
        elif original_sizes is not None:
            told = torch.as_tensor(original_sizes)
            batch = Batch({"original_sizes": told if return_tensors == "pt" else told.tolist()})
        else:
            raise InputError("neither pictures nor their sizes", where="images, original_sizes", expected="one of them")
        given = {"input_points": input_points, "input_labels": input_labels, "input_boxes": input_boxes}
        self.prompts(batch, given)
        return batch

    @property
    def model_input_names(self) -> list[str]:
        """The entries that a full batch has."""
        return [*self.image_processor.model_input_names, "original_sizes"]

    def post_process_masks(self, *args: object, **options: object) -> list[Tensor]:
        """See :meth:`~omniform.inputs.images.sam.Sam2ImageProcessor.post_process_masks`."""
        return cast(Sam2ImageProcessor, self.image_processor).post_process_masks(*args, **options)  # type: ignore[arg-type]


def _lists(value: object) -> object:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    return [_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def _depth(value: object) -> int:
    return 1 + max((_depth(one) for one in value), default=0) if isinstance(value, list) else 0


def _measure(value: object, shape: list[int], level: int) -> None:
    if isinstance(value, list) and level < len(shape):
        shape[level] = max(shape[level], len(value))
        for one in value:
            _measure(one, shape, level + 1)


def _fill(value: object, numbers: Tensor, real: Tensor, name: str) -> None:
    if numbers.dim() == 0:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError("no number", where=name, found=brief(value))
        if not is_finite(value):
            raise InputError("this is nowhere in a picture", where=name, expected="finite numbers", found=value)
        numbers.fill_(value)
        real.fill_(True)
        return
    if not isinstance(value, list):
        raise InputError("this is nested otherwise", where=name, found=brief(value))
    for one, inner, known in zip(value, numbers, real, strict=False):
        _fill(one, inner, known, name)
