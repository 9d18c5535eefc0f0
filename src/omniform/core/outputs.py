"""What models return: values by attribute, by key and by index, under the names the ecosystem knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar, overload

from torch import Tensor

from omniform.core.errors import nearest
from omniform.core.state import DenseState

O = TypeVar("O", bound="ModelOutput")  # noqa: E741
Layers = tuple[Tensor, ...]


class ModelOutput:
    """Base of all outputs. Entries that are None are left out of keys, indices and iteration."""

    def keys(self) -> list[str]:
        """The names of the entries that are there."""
        return [f.name for f in fields(self) if getattr(self, f.name) is not None]  # type: ignore[arg-type]

    def to_tuple(self) -> tuple[object, ...]:
        """The entries that are there, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def values(self) -> list[object]:
        return list(self.to_tuple())

    def items(self) -> list[tuple[str, object]]:
        return list(zip(self.keys(), self.to_tuple(), strict=True))

    @overload
    def __getitem__(self, key: str | int) -> object: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[object, ...]: ...
    def __getitem__(self, key: str | int | slice) -> object:
        if isinstance(key, str):
            if key not in self.keys():
                raise KeyError(f"{type(self).__name__} has no {key!r}. {nearest(key, self.keys())}")
            return getattr(self, key)
        return self.to_tuple()[key]

    def get(self, key: str, default: object = None) -> object:
        return getattr(self, key) if key in self.keys() else default

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: object) -> bool:
        return key in self.keys()

    def __len__(self) -> int:
        return len(self.keys())


@dataclass(slots=True)
class BaseModelOutput(ModelOutput):
    """Hidden states of a stack.

    Attributes:
        last_hidden_state: Shape: [B, T, D].
        past_key_values: state to continue from, when ``use_cache``.
        hidden_states: the embeddings and each layer's output, Shape: [B, T, D] each, when asked for.
        attentions: each layer's weights, Shape: [B, H, T, S] each, when asked for.
        cross_attentions: the same for cross-attention.
    """

    last_hidden_state: Tensor
    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None


@dataclass(slots=True)
class BaseModelOutputWithPooling(ModelOutput):
    """Hidden states of an encoder and one vector per row.

    Attributes:
        last_hidden_state: Shape: [B, T, D].
        pooler_output: Shape: [B, D].
    """

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None


@dataclass(slots=True)
class CausalLMOutput(ModelOutput):
    """Next-token scores.

    Attributes:
        loss: mean cross-entropy, when labels were given.
        logits: Shape: [B, T, V].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None
    cross_attentions: Layers | None = None
    image_hidden_states: Tensor | None = None


@dataclass(slots=True)
class MaskedLMOutput(ModelOutput):
    """Scores for every token of the vocabulary at every place. ``logits``: Shape: [B, T, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class PreTrainingOutput(ModelOutput):
    """BERT's two pre-training heads. ``prediction_logits``: [B, T, V]; ``seq_relationship_logits``: [B, 2]."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class ClassifierOutput(ModelOutput):
    """Class scores. ``logits``: [B, labels] for a row or a picture, [B, T, labels] for tokens."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class QuestionAnsweringOutput(ModelOutput):
    """Scores of every token as the first and the last of the answer. Shape: [B, T] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class Seq2SeqModelOutput(ModelOutput):
    """Hidden states of an encoder-decoder. ``last_hidden_state``: Shape: [B, T, D], the decoder's."""

    last_hidden_state: Tensor
    past_key_values: DenseState | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


@dataclass(slots=True)
class Seq2SeqLMOutput(ModelOutput):
    """Next-token scores of an encoder-decoder. ``logits``: Shape: [B, T, V]."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: DenseState | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None


@dataclass(slots=True)
class Seq2SeqClassifierOutput(Seq2SeqLMOutput):
    """Class scores of an encoder-decoder. ``logits``: Shape: [B, labels]."""


@dataclass(slots=True)
class Seq2SeqQuestionAnsweringOutput(ModelOutput):
    """Answer-span scores of an encoder-decoder. Shape: [B, T] each."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    past_key_values: DenseState | None = None
    decoder_hidden_states: Layers | None = None
    decoder_attentions: Layers | None = None
    cross_attentions: Layers | None = None
    encoder_last_hidden_state: Tensor | None = None
    encoder_hidden_states: Layers | None = None
    encoder_attentions: Layers | None = None
