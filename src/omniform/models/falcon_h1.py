"""Falcon-H1 (https://arxiv.org/abs/2507.22448): attention and a state space side by side, and factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.decoder_family import decoder_family
from omniform.architectures.parts import GatedText
from omniform.architectures.state_space import HybridHeads, plain_conv
from omniform.blocks.embeddings import ScaledEmbedding
from omniform.blocks.joint import outputs_of
from omniform.blocks.layers import Layer, Norm
from omniform.blocks.mlp import GatedMLP
from omniform.blocks.norms import SiLUGate
from omniform.blocks.rotary import Rotary
from omniform.blocks.scores import Factor, Scores
from omniform.blocks.state_space import StateSpaceMixer
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Falcon-H1 computes.

    Attributes:
        space: how a mixer is cut.
        norm: where its norm stands: ``"first"``, ``"last"`` (behind the gate), or ``""`` for nowhere.
        biases: whether attentions, feed-forwards, and what leaves a mixer, have biases.
        embeds: factor on token vectors.
        logits: on the scores of tokens.
        keys: on keys.
        gates: on a feed-forward's gates, and on what it makes.
        branches: on what a mixer gives, what attention reads, and what it gives.
        parts: on what a mixer reads; and on its gate, values, directions to write and to read in, and steps.
    """

    text: GatedText
    space: HybridHeads
    norm: str
    biases: tuple[bool, bool, bool]
    embeds: float
    logits: float
    keys: float
    gates: tuple[float, ...]
    branches: tuple[float, float, float]
    parts: tuple[float, ...]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    text = GatedText.read(
        r, vocab_size=128000, dim=4096, hidden=14336, layers=32, heads=32, kv_heads=8, eps=1e-5, max_positions=8192,
        bos=1, eos=2, pad=0,
    )  # fmt: skip
    first = r.flag("mamba_norm_before_gate", True)
    kinds = ["hybrid"] * text.layers
    r.inert("mamba_use_mlp", num_logits_to_keep=1, layer_types=kinds, layers_block_type=kinds)
    for name, count in (("mlp_multipliers", 2), ("ssm_multipliers", 5)):
        if len(r.numbers(name, (1.0,) * count)) != count:
            raise r.fail(name, f"{count} numbers", r.values[name])
    branches = ("ssm_out_multiplier", "attention_in_multiplier", "attention_out_multiplier")
    out, heard, seen = (r.number(name, 1.0) for name in branches)
    return Config(
        text=text,
        space=HybridHeads.read(r, text.dim, inner=r.integer_or_null("mamba_d_ssm", 1024)),
        norm=("first" if first else "last") if r.flag("mamba_rms_norm", False) else "",
        biases=(r.flag("attention_bias", False), r.flag("mlp_bias", False), r.flag("projectors_bias", False)),
        embeds=r.number("embedding_multiplier", 1.0),
        logits=r.number("lm_head_multiplier", 1.0),
        keys=r.number("key_multiplier", 1.0),
        gates=r.numbers("mlp_multipliers", (1.0,) * 2),
        branches=(out, heard, seen),
        parts=(r.number("ssm_in_multiplier", 1.0), *r.numbers("ssm_multipliers", (1.0,) * 5)),
    )


class FactoredMixer(StateSpaceMixer):
    """A state space with factors on what it reads, and on what that is made of."""

    factors: tuple[float, ...] = (1.0,) * 6

    def projected(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        whole, opened, *inner, steps = self.factors
        gate, mixed, dt = super().projected(x_BTD * whole)
        each = torch.cat([torch.full((n,), f, device="cpu") for n, f in zip(self.widths, inner, strict=True)])
        return gate * opened, (mixed * each.to(mixed.device)).type_as(mixed), dt * steps


class FactoredMLP(GatedMLP):
    """A gated feed-forward with factors on its gates and on what it makes."""

    SHARDS = GatedMLP.SHARDS

    factors: tuple[float, ...] = (1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        gate, made = self.factors
        opened, up = outputs_of(x, self.gate_proj, self.up_proj)
        out: Tensor = self.down_proj(self._act(opened * gate) * up)
        return out * made


class SideBySide(Layer):
    """``x + mamba(norm(x)) + attn(norm(x))``, then ``x + mlp(norm(x))``.

    Attributes:
        factors: on what the mixer gives, what attention reads, and what it gives.
    """

    input_layernorm: Norm
    mamba: nn.Module
    self_attn: nn.Module
    post_attention_layernorm: Norm
    mlp: nn.Module
    factors: tuple[float, float, float]

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        out, heard, seen = self.factors
        normed = self.input_layernorm(x_BTD)
        both = self.mamba(normed, ctx) * out + self.self_attn(normed * heard, ctx) * seen
        x_BTD = self.add(x_BTD, both, ctx)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD)), ctx)


def build(c: Config) -> TextDecoder:
    """The decoder without a head."""
    t, space, rotary, (attention_bias, mlp_bias, out_bias) = c.text, c.space, Rotary(c.text.frequencies), c.biases
    scores = Scores(t.heads.dim**-0.5 * c.keys)  # turned keys times a factor are as good as scores times it

    def layer(_: int) -> nn.Module:
        norms = {"first": space.gate_last, "last": space.gate_first}
        norm = norms[c.norm](t.eps) if c.norm else SiLUGate()
        mixer = space.mixer(FactoredMixer, t.dim, act=t.act, norm=norm, out_bias=out_bias)
        mlp = FactoredMLP(t.dim, t.hidden, t.act, bias=mlp_bias)
        mixer.factors, mlp.factors = c.parts, c.gates
        attention = t.attention(Causal(), rotary, biases="qkvo" if attention_bias else "", scores=scores)
        return SideBySide.of(t.norm, mamba=mixer, self_attn=attention, mlp=mlp, factors=c.branches)

    return t.decoder(layer, embed_tokens=ScaledEmbedding(t.vocab_size, t.dim, c.embeds))


KEYS = KeyMap(
    {
        "norm": "final_layernorm",
        "layers.{i}.post_attention_layernorm": "layers.{i}.pre_ff_layernorm",
        "layers.{i}.mlp": "layers.{i}.feed_forward",
    }
)

FAMILY = decoder_family(
    "falcon_h1", "FalconH1", read, build, KEYS, tokenizer="PreTrainedTokenizerFast", classified=(), answers=None,
    adjust=lambda c: Factor(c.logits),
).begins(plain_conv).done()  # fmt: skip
