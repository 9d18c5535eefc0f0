"""What models that predict sets of masks return."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omniform.architectures.mask_losses import MaskPrediction
from omniform.core.outputs import Layers, ModelOutput


@dataclass(slots=True)
class MaskFormerModelOutput(ModelOutput):
    """What MaskFormer's queries and pixels came to.

    Attributes:
        encoder_last_hidden_state: the backbone's coarsest map, Shape: [B, C, H, W].
        pixel_decoder_last_hidden_state: the map that masks are read from, Shape: [B, C, H, W].
        transformer_decoder_last_hidden_state: one vector per query, Shape: [B, Q, D].
        encoder_hidden_states: the backbone's maps, from fine to coarse, when asked for.
        pixel_decoder_hidden_states: the pixel decoder's, from coarse to fine, when asked for.
        transformer_decoder_hidden_states: the queries before the first layer and after each, when asked for.
        hidden_states: all of these, one after another.
        attentions: each layer's weights among the queries, Shape: [B, H, Q, Q] each, when asked for.
    """

    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: Layers | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class MaskFormerForInstanceSegmentationOutput(ModelOutput):
    """Classes and masks.

    Attributes:
        loss: Shape: [], when labels were given.
        class_queries_logits: Shape: [B, Q, classes + 1]; the last class is "no object".
        masks_queries_logits: scores of every place as part of a query's mask, Shape: [B, Q, H, W].
        auxiliary_logits: both of the layers before the last, where asked for.

    The rest is as in :class:`MaskFormerModelOutput`.
    """

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_logits: list[MaskPrediction] | None = None
    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: Layers | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class Mask2FormerModelOutput(ModelOutput):
    """What Mask2Former's queries and pixels came to; see :class:`MaskFormerModelOutput`.

    Attributes:
        transformer_decoder_hidden_states: Shape: [Q, B, D] each: queries come first, and pictures second.
        transformer_decoder_intermediate_states: the same, normed.
        masks_queries_logits: masks drawn from each of these, Shape: [B, Q, H, W].
    """

    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: Layers | None = None
    transformer_decoder_intermediate_states: Layers | None = None
    masks_queries_logits: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class Mask2FormerForUniversalSegmentationOutput(ModelOutput):
    """Classes and masks; see :class:`MaskFormerForInstanceSegmentationOutput` and :class:`Mask2FormerModelOutput`."""

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_logits: list[MaskPrediction] | None = None
    encoder_last_hidden_state: Tensor | None = None
    pixel_decoder_last_hidden_state: Tensor | None = None
    transformer_decoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: Layers | None = None
    attentions: Layers | None = None


Looks = tuple[tuple[Tensor, ...], ...]
"""For each layer, the weights among queries, Shape: [B, H, Q, Q], and those over a map, the mean of all heads, Shape:
[B, Q, S]; for each layer nothing, where nobody asked."""


@dataclass(slots=True)
class OneFormerModelOutput(ModelOutput):
    """What OneFormer's queries and pixels came to.

    Attributes:
        encoder_hidden_states: the backbone's maps, from fine to coarse, when asked for.
        pixel_decoder_hidden_states: the map that masks are read from, then the pixel decoder's from coarse to fine.
        transformer_decoder_hidden_states: the same as the auxiliary predictions, when hidden states are asked for.
        transformer_decoder_object_queries: Shape: [B, Q, D], after the last layer.
        transformer_decoder_contrastive_queries: Shape: [B, Q, D], before the first; the last of them is the task.
        transformer_decoder_mask_predictions: Shape: [B, Q, H, W].
        transformer_decoder_class_predictions: Shape: [B, Q, classes + 1].
        transformer_decoder_auxiliary_predictions: both of the layers before the last, where they have losses.
        text_queries: Shape: [B, Q, D], of the texts that training is given.
        task_token: Shape: [B, D].
        attentions: see :data:`Looks`.
    """

    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: tuple[MaskPrediction, ...] | None = None
    transformer_decoder_object_queries: Tensor | None = None
    transformer_decoder_contrastive_queries: Tensor | None = None
    transformer_decoder_mask_predictions: Tensor | None = None
    transformer_decoder_class_predictions: Tensor | None = None
    transformer_decoder_auxiliary_predictions: tuple[MaskPrediction, ...] | None = None
    text_queries: Tensor | None = None
    task_token: Tensor | None = None
    attentions: Looks | None = None


@dataclass(slots=True)
class OneFormerForUniversalSegmentationOutput(ModelOutput):
    """Classes and masks; see :class:`OneFormerModelOutput`.

    Attributes:
        loss: Shape: [1], when labels were given.
        class_queries_logits: Shape: [B, Q, classes + 1]; the last class is "no object".
        masks_queries_logits: scores of every place as part of a query's mask, Shape: [B, Q, H, W].
        auxiliary_predictions: both of the layers before the last, where asked for.
    """

    loss: Tensor | None = None
    class_queries_logits: Tensor | None = None
    masks_queries_logits: Tensor | None = None
    auxiliary_predictions: tuple[MaskPrediction, ...] | None = None
    encoder_hidden_states: Layers | None = None
    pixel_decoder_hidden_states: Layers | None = None
    transformer_decoder_hidden_states: tuple[MaskPrediction, ...] | None = None
    transformer_decoder_object_queries: Tensor | None = None
    transformer_decoder_contrastive_queries: Tensor | None = None
    transformer_decoder_mask_predictions: Tensor | None = None
    transformer_decoder_class_predictions: Tensor | None = None
    transformer_decoder_auxiliary_predictions: tuple[MaskPrediction, ...] | None = None
    text_queries: Tensor | None = None
    task_token: Tensor | None = None
    attentions: Looks | None = None
