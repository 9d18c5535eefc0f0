"""mT5 (https://arxiv.org/abs/2010.11934): T5 1.1, of a hundred languages."""

from __future__ import annotations

from omniform.architectures.seq2seq_family import BiasedText, biased_family
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> BiasedText:
    """Read a config; every key is used, declared inert or refused."""
    sizes = {"vocab_size": 250112, "layers": 8, "heads": 6, "hidden": 1024}
    return BiasedText.read(r, **sizes, feed_forward="gated-gelu", start=0, scale_outputs=False)


FAMILY = biased_family("mt5", "MT5", read).done()
