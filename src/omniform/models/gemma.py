"""Gemma (https://arxiv.org/abs/2403.08295): a Llama with zero-centred norms and scaled embeddings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import ZeroCentredText
from omniform.blocks.embeddings import RoundedScaledEmbedding
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Gemma computes."""

    text: ZeroCentredText
    attention_bias: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = ZeroCentredText.read(
        r, vocab_size=256000, dim=3072, hidden=24576, layers=28, heads=16, kv_heads=16, head_dim=256,
        max_positions=8192, act="gelu_pytorch_tanh", tie=True, bos=2, eos=1, pad=0,
    )  # fmt: skip
    if text.act == "gelu":  # as the first releases call it
        text = replace(text, act="gelu_pytorch_tanh")
        r.values["hidden_act"] = text.act
    r.inert("hidden_activation")  # of files of one spring, which say the same twice
    only_causal(r)
    return Config(text=text, attention_bias=r.flag("attention_bias", False))


def only_causal(r: ConfigReader) -> None:
    """Refuse a decoder that reads both ways: padded batches and others would not agree on what it means."""
    r.only("use_bidirectional_attention", None, False, why="it would write with tokens that see what follows them")
    r.values.setdefault("use_bidirectional_attention", None)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""
    table = RoundedScaledEmbedding(text.vocab_size, text.dim, text.dim**0.5)
    return text.decoder(lambda _: text.prenorm(text.attention(Causal(), rotary, biases=biases)), embed_tokens=table)


FAMILY = decoder_family("gemma", "Gemma", read, build, tokenizer="GemmaTokenizer", answers=None).done()
