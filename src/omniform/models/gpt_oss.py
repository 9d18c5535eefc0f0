"""gpt-oss (https://arxiv.org/abs/2508.10925): windows in every other layer, heads with sinks, bounded experts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import WideText, read_windows
from omniform.architectures.routed import Routing, routed_writer
from omniform.blocks.attention import SinkAttention
from omniform.blocks.moe import ClampedExperts, MoE, RoutedPreNorm, TopSoftmax
from omniform.blocks.rotary import Rotary
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule
from omniform.weights.keymap import KeyMap
from omniform.weights.links import Link, TransposedEach

YARN = {
    "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
    "original_max_position_embeddings": 4096,
}  # fmt: skip
"""What a config means that says nothing of its positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a gpt-oss computes; ``limit`` and ``alpha``: see :class:`~omniform.blocks.moe.ClampedExperts`."""

    text: WideText
    routing: Routing
    rules: tuple[Rule, ...]
    biases: str
    limit: float
    alpha: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = WideText.read(
        r, vocab_size=201088, dim=2880, hidden=2880, layers=36, heads=64, kv_heads=8, head_dim=64, eps=1e-5,
        max_positions=131072, theta=150000.0, rope=YARN, bos=None, eos=None,
    )  # fmt: skip
    kinds = tuple("full_attention" if i % 2 else "sliding_attention" for i in range(text.layers))
    r.inert("initial_context_length", "experts_per_token")  # said again by rope_scaling and num_experts_per_tok
    return Config(
        text=text,
        routing=Routing.read(r, experts=128, top=4, names=("num_local_experts", "num_experts")),
        rules=read_windows(r, text.layers, r.integer_or_null("sliding_window", 128), kinds),
        biases="qkvo" if r.flag("attention_bias", True) else "",
        limit=r.number("swiglu_limit", 7.0),
        alpha=r.number("swiglu_alpha", 1.702),
    )


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, rotary = c.text, c.routing, Rotary(c.text.frequencies)

    def layer(i: int) -> nn.Module:
        attention = SinkAttention(
            t.dim, t.heads.queries, rule=c.rules[i], positions=rotary, kv_heads=t.heads.kv, head_dim=t.heads.dim,
            biases=c.biases, dropout=t.attention_dropout,
        )  # fmt: skip
        experts = ClampedExperts(how.experts, t.dim, t.hidden, limit=c.limit, alpha=c.alpha)
        mlp = MoE(gate=nn.Linear(t.dim, how.experts), choose=TopSoftmax(how.top), experts=experts)
        return RoutedPreNorm.of(t.norm, self_attn=attention, mlp=mlp)

    return how.told(t.decoder(layer))


EXPERTS = "layers.{i}.mlp.experts"
KEYS = KeyMap(
    {
        "layers.{i}.mlp.gate": "layers.{i}.mlp.router",
        **{f"{EXPERTS}.{n}.weight": Link(f"{EXPERTS}.{n}", (TransposedEach(),)) for n in ("gate_up_proj", "down_proj")},
        **{f"{EXPERTS}.{n}.bias": f"{EXPERTS}.{n}_bias" for n in ("gate_up_proj", "down_proj")},
    }
)

FAMILY = decoder_family(
    "gpt_oss", "GptOss", read, build, KEYS, tokenizer="PreTrainedTokenizerFast", answers=None,
    causal_lm=routed_writer(build),
).done()  # fmt: skip
