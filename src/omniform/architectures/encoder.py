"""Heads of text encoders (BERT and its kin): tokens that were masked or replaced, the next sentence, the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, WritingHead
from omniform.architectures.heads import Head
from omniform.architectures.labels import IGNORED, Chances, Classes, Targets
from omniform.architectures.lean import LossOnly, loss_at, places_of
from omniform.architectures.losses import chance_loss, row_loss, scored, token_loss, two_counts
from omniform.architectures.model import Model
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.architectures.unpadded import leave_out_padding
from omniform.blocks.embeddings import table_rows
from omniform.blocks.mlp import activation
from omniform.core.batch import Item
from omniform.core.errors import InputError, check_shape
from omniform.core.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    ClassifierOutput,
    MaskedLMOutput,
    PreTrainingOutput,
    SentenceOrderOutput,
)


class Filling(Model):
    """Base of the heads that fill in masked tokens."""

    model: TextStack
    lm_head: ScoringHead

    def lighten(self, inputs: dict[str, object]) -> None:
        leave_out_padding(self, inputs)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(table_rows(self.model.embed_tokens))}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))


class MaskedLM(Filling):
    """An encoder that fills in masked tokens."""

    def lighten(self, inputs: dict[str, object]) -> None:
        super().lighten(inputs)
        if inputs.get("labels") is not None:
            inputs["loss_only"] = LossOnly(places_of(inputs["labels"], 0))

    def forward(
        self,
        *args: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        loss_only: LossOnly | bool | None = None,
        **inputs: object,
    ) -> MaskedLMOutput:
        """Scores of every token at every place; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
            loss_only: that nobody looks at the scores.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        if labels is not None and isinstance(loss_only, LossOnly):
            lean = loss_at(out.last_hidden_state, labels, loss_only.places, self.lm_head, None, num_items_in_batch)
            return MaskedLMOutput(loss=lean, **out.noted())
        hidden, labels = self.scored(out.last_hidden_state, labels)
        logits = self.lm_head(hidden)
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, **out.noted())

    def scored(self, hidden_BTD: Tensor, labels_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The places that get scores, and their labels: all of them."""
        return hidden_BTD, labels_BT


class SparseMaskedLM(MaskedLM):
    """One that scores only the places that have a label, where there are labels; its scores are one row of those."""

    def scored(self, hidden_BTD: Tensor, labels_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if labels_BT is None:
            return hidden_BTD, None
        check_shape("labels do not match the tokens", labels_BT.shape, hidden_BTD.shape[:-1], where="labels")
        labelled = labels_BT != IGNORED
        return hidden_BTD[labelled], labels_BT[labelled]


def counted_pair(labels: object, of_rows: object) -> Tensor | None:
    """How many tokens and how many rows a loss of both is the mean over; None where it has not both."""
    tokens, rows = scored(labels), scored(of_rows)
    return None if tokens is None or rows is None else torch.stack((tokens, rows.to(tokens.device)))


class PreTraining(Filling):
    """BERT's pre-training: masked tokens, and whether the second text follows the first."""

    seq_relationship: nn.Linear

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return counted_pair(inputs.get("labels"), inputs.get("next_sentence_label"))

    def targets(self) -> Mapping[str, Targets]:
        return {**super().targets(), "next_sentence_label": Classes(2)}

    def forward(
        self,
        *args: Tensor,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> PreTrainingOutput:
        """Both heads' scores; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; with ``next_sentence_label`` gives a loss.
            next_sentence_label: Shape: [B], 0 where the second text follows the first and 1 where it does not.
            num_items_in_batch: what both parts' sums are divided by, if not this batch's own labels; see
                :meth:`loss_items`.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits, relation = self.lm_head(out.last_hidden_state), self.seq_relationship(out.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            tokens, rows = (x != IGNORED for x in (labels, next_sentence_label))
            of_tokens, of_rows = two_counts(num_items_in_batch, tokens.sum(), rows.sum())
            loss = token_loss(logits, labels, of_tokens)
            loss = loss + row_loss(relation, next_sentence_label, "next_sentence_label", items=of_rows)
        return PreTrainingOutput(loss=loss, prediction_logits=logits, seq_relationship_logits=relation, **out.noted())


class ReplacedTokens(Head):
    """The discriminator: whether each token was replaced by another (ELECTRA).

    Args:
        dense: before the scores, followed by an activation.
        scores: one per token.
        act: name of the activation.
    """

    model: TextStack
    dense: nn.Linear
    scores: nn.Linear
    act: str

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Chances()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels, mask = inputs.get("labels"), inputs.get("attention_mask")
        if not isinstance(labels, Tensor):
            return None
        return (mask == 1).sum() if isinstance(mask, Tensor) else labels.numel()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """A score of every token, above 0 where it seems replaced; see the base model for its inputs.

        Args:
            attention_mask: Shape: [B, T]; padding is left out of the loss.
            labels: Shape: [B, T], 1 for replaced tokens; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own tokens.
        """
        out = cast(BaseModelOutput, self.model(input_ids, attention_mask, *args, **inputs))
        logits = self.scores(activation(self.act)(self.dense(out.last_hidden_state))).squeeze(-1)
        loss = None if labels is None else chance_loss(logits, labels, attention_mask, num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class SentenceOrder(Filling):
    """ALBERT's pre-training: masked tokens, and whether two texts stand in their order."""

    order: nn.Sequential

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return counted_pair(inputs.get("labels"), inputs.get("sentence_order_label"))

    def targets(self) -> Mapping[str, Targets]:
        return {**super().targets(), "sentence_order_label": Classes(2)}

    def forward(
        self,
        *args: Tensor,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> SentenceOrderOutput:
        """Both heads' scores; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; with ``sentence_order_label`` gives a loss.
            sentence_order_label: Shape: [B], 0 where the texts stand in their order and 1 where they are swapped.
            num_items_in_batch: what both parts' sums are divided by, if not this batch's own labels; see
                :meth:`loss_items`.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits, order = self.lm_head(out.last_hidden_state), self.order(out.pooler_output)
        loss = None
        if labels is not None and sentence_order_label is not None:
            tokens, rows = (x != IGNORED for x in (labels, sentence_order_label))
            of_tokens, of_rows = two_counts(num_items_in_batch, tokens.sum(), rows.sum())
            loss = token_loss(logits, labels, of_tokens)
            loss = loss + row_loss(order, sentence_order_label, "sentence_order_label", items=of_rows)
        return SentenceOrderOutput(loss=loss, prediction_logits=logits, sop_logits=order, **out.noted())


class TextWriter(WritingHead):
    """The stack with a head for the next token. It can be asked for scores in any case, and writes if it is causal."""

    model: TextStack
    lm_head: ScoringHead

    def can_generate(self) -> bool:
        return isinstance(self.model, TextDecoder)

    @property
    def decoder(self) -> TextDecoder:
        assert isinstance(self.model, TextDecoder), "asked only of models that can generate"
        return self.model

    def items(self, rows: Sequence[Sequence[int]], features: Mapping[str, Tensor]) -> list[list[Item]]:
        # Tokenizers hand over token types with every text; a prompt is one text, and its types are all 0.
        types = features.get("token_type_ids")
        if types is not None and bool(types.any()):
            raise InputError("a prompt is one text", where="token_type_ids", expected="0 everywhere")
        return super().items(rows, {k: v for k, v in features.items() if k != "token_type_ids"})

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def forward(self, *args: Tensor | None, labels: Tensor | None = None, **inputs: object) -> CausalLMOutput:
        """Next-token scores; see :meth:`WritingHead.forward`."""
        if labels is not None and self.can_generate():
            # Nobody continues from a step that is there for its loss.
            inputs["use_cache"] = False
        return super().forward(*args, labels=labels, **inputs)  # type: ignore[arg-type]
