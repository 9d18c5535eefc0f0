"""DINOv3's vision transformers (https://arxiv.org/abs/2508.10104)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.dino_family import Branches
from omniform.architectures.family import Builder
from omniform.architectures.token_backbone import (
    ClassTokenBackbone,
    Stages,
    TokenBackbone,
    as_patches,
    token_backbone,
)
from omniform.architectures.tower import Tower
from omniform.architectures.vision import RotaryVisionEncoder
from omniform.blocks.attention import Attention
from omniform.blocks.grid_rotary import GridRotary, PatchPlaces
from omniform.blocks.mlp import MLP, GatedMLP
from omniform.blocks.patches import ClassToken, MaskToken, Patching, PatchStem, RegisterTokens, read_patching
from omniform.blocks.poolers import FirstPooler
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a DINOv3 computes."""

    tower: Tower
    branches: Branches
    patching: Patching
    stages: Stages
    tells: type[TokenBackbone]
    registers: int
    biases: str
    gated: bool
    mlp_bias: bool
    base: float
    shift: float | None
    jitter: float | None
    rescale: float | None


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    tower = Tower.read(r, dim=384, hidden=1536, heads=6, act="gelu", eps=1e-5)
    if tower.dim // tower.heads % 4:
        raise r.fail("num_attention_heads", "heads whose width is a multiple of 4", tower.heads)
    flags = {"q": ("query_bias", True), "k": ("key_bias", False), "v": ("value_bias", True), "o": ("proj_bias", True)}
    return Config(
        tower=tower,
        branches=Branches.read(r),
        patching=read_patching(r, patch_size=16),
        # The last stage is normed whatever the config says.
        stages=Stages.read(r, tower.layers, always=(tower.layers,)),
        tells=ClassTokenBackbone if r.flag("return_class_token", False) else TokenBackbone,
        registers=r.integer("num_register_tokens", 0, least=0),
        biases="".join(letter for letter, (name, usual) in flags.items() if r.flag(name, usual)),
        gated=r.flag("use_gated_mlp", False),
        mlp_bias=r.flag("mlp_bias", True),
        base=r.number("rope_theta", 100.0),
        shift=r.maybe_number("pos_embed_shift"),
        jitter=_factor(r, "pos_embed_jitter", None),
        rescale=_factor(r, "pos_embed_rescale", 2.0),
    )


def _factor(r: ConfigReader, name: str, usual: float | None) -> float | None:
    factor = r.maybe_number(name, usual)
    if factor is not None and factor <= 0:
        raise r.fail(name, "a number above 0, or null", factor)
    return factor


def build(c: Config) -> RotaryVisionEncoder:
    """The encoder; the class token stands for the picture."""
    t = c.tower

    def attention() -> Attention:
        places = GridRotary(t.dim // t.heads, c.base)
        return Attention(t.dim, t.heads, rule=Full(), positions=places, biases=c.biases, dropout=t.attention_dropout)

    def feed_forward() -> nn.Module:
        return (GatedMLP if c.gated else MLP)(t.dim, t.hidden, t.act, bias=c.mlp_bias)

    return RotaryVisionEncoder(
        patches=PatchStem(c.patching, t.dim),
        places=PatchPlaces(c.shift, c.jitter, c.rescale),
        class_token=ClassToken(t.dim),
        mask_token=MaskToken(t.dim),
        register_tokens=RegisterTokens(c.registers, t.dim),
        layers=c.branches.stack(t, attention, feed_forward),
        norm=t.norm(),
        pooler=FirstPooler(),
    )


LAYER = "layer.{i}"
RULES: dict[str, Rule] = {
    "class_token.weight": unsqueezed("embeddings.cls_token", 2),
    "mask_token.weight": unsqueezed("embeddings.mask_token", 2),
    "register_tokens.weight": unsqueezed("embeddings.register_tokens", 1),
    "patches.projection": "embeddings.patch_embeddings",
    "layers.{i}": LAYER,
    "layers.{i}.input_layernorm": f"{LAYER}.norm1",
    "layers.{i}.self_attn": f"{LAYER}.attention",
    "layers.{i}.post_attention_layernorm": f"{LAYER}.norm2",
}
# A plain feed-forward goes by the names of a gated one.
PLAIN: dict[str, Rule] = {"layers.{i}.mlp.fc1": f"{LAYER}.mlp.up_proj", "layers.{i}.mlp.fc2": f"{LAYER}.mlp.down_proj"}


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return KeyMap(
        RULES if c.gated else RULES | PLAIN,
        # Names in the reference's memory, which its adapters are saved under.
        aliases=((r"^model\.layer\.", "layer."),),
        modules=((r"^layer\.", "model.layer."),),
    )


def backbone(c: Config) -> TokenBackbone:
    """The encoder as a backbone."""
    return token_backbone(build(c), c.stages, as_patches, c.tells)


def backbone_keys(c: Config) -> KeyMap:
    """Where the backbone's weights live."""
    return keys(c).under("network", "")


FAMILY = (
    Builder("dinov3_vit", read, keys, prefix="model")
    .public(config="DINOv3ViTConfig", image_processor="DINOv3ViTImageProcessor", row="image features, backbone")
    .base("DINOv3ViTModel", build)
    .backbone("DINOv3ViTBackbone", backbone, backbone_keys)
    .done()
)
