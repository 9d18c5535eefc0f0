"""M2M-100 (https://arxiv.org/abs/2010.11125) and NLLB-200: translators whose sines pass over padding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.architectures.encoder_decoder import Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.sided_family import SidedText
from omniform.blocks.embeddings import Embeddings
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader


class CountedSinusoids(Embeddings):
    """Sines, and cosines after them, of any position, counted over what is no padding; padding stands nowhere, at -1.

    Attributes:
        dim: width of the vectors.
        padding: the padding token, whose number the reference counts on from.
    """

    dim: int
    padding: int

    def count(self, input_ids: Tensor | None, tokens: Tensor, past: int) -> Tensor | None:
        if input_ids is None:
            return None
        real = (input_ids != self.padding).long()
        return (real.cumsum(1) + past) * real - 1

    def stand(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        return positions.masked_fill(input_ids == self.padding, -1)

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        half, odd = divmod(self.dim, 2)
        channels = torch.arange(half, dtype=torch.float32, device=embeds_BTD.device)
        speeds = torch.exp(channels * -(math.log(10000.0) / (half - 1)))
        angles = (ctx.positions + self.padding + 1)[..., None] * speeds
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1) * (ctx.positions >= 0)[..., None]
        return super().forward(embeds_BTD + F.pad(waves, (0, odd)).to(embeds_BTD.dtype), ctx)


class Text(SidedText):
    """What an M2M-100 computes."""

    __slots__ = ()

    def places(self) -> Embeddings:
        assert self.shift.pad is not None, "the config is read so"
        return CountedSinusoids(dim=self.dim, padding=self.shift.pad, dropout=self.sides.dropout)

    def seq2seq_lm(self, _: Common) -> Seq2SeqLM:
        model = self.model()
        return Seq2SeqLM(model=model, lm_head=self.projection(model.decoder, self.vocab_size), shift=self.shift)


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    text = Text.read(
        r, vocab_size=128112, act="relu", attention_dropout=0.1, layerdrop=0.05, scaled=True, forced_eos=None
    )
    if text.shift.pad is None:
        raise r.fail("pad_token_id", "a token: positions are counted from it", None)
    if text.dim < 4:
        raise r.fail("d_model", "4 or more: sines need two speeds", text.dim)
    return text


FAMILY = (
    Builder("m2m_100", read, Text.keys, prefix="model")
    .public(
        config="M2M100Config",
        tokenizer="M2M100Tokenizer",
        row="seq2seq LM (translation)",
        usual={"is_encoder_decoder": True, "init_std": 0.02},
    )
    .base("M2M100Model", Text.model)
    .head("M2M100ForConditionalGeneration", "seq2seq-lm", Text.seq2seq_lm)
    .done()
)
