"""Qwen3-Omni's code2wav (https://arxiv.org/abs/2509.17765): the talker's codes as samples, without looking ahead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.code_sound import CodeSound, WideningBlock
from omniform.architectures.family import Builder
from omniform.architectures.parts import Heads
from omniform.architectures.vector_stack import VectorStack
from omniform.blocks.attention import Attention
from omniform.blocks.drop_path import DropPath, LayerScale, ScaledBranches
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.mlp import ACTIVATIONS, GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.rotary import Rotary
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Window
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What makes a sound of codes.

    Attributes:
        size: entries of a codebook; ``books``: codes of a frame.
        ratios: frames made of one, stage after stage; ``rates``: samples likewise.
        wide: channels where samples begin.
        scale: what layers' branches begin with.
    """

    size: int
    books: int
    dim: int
    hidden: int
    layers: int
    heads: Heads
    frequencies: Frequencies
    window: int
    act: str
    eps: float
    bias: bool
    dropout: float
    scale: float
    ratios: tuple[int, ...]
    rates: tuple[int, ...]
    wide: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim = r.integer("hidden_size", 1024)
    heads = Heads.read(r, dim, heads=16, kv_heads=16)
    longest = r.integer("max_position_embeddings", 8000)
    rates, wide = r.integers("upsample_rates", (8, 5, 4, 3), least=1), r.integer("decoder_dim", 1536)
    if wide >> len(rates) == 0:
        raise r.fail("decoder_dim", f"at least {2 ** len(rates)}, halved a stage", wide)
    r.inert("codebook_dim")  # published files have it; the tables are as wide as the layers
    return Config(
        size=r.integer("codebook_size", 2048),
        books=r.integer("num_quantizers", 16),
        dim=dim,
        hidden=r.integer("intermediate_size", 3072),
        layers=r.layers("num_hidden_layers", 8),
        heads=heads,
        frequencies=read_frequencies(r, head_dim=heads.dim, max_positions=longest),
        window=r.integer("sliding_window", 72),
        act=r.choice("hidden_act", ACTIVATIONS, "silu"),
        eps=r.number("rms_norm_eps", 1e-5),
        bias=r.flag("attention_bias", False),
        dropout=r.probability("attention_dropout"),
        scale=r.number("layer_scale_initial_scale", 0.01),
        ratios=r.integers("upsampling_ratios", (2, 2), least=1),
        rates=rates,
        wide=wide,
    )


def build_frames(c: Config) -> VectorStack:
    """What reads frames."""
    rotary, rule, biases = Rotary(c.frequencies), Causal() & Window(c.window), "qkvo" if c.bias else ""

    def layer() -> ScaledBranches:
        attention = Attention(
            c.dim,
            c.heads.queries,
            kv_heads=c.heads.kv,
            head_dim=c.heads.dim,
            rule=rule,
            positions=rotary,
            biases=biases,
            dropout=c.dropout,
        )
        return ScaledBranches.of(
            lambda: RMSNorm(c.dim, c.eps),
            self_attn=attention,
            mlp=GatedMLP(c.dim, c.hidden, c.act),
            layer_scale1=LayerScale(c.dim, c.scale),
            layer_scale2=LayerScale(c.dim, c.scale),
            drop_path=DropPath(0.0),
        )

    layers = nn.ModuleList(layer() for _ in range(c.layers))
    return VectorStack(layers=layers, norm=RMSNorm(c.dim, c.eps), width=c.dim)


def build(c: Config) -> CodeSound:
    """Codes to samples."""
    return CodeSound.of(build_frames(c), c.size, c.books, c.ratios, c.rates, c.wide)


def frames(c: Config, _: Common) -> VectorStack:
    """What reads frames, alone."""
    return build_frames(c)


def stage(c: Config, _: Common) -> WideningBlock:
    """The first stage of those that make samples, alone."""
    return WideningBlock.of(c.wide, c.wide >> 1, c.rates[0])


FRAME_KEYS = KeyMap(
    {
        "layers.{i}.layer_scale1.lambda1": "layers.{i}.self_attn_layer_scale.scale",
        "layers.{i}.layer_scale2.lambda1": "layers.{i}.mlp_layer_scale.scale",
    }
)

FAMILY = (
    Builder("qwen3_omni_moe_code2wav", read, FRAME_KEYS.under("pre_transformer", "pre_transformer"), prefix="")
    .public(config="Qwen3OmniMoeCode2WavConfig")
    .base("Qwen3OmniMoeCode2Wav", build)
    .architecture("Qwen3OmniMoeCode2WavTransformerModel", (), frames, FRAME_KEYS)
    .architecture("Qwen3OmniMoeCode2WavDecoderBlock", (), stage, KeyMap({}))
    .done()
)
