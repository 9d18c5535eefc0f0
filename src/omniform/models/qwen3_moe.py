"""Qwen3-MoE (https://arxiv.org/abs/2505.09388): a Qwen3 whose feed-forwards are many small experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, causal
from omniform.architectures.routed import Routing, expert_keys, read_sparse, routed_writer
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm, SoftmaxTop
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen3-MoE computes.

    Attributes:
        window: how many tokens each looks back, in all layers; None for all.
        sparse: which layers have experts.
        hidden: width of an expert.
        normed: whether the chosen experts' shares sum to one.
    """

    text: GatedText
    routing: Routing
    window: int | None
    attention_bias: bool
    sparse: tuple[bool, ...]
    hidden: int
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=151936, dim=2048, hidden=6144, layers=24, kv_heads=4, max_positions=32768, bos=None, eos=None
    )
    routing = Routing.read(r, experts=128, top=8, least=0)
    window = r.integer_or_null("sliding_window", 4096)
    if not r.flag("use_sliding_window", False):
        window = r.values["sliding_window"] = None
    r.inert("max_window_layers")  # real files have it; every layer has the window
    return Config(
        text=text,
        routing=routing,
        window=window,
        attention_bias=r.flag("attention_bias", False),
        sparse=read_sparse(r, text.layers, routing.experts),
        hidden=r.integer("moe_intermediate_size", 768),
        normed=r.flag("norm_topk_prob", False),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, rotary, biases = c.text, c.routing, Rotary(c.text.frequencies), "qkvo" if c.attention_bias else ""

    def norm() -> RMSNorm:
        return RMSNorm(t.heads.dim, t.eps)

    def layer(i: int) -> nn.Module:
        attention = t.attention(causal(c.window), rotary, biases=biases, q_norm=norm(), k_norm=norm())
        if not c.sparse[i]:
            return t.prenorm(attention)
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, c.hidden, t.act)
        mlp = MoE(gate=gate, choose=SoftmaxTop(how.top, c.normed), experts=experts)
        return RoutedPreNorm.of(t.norm, self_attn=attention, mlp=mlp)

    return how.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Experts lie one by one, or stacked."""
    return expert_keys(c.routing.experts)


FAMILY = decoder_family(
    "qwen3_moe",
    "Qwen3Moe",
    read,
    build,
    keys,
    tokenizer="Qwen2Tokenizer",
    answers="transformer",
    causal_lm=routed_writer(build),
).done()
