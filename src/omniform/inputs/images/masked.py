"""Pictures of several sizes in one batch, and the mask that tells pixels from padding (BridgeTower, ViLT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.inputs.images.processor import ImageInput, ImageProcessor, TensorKind, load_tensors
from omniform.inputs.media_access import MediaAccess


class MaskedImageProcessor(ImageProcessor):
    """Preprocesses pictures for models that read them padded.

    Attributes:
        ENTRIES: the entries of a batch, in order.
    """

    ENTRIES: ClassVar[tuple[str, ...]] = ("pixel_mask", "pixel_values")

    model_input_names: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask")

    def __call__(  # type: ignore[override]
        self,
        images: ImageInput,
        *,
        return_tensors: TensorKind | None = None,
        media_access: MediaAccess | None = None,
        **overrides: object,
    ) -> Batch:
        """Preprocess pictures; see :meth:`ImageProcessor.__call__`.

        Returns:
            ``pixel_values [N, C, H, W]``; with ``do_pad`` also ``pixel_mask [N, H, W]``, 1 where a picture is and 0 in
            the padding.
        """
        options = self._changed(return_tensors, overrides)
        plan = self.plan(options)
        shaped = plan.shape(load_tensors(images, options, self.kind.backend, media_access))
        sizes = [(image.shape[-2], image.shape[-1]) for image in shaped]
        pixels = plan.finish(shaped)
        data = {"pixel_values": self.gathered(pixels, options)}
        if plan.pad is not None:
            height, width = pixels[0].shape[-2:]
            mask = pixel_mask(sizes, height, width, pixels[0].device)
            data["pixel_mask"] = self.gathered(mask, options)
        return Batch({name: data[name] for name in self.ENTRIES if name in data})


class ViltImageProcessor(MaskedImageProcessor):
    """ViLT's."""

    ENTRIES: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_mask")


def pixel_mask(sizes: Sequence[tuple[int, int]], height: int, width: int, device: torch.device) -> Tensor:
    """1 where pictures of these sizes are, 0 in the padding. Shape: [N, height, width]."""
    mask = torch.zeros(len(sizes), height, width, dtype=torch.int64, device=device)
    for row, (rows, columns) in zip(mask, sizes, strict=True):
        row[:rows, :columns] = 1
    return mask
