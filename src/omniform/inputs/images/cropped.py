"""Pictures stretched to whole tiles and cut into them, and all of each, made small, behind its tiles (GOT-OCR 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.sizes import Exact, exact
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess


@dataclass(frozen=True, slots=True, kw_only=True)
class CropOptions(ImageOptions):
    """GOT-OCR 2's and InternVL's.

    Attributes:
        crop_to_patches: cut pictures into tiles.
        min_patches, max_patches: how many tiles a picture has at least and at most, all of it in one apart.
    """

    crop_to_patches: bool | None = None
    min_patches: int | None = None
    max_patches: int | None = None


@lru_cache(maxsize=16)
def _shapes(least: int, most: int) -> tuple[tuple[int, int], ...]:
    """Columns and rows of so many tiles, few tiles first."""
    numbers = range(1, most + 1)
    found = [(columns, rows) for columns in numbers for rows in numbers if least <= columns * rows <= most]
    return tuple(sorted(found, key=lambda shape: shape[0] * shape[1]))


def shape_of(height: int, width: int, tile: Exact, least: int, most: int) -> tuple[int, int]:
    """Columns and rows of tiles whose shape is nearest to a picture's; of those as near, the last that is not larger
    than twice the picture."""
    best, nearest = (1, 1), math.inf
    for columns, rows in _shapes(least, most):
        off = abs(width / height - columns / rows)
        if off < nearest or (off == nearest and height * width > 0.5 * tile.height * tile.width * columns * rows):
            best, nearest = (columns, rows), off
    return best


class CroppingImageProcessor(ImageProcessor):
    """GOT-OCR 2's and InternVL's."""

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
            overrides: options of :class:`CropOptions`, for this call.

        Returns:
            ``pixel_values [tiles of all pictures, C, H, W]``, and ``num_patches``, how many each has.
        """
        options = cast(CropOptions, self._changed(return_tensors, overrides))
        loaded = list(load_tensors(images, options, self.kind.backend, media_access))
        parts = [self._tiles(image, options) if options.crop_to_patches else [image] for image in loaded]
        plan, counts = self.plan(options), [len(own) for own in parts]
        shaped = [through(plan.shaping, part) for own in parts for part in own]
        told: object = counts
        if options.return_tensors is not None:
            told = as_kind(torch.tensor(counts), options.return_tensors)
        return Batch({"pixel_values": self.gathered(plan.finish(shaped), options), "num_patches": told})

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: Mapping[str, object] | None = None
    ) -> int:
        """How many tiles a picture of a size has, with these options of a call."""
        options = cast(CropOptions, self._changed(None, dict(images_kwargs or {})))
        if not options.crop_to_patches:
            return 1
        columns, rows = self._shape(height, width, options)
        return 1 if columns * rows == 1 else columns * rows + 1

    @staticmethod
    def _shape(height: int, width: int, o: CropOptions) -> tuple[int, int]:
        if o.min_patches is None or o.max_patches is None:
            name = "min_patches" if o.min_patches is None else "max_patches"
            raise InputError("tiles need a setting that is not set", where=name)
        return shape_of(height, width, exact(o.size, "size"), o.min_patches, o.max_patches)

    def _tiles(self, image: Tensor, o: CropOptions) -> Sequence[Tensor]:
        """The tiles row by row, and all of the picture. Shape: [C, H, W] each."""
        if o.resample is None:
            raise InputError("tiles need a setting that is not set", where="resample")
        tile, resize = exact(o.size, "size"), self.kind.backend.resize
        columns, rows = self._shape(image.shape[-2], image.shape[-1], o)
        large = resize(image, tile.height * rows, tile.width * columns, o.resample)
        tops, lefts = range(0, large.shape[-2], tile.height), range(0, large.shape[-1], tile.width)
        tiles = [large[..., top : top + tile.height, left : left + tile.width] for top in tops for left in lefts]
        return tiles if len(tiles) == 1 else [*tiles, resize(image, tile.height, tile.width, o.resample)]
