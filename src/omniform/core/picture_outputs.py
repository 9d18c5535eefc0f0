"""What models return that write of pictures, or match pictures with texts (BLIP and its heirs)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omniform.core.outputs import BaseModelOutput, Layers, ModelOutput


@dataclass(slots=True)
class PictureTextOutput(ModelOutput):
    """What is said of pictures, and the pictures.

    Attributes:
        loss: mean cross-entropy of the next tokens, when labels were given.
        logits: their scores. Shape: [B, T, V]; None of a model that tells its loss only.
        image_embeds: the pictures' hidden states, as the text looked at them. Shape: [B, S, D].
        last_hidden_state: the same.
        hidden_states, attentions: the pictures' encoder's, of each layer, when asked for.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_embeds: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class PictureMatchOutput(ModelOutput):
    """Whether texts belong to pictures.

    Attributes:
        itm_score: scores of "no" and "yes" for each pair, Shape: [B, 2]; or similarities, Shape: [pictures, texts].
        last_hidden_state: the pictures' hidden states. Shape: [B, S, D].
        hidden_states, attentions: the pictures' encoder's, of each layer, when asked for.
        question_embeds: the texts' hidden states. Shape: [B, T, D].
    """

    itm_score: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    question_embeds: Tensor | None = None


@dataclass(slots=True)
class QueriedTextOutput(ModelOutput):
    """Next-token scores of a language model that reads what queries have found in pictures, and all that led there.

    Attributes:
        loss: mean cross-entropy, when labels were given.
        logits: Shape: [B, T, V].
        vision_outputs: the encoder's of pictures.
        qformer_outputs: the queries'.
        language_model_outputs: the language model's.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    vision_outputs: ModelOutput | None = None
    qformer_outputs: ModelOutput | None = None
    language_model_outputs: ModelOutput | None = None

    def to_tuple(self) -> tuple[object, ...]:
        entries = (getattr(self, name) for name in self.keys())
        return tuple(entry.to_tuple() if isinstance(entry, ModelOutput) else entry for entry in entries)


@dataclass(slots=True)
class QueriedFeatures(BaseModelOutput):
    """A picture's features, as a language model reads them, and all that led there.

    Attributes:
        last_hidden_state: the encoder's of pictures. Shape: [B, S, D].
        pooler_output: what queries have found, in the language model's width. Shape: [B, queries, D].
    """

    vision_outputs: ModelOutput | None = None
    qformer_outputs: ModelOutput | None = None
