"""What models that predict sets of masks have in common: a backbone, a pixel decoder, and labels of two kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.mask_losses import MaskPrediction, MaskSetLoss, arrive_labels
from omniform.architectures.model import Model
from omniform.blocks.composed import Composed
from omniform.core.errors import InputError, check_shape


class PixelLevel(Composed):
    """A backbone and what reads its maps."""

    encoder: Backbone
    decoder: nn.Module


class PictureModel(Model):
    """Base of models that read pictures which may be padded.

    Where they are padded changes nothing: these models look at padding as at anything else, and a mask of it
    (``pixel_mask``) is for whoever looks at what they found.
    """

    main_input = "pixel_values"

    def arrive(self, inputs: dict[str, object]) -> None:
        pixels, mask = inputs.get("pixel_values"), inputs.get("pixel_mask")
        if not isinstance(pixels, Tensor) or pixels.dim() != 4:
            found = f"shape {list(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
            expected = "a tensor of shape [batch, channels, height, width]"
            raise InputError("there are no pictures", where="pixel_values", expected=expected, found=found)
        if isinstance(mask, Tensor):
            wanted = (pixels.shape[0], *pixels.shape[2:])
            check_shape("the mask does not cover the pictures", mask.shape, wanted, where="pixel_mask")


class MaskSegmenter(Model):
    """Base of models with heads that give every query a class (or none) and a mask.

    Args:
        model: the model without heads.
        criterion: the loss against the objects that are there.
        shows_auxiliary: whether what earlier layers predict is returned, where a call does not say.
    """

    main_input = "pixel_values"

    model: PictureModel
    criterion: MaskSetLoss
    shows_auxiliary: bool = False

    def queries(self) -> int:
        """How many queries there are."""
        raise NotImplementedError

    def arrive(self, inputs: dict[str, object]) -> None:
        self.model.arrive(inputs)
        arrive_labels(inputs, len(self.criterion.empty_weight) - 1)

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        classes = inputs.get("class_labels")
        if not isinstance(classes, (Sequence, Tensor)) or inputs.get("mask_labels") is None:
            return None
        return torch.tensor(self.criterion.counts(classes, self.queries()), dtype=torch.float32)

    def shows(self, asked: bool | None) -> bool:
        """Whether what earlier layers predict is returned; ``asked``: what a call says."""
        return self.shows_auxiliary if asked is None else asked


def predicted(classes: Sequence[Tensor], masks: Sequence[Tensor]) -> list[MaskPrediction]:
    """Predictions of layers, from the first to the last."""
    return [
        {"masks_queries_logits": mask, "class_queries_logits": scores}
        for scores, mask in zip(classes, masks, strict=True)
    ]
