"""Mixtral (https://arxiv.org/abs/2401.04088): a Mistral whose feed-forwards are experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, causal
from omniform.architectures.routed import Routing, expert_keys, routed_writer
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm, SoftmaxTop
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mixtral computes.

    Attributes:
        window: how many tokens each looks back; None for all.
        jitter: see :class:`~omniform.blocks.moe.MoE`.
    """

    text: GatedText
    routing: Routing
    window: int | None
    jitter: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        text=GatedText.read(r, hidden=14336, kv_heads=8, max_positions=131072, eps=1e-5, theta=1e6),
        routing=Routing.read(r, experts=8, top=2, names=("num_local_experts", "num_experts")),
        window=r.maybe_integer("sliding_window"),
        jitter=r.number("router_jitter_noise", 0.0),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, rotary = c.text, c.routing, Rotary(c.text.frequencies)

    def layer(_: int) -> nn.Module:
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, t.hidden, t.act)
        mlp = MoE(gate=gate, choose=SoftmaxTop(how.top), experts=experts, jitter=c.jitter)
        return RoutedPreNorm.of(t.norm, self_attn=t.attention(causal(c.window), rotary), mlp=mlp)

    return how.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Experts lie one by one, under the first release's names, or stacked."""
    return expert_keys(c.routing.experts, block="block_sparse_moe", names=("w1", "w3", "w2"))


FAMILY = decoder_family("mixtral", "Mixtral", read, build, keys, causal_lm=routed_writer(build)).done()
