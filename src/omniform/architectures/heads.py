"""Task heads: small modules over any base model that returns hidden states.

What differs between families (which vector stands for a row, what the classifier looks like) is passed in as an object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.losses import classification_loss, graded_classification_loss, span_loss, token_loss
from omniform.architectures.model import Model
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput, QuestionAnsweringOutput

Hidden = BaseModelOutput

Pool = Callable[[Hidden, Tensor | None], Tensor]
"""Picks one vector per row: takes the base model's output and the token ids, returns Shape: [B, D]."""


def first_token(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """The first token's hidden state (a class token)."""
    return out.last_hidden_state[:, 0]


def mean_of_patches(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """The mean of all tokens but the first, which is no patch but the class token."""
    return out.last_hidden_state[:, 1:].mean(dim=1)


def pooled(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """What the base model's own pooler gives."""
    assert out.pooler_output is not None
    return out.pooler_output


@dataclass(frozen=True, slots=True)
class LastToken:
    """The hidden state of each row's last token that is not padding, whichever side is padded.

    Attributes:
        pad_token_id: tells padding; without it only single rows can be classified.
    """

    pad_token_id: int | None

    def __call__(self, out: Hidden, input_ids: Tensor | None) -> Tensor:
        hidden = out.last_hidden_state
        if self.pad_token_id is None:
            if hidden.shape[0] > 1:
                raise InputError(
                    "rows cannot be told from their padding",
                    where="config.json: pad_token_id",
                    expected="a padding token, to classify more than one row at once",
                    found="null",
                    remedy="Load with pad_token_id=... or hand over one row at a time.",
                )
            return hidden[:, -1]
        if input_ids is None:
            return hidden[:, -1]
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (places * (input_ids != self.pad_token_id)).argmax(-1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


class Head(Model):
    """Base of the heads that stand on one model.

    Attributes:
        model: the base.
        dropout: before the head's own layers, in training.
    """

    model: Model
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.model.main_input

    def dropped(self, x: Tensor) -> Tensor:
        """``x`` with dropout."""
        return F.dropout(x, self.dropout, self.training)


class SequenceClassifier(Head):
    """One class, several classes or one number per row.

    Args:
        pool: which vector stands for a row.
        classifier: that vector to class scores.
        common: number of labels and problem type, which choose the loss.
    """

    pool: Pool
    classifier: nn.Module
    common: Common

    def forward(self, *args: Tensor, labels: Tensor | None = None, **inputs: object) -> ClassifierOutput:
        """Class scores; see the base model for its inputs.

        Args:
            labels: Shape: [B] of class indices, or [B, C] of targets; gives a loss.
        """
        out = cast(Hidden, self.model(*args, **inputs))
        ids = args[0] if args else cast("Tensor | None", inputs.get(self.main_input))
        logits = self.classifier(self.dropped(self.pool(out, ids)))
        return ClassifierOutput(
            loss=None if labels is None else self.loss(logits, labels),
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
        )

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        """How far the scores are from the labels."""
        return classification_loss(logits_BC, labels, self.common)


class GradedClassifier(SequenceClassifier):
    """One whose labels may be missing, or shares of the classes, where the config says no type of problem (DeBERTa).

    There one number per row comes as Shape: [B] when there are labels, as the reference's does.
    """

    def forward(self, *args: Tensor, labels: Tensor | None = None, **inputs: object) -> ClassifierOutput:
        """Class scores; see the base model for its inputs.

        Args:
            labels: Shape: [B] of class indices, negative ones to leave a row out, or [B, C]; gives a loss.
        """
        out = super().forward(*args, labels=labels, **inputs)
        assert out.logits is not None
        if labels is not None and self.common.problem_type is None and out.logits.shape[-1] == 1:
            return replace(out, logits=out.logits.view(-1))
        return out

    def loss(self, logits_BC: Tensor, labels: Tensor) -> Tensor:
        return graded_classification_loss(logits_BC, labels, self.common)


class TokenClassifier(Head):
    """One class per token (named entities, parts of speech)."""

    classifier: nn.Module

    def forward(self, *args: Tensor, labels: Tensor | None = None, **inputs: object) -> ClassifierOutput:
        """Class scores of every token; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
        """
        out = cast(Hidden, self.model(*args, **inputs))
        logits = self.classifier(self.dropped(out.last_hidden_state))
        return ClassifierOutput(
            loss=None if labels is None else token_loss(logits, labels), logits=logits, **out.noted()
        )


class QuestionAnswerer(Head):
    """The first and the last token of an answer inside the row."""

    qa_outputs: nn.Linear

    def forward(
        self,
        *args: Tensor,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **inputs: object,
    ) -> QuestionAnsweringOutput:
        """Scores of every token as an answer's first and last; see the base model for its inputs.

        Args:
            start_positions: Shape: [B]; with ``end_positions`` gives a loss.
            end_positions: Shape: [B].
        """
        out = cast(Hidden, self.model(*args, **inputs))
        start, end = self.qa_outputs(out.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return QuestionAnsweringOutput(
            loss=loss, start_logits=start.contiguous(), end_logits=end.contiguous(), **out.noted()
        )


class MultipleChoice(Head):
    """Which of several continuations fits: each choice is a row of its own for the base model."""

    pool: Pool
    classifier: nn.Module

    def forward(
        self, input_ids: Tensor | None = None, labels: Tensor | None = None, **inputs: object
    ) -> ClassifierOutput:
        """Scores of the choices.

        Args:
            input_ids: Shape: [B, choices, T]; every other tensor has the choices as its second axis too.
            labels: Shape: [B], index of the right choice; gives a loss.

        Returns:
            ``logits`` Shape: [B, choices].
        """
        rows = {**inputs, "input_ids": input_ids}
        first = next(t for t in rows.values() if isinstance(t, Tensor))
        choices = first.shape[1]
        flat = {name: t.flatten(0, 1) if isinstance(t, Tensor) else t for name, t in rows.items()}
        out = cast(Hidden, self.model(**flat))
        vector = self.pool(out, cast("Tensor | None", flat["input_ids"]))
        logits = self.classifier(self.dropped(vector)).view(-1, choices)
        return ClassifierOutput(
            loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits, **out.noted()
        )
