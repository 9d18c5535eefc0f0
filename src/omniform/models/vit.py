"""ViT (https://arxiv.org/abs/2010.11929)."""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, first_token
from omniform.architectures.tower import Tower
from omniform.architectures.vision import MaskedImageModeler, VisionEncoder, image_classifier
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import ClassToken, GridPositions, MaskToken, Patching, PatchStem, read_patching
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap
from omniform.weights.links import unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ViT computes."""

    tower: Tower
    patching: Patching
    qkv_bias: bool
    dropout: float
    pooler_dim: int
    pooler_act: str
    encoder_stride: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dropout_key = "attention_probs_dropout_prob"
    tower = Tower.read(r, dim=768, hidden=3072, heads=12, act="gelu", eps=1e-12, dropout_key=dropout_key)
    return Config(
        tower=tower,
        patching=read_patching(r, patch_size=16),
        qkv_bias=r.flag("qkv_bias", True),
        dropout=r.probability("hidden_dropout_prob"),
        pooler_dim=r.integer("pooler_output_size", tower.dim),
        pooler_act=r.choice("pooler_act", ACTIVATIONS, "tanh"),
        encoder_stride=r.integer("encoder_stride", 16),
    )


def build(c: Config, *, mask_token: MaskToken | None = None, pooler: DensePooler | None = None) -> VisionEncoder:
    """The encoder; its heads do without the pooler."""
    dim = c.tower.dim
    return VisionEncoder(
        patches=PatchStem(c.patching, dim),
        positions=GridPositions(c.patching.grid, dim, before=1),
        class_token=ClassToken(dim),
        mask_token=mask_token,
        layers=c.tower.stack(Full(), biases="qkvo" if c.qkv_bias else "o", dropout=c.dropout),
        norm=c.tower.norm(),
        pooler=pooler,
        dropout=c.dropout,
    )


def with_pooler(c: Config) -> VisionEncoder:
    """The encoder and one vector per picture."""
    return build(c, pooler=DensePooler(c.tower.dim, c.pooler_dim, c.pooler_act))


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture, told from the class token."""
    return image_classifier(build(c), first_token, common)


def masked_image_modeler(c: Config, _: Common) -> MaskedImageModeler:
    """The encoder that fills in hidden patches."""
    return MaskedImageModeler(model=build(c, mask_token=MaskToken(c.tower.dim)), stride=c.encoder_stride)


KEYS = KeyMap(
    {
        "class_token.weight": unsqueezed("embeddings.cls_token", 2),
        "mask_token.weight": unsqueezed("embeddings.mask_token", 2),
        "patches": "embeddings.patch_embeddings",
        "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
        "layers.{i}.input_layernorm": "encoder.layer.{i}.layernorm_before",
        "layers.{i}.self_attn.q_proj": "encoder.layer.{i}.attention.attention.query",
        "layers.{i}.self_attn.k_proj": "encoder.layer.{i}.attention.attention.key",
        "layers.{i}.self_attn.v_proj": "encoder.layer.{i}.attention.attention.value",
        "layers.{i}.self_attn.o_proj": "encoder.layer.{i}.attention.output.dense",
        "layers.{i}.post_attention_layernorm": "encoder.layer.{i}.layernorm_after",
        "layers.{i}.mlp.fc1": "encoder.layer.{i}.intermediate.dense",
        "layers.{i}.mlp.fc2": "encoder.layer.{i}.output.dense",
        "norm": "layernorm",
    },
    # Names in the reference's memory, which its adapters are saved under.
    aliases=(
        (r"(^|\.)layers\.(\d+)\.attention\.q_proj\.", r"\1encoder.layer.\2.attention.attention.query."),
        (r"(^|\.)layers\.(\d+)\.attention\.k_proj\.", r"\1encoder.layer.\2.attention.attention.key."),
        (r"(^|\.)layers\.(\d+)\.attention\.v_proj\.", r"\1encoder.layer.\2.attention.attention.value."),
        (r"(^|\.)layers\.(\d+)\.attention\.o_proj\.", r"\1encoder.layer.\2.attention.output.dense."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc1\.", r"\1encoder.layer.\2.intermediate.dense."),
        (r"(^|\.)layers\.(\d+)\.mlp\.fc2\.", r"\1encoder.layer.\2.output.dense."),
        (r"(^|\.)layers\.(\d+)\.layernorm_", r"\1encoder.layer.\2.layernorm_"),
    ),
    modules=(
        (r"(^|\.)encoder\.layer\.(\d+)\.attention\.attention\.([qkv])\w+", r"\1layers.\2.attention.\3_proj"),
        (r"(^|\.)encoder\.layer\.(\d+)\.attention\.output\.dense", r"\1layers.\2.attention.o_proj"),
        (r"(^|\.)encoder\.layer\.(\d+)\.intermediate\.dense", r"\1layers.\2.mlp.fc1"),
        (r"(^|\.)encoder\.layer\.(\d+)\.output\.dense", r"\1layers.\2.mlp.fc2"),
        (r"(^|\.)encoder\.layer\.(\d+)\.layernorm_", r"\1layers.\2.layernorm_"),
    ),
)

FAMILY = (
    Builder("vit", read, KEYS, prefix="vit")
    .public(config="ViTConfig", image_processor="ViTImageProcessor", row="image classification, masked image modelling")
    .base("ViTModel", with_pooler)
    .head("ViTForImageClassification", "image-classification", classifier)
    .head("ViTForMaskedImageModeling", "masked-image-modeling", masked_image_modeler)
    .done()
)
