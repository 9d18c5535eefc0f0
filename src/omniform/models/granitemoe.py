"""Granite with experts (https://arxiv.org/abs/2408.13359), some of which may be shared by all tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.architectures.routed import Routing, routed_writer
from omniform.blocks.embeddings import ScaledEmbeddings
from omniform.blocks.layers import ScaledPreNorm
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.moe import Experts, MoE, OpenSharedMoE, RoutedPreNorm, TopSoftmax
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Factor, Scores
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.models.granite import Factors
from omniform.weights.keymap import KeyMap, Layout, Rule
from omniform.weights.links import fused


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Granite with experts computes; ``shared``: width of what all tokens go through, 0 for nothing."""

    text: GatedText
    routing: Routing
    factors: Factors
    biases: str
    shared: int = 0


class ScaledRoutedPreNorm(ScaledPreNorm, RoutedPreNorm):
    """A layer of experts that multiplies what each branch adds by one factor."""


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        text=GatedText.read(r),
        routing=Routing.read(r, experts=8, top=2, names=("num_local_experts",)),
        factors=Factors.read(r),
        biases="qkvo" if r.flag("attention_bias", False) else "",
    )


def read_shared(r: ConfigReader) -> Config:
    """Read a config of a model with shared experts."""
    r.only("position_embedding_type", "rope")
    r.only("normalization_function", "rmsnorm")
    r.inert("init_method")
    return replace(read(r), shared=r.integer("shared_intermediate_size", 0, least=0))


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, how, by, rotary = c.text, c.routing, c.factors, Rotary(c.text.frequencies)

    def mlp() -> MoE:
        gate, experts = nn.Linear(t.dim, how.experts, bias=False), Experts(how.experts, t.dim, t.hidden, t.act)
        if not c.shared:
            return MoE(gate=gate, choose=TopSoftmax(how.top), experts=experts)
        shared = GatedMLP(t.dim, c.shared, t.act)
        return OpenSharedMoE(gate=gate, choose=TopSoftmax(how.top), experts=experts, shared_experts=shared)

    def layer(_: int) -> nn.Module:
        attention = t.attention(Causal(), rotary, biases=c.biases, scores=Scores(by.attention))
        return ScaledRoutedPreNorm.of(t.norm, self_attn=attention, mlp=mlp(), scale=by.residual)

    return how.told(t.decoder(layer, embeddings=ScaledEmbeddings(scale=by.embedding)))


def keys(c: Config) -> KeyMap:
    """Experts lie in two stacks, under the first releases' names or newer ones."""
    ours, theirs, shared = "layers.{i}.mlp", "layers.{i}.block_sparse_moe", "layers.{i}.shared_mlp"
    rules: dict[str, Rule] = {
        f"{ours}.gate": f"{theirs}.router.layer",
        f"{ours}.experts.gate_up_proj": f"{theirs}.input_linear",
        f"{ours}.experts.down_proj": f"{theirs}.output_linear",
    }
    if c.shared:
        both = {f"{ours}.shared_experts.{name}_proj": c.shared for name in ("gate", "up")}
        rules |= {
            **fused(f"{shared}.input_linear", both),
            f"{ours}.shared_experts.down_proj": f"{shared}.output_linear",
        }
    newer: dict[str, Rule] = {f"{ours}.gate": f"{theirs}.router"}
    for name in ("gate_up_proj", "down_proj"):  # which are parameters there, and no modules
        newer |= dict.fromkeys((f"{ours}.experts.{name}", f"{ours}.experts.{name}.weight"), f"{theirs}.experts.{name}")
    return KeyMap(rules, layouts=(Layout(r"block_sparse_moe\.experts\.gate_up_proj$", newer),))


writer = routed_writer(build, lambda c: Factor(1 / c.factors.logits))

FAMILY = decoder_family(
    "granitemoe", "GraniteMoe", read, build, keys, tokenizer="PreTrainedTokenizerFast", classified=[], answers=None,
    causal_lm=writer,
).done()  # fmt: skip

SHARED = decoder_family(
    "granitemoeshared", "GraniteMoeShared", read_shared, build, keys, tokenizer="PreTrainedTokenizerFast",
    classified=[], answers=None, causal_lm=writer,
).done()  # fmt: skip
