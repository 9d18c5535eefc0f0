"""Blenderbot's small sibling (https://arxiv.org/abs/2004.13637): post-norm, its decoder's tokens normed alone."""

from __future__ import annotations

from torch import Tensor, nn

from omniform.architectures.sided_family import PostNormed, sided_family
from omniform.blocks.embeddings import Embeddings, PositionedEmbeddings, PositionTable
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader


class NormedTokens(PositionedEmbeddings):
    """Token vectors are normed before their positions are added."""

    norm: nn.Module

    def forward(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        return Embeddings.forward(self, self.norm(embeds_BTD) + self.embed_positions(ctx.positions), ctx)


class Text(PostNormed):
    """What a small Blenderbot computes."""

    __slots__ = ()

    def places(self) -> Embeddings:
        positions = PositionTable(self.max_positions, self.dim)
        return PositionedEmbeddings(embed_positions=positions, norm=self.sides.norm(), dropout=self.sides.dropout)

    def decoder_places(self) -> Embeddings:
        positions = PositionTable(self.max_positions, self.dim)
        return NormedTokens(embed_positions=positions, norm=self.sides.norm(), dropout=self.sides.dropout)

    def decoder_table(self) -> nn.Embedding:
        return nn.Embedding(self.decoder_vocab_size, self.dim)  # which the reference does not scale


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    return Text.read(
        r, dim=512, encoder_layers=8, decoder_layers=8, hidden=2048, max_positions=512, start=1, pad=0, bos=1
    )


FAMILY = sided_family(
    "blenderbot-small", "BlenderbotSmall", read, tokenizer="BlenderbotSmallTokenizer", row="seq2seq LM, causal LM"
).done()
