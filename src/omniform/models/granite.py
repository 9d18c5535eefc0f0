"""Granite (https://arxiv.org/abs/2408.13359): a Llama with a factor each on embeddings, scores, branches and logits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.blocks.embeddings import ScaledEmbeddings
from omniform.blocks.layers import ScaledPreNorm
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Factor, Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What a Granite multiplies by.

    Attributes:
        embedding: the vectors of tokens.
        attention: dot products.
        residual: what each branch adds.
        logits: what the scores of tokens are divided by.
    """

    embedding: float
    attention: float
    residual: float
    logits: float

    @classmethod
    def read(cls, r: ConfigReader) -> Factors:
        """The fields under their usual names."""
        logits = r.number("logits_scaling", 1.0)
        if logits == 0:
            raise r.fail("logits_scaling", "a number other than 0", logits)
        return cls(
            embedding=r.number("embedding_multiplier", 1.0),
            attention=r.number("attention_multiplier", 1.0),
            residual=r.number("residual_multiplier", 1.0),
            logits=logits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Granite computes."""

    text: GatedText
    factors: Factors
    biases: str
    mlp_bias: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        text=GatedText.read(r),
        factors=Factors.read(r),
        biases="qkvo" if r.flag("attention_bias", False) else "",
        mlp_bias=r.flag("mlp_bias", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, by, rotary = c.text, c.factors, Rotary(c.text.frequencies)

    def layer(_: int) -> nn.Module:
        attention = text.attention(Causal(), rotary, biases=c.biases, scores=Scores(by.attention))
        return ScaledPreNorm.of(text.norm, self_attn=attention, mlp=text.mlp(bias=c.mlp_bias), scale=by.residual)

    return text.decoder(layer, embeddings=ScaledEmbeddings(scale=by.embedding))


FAMILY = decoder_family(
    "granite", "Granite", read, build, tokenizer="PreTrainedTokenizerFast", classified=[], answers=None,
    adjust=lambda c: Factor(1 / c.factors.logits),
).done()  # fmt: skip
