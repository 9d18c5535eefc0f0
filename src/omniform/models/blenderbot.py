"""Blenderbot (https://arxiv.org/abs/2004.13637): a pre-norm encoder-decoder that converses."""

from __future__ import annotations

from omniform.architectures.sided_family import SidedText, sided_family
from omniform.blocks.embeddings import Embeddings, PositionedEmbeddings, PositionTable
from omniform.core.reader import ConfigReader


class Text(SidedText):
    """What a Blenderbot computes."""

    __slots__ = ()

    def places(self) -> Embeddings:
        positions = PositionTable(self.max_positions, self.dim)
        return PositionedEmbeddings(embed_positions=positions, dropout=self.sides.dropout)


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    r.integer("encoder_no_repeat_ngram_size", 3, least=0)  # generation's
    return Text.read(
        r,
        vocab_size=8008,
        dim=2560,
        encoder_layers=2,
        decoder_layers=24,
        heads=32,
        hidden=10240,
        max_positions=128,
        start=1,
        pad=0,
        bos=1,
    )


FAMILY = sided_family(
    "blenderbot", "Blenderbot", read, tokenizer="BlenderbotTokenizer", row="seq2seq LM, causal LM"
).done()
