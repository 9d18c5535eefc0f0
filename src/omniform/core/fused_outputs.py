"""What models return whose words and pictures look at one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from omniform.core.outputs import Layers, ModelOutput

Pairs = tuple[tuple[Tensor, Tensor], ...]
"""For each layer, what there is of the words and of the patches."""

Streams = tuple[Layers, Layers, Pairs]
"""Hidden states of the words' tower, of the pictures' and, layer by layer, of both where they look at one another."""


class BridgeNoted(TypedDict):
    """What a head's output repeats of a bridge between two towers."""

    hidden_states: Streams | None
    attentions: Pairs | None
    cross_attentions: Pairs | None


@dataclass(slots=True, kw_only=True)
class BridgeOutput(ModelOutput):
    """What an output tells of two towers and of the layers between them.

    Attributes:
        hidden_states: of the words' tower, Shape: [B, T, D] each; of the pictures', Shape: [P, B, D] each (patches
            first); and pairs of both of each layer between them, Shape: [B, T, D] and [B, P, D].
        attentions: of each layer between them, how words look at words and patches at patches.
        cross_attentions: how words look at patches, Shape: [B, H, T, P], and patches at words, Shape: [B, H, P, T];
            when attentions are asked for.
    """

    hidden_states: Streams | None = None
    attentions: Pairs | None = None
    cross_attentions: Pairs | None = None

    def noted(self) -> BridgeNoted:
        """What a head's output repeats of this one."""
        return {
            "hidden_states": self.hidden_states,
            "attentions": self.attentions,
            "cross_attentions": self.cross_attentions,
        }


@dataclass(slots=True)
class BridgeModelOutput(BridgeOutput):
    """Words and pictures that have looked at one another.

    Attributes:
        text_features: Shape: [B, T, D].
        image_features: Shape: [B, P, D].
        pooler_output: both together, Shape: [B, 2 D].
    """

    text_features: Tensor
    image_features: Tensor
    pooler_output: Tensor


@dataclass(slots=True)
class BridgeScores(BridgeOutput):
    """Scores of rows, Shape: [B, C], or of tokens, Shape: [B, T, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None


@dataclass(slots=True)
class BridgeContrastOutput(BridgeOutput):
    """Words, pictures and both in one space.

    Attributes:
        logits: the three vectors side by side, Shape: [B, 3, E].
        text_embeds: Shape: [B, E], of length 1.
        image_embeds: likewise.
        cross_embeds: of both together, likewise.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    text_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    cross_embeds: Tensor | None = None


class RegionNoted(TypedDict):
    """What a head's output repeats of words and regions."""

    language_hidden_states: Layers | None
    vision_hidden_states: Layers | None
    language_attentions: Layers | None
    vision_attentions: Layers | None
    cross_encoder_attentions: Layers | None


@dataclass(slots=True, kw_only=True)
class RegionOutput(ModelOutput):
    """What an output tells of words, of regions of pictures and of where they look at one another.

    Attributes:
        language_hidden_states: of the words' layers and those where both meet, Shape: [B, T, D] each, when asked for.
        vision_hidden_states: of the regions' likewise, Shape: [B, R, D] each.
        language_attentions: of the words' layers, Shape: [B, H, T, T] each, when asked for.
        vision_attentions: of the regions' layers, Shape: [B, H, R, R] each.
        cross_encoder_attentions: how words look at regions, Shape: [B, H, T, R] each.
    """

    language_hidden_states: Layers | None = None
    vision_hidden_states: Layers | None = None
    language_attentions: Layers | None = None
    vision_attentions: Layers | None = None
    cross_encoder_attentions: Layers | None = None

    def noted(self) -> RegionNoted:
        """What a head's output repeats of this one."""
        return {
            "language_hidden_states": self.language_hidden_states,
            "vision_hidden_states": self.vision_hidden_states,
            "language_attentions": self.language_attentions,
            "vision_attentions": self.vision_attentions,
            "cross_encoder_attentions": self.cross_encoder_attentions,
        }


@dataclass(slots=True)
class RegionModelOutput(RegionOutput):
    """Words and regions that have looked at one another.

    Attributes:
        language_output: Shape: [B, T, D].
        vision_output: Shape: [B, R, D].
        pooled_output: one vector per row, Shape: [B, D].
    """

    language_output: Tensor
    vision_output: Tensor
    pooled_output: Tensor


@dataclass(slots=True)
class RegionAnswerOutput(RegionOutput):
    """Scores of answers. ``question_answering_score``: Shape: [B, answers]."""

    loss: Tensor | None = None
    question_answering_score: Tensor | None = None


@dataclass(slots=True)
class RegionPreTrainingOutput(RegionOutput):
    """Scores of what LXMERT was pre-trained on.

    Attributes:
        prediction_logits: of masked words, Shape: [B, T, V].
        cross_relationship_score: of whether text and picture belong together, Shape: [B, 2].
        question_answering_score: of answers, Shape: [B, answers].
    """

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    cross_relationship_score: Tensor | None = None
    question_answering_score: Tensor | None = None


@dataclass(slots=True)
class SeveralScores(ModelOutput):
    """Scores of rows that several pictures belong to.

    Attributes:
        logits: Shape: [B, C].
        hidden_states: for each picture those of the text read with it, when asked for.
        attentions: likewise.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: list[Layers] | None = None
    attentions: list[Layers] | None = None
