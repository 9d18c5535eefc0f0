"""DeiT (https://arxiv.org/abs/2012.12877): ViT with a token that learns from a teacher."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.model import Model
from omniform.architectures.vision import MaskedImageModeler, VisionEncoder, classes_of, image_classifier
from omniform.architectures.vit_family import PLAIN_KEYS, zeros
from omniform.blocks.patches import DistilledTokens, GridPositions, MaskToken, PatchStem
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.outputs import BaseModelOutput, DistilledClassifierOutput
from omniform.models.vit import Config, read
from omniform.weights.keymap import KeyMap
from omniform.weights.links import unsqueezed


def build(c: Config, *, mask_token: MaskToken | None = None, pooler: DensePooler | None = None) -> VisionEncoder:
    """The encoder; its heads do without the pooler."""
    vision, dim = c.vision, c.vision.tower.dim
    return VisionEncoder(
        patches=PatchStem(vision.patching, dim),
        positions=GridPositions(vision.patching.grid, dim, before=2),
        class_token=DistilledTokens(dim),
        mask_token=mask_token,
        layers=vision.stack(),
        norm=vision.tower.norm(),
        pooler=pooler,
        dropout=vision.dropout,
    )


class DistilledClassifier(Model):
    """One class per picture: the mean of what the class token says and of what the teacher's token says.

    Args:
        model: the encoder.
        cls_classifier: the class token's vector to class scores.
        distillation_classifier: the other token's vector to class scores.
    """

    main_input = "pixel_values"

    model: VisionEncoder
    cls_classifier: nn.Module
    distillation_classifier: nn.Module

    def forward(self, pixel_values: Tensor, **inputs: object) -> DistilledClassifierOutput:
        """Class scores, the mean and both apart; see :meth:`VisionEncoder.forward` for the other inputs.

        Args:
            pixel_values: Shape: [B, channels, height, width].
        """
        out = cast(BaseModelOutput, self.model(pixel_values, **inputs))
        own = self.cls_classifier(out.last_hidden_state[:, 0])
        taught = self.distillation_classifier(out.last_hidden_state[:, 1])
        return DistilledClassifierOutput(
            logits=(own + taught) / 2, cls_logits=own, distillation_logits=taught, **out.noted()
        )


def with_pooler(c: Config) -> VisionEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=c.pooling.pooler(c.vision.tower.dim))


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the class token."""
    return image_classifier(build(c), first_token, common)


def distilled_classifier(c: Config, common: Common) -> DistilledClassifier:
    """One class per picture, told from both tokens; it has no loss."""
    dim = c.vision.tower.dim
    return DistilledClassifier(
        model=build(c),
        cls_classifier=classes_of(dim, common),
        distillation_classifier=classes_of(dim, common),
    )


def masked_image_modeler(c: Config, _: Common) -> MaskedImageModeler:
    """The encoder that fills in hidden patches."""
    return MaskedImageModeler(model=build(c, mask_token=MaskToken(c.vision.tower.dim)), stride=c.encoder_stride)


KEYS = PLAIN_KEYS | KeyMap({"class_token.distillation.weight": unsqueezed("embeddings.distillation_token", 2)})

FAMILY = (
    Builder("deit", read, KEYS, prefix="deit")
    .public(
        config="DeiTConfig", image_processor="DeiTImageProcessor", row="image classification, masked image modelling"
    )
    .begins(zeros("class_token.weight", "distillation.weight", "positions.weight"))
    .base("DeiTModel", with_pooler)
    .head("DeiTForImageClassification", "image-classification", classifier)
    .head("DeiTForImageClassificationWithTeacher", "image-classification", distilled_classifier)
    .head("DeiTForMaskedImageModeling", "masked-image-modeling", masked_image_modeler)
    .done()
)
