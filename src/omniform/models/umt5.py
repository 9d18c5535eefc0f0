"""UMT5 (https://arxiv.org/abs/2304.09151): mT5 with a table of biases in every layer."""

from __future__ import annotations

from omniform.architectures.seq2seq_family import BiasedText, OwnBiasedText, biased_family
from omniform.core.reader import ConfigReader


def read(r: ConfigReader) -> BiasedText:
    """Read a config; every key is used, declared inert or refused."""
    sizes = {"vocab_size": 250112, "layers": 8, "heads": 6, "hidden": 1024}
    return OwnBiasedText.read(r, **sizes, feed_forward="gated-gelu", start=0, scale_outputs=True)


FAMILY = biased_family("umt5", "UMT5", read, tokenizer="PreTrainedTokenizerFast").done()
