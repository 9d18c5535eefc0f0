"""Mamba 2 (https://arxiv.org/abs/2405.21060)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import tied
from omniform.architectures.family import Builder
from omniform.architectures.state_space import RecurrentCausalLM, RecurrentDecoder
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import MixerLayer, WideMixerLayer
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.norms import RMSNorm
from omniform.blocks.state_space import StateSpaceMixer
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mamba 2 computes.

    Attributes:
        heads: how many, the width of each, and of its state.
        groups: how many groups of heads share the directions that they write and read their states in.
        taps: tokens that a convolution sees.
        limit: the least and the greatest step of time.
        biases: whether projections, and convolutions, have biases.
        wide: whether the residual stream is kept in float32.
    """

    vocab_size: int
    dim: int
    layers: int
    heads: tuple[int, int, int]
    groups: int
    taps: int
    act: str
    eps: float
    limit: tuple[float, float]
    biases: tuple[bool, bool]
    wide: bool
    tie: bool


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.special_tokens(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    dim, heads, width = r.integer("hidden_size", 4096), r.integer("num_heads", 128), r.integer("head_dim", 64)
    expand = r.integer("expand", 2)
    if dim * expand != heads * width:
        raise r.fail("expand", f"{heads * width} (num_heads * head_dim) divided by {dim} (hidden_size)", expand)
    groups = r.integer("n_groups", 8)
    if heads % groups:
        raise r.fail("n_groups", f"a divisor of {heads} (num_heads)", groups)
    # How many tokens are read at once is no matter of the maths; the others tell how a fresh model begins.
    r.inert("chunk_size", "time_step_rank", "time_step_min", "time_step_max", "time_step_floor")
    r.inert("rescale_prenorm_residual")
    r.number("initializer_range", 0.1)
    if r.values.get("time_step_rank", "auto") == "auto":
        r.values["time_step_rank"] = math.ceil(dim / 16)
    return Config(
        vocab_size=r.integer("vocab_size", 32768),
        dim=dim,
        layers=r.layers("num_hidden_layers", 64),
        heads=(heads, width, r.integer("state_size", 128)),
        groups=groups,
        taps=r.integer("conv_kernel", 4),
        act=r.choice("hidden_act", ACTIVATIONS, "silu"),
        eps=r.number("layer_norm_epsilon", 1e-5),
        limit=r.bounds("time_step_limit", (0.0, math.inf)),
        biases=(r.flag("use_bias", False), r.flag("use_conv_bias", True)),
        wide=r.flag("residual_in_fp32", True),
        tie=r.flag("tie_word_embeddings", False),
    )


def build(c: Config) -> RecurrentDecoder:
    """The decoder without a head."""
    kind, (bias, conv_bias) = WideMixerLayer if c.wide else MixerLayer, c.biases

    def mixer() -> StateSpaceMixer:
        return StateSpaceMixer(
            c.dim, *c.heads, groups=c.groups, taps=c.taps, act=c.act, eps=c.eps, limit=c.limit, bias=bias,
            conv_bias=conv_bias,
        )  # fmt: skip

    return RecurrentDecoder(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim),
        embeddings=Embeddings(),
        layers=nn.ModuleList(kind(norm=RMSNorm(c.dim, c.eps), mixer=mixer()) for _ in range(c.layers)),
        norm=RMSNorm(c.dim, c.eps),
    )


def causal_lm(c: Config, _: Common) -> RecurrentCausalLM:
    """The decoder that writes."""
    model = build(c)
    head = nn.Linear(c.dim, c.vocab_size, bias=False)
    return RecurrentCausalLM(model=model, lm_head=tied(head, model.embed_tokens, c.tie))


KEYS = KeyMap({"embed_tokens": "embeddings", "norm": "norm_f"}, aliases=((r"(^|\.)embedding\.", r"\1embeddings."),))

FAMILY = (
    Builder("mamba2", read, KEYS, prefix="backbone")
    .public(config="Mamba2Config", tokenizer="GPTNeoXTokenizer", row="causal LM")
    .base("Mamba2Model", build)
    .head("Mamba2ForCausalLM", "causal-lm", causal_lm)
    .done()
)
