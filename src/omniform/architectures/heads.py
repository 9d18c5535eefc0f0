"""Task heads: small modules over any base model that returns hidden states.

What differs between families (which vector stands for a row, what the classifier looks like) is passed in as an object.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Protocol, TypedDict, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.labels import Choices, Classes, Graded, Places, Problem, Targets
from omniform.architectures.losses import (
    Items,
    classification_items,
    classification_loss,
    graded_classification_loss,
    graded_items,
    row_loss,
    scored,
    span_items,
    span_loss,
    token_loss,
)
from omniform.architectures.model import Model
from omniform.architectures.scoring import ScoringHead
from omniform.architectures.stack import TextStack
from omniform.architectures.unpadded import leave_out_padding
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import (
    BaseModelOutput,
    ClassifierOutput,
    QuestionAnsweringOutput,
    Seq2SeqClassifierOutput,
    Seq2SeqModelOutput,
    Seq2SeqQuestionAnsweringOutput,
)

Hidden = BaseModelOutput | Seq2SeqModelOutput

Classified = ClassifierOutput | Seq2SeqClassifierOutput
Answered = QuestionAnsweringOutput | Seq2SeqQuestionAnsweringOutput

Pool = Callable[[Hidden, Tensor | None], Tensor]
"""Picks one vector per row: takes the base model's output and the token ids, returns Shape: [B, D]."""


