"""PEGASUS (https://arxiv.org/abs/1912.08777): a pre-norm encoder-decoder with sines as positions."""

from __future__ import annotations

from omniform.architectures.sided_family import SinusoidText, sided_family
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> SinusoidText:
    """Read a config; every key is used, declared inert or refused."""
    return SinusoidText.read(r, start=0, pad=0, bos=None, eos=1, forced_eos=1)


FAMILY = sided_family("pegasus", "Pegasus", read, tokenizer="PegasusTokenizer", row="seq2seq LM, causal LM").done()
