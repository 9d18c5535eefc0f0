"""Task heads over an encoder-decoder: the decoder reads the text again and is asked about it."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderDecoder, RightShift
from omniform.architectures.losses import classification_loss, span_loss
from omniform.architectures.model import Model
from omniform.core.config import Common
from omniform.core.errors import InputError
from omniform.core.host import is_readable
from omniform.core.outputs import Seq2SeqClassifierOutput, Seq2SeqModelOutput, Seq2SeqQuestionAnsweringOutput


class SentenceClassifier(nn.Module):
    """Two projections with a tanh between them (BART, T5).

    Args:
        dim: width of the hidden states.
        labels: number of classes.
        dropout: before either projection, in training.
    """

    def __init__(self, dim: int, labels: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, labels)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., labels]."""
        x = torch.tanh(self.dense(F.dropout(x, self.dropout, self.training)))
        scores: Tensor = self.out_proj(F.dropout(x, self.dropout, self.training))
        return scores


class _Rereading(Model):
    """An encoder-decoder whose decoder reads the encoder's text again, shifted right, unless told otherwise."""

    model: EncoderDecoder
    shift: RightShift

    def reread(
        self, input_ids: Tensor | None, decoder_input_ids: Tensor | None, inputs: dict[str, object]
    ) -> Seq2SeqModelOutput:
        """The decoder's hidden states over the text."""
        if decoder_input_ids is None and inputs.get("decoder_inputs_embeds") is None:
            if input_ids is None:
                raise InputError(
                    "the decoder has nothing to read", expected="input_ids, or decoder_input_ids beside encoder_outputs"
                )
            decoder_input_ids = self.shift(input_ids)
        out = self.model(input_ids, decoder_input_ids=decoder_input_ids, **inputs)
        return cast(Seq2SeqModelOutput, out)


class Seq2SeqClassifier(_Rereading):
    """Classes of a row, told from the decoder's state at the row's last end token.

    Args:
        model: the encoder-decoder.
        classifier: that state to class scores.
        shift: makes the decoder's inputs of the encoder's.
        eos: the end token.
        common: number of labels and problem type, which choose the loss.
    """

    classifier: nn.Module
    eos: int | None
    common: Common

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **inputs: object,
    ) -> Seq2SeqClassifierOutput:
        """Class scores; see :meth:`EncoderDecoder.forward` for the other inputs.

        Args:
            input_ids: Shape: [B, T], every row with the same number of end tokens, at least one.
            labels: Shape: [B] of class indices, or [B, C] of targets; gives a loss.

        Raises:
            InputError: rows without end tokens, or with different numbers of them.
        """
        inputs["attention_mask"] = attention_mask
        if labels is not None:
            inputs["use_cache"] = False
        out = self.reread(input_ids, decoder_input_ids, inputs)
        logits = self.classifier(self._at_end(input_ids, out.last_hidden_state))
        return Seq2SeqClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.common),
            logits=logits,
            past_key_values=out.past_key_values,
            **out.noted(),
        )

    def arrive(self, inputs: dict[str, object]) -> None:
        ids = inputs.get("input_ids")
        if not isinstance(ids, Tensor) or not is_readable(ids) or self.eos is None:
            return
        counts = (ids == self.eos).sum(1).tolist()
        if min(counts, default=1) == 0 or len(set(counts)) > 1:
            raise InputError(
                "every row needs the same number of end tokens",
                where="input_ids",
                expected="at least one each",
                found=counts,
            )

    def _at_end(self, input_ids: Tensor | None, hidden_BTD: Tensor) -> Tensor:
        if input_ids is None or self.eos is None or input_ids.shape != hidden_BTD.shape[:2]:
            raise InputError(
                "the row's end cannot be found",
                where="input_ids",
                expected="input_ids as long as the decoder's, and an eos_token_id in config.json",
            )
        ends = input_ids == self.eos
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (places * ends).argmax(-1)
        return hidden_BTD[torch.arange(hidden_BTD.shape[0], device=last.device), last]


class Seq2SeqQuestionAnswerer(_Rereading):
    """The first and the last token of an answer inside the row.

    Args:
        model: the encoder-decoder.
        qa_outputs: hidden states to two scores.
        shift: makes the decoder's inputs of the encoder's.
    """

    qa_outputs: nn.Linear

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        *,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **inputs: object,
    ) -> Seq2SeqQuestionAnsweringOutput:
        """Scores of every token; see :meth:`EncoderDecoder.forward` for the other inputs.

        Args:
            start_positions: Shape: [B]; with ``end_positions`` gives a loss.
            end_positions: Shape: [B].
        """
        inputs["attention_mask"] = attention_mask
        asked = start_positions is not None and end_positions is not None
        if asked:
            inputs["use_cache"] = False
        out = self.reread(input_ids, decoder_input_ids, inputs)
        start, end = self.qa_outputs(out.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions)
        return Seq2SeqQuestionAnsweringOutput(
            loss=loss,
            start_logits=start.contiguous(),
            end_logits=end.contiguous(),
            past_key_values=out.past_key_values,
            **out.noted(),
        )
