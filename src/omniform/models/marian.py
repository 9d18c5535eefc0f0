"""Marian (https://marian-nmt.github.io): OPUS-MT's translators, the original transformer with sines as positions."""

from __future__ import annotations

from dataclasses import replace

from omniform.architectures.sided_family import PostNormed, SinusoidText, sided_family
from omniform.core.reader import ConfigReader


class Text(PostNormed, SinusoidText):
    """What a Marian computes."""

    __slots__ = ()


def read(r: ConfigReader) -> Text:
    """Read a config; every key is used, declared inert or refused."""
    text = Text.read(r, vocab_size=58101, start=58100, pad=58100, bos=None, eos=0, forced_eos=0)
    shares = r.flag("share_encoder_decoder_embeddings", True)
    tokens = r.maybe_integer("decoder_vocab_size") or text.vocab_size
    r.values["decoder_vocab_size"] = tokens
    if shares and tokens != text.vocab_size:
        raise r.fail("decoder_vocab_size", f"{text.vocab_size} (vocab_size), or tables that are not shared", tokens)
    return replace(text, shares=shares, decoder_vocab_size=tokens)


FAMILY = sided_family(
    "marian",
    "Marian",
    read,
    tokenizer="MarianTokenizer",
    row="seq2seq LM (translation), causal LM",
    writer="MTModel",
).done()
