"""What families of decoders share: Llama's stack of layers, and the heads that stand on any decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from torch import nn

from omniform.architectures.decoder import CausalLM, Decoder, tied
from omniform.architectures.heads import QuestionAnswerer, SequenceClassifier, TokenClassifier, last_token
from omniform.blocks.layers import PreNorm
from omniform.core.config import Common


def prenorm_decoder(
    embed_tokens: nn.Embedding,
    *,
    layers: int,
    norm: Callable[[], nn.Module],
    attention: Callable[[int], nn.Module],
    mlp: Callable[[], nn.Module],
    max_positions: int | None,
) -> Decoder:
    """A decoder as Llama's: a norm before every attention, before every MLP and after the last layer.

    Args:
        embed_tokens: the table of token vectors.
        layers: how many there are.
        norm: makes one norm.
        attention: makes the attention of the layer with the given index.
        mlp: makes one MLP.
        max_positions: the longest row the model can make sense of; None if there is no limit.
    """
    return Decoder(
        embed_tokens=embed_tokens,
        layers=(
            PreNorm(input_layernorm=norm(), self_attn=attention(i), post_attention_layernorm=norm(), mlp=mlp())
            for i in range(layers)
        ),
        norm=norm(),
        max_positions=max_positions,
    )


class HeadConfig(Protocol):
    """What the heads need of a family's config.

    Attributes:
        tie: whether the projection onto the vocabulary is the table of tokens.
        classifier_dropout: before the classifier of tokens, in training.
    """

    @property
    def tie(self) -> bool: ...

    @property
    def classifier_dropout(self) -> float: ...


C = TypeVar("C", bound=HeadConfig)


class DecoderHeads(Generic[C]):
    """The heads on top of a decoder, each a builder for :meth:`Builder.head`.

    Args:
        build: makes the decoder.
    """

    def __init__(self, build: Callable[[C], Decoder]) -> None:
        self._build = build

    def causal_lm(self, c: C, _: Common) -> CausalLM:
        """The decoder that writes."""
        model = self._build(c)
        table = model.embed_tokens
        return CausalLM(model, tied(nn.Linear(model.width, table.num_embeddings, bias=False), table, c.tie))

    def sequence_classifier(self, c: C, common: Common) -> SequenceClassifier:
        """One class per row, told from its last token."""
        model = self._build(c)
        score = nn.Linear(model.width, common.num_labels, bias=False)
        return SequenceClassifier(model, last_token(common.pad_token_id), score, common)

    def token_classifier(self, c: C, common: Common) -> TokenClassifier:
        """One class per token."""
        model = self._build(c)
        return TokenClassifier(model, nn.Linear(model.width, common.num_labels), dropout=c.classifier_dropout)

    def question_answerer(self, c: C, _: Common) -> QuestionAnswerer:
        """The first and last token of an answer."""
        model = self._build(c)
        return QuestionAnswerer(model, nn.Linear(model.width, 2))
