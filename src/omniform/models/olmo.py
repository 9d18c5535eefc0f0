"""OLMo (https://arxiv.org/abs/2402.00838): norms that learn nothing, and bounded queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.blocks.attention import Attention
from omniform.blocks.rotary import WideRotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal


class BoundedAttention(Attention):
    """Attention whose queries, keys and values lie between minus and plus ``bound``."""

    SHARDS = Attention.SHARDS

    bound: float = float("inf")

    def split(self, x_BTE: Tensor) -> Tensor:
        return super().split(x_BTE).clamp(-self.bound, self.bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(GatedText):
    """Llama's parts, with norms that learn nothing."""

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.dim, self.eps, elementwise_affine=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OLMo computes.

    Attributes:
        bound: of queries, keys and values; None for none.
    """

    text: Text
    attention_bias: bool
    bound: float | None


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("rms_norm_eps", 1e-5, why="its norms are of another kind")
    text = Text.read(r, vocab_size=50304, eps=1e-5, bos=None, eos=50279, pad=1)
    bound = r.maybe_number("clip_qkv")
    if bound is not None and bound <= 0:
        raise r.fail("clip_qkv", "a number above 0, or null for no bound", bound)
    return Config(text=text, attention_bias=r.flag("attention_bias", False), bound=bound)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, heads, rotary, biases = (
        c.text,
        c.text.heads,
        WideRotary(c.text.frequencies),
        "qkvo" if c.attention_bias else "",
    )

    def attention() -> Attention:
        if c.bound is None:
            return text.attention(Causal(), rotary, biases=biases)
        bounded = BoundedAttention(
            text.dim, heads.queries, kv_heads=heads.kv, head_dim=heads.dim, rule=Causal(), positions=rotary,
            biases=biases, dropout=text.attention_dropout,
        )  # fmt: skip
        bounded.bound = c.bound
        return bounded

    return text.decoder(lambda _: text.prenorm(attention()))


FAMILY = decoder_family(
    "olmo", "Olmo", read, build, tokenizer="GPTNeoXTokenizer", classified=["sequence"], answers=None
).done()
