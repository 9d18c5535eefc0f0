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
class Config:
    """What a Granite computes.

    Attributes:
        embedding: factor on the vectors of tokens.
        attention: factor on dot products.
        residual: factor on what each branch adds.
        logits: what the scores of tokens are divided by.
    """

    text: GatedText
    attention_bias: bool
    mlp_bias: bool
    embedding: float
    attention: float
    residual: float
    logits: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    logits = r.number("logits_scaling", 1.0)
    if logits == 0:
        raise r.fail("logits_scaling", "a number other than 0", logits)
    return Config(
        text=GatedText.read(r),
        attention_bias=r.flag("attention_bias", False),
        mlp_bias=r.flag("mlp_bias", False),
        embedding=r.number("embedding_multiplier", 1.0),
        attention=r.number("attention_multiplier", 1.0),
        residual=r.number("residual_multiplier", 1.0),
        logits=logits,
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary, biases = c.text, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""

    def layer(_: int) -> nn.Module:
        attention = text.attention(Causal(), rotary, biases=biases, scores=Scores(c.attention))
        return ScaledPreNorm.of(text.norm, self_attn=attention, mlp=text.mlp(bias=c.mlp_bias), scale=c.residual)

    return text.decoder(layer, embeddings=ScaledEmbeddings(scale=c.embedding))


FAMILY = decoder_family(
    "granite", "Granite", read, build, tokenizer="PreTrainedTokenizerFast", classified=[], answers=None,
    adjust=lambda c: Factor(1 / c.logits),
).done()  # fmt: skip
