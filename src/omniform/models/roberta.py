"""RoBERTa (https://arxiv.org/abs/1907.11692)."""

from __future__ import annotations

from omniform.architectures.counted_family import CountedText, counted_family
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> CountedText:
    """Read a config; every key is used, declared inert or refused."""
    return CountedText.read(r, vocab_size=50265)


FAMILY = counted_family("roberta", "Roberta", read).done()
