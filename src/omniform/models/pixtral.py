"""Pixtral's vision tower (https://arxiv.org/abs/2410.07073): pictures of any sizes, patches that turn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.packed_vision import read_axial
from omniform.architectures.parts import read_width
from omniform.architectures.sized_pictures import SizedVisionEncoder
from omniform.blocks.attention import Attention
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, GatedMLP
from omniform.blocks.norms import RMSNorm
from omniform.blocks.packed_patches import FRAME, AlternatingRotary
from omniform.blocks.patches import Patching, PatchStem, read_patching
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the tower computes."""

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    theta: float
    patching: Patching
    dropout: float

    def layer(self) -> PreNorm:
        """One layer."""
        rotary = AlternatingRotary(self.dim // self.heads, self.theta)
        attention = Attention(
            self.dim, self.heads, rule=FRAME, positions=rotary, biases="", dropout=self.dropout
        )  # fmt: skip
        return PreNorm.of(self.norm, self_attn=attention, mlp=GatedMLP(self.dim, self.hidden, self.act))

    def norm(self) -> nn.Module:
        """One norm."""
        return RMSNorm(self.dim, _EPS)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim, heads = read_width(r, "hidden_size", 1024, "num_attention_heads", 16)
    if dim // heads % 4:
        raise r.fail("num_attention_heads", f"so many that heads of {dim} are a multiple of 4 wide", heads)
    r.inert(head_dim=dim // heads)  # files state it, and it follows from the other two
    return Config(
        dim=dim,
        hidden=r.integer("intermediate_size", 4096),
        layers=r.layers("num_hidden_layers", 24),
        heads=heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        theta=read_axial(r),
        patching=read_patching(r, patch_size=16, image_size=(1024, 1024)),
        dropout=r.number("attention_dropout", 0.0),
    )


def build(c: Config) -> SizedVisionEncoder:
    """The tower."""
    return SizedVisionEncoder(
        patches=PatchStem(c.patching, c.dim, bias=False),
        pre_norm=c.norm(),
        layers=nn.ModuleList(c.layer() for _ in range(c.layers)),
    )


OURS, THEIRS = "layers.{i}", "transformer.layers.{i}"
KEYS = KeyMap({
    "patches.projection": "patch_conv",
    "pre_norm": "ln_pre",
    OURS: THEIRS,
    f"{OURS}.input_layernorm": f"{THEIRS}.attention_norm",
    f"{OURS}.self_attn": f"{THEIRS}.attention",
    f"{OURS}.post_attention_layernorm": f"{THEIRS}.ffn_norm",
    f"{OURS}.mlp": f"{THEIRS}.feed_forward",
})  # fmt: skip

FAMILY = (
    Builder("pixtral", read, KEYS, prefix="vision_encoder")
    .public(
        config="PixtralVisionConfig",
        pretrained="PixtralPreTrainedModel",
        image_processor="PixtralImageProcessor",
        processor="PixtralProcessor",
    )
    .base("PixtralVisionModel", build)
    .done()
)
