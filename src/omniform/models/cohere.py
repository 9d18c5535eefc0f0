"""Command R and Aya 23 (https://arxiv.org/abs/2405.15032): one norm before both branches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.blocks.layers import OneNormParallel
from omniform.blocks.norms import WideLayerNorm
from omniform.blocks.rotary import WideInterleavedRotary
from omniform.blocks.scores import Factor
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


@dataclass(frozen=True, slots=True, kw_only=True)
class CohereText(GatedText):
    """Llama's parts with layer norms that have no bias."""

    def norm(self) -> nn.Module:
        return WideLayerNorm(self.dim, self.eps)

    def parallel(self, attention: nn.Module) -> OneNormParallel:
        """One layer, whose branches read the same."""
        return OneNormParallel.of(self.norm, self_attn=attention, mlp=self.mlp())


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Cohere computes.

    Attributes:
        logit_scale: factor on the scores of tokens.
        qk_norm: whether queries and keys are normed, head by head.
    """

    text: CohereText
    biases: str
    logit_scale: float
    qk_norm: bool = False


def read_text(r: ConfigReader, theta: float) -> CohereText:
    """What both generations have; ``theta``: the base of the rotary positions."""
    # How other tools describe what all of these models are.
    r.inert("model_max_length", "pretraining_tp", "use_embedding_sharing", "use_gated_activation", "use_parallel_block")
    r.inert("use_parallel_embedding")
    r.only("position_embedding_type", "rope_gptj", "rope", None, why="positions are rotary")
    r.only("rotary_pct", 1.0, 1, None, why="this family rotates whole heads")
    return CohereText.read(
        r, vocab_size=256000, dim=8192, hidden=22528, layers=40, heads=64, eps=1e-5, eps_key="layer_norm_eps",
        max_positions=8192, theta=theta, tie=True, bos=5, eos=255001, pad=0,
    )  # fmt: skip


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        text=read_text(r, 500000.0),
        biases="qkvo" if r.flag("attention_bias", False) else "",
        logit_scale=r.number("logit_scale", 0.0625),
        qk_norm=r.flag("use_qk_norm", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, rotary = c.text, WideInterleavedRotary(c.text.frequencies)

    def norm(heads: int) -> nn.Module | None:
        return WideLayerNorm((heads, text.heads.dim), text.eps) if c.qk_norm else None

    def layer(_: int) -> nn.Module:
        q_norm, k_norm = norm(text.heads.queries), norm(text.heads.kv)
        return text.parallel(text.attention(Causal(), rotary, biases=c.biases, q_norm=q_norm, k_norm=k_norm))

    return text.decoder(layer)


FAMILY = decoder_family(
    "cohere", "Cohere", read, build, tokenizer="CohereTokenizer", classified=(), answers=None,
    adjust=lambda c: Factor(c.logit_scale),
).done()  # fmt: skip
