"""Phi-3.5-MoE (https://arxiv.org/abs/2404.14219): two experts, chosen one after the other (SparseMixer)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import LayerNormedText, causal
from omniform.architectures.routed import STACKED_KEYS, RoutedCausalLM, Routing, expert_keys, routed_writer
from omniform.blocks.frequencies import Frequencies, LongRope
from omniform.blocks.moe import Experts, MoE, RoutedPreNorm
from omniform.blocks.rotary import Rotary
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Phi-3.5-MoE computes.

    Attributes:
        frequencies: of the rotary positions; those of short rows, as the reference has them for rows of any length.
        window: how many tokens each looks back; None for all.
        mixing: how far below the best an expert's score counts, and how far inputs are from themselves in training.
    """

    text: LayerNormedText
    routing: Routing
    frequencies: Frequencies
    window: int | None
    biases: str
    head_bias: bool
    mixing: tuple[float, float]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("num_experts_per_tok", 2, why="experts are chosen in two rounds")
    text = LayerNormedText.read(r, vocab_size=32064, hidden=6400, kv_heads=8, max_positions=131072, eps=1e-5, theta=1e6)
    frequencies = text.frequencies
    if isinstance(frequencies, LongRope):
        told = r.mapping("rope_scaling") or r.mapping("rope_parameters") or {}
        rope = r.within(told, "rope_parameters")
        size = rope.number("short_mscale")
        rope.only("long_mscale", size, why="it is short_mscale in what is published")
        frequencies = replace(frequencies, long=frequencies.short, attention_factor=size)
    elif type(frequencies) is not Frequencies:
        raise r.fail("rope_type", "default or longrope", type(frequencies).__name__)
    return Config(
        text=text,
        routing=Routing.read(r, experts=16, top=2, names=("num_local_experts", "num_experts")),
        frequencies=frequencies,
        window=r.maybe_integer("sliding_window"),
        biases="qkvo" if r.flag("attention_bias", False) else "",
        head_bias=r.flag("lm_head_bias", False),
        mixing=(r.number("router_jitter_noise", 0.01), r.number("input_jitter_noise", 0.0)),
    )


class SparseMixer(nn.Module):
    """The best expert, then the best of the others (https://arxiv.org/abs/2409.12136).

    Each round's share is among those that are near its best. In training experts are drawn, and those that are not
    the best count for a third three times in four, while gradients are those of the whole share (Heun's third order).

    Args:
        near: how far below the best, of its size, an expert is near.
    """

    def __init__(self, near: float) -> None:
        super().__init__()
        self.near = near

    def forward(self, scores_NE: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~omniform.blocks.moe.Choice`."""
        share, chosen = self._round(scores_NE, scores_NE)
        second, other = self._round(scores_NE, scores_NE.scatter(-1, chosen, float("-inf")))
        return torch.cat((share, second), -1), torch.cat((chosen, other), -1)

    def _round(self, scores_NE: Tensor, left_NE: Tensor) -> tuple[Tensor, Tensor]:
        best, first = left_NE.max(-1, keepdim=True)
        far = (best - scores_NE) / scores_NE.abs().clamp(min=best) > 2 * self.near
        gates = left_NE.masked_fill(far, float("-inf"))
        likely = gates.softmax(-1)
        if not self.training:
            return likely.gather(-1, first), first
        drawn = (gates - torch.empty_like(gates).exponential_().log()).argmax(-1, keepdim=True)
        share = likely.gather(-1, drawn)
        whole = (drawn == first) | (torch.rand_like(share) > 0.75)
        return share - (share * ~whole * (2 / 3)).detach(), drawn


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, rotary, (near, jitter) = c.text, c.routing, Rotary(c.frequencies), c.mixing

    def layer(_: int) -> nn.Module:
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, t.hidden, t.act)
        mlp = MoE(gate=gate, choose=SparseMixer(near), experts=experts, jitter=jitter)
        return RoutedPreNorm.of(t.norm, self_attn=t.attention(causal(c.window), rotary, biases=c.biases), mlp=mlp)

    return how.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Experts lie one by one, under Mixtral's names, or stacked."""
    usual = expert_keys(c.routing.experts, block="block_sparse_moe", names=("w1", "w3", "w2"))
    newer = {**STACKED_KEYS, "layers.{i}.mlp.gate": "layers.{i}.mlp.router"}
    return replace(usual, layouts=[Layout(usual.layouts[0].sign, newer)])


def causal_lm(c: Config, common: Common) -> RoutedCausalLM:
    """The decoder that writes."""
    made = routed_writer(build)(c, common)
    if c.head_bias:
        made.lm_head.bias = nn.Parameter(torch.zeros(c.text.vocab_size))
    return made


FAMILY = decoder_family(
    "phimoe", "Phimoe", read, build, keys, classified=["sequence"], answers=None, causal_lm=causal_lm
).done()
