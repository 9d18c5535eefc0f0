"""What BART's line has beyond other encoder-decoders: biased scores, and tables apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.encoder_decoder import EncoderDecoder, Seq2SeqLM
from omniform.core.outputs import Seq2SeqLMOutput


class Apart(EncoderDecoder):
    """Encoder and decoder with tables of their own; checkpoints hold a third one, which nothing reads."""

    shared: nn.Embedding

    def token_tables(self) -> list[nn.Embedding]:
        return [*self.decoder.token_tables(), *self.encoder.token_tables(), self.shared]


class LogitsBias(nn.Module):
    """What is added to the scores of tokens, and never trained (BART, Marian)."""

    bias: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(1, vocabulary))

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
        return super().forward(features, attention_mask, decoder_input_ids, labels=labels, **inputs)
