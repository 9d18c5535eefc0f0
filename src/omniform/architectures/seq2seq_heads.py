"""Task heads over an encoder-decoder: the decoder reads the text again and is asked about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderDecoder, RightShift
from omniform.architectures.heads import (
    Answered,
    Classified,
    Head,
    Hidden,
    QuestionAnswerer,
    SequenceClassifier,
    last_of,
)
from omniform.architectures.unpadded import leave_out_padding
from omniform.blocks.mlp import activation
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import Seq2SeqClassifierOutput, Seq2SeqQuestionAnsweringOutput


class SentenceClassifier(nn.Module):
    """Two projections with an activation between them (BART, T5, RoBERTa, ELECTRA).

    Args:
        dim: width of the hidden states.
        labels: number of classes.
        dropout: before either projection, in training.
        act: name of the activation.
    """

    def __init__(self, dim: int, labels: int, dropout: float, act: str = "tanh") -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, labels)
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., labels]."""
        x = self._act(self.dense(F.dropout(x, self.dropout, self.training)))
        scores: Tensor = self.out_proj(F.dropout(x, self.dropout, self.training))
        return scores


class Rereading(Head):
    """Base of the heads on an encoder-decoder: a step that is there for its loss keeps no state."""

    model: EncoderDecoder

    def lighten(self, inputs: dict[str, object]) -> None:
        if not self.READS_ALL:
            leave_out_padding(self, inputs)  # of the encoder alone, whose output is read through the mask

    def hidden(self, args: tuple[Tensor | None, ...], inputs: dict[str, object], *, for_loss: bool = False) -> Hidden:
        if for_loss:
            inputs["use_cache"] = False
        return super().hidden(args, inputs)


@dataclass(frozen=True, slots=True)
class LastEnd:
    """The hidden state of each row's last end token.

    Attributes:
        eos: the end token.
    """

    eos: int | None

    def __call__(self, out: Hidden, input_ids: Tensor | None) -> Tensor:
        hidden = out.last_hidden_state
        if input_ids is None or self.eos is None or input_ids.shape != hidden.shape[:2]:
            raise InputError(
                "the row's end cannot be found",
                where="input_ids",
                expected="input_ids as long as the decoder's, and an eos_token_id in config.json",
            )
        return last_of(hidden, input_ids == self.eos)


class Seq2SeqClassifier(Rereading, SequenceClassifier):
    """Classes of a row, told from the decoder's state at the row's last end token."""

    pool: LastEnd
    OUTPUT: ClassVar[Callable[..., Classified]] = Seq2SeqClassifierOutput

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        *args: Tensor | None,
        labels: Tensor | None = None,
        **inputs: object,
    ) -> Classified:
        """Class scores; see :meth:`EncoderDecoder.forward` for the other inputs.

        Args:
            input_ids: Shape: [B, T], every row with the same number of end tokens, at least one.
            labels: Shape: [B] of class indices, or [B, C] of targets; gives a loss.

        Raises:
            InputError: rows without end tokens, or with different numbers of them.
        """
        return super().forward(input_ids, *args, labels=labels, **inputs)  # type: ignore[arg-type]

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, eos = inputs.get("input_ids"), self.pool.eos
        if not isinstance(ids, Tensor) or not is_readable(ids) or eos is None:
            return
        counts = (ids == eos).sum(1).tolist()
        if min(counts, default=1) == 0 or len(set(counts)) > 1:
            raise InputError(
                "every row needs the same number of end tokens",
                where="input_ids",
                expected="at least one each",
                found=counts,
            )


class Seq2SeqQuestionAnswerer(Rereading, QuestionAnswerer):
    """The first and the last token of an answer inside the row, from the decoder's states."""

    OUTPUT: ClassVar[Callable[..., Answered]] = Seq2SeqQuestionAnsweringOutput


class Seq2SeqConfig(Protocol):
    """What the heads need of a config.

    Attributes:
        dim: width of the hidden states.
        classifier_dropout: before the classifier's projections, in training.
        shift: makes the decoder's inputs of labels, or of the encoder's text.
        eos_token_id: the end token.
    """

    @property
    def dim(self) -> int: ...

    @property
    def classifier_dropout(self) -> float: ...

    @property
    def shift(self) -> RightShift: ...

    @property
    def eos_token_id(self) -> int | None: ...


C = TypeVar("C")


class Seq2SeqHeads(Generic[C]):
    """The heads on top of an encoder-decoder, each a builder for :meth:`Builder.head`.

    Args:
        build: makes the encoder-decoder.
        of: what the heads need of the config.
    """

    def __init__(self, build: Callable[[C], EncoderDecoder], of: Callable[[C], Seq2SeqConfig]) -> None:
        self._build = build
        self._of = of

    def rereading(self, c: C) -> EncoderDecoder:
        """The model whose decoder reads the encoder's text again, unless told otherwise."""
        model = self._build(c)
        model.reread = self._of(c).shift
        return model

    def classifier(self, c: C, common: Common) -> Seq2SeqClassifier:
        """One class per row, told at its end token."""
        of = self._of(c)
        head = SentenceClassifier(of.dim, common.num_labels, of.classifier_dropout)
        return Seq2SeqClassifier(model=self.rereading(c), pool=LastEnd(of.eos_token_id), classifier=head, common=common)

    def question_answerer(self, c: C, _: Common) -> Seq2SeqQuestionAnswerer:
        """The first and last token of an answer."""
        return Seq2SeqQuestionAnswerer(model=self.rereading(c), qa_outputs=nn.Linear(self._of(c).dim, 2))
