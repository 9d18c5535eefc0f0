"""Pictures of any sizes, whole patches each, padded to one size; their own sizes are told (Pixtral)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.backends import Backend
from omniform.inputs.images.options import SIZE_PARSER, ImageOptions, Parser, as_json
from omniform.inputs.images.plans import cropping, padding, resizing, valuing
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.sizes import Exact, LongestEdge, Size, exact
from omniform.inputs.images.steps import Plan
from omniform.inputs.images.targets import unusable
from omniform.inputs.media_access import MediaAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class SizedOptions(ImageOptions):
    """Pixtral's.

    Attributes:
        patch_size: pixels of a patch, down and across; pictures become whole patches.
    """

    PARSERS: ClassVar[Mapping[str, Parser]] = {"patch_size": SIZE_PARSER}

    patch_size: Size | None = None


@dataclass(frozen=True, slots=True)
class WholePatches:
    """No larger than a size, the shape kept; then up to the next whole patches.

    Attributes:
        most: what is not exceeded.
        patch: pixels of a patch.
    """

    most: Exact
    patch: Exact

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The new ``(height, width)`` of a picture of this height and width.

        Raises:
            InputError: nothing is left of its shorter edge.
        """
        ratio = max(height / self.most.height, width / self.most.width)
        tall, wide = (math.floor(height / ratio), math.floor(width / ratio)) if ratio > 1 else (height, width)
        if min(tall, wide) < 1:
            raise InputError(
                "the picture is too long for its width",
                where="images",
                expected=f"a shape that leaves a pixel within {self.most.height} x {self.most.width}",
                found=f"{height} x {width}",
            )
        down, across = self.patch.height, self.patch.width
        return math.ceil(tall / down) * down, math.ceil(wide / across) * across


def sized(o: ImageOptions, b: Backend) -> Plan:
    """Resize to whole patches, crop, normalise; pad the batch at the end."""

    def rule(size: Size) -> WholePatches:
        if isinstance(size, LongestEdge):
            size = Exact(size.longest_edge, size.longest_edge)
        if not isinstance(size, Exact):
            raise unusable(size, "longest_edge, or height and width")
        return WholePatches(size, exact(cast(SizedOptions, o).patch_size, "patch_size"))

    return Plan((*resizing(o, b, rule), *cropping(o, b)), valuing(o, b), padding(o))


class SizedImageProcessor(ImageProcessor):
    """Pixtral's: pictures padded to the largest of a batch, and what is picture in them."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "image_sizes")

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures; see :meth:`~omniform.inputs.images.processor.ImageProcessor.__call__`.

        Args:
            overrides: options of :class:`SizedOptions`, for this call.

        Returns:
            ``pixel_values [N, C, H, W]`` and ``image_sizes [N, 2]``, heights and widths in it.
        """
        options = self._changed(return_tensors, overrides)
        plan = self.plan(options)
        shaped = plan.shape(load_tensors(images, options, self.kind.backend, media_access))
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in shaped]
        pixels, told = plan.finish(shaped), cast(object, sizes)
        if options.return_tensors is not None:
            told = as_kind(torch.tensor(sizes), options.return_tensors)
        return Batch({"pixel_values": self.gathered(pixels, options), "image_sizes": told})

    @property
    def patch_size(self) -> dict[str, int] | None:
        """Pixels of a patch, as the file states it."""
        return cast("dict[str, int] | None", as_json(cast(SizedOptions, self.options).patch_size))
