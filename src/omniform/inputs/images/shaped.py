"""Pictures of any shape as rows of patches, as many as fit in a number of them (SigLIP 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.images.options import ImageOptions
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, as_kind, load_tensors
from omniform.inputs.images.steps import through
from omniform.inputs.media_access import MediaAccess

_NEAR: Final = 1e-5
"""How near to the largest scale that fits one is looked for."""
_LARGEST: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapedOptions(ImageOptions):
    """SigLIP 2's.

    Attributes:
        patch_size: pixels of a patch, down and across.
        max_num_patches: how many patches a picture has at most, and a row has with its padding.
    """

    patch_size: int | None = 16
    max_num_patches: int | None = 256


def shape_within(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest size of whole patches, not more than so many, that nearly keeps a picture's shape.

    In pixels; by halving an interval of scales as the reference does: where it stops decides between sizes.
    """

    def scaled(scale: float) -> tuple[int, int]:
        high, wide = (max(patch, math.ceil(edge * scale / patch) * patch) for edge in (height, width))
        return high, wide

    least, largest = _NEAR / 10, _LARGEST
    while largest - least >= _NEAR:
        scale = (least + largest) / 2
        high, wide = scaled(scale)
        if (high // patch) * (wide // patch) <= most:
            least = scale
        else:
            largest = scale
    return scaled(least)


class ShapedImageProcessor(ImageProcessor):
    """SigLIP 2's."""

    model_input_names: ClassVar[Sequence[str]] = ("pixel_values", "pixel_attention_mask", "spatial_shapes")

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures.

        Args:
            images: one picture or several, of any sizes.
            return_tensors: ``"pt"`` or ``"np"`` for tensors; None for lists.
            media_access: which files and addresses may be read, and how many pixels.
            overrides: options of :class:`ShapedOptions`, for this call.

        Returns:
            ``pixel_values [N, max_num_patches, numbers of a patch]``, with zeros behind a picture's patches;
            ``pixel_attention_mask [N, max_num_patches]``, 1 for patches of the picture; ``spatial_shapes [N, 2]``,
            rows and columns of patches.

        Raises:
            InputError: as for every processor; or, without ``do_resize``, a picture is not of so many whole patches.
        """
        options = cast(ShapedOptions, self._changed(return_tensors, overrides))
        patch, most = (_positive(options, name) for name in ("patch_size", "max_num_patches"))
        values = self.plan(options).valuing
        rows: list[Tensor] = []
        marks: list[Tensor] = []
        shapes: list[tuple[int, int]] = []
        for image in load_tensors(images, options, self.kind.backend, media_access):
            valued = through(values, self._fitted(image, options, patch, most))
            shape = (valued.shape[-2] // patch, valued.shape[-1] // patch)
            missing = most - shape[0] * shape[1]
            rows.append(F.pad(_cut(valued, patch), (0, 0, 0, missing)))
            marks.append((torch.arange(most) < most - missing).int())
            shapes.append(shape)
        kind = options.return_tensors
        if kind is None:
            loose = self.kind.backend.loose
            pixels: list[object] = [loose(row) for row in rows]
            masks: list[object] = [loose(mark) for mark in marks]
            return Batch({"pixel_values": pixels, "pixel_attention_mask": masks, "spatial_shapes": shapes})
        made = {
            "pixel_values": rows,
            "pixel_attention_mask": marks,
            "spatial_shapes": [torch.tensor(s) for s in shapes],
        }
        return Batch({name: as_kind(torch.stack(parts), kind) for name, parts in made.items()})

    @property
    def patch_size(self) -> int | None:
        """Pixels of a patch, down and across."""
        return cast(ShapedOptions, self.options).patch_size

    @property
    def max_num_patches(self) -> int | None:
        """How many patches a picture has at most."""
        return cast(ShapedOptions, self.options).max_num_patches

    def _fitted(self, image: Tensor, options: ShapedOptions, patch: int, most: int) -> Tensor:
        height, width = int(image.shape[-2]), int(image.shape[-1])
        if options.do_resize:
            if options.resample is None:
                raise InputError("pictures are resized by a filter that is not set", where="resample", found="None")
            return self.kind.backend.resize(image, *shape_within(height, width, patch, most), options.resample)
        if height % patch or width % patch or (height // patch) * (width // patch) > most:
            raise InputError(
                "the picture is not of whole patches, or of too many",
                where="images",
                expected=f"edges that are multiples of {patch}, and at most {most} patches",
                found=f"{height} x {width}",
                remedy="do_resize=True makes it so.",
            )
        return image


def _positive(options: ShapedOptions, name: str) -> int:
    value = {"patch_size": options.patch_size, "max_num_patches": options.max_num_patches}[name]
    if value is None or value < 1:
        raise InputError("rows of patches need it", where=name, expected="a positive number", found=str(value))
    return value


def _cut(image: Tensor, patch: int) -> Tensor:
    """A picture's patches row by row, the channels of a pixel together. Shape: [C, H, W] to [N, P * P * C]."""
    channels, height, width = image.shape
    cut = image.reshape(channels, height // patch, patch, width // patch, patch)
    return cut.permute(1, 3, 2, 4, 0).reshape(-1, patch * patch * channels)
