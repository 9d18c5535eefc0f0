"""What ViT, DeiT, ViT-MSN, ViTMAE and YOLOS share: the config of a plain encoder of patches, and its keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from torch import nn

from omniform.architectures.tower import Tower
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import Patching, read_patching
from omniform.blocks.poolers import DensePooler
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainVision:
    """An encoder of patches: pre-norm layers, dropout behind each branch.

    Attributes:
        qkv_bias: whether queries, keys and values have biases.
        dropout: on the embeddings and on what each branch adds, in training.
        head_dim: width of an attention's head, if not its share of the encoder's.
    """

    tower: Tower
    patching: Patching
    qkv_bias: bool
    dropout: float
    head_dim: int | None

    @classmethod
    def read(
        cls, r: ConfigReader, *, eps: float = 1e-12, image_size: tuple[int, int] = (224, 224), heads: int = 12
    ) -> Self:
        """The fields under their usual names; the arguments are their defaults."""
        dropout_key = "attention_probs_dropout_prob"
        return cls(
            tower=Tower.read(r, dim=768, hidden=3072, heads=heads, act="gelu", eps=eps, dropout_key=dropout_key),
            patching=read_patching(r, patch_size=16, image_size=image_size),
            qkv_bias=r.flag("qkv_bias", True),
            dropout=r.probability("hidden_dropout_prob"),
            head_dim=r.maybe_integer("head_dim"),
        )

    @property
    def biases(self) -> str:
        """Which projections of an attention have a bias."""
        return "qkvo" if self.qkv_bias else "o"

    def stack(self) -> nn.ModuleList:
        """The layers."""
        return self.tower.stack(Full(), biases=self.biases, dropout=self.dropout, head_dim=self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """How the class token becomes the vector of a picture."""

    width: int
    act: str

    @classmethod
    def read(cls, r: ConfigReader, dim: int) -> Self:
        """The fields under their usual names; no width, or none at all, is the encoder's."""
        width = r.integer("pooler_output_size", dim, least=0)
        return cls(width=width or dim, act=r.choice("pooler_act", ACTIVATIONS, "tanh"))

    def pooler(self, dim: int) -> DensePooler:
        """The pooler of vectors of a width."""
        return DensePooler(dim, self.width, self.act)


def zeros(*ends: str) -> Callable[[ModelConfig, str], Beginning | None]:
    """Tensors whose paths end so begin as zeros."""
    return lambda config, path: nn.init.zeros_ if path.endswith(ends) else None


LAYER = "encoder.layer.{i}"
LAYER_KEYS: dict[str, Rule] = {
    "layers.{i}.input_layernorm": f"{LAYER}.layernorm_before",
    "layers.{i}.self_attn.q_proj": f"{LAYER}.attention.attention.query",
    "layers.{i}.self_attn.k_proj": f"{LAYER}.attention.attention.key",
    "layers.{i}.self_attn.v_proj": f"{LAYER}.attention.attention.value",
    "layers.{i}.self_attn.o_proj": f"{LAYER}.attention.output.dense",
    "layers.{i}.post_attention_layernorm": f"{LAYER}.layernorm_after",
    "layers.{i}.mlp.fc1": f"{LAYER}.intermediate.dense",
    "layers.{i}.mlp.fc2": f"{LAYER}.output.dense",
}
"""Where a layer keeps its weights."""

PLAIN_KEYS = KeyMap(
    {
        "class_token.weight": unsqueezed("embeddings.cls_token", 2),
        "mask_token.weight": unsqueezed("embeddings.mask_token", 2),
        "patches": "embeddings.patch_embeddings",
        "positions.weight": unsqueezed("embeddings.position_embeddings", 1),
        **LAYER_KEYS,
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
"""Where ViT's line keeps its weights."""
