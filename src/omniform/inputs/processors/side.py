"""Processors of models that read a picture and a text at once, and take them side by side as CLIP's does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from omniform.core.batch import Batch
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.processors.clip import CLIPProcessor


class ViltProcessor(CLIPProcessor):
    """ViLT's."""


class BridgeTowerProcessor(CLIPProcessor):
    """BridgeTower's: pictures are cropped and normalised unless a call says otherwise."""

    PICTURES: ClassVar[Mapping[str, object]] = {"do_normalize": True, "do_center_crop": True}


class TrOCRProcessor(CLIPProcessor):
    """TrOCR's: a text beside pictures is what is to be read in them."""

    @property
    def model_input_names(self) -> list[str]:
        return [*self.image_processor.model_input_names, "labels"]

    def __call__(  # type: ignore[override]
        self, images: ImageInput | None = None, text: str | Sequence[str] | None = None, **options: object
    ) -> Batch:
        """Turn texts, pictures or both into the model's inputs; see :meth:`CLIPProcessor.__call__`.

        Returns:
            ``pixel_values [N, C, H, W]`` and the texts' ids as ``labels [B, T]``; of texts alone what the tokenizer
            gives.
        """
        batch = super().__call__(images, text, **options)
        if "pixel_values" not in batch or text is None:
            return batch
        return Batch({"pixel_values": batch["pixel_values"], "labels": batch["input_ids"]})
