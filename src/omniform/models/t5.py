"""T5 and its 1.1 version, FLAN-T5 included (https://arxiv.org/abs/1910.10683, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from omniform.architectures.seq2seq_family import BiasedText, biased_family
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> BiasedText:
    """Read a config; every key is used, declared inert or refused."""
    # Version 1.1 does not scale, and its configs say so by a key that means nothing else here.
    tie = r.flag("tie_word_embeddings", True)
    return BiasedText.read(r, scale_outputs=r.flag("scale_decoder_outputs", tie))


FAMILY = biased_family("t5", "T5", read).done()
