"""OLMo 2 (https://arxiv.org/abs/2501.00656): norms on what branches add, and on the queries and keys of all heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, causal
from omniform.blocks.layers import Layer, Norm
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Rotary
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader


class WideRMSNorm(RMSNorm):
    """A root mean square norm whose weight is applied in float32 too, before the result is rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class AllHeadsNorm(WideRMSNorm):
    """One norm over all heads of a token together."""

    def forward(self, x_BTHD: Tensor) -> Tensor:
        return super().forward(x_BTHD.flatten(-2)).view_as(x_BTHD)


class WideRotary(Rotary):
    """Rotary positions whose turning is computed in float32."""

    def __call__(self, q_BTHD: Tensor, k_BTHD: Tensor, ctx: StepContext) -> tuple[Tensor, Tensor]:
        q, k = super().__call__(q_BTHD.float(), k_BTHD.float(), ctx)
        return q.to(q_BTHD.dtype), k.to(k_BTHD.dtype)


class BranchNorm(Layer):
    """``x + norm(attn(x))``, then ``x + norm(mlp(x))``."""

    self_attn: nn.Module
    post_attention_layernorm: Norm
    mlp: nn.Module
    post_feedforward_layernorm: Norm

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.post_attention_layernorm(self.self_attn(x_BTD, ctx)), ctx)
        return self.add(x_BTD, self.post_feedforward_layernorm(self.mlp(x_BTD)), ctx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text(GatedText):
    """Llama's parts with norms in float32."""

    def norm(self) -> nn.Module:
        return WideRMSNorm(self.dim, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an OLMo 2 computes."""

    text: Text
    attention_bias: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = Text.read(r, vocab_size=50304, eps=1e-5, bos=None, eos=50279, pad=1)
    return Config(text=text, attention_bias=r.flag("attention_bias", False))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    text, heads, rotary, biases = (
        c.text,
        c.text.heads,
        WideRotary(c.text.frequencies),
        "qkvo" if c.attention_bias else "",
    )

    def layer(_: int) -> nn.Module:
        q_norm, k_norm = (AllHeadsNorm(n * heads.dim, text.eps) for n in (heads.queries, heads.kv))
        attention = text.attention(causal(None), rotary, biases=biases, q_norm=q_norm, k_norm=k_norm)
        return BranchNorm.of(text.norm, self_attn=attention, mlp=text.mlp())

    return text.decoder(layer)


FAMILY = decoder_family(
    "olmo2", "Olmo2", read, build, tokenizer="PreTrainedTokenizerFast", classified=["sequence"], answers=None
).done()
