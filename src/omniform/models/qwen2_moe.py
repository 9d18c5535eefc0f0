"""Qwen2-MoE (https://qwenlm.github.io/blog/qwen-moe): many small experts, and one that every token goes through."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText, read_windows
from omniform.architectures.routed import Routing, expert_keys, read_sparse, routed_writer
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, RoutedPreNorm, SharedMoE, SoftmaxTop
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen2-MoE computes.

    Attributes:
        sparse: which layers have experts.
        hidden: width of an expert, and of the one that every token goes through.
        normed: whether the chosen experts' shares sum to one.
    """

    text: GatedText
    routing: Routing
    rules: tuple[Rule, ...]
    biases: str
    sparse: tuple[bool, ...]
    hidden: tuple[int, int]
    normed: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=151936, dim=2048, hidden=5632, layers=24, heads=16, kv_heads=16, max_positions=32768, bos=None,
        eos=None,
    )  # fmt: skip
    routing = Routing.read(r, experts=60, top=4, least=0)
    below = r.integer("max_window_layers", 28, least=0)
    window = r.maybe_integer("sliding_window", 4096, least=0)
    if not r.flag("use_sliding_window", False):
        window, r.values["sliding_window"] = None, 0
    slides = [window is not None and i % 2 == 0 and i < below for i in range(text.layers)]
    return Config(
        text=text,
        routing=routing,
        rules=read_windows(r, text.layers, window, tuple(KINDS[slide] for slide in slides)),
        biases="qkv" if r.flag("qkv_bias", True) else "",
        sparse=read_sparse(r, text.layers, routing.experts),
        hidden=(r.integer("moe_intermediate_size", 1408), r.integer("shared_expert_intermediate_size", 5632)),
        normed=r.flag("norm_topk_prob", False),
    )


KINDS = ("full_attention", "sliding_attention")


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, rotary, (hidden, shared) = c.text, c.routing, Rotary(c.text.frequencies), c.hidden

    def layer(i: int) -> nn.Module:
        attention = t.attention(c.rules[i], rotary, biases=c.biases)
        if not c.sparse[i]:
            return t.prenorm(attention)
        mlp = SharedMoE(
            gate=nn.Linear(t.dim, how.experts, bias=False),
            choose=SoftmaxTop(how.top, c.normed),
            experts=Experts(how.experts, t.dim, hidden, t.act),
            shared_expert=GatedMLP(t.dim, shared, t.act),
            shared_expert_gate=nn.Linear(t.dim, 1, bias=False),
        )
        return RoutedPreNorm.of(t.norm, self_attn=attention, mlp=mlp)

    return how.told(t.decoder(layer))


def keys(c: Config) -> KeyMap:
    """Experts lie one by one, or stacked."""
    return expert_keys(c.routing.experts)


FAMILY = decoder_family(
    "qwen2_moe", "Qwen2Moe", read, build, keys, tokenizer="Qwen2Tokenizer", causal_lm=routed_writer(build)
).done()
