"""What BART's line has beyond other encoder-decoders: biased scores, and tables apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderDecoder, RightShift, Seq2SeqLM, no_token
from omniform.architectures.labels import IGNORED
from omniform.blocks.poolers import ComputedPart
from omniform.core.outputs import Seq2SeqLMOutput


class Apart(EncoderDecoder):
    """Encoder and decoder with tables of their own."""

    def token_tables(self) -> list[nn.Embedding]:
        return [*self.decoder.token_tables(), *self.encoder.token_tables()]


class ApartOfThree(Apart):
    """One whose checkpoints hold a third table, which nothing reads."""

    shared: nn.Embedding

    def token_tables(self) -> list[nn.Embedding]:
        return [*super().token_tables(), self.shared]


class LogitsBias(ComputedPart):
    """What is added to the scores of tokens, and never trained (BART, Marian)."""

    bias: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(1, vocabulary))

    def reset(self, std: float) -> None:
        """None at all."""
        self.bias.zero_()

    def resize(self, tokens: int) -> None:
        """New tokens have none."""
        self.bias = F.pad(self.bias, (0, tokens - self.bias.shape[1]))

    def forward(self, scores: Tensor) -> Tensor:
        """Shape: [..., V] in and out."""
        return scores + self.bias[0]


class TaughtSeq2SeqLM(Seq2SeqLM):
    """One that keeps no state when there are labels: nobody continues from a step that is there for its loss (BART)."""

    def forward(
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        **inputs: object,
    ) -> Seq2SeqLMOutput:
        if labels is not None:
            inputs["use_cache"] = False
        return super().forward(features, attention_mask, decoder_input_ids, labels=labels, **inputs)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class LastToFront(RightShift):
    """A row's last token, its language's code, is where the answer begins (mBART)."""

    def __call__(self, labels_BT: Tensor) -> Tensor:
        """Shape: [B, T] in and out."""
        if self.pad is None:
            raise no_token("pad_token_id")
        labels_BT = labels_BT.masked_fill(labels_BT == IGNORED, self.pad)
        last = (labels_BT != self.pad).sum(dim=1, keepdim=True) - 1
        return torch.cat((labels_BT.gather(1, last.clamp(min=0)), labels_BT[:, :-1]), dim=1)