def first_token(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """The first token's hidden state (a class token)."""
    return out.last_hidden_state[:, 0]


def mean_of_patches(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """The mean of all tokens but the first, which is no patch but the class token."""
    return out.last_hidden_state[:, 1:].mean(dim=1)


def mean_of_all(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """The mean of all tokens (an encoder of patches alone)."""
    return out.last_hidden_state.mean(dim=1)


def pooled(out: Hidden, input_ids: Tensor | None) -> Tensor:
    """What the base model's own pooler gives."""
    assert isinstance(out, BaseModelOutput) and out.pooler_output is not None
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
        return last_of(hidden, input_ids != self.pad_token_id)

    def agrees(self, inputs: Mapping[str, object]) -> bool:
        """Whether a call's mask hides padding tokens and no other, as the host can see."""
        ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        told = isinstance(ids, Tensor) and isinstance(mask, Tensor) and self.pad_token_id is not None
        if not told or not is_readable(cast(Tensor, ids)):
            return False
        return torch.equal(cast(Tensor, ids).ne(cast(int, self.pad_token_id)), cast(Tensor, mask) != 0)


def last_of(hidden_BTD: Tensor, among_BT: Tensor) -> Tensor:
    """The hidden state of each row's last token among some; of the first, where there are none. Shape: [B, D]."""
    last = (torch.arange(among_BT.shape[1], device=among_BT.device) * among_BT).argmax(-1)
    return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=hidden_BTD.device), last]


class Head(Model):
    """Base of the heads that stand on one model.

    Attributes:
        model: the base.
        dropout: before the head's own layers, in training.
        READS_ALL: whether its scores are of all places, padding among them, side by side.
    """

    READS_ALL: ClassVar[bool] = False
    model: Model
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.model.main_input

    def dropped(self, x: Tensor) -> Tensor:
        """``x`` with dropout."""
        return F.dropout(x, self.dropout, self.training)

    def lighten(self, inputs: dict[str, object]) -> None:
        if not self.READS_ALL:
            leave_out_padding(self, inputs)

    def hidden(self, args: tuple[Tensor | None, ...], inputs: dict[str, object], *, for_loss: bool = False) -> Hidden:
        """What the base model makes of a call's inputs; ``for_loss``: whether nobody will continue from it."""
        return cast(Hidden, self.model(*args, **inputs))


class RowHead(Head):
    """Base of the heads that score whole rows."""

    pool: Pool

    def lighten(self, inputs: dict[str, object]) -> None:
        if self.pool in (first_token, pooled) or (isinstance(self.pool, LastToken) and self.pool.agrees(inputs)):
            super().lighten(inputs)

    def vector(self, out: Hidden, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> Tensor:
        """What stands for each row, of a call and what the base model made of it. Shape: [B, D]."""
        return self.pool(out, args[0] if args else cast("Tensor | None", inputs.get(self.main_input)))


class MaskedRowHead(RowHead):
    """One whose rows are told from what is masked in them: its ``pool`` gets the mask in place of the ids."""

    def lighten(self, inputs: dict[str, object]) -> None:
        leave_out_padding(self, inputs)

    def vector(self, out: Hidden, args: tuple[Tensor | None, ...], inputs: Mapping[str, object]) -> Tensor:
        mask = args[1] if len(args) > 1 else cast("Tensor | None", inputs.get("attention_mask"))
        if mask is not None and mask.dim() != 2:
            found = f"shape {list(mask.shape)}"
            raise InputError("rows are pooled by their mask", where="attention_mask", expected="[B, T]", found=found)
        return self.pool(out, mask)


def mean_of_real(out: Hidden, mask: Tensor | None) -> Tensor:
    """The mean of the tokens that are not masked."""
    hidden = out.last_hidden_state
    if mask is None:
        return hidden.mean(dim=1)
    return (hidden * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def first_real(out: Hidden, mask: Tensor | None) -> Tensor:
    """The first token that is not masked, whichever side is padded."""
    hidden = out.last_hidden_state
    if mask is None:
        return hidden[:, 0]
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.long().argmax(dim=-1)]


class SequenceClassifier(RowHead):
    """One class, several classes or one number per row.

    Args:
        pool: which vector stands for a row.
        classifier: that vector to class scores.
        common: number of labels and problem type, which choose the loss.
    """

    classifier: nn.Module
    common: Common
    OUTPUT: ClassVar[Callable[..., Classified]] = ClassifierOutput

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Problem(self.common)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return classification_items(inputs.get("labels"), self.common)

    @property
    def reads_first(self) -> bool:
        """Whether a row is told from its first token alone, so that ``first_only`` changes nothing but the work."""
        return self.pool in (first_token, pooled) and "first_only" in self.accepts()

    def forward(
        self,
        *args: Tensor | None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> Classified:
        """Class scores; see the base model for its inputs.

        Args:
            labels: Shape: [B] of class indices, or [B, C] of targets; gives a loss.
            num_items_in_batch: what the loss's sum over rows is divided by, if not this batch's own rows.
        """
        out = self.hidden(args, inputs, for_loss=labels is not None)
        logits = self.classifier(self.dropped(self.vector(out, args, inputs)))
        return self.OUTPUT(
            loss=None if labels is None else self.loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
        )

    def loss(self, logits_BC: Tensor, labels: Tensor, items: Items) -> Tensor:
        """How far the scores are from the labels; ``items`` divides the sum, if not their own number."""
        return classification_loss(logits_BC, labels, self.common, items)


class GradedClassifier(SequenceClassifier):
    """One whose labels may be missing, or shares of the classes, where the config says no type of problem (DeBERTa).

    There one number per row comes as Shape: [B] when there are labels, as the reference's does.
    """

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Graded(self.common)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return graded_items(inputs.get("labels"), self.common)

    def forward(self, *args: Tensor | None, labels: Tensor | None = None, **inputs: object) -> Classified:
        """Class scores; see the base model for its inputs.

        Args:
            labels: Shape: [B] of class indices, negative ones to leave a row out, or [B, C]; gives a loss.
        """
        out = super().forward(*args, labels=labels, **inputs)  # type: ignore[arg-type]
        assert out.logits is not None
        if labels is not None and self.common.problem_type is None and out.logits.shape[-1] == 1:
            return replace(out, logits=out.logits.view(-1))
        return out

    def loss(self, logits_BC: Tensor, labels: Tensor, items: Items) -> Tensor:
        return graded_classification_loss(logits_BC, labels, self.common, items)


class TokenClassifier(Head):
    """One class per token (named entities, parts of speech)."""

    classifier: nn.Linear | ScoringHead

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Classes(self.classifier.out_features)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        *args: Tensor,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Class scores of every token; see the base model for its inputs.

        Args:
            labels: Shape: [B, T], ``-100`` to leave out; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own labels.
        """
        out = cast(BaseModelOutput, self.model(*args, **inputs))
        logits = self.classifier(self.dropped(out.last_hidden_state))
        loss = None if labels is None else token_loss(logits, labels, num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class QuestionAnswerer(Head):
    """The first and the last token of an answer inside the row."""

    qa_outputs: nn.Module
    READS_ALL = True
    OUTPUT: ClassVar[Callable[..., Answered]] = QuestionAnsweringOutput

    def targets(self) -> Mapping[str, Targets]:
        return {"start_positions": Places(), "end_positions": Places()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        tokens = next((x for x in map(inputs.get, (self.main_input, "inputs_embeds")) if isinstance(x, Tensor)), None)
        places = (inputs.get("start_positions"), inputs.get("end_positions"))
        return None if tokens is None else span_items(*places, tokens.shape[1])

    def forward(
        self,
        *args: Tensor | None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> Answered:
        """Scores of every token as an answer's first and last; see the base model for its inputs.

        Args:
            start_positions: Shape: [B]; with ``end_positions`` gives a loss.
            end_positions: Shape: [B].
            num_items_in_batch: what the loss's sum over places is divided by, if not this batch's own rows.
        """
        graded = start_positions is not None and end_positions is not None
        out = self.hidden(args, inputs, for_loss=graded)
        start, end = self.qa_outputs(self.dropped(out.last_hidden_state)).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions, num_items_in_batch)
        return self.OUTPUT(
            loss=loss,
            start_logits=start.contiguous(),
            end_logits=end.contiguous(),
            # Nobody continues from a stack that was asked; of encoder-decoders the ecosystem hands it on all the same.
            past_key_values=out.past_key_values if isinstance(out, Seq2SeqModelOutput) else None,
            **out.noted(),
        )


def flattened(inputs: Mapping[str, object]) -> dict[str, object]:
    """Inputs of choices as rows of their own. Shape: [B, choices, ...] to [B * choices, ...]."""
    return {name: t.flatten(0, 1) if isinstance(t, Tensor) else t for name, t in inputs.items()}


class MultipleChoice(RowHead):
    """Which of several continuations fits: each choice is a row of its own for the base model."""

    classifier: nn.Module

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Choices()}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return scored(inputs.get("labels"))

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **inputs: object,
    ) -> ClassifierOutput:
        """Scores of the choices.

        Args:
            input_ids: Shape: [B, choices, T]; every other tensor has the choices as its second axis too.
            labels: Shape: [B], index of the right choice; gives a loss.
            num_items_in_batch: what the loss's sum is divided by, if not this batch's own rows.

        Returns:
            ``logits`` Shape: [B, choices].
        """
        rows = {**inputs, "input_ids": input_ids}
        flat = flattened(rows)
        out = cast(BaseModelOutput, self.model(**flat))  # complains where there is nothing to read
        choices = next(t.shape[1] for t in rows.values() if isinstance(t, Tensor))
        logits = self.classifier(self.dropped(self.vector(out, (), flat))).view(-1, choices)
        loss = None if labels is None else row_loss(logits, labels, items=num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, **out.noted())


class HeadConfig(Protocol):
    """What the usual heads need of a config.

    Attributes:
        dim: width of the hidden states.
        classifier_dropout: before the classifier of tokens, in training.
        tie: whether the projection onto the vocabulary is the table of tokens.
    """

    @property
    def dim(self) -> int: ...

    @property
    def classifier_dropout(self) -> float: ...

    @property
    def tie(self) -> bool: ...


class RowParts(TypedDict):
    """What a head is made of that scores whole rows."""

    model: Model
    pool: Pool
    classifier: nn.Module
    dropout: float


C = TypeVar("C")
P = TypeVar("P", bound=HeadConfig)


class TextHeads(Generic[C, P]):
    """The heads that stand on any stack of text, each a builder for :meth:`Builder.head`.

    A kind of stack says which vector stands for a row and what scores it (:meth:`row`); the heads follow.

    Args:
        of: what the heads need of the config.
    """

    def __init__(self, of: Callable[[C], P]) -> None:
        self._of = of

    @abstractmethod
    def bare(self, c: C) -> TextStack:
        """The stack alone."""

    @abstractmethod
    def row(self, c: C, common: Common, scores: int) -> RowParts:
        """What gives every row so many scores."""

    def sequence_classifier(self, c: C, common: Common) -> SequenceClassifier:
        """One class per row."""
        return SequenceClassifier(**self.row(c, common, common.num_labels), common=common)

    def multiple_choice(self, c: C, common: Common) -> MultipleChoice:
        """Which continuation fits."""
        return MultipleChoice(**self.row(c, common, 1))

    def token_classifier(self, c: C, common: Common) -> TokenClassifier:
        """One class per token."""
        classifier = nn.Linear(self._of(c).dim, common.num_labels)
        return TokenClassifier(model=self.bare(c), classifier=classifier, dropout=self._of(c).classifier_dropout)

    def question_answerer(self, c: C, _: Common) -> QuestionAnswerer:
        """The first and last token of an answer."""
        return QuestionAnswerer(model=self.bare(c), qa_outputs=nn.Linear(self._of(c).dim, 2))
