"""What SAM's line shares: the parts of its configs, and the encoders and decoders built of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from omniform.architectures.mask_decoder import (
    DeepMLP,
    FirstTwoWayLayer,
    LookingAttention,
    TwoWayLayer,
    TwoWayTransformer,
)
from omniform.architectures.prompts import MaskEmbedding
from omniform.blocks.convnext import MapNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.patches import Size
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import Rule

EPS = 1e-6
"""Of norms of maps, where no config says another."""


NESTED = {"vision_encoder": "vision_config", "backbone": "backbone_config"}
"""Parts that are models of their own, and their configs."""


def begins_in_parts(config: ModelConfig, path: str) -> Beginning | None:
    """Parts that are models of their own begin as these do."""
    first, _, rest = path.partition(".")
    if first not in NESTED:
        return None
    part = config.get(NESTED[first])
    assert isinstance(part, ModelConfig)
    how = part.beginning(rest)
    return part.common.initializer_range if how is None else how


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSide:
    """What an encoder of prompts computes."""

    dim: int
    image_size: int
    map_side: int
    channels: int
    kinds: int
    act: str
    eps: float

    @classmethod
    def read(cls, r: ConfigReader) -> PromptSide:
        """Read its config; every key is used, declared inert or refused."""
        size, patch = r.integer("image_size", 1024), r.integer("patch_size", 16)
        if size < patch:
            raise r.fail("patch_size", f"at most {size} (image_size)", patch)
        side = cls(
            dim=r.integer("hidden_size", 256),
            image_size=size,
            map_side=size // patch,
            channels=r.integer("mask_input_channels", 16, least=4),
            kinds=r.integer("num_point_embeddings", 4, least=4),
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-6),
        )
        if side.channels % 4:
            raise r.fail("mask_input_channels", "a multiple of 4", side.channels)
        if side.dim % 2:
            raise r.fail("hidden_size", "an even number", side.dim)
        return side

    @property
    def map_size(self) -> Size:
        """Rows and columns of the map."""
        return self.map_side, self.map_side

    def masks(self) -> MaskEmbedding:
        """Masks as maps."""
        return MaskEmbedding(self.channels, self.dim, self.act, self.eps)

    def one(self) -> nn.Embedding:
        """One learned vector."""
        return nn.Embedding(1, self.dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSide:
    """What a mask decoder computes.

    Attributes:
        turning: width of all heads of an attention to the map, in the layers.
        last: the same, of the last look.
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    turning: int
    last: int
    masks: int
    iou_depth: int
    iou_hidden: int

    @classmethod
    def read(cls, r: ConfigReader, *, turning: int | None = None) -> DecoderSide:
        """Read what both of the line know.

        Args:
            turning: how many times narrower than the tokens attentions to the map are in the layers, if not as many
                times as the config says.
        """
        dim, rate = r.integer("hidden_size", 256, least=8), r.integer("attention_downsample_rate", 2)
        side = cls(
            dim=dim,
            hidden=r.integer("mlp_dim", 2048),
            layers=r.layers("num_hidden_layers", 2),
            heads=r.integer("num_attention_heads", 8),
            turning=dim // (turning or rate),
            last=dim // rate,
            masks=r.integer("num_multimask_outputs", 3) + 1,
            iou_depth=r.layers("iou_head_depth", 3),
            iou_hidden=r.integer("iou_head_hidden_dim", 256),
        )
        for width in (side.dim, side.turning, side.last):
            if width % side.heads or not width:
                raise r.fail("num_attention_heads", f"a divisor of {width}", side.heads)
        return side

    def across(self, width: int) -> LookingAttention:
        """An attention between tokens and the map; ``width``: of all its heads."""
        return LookingAttention(self.dim, self.heads, width)

    def transformer(self, mlps: list[nn.Module], eps: float) -> TwoWayTransformer:
        """The layers.

        Args:
            mlps: the feed-forward of each.
            eps: of their norms.
        """

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(self.dim, eps)

        def layer(number: int, mlp: nn.Module) -> TwoWayLayer:
            kind = TwoWayLayer if number else FirstTwoWayLayer
            return kind(
                self_attn=self.across(self.dim),
                layer_norm1=norm(),
                cross_attn_token_to_image=self.across(self.turning),
                layer_norm2=norm(),
                mlp=mlp,
                layer_norm3=norm(),
                layer_norm4=norm(),
                cross_attn_image_to_token=self.across(self.turning),
            )

        return TwoWayTransformer(
            layers=nn.ModuleList(layer(number, mlp) for number, mlp in enumerate(mlps)),
            final_attn_token_to_image=self.across(self.last),
            layer_norm_final_attn=nn.LayerNorm(self.dim),
        )

    def upscaling(self) -> tuple[nn.ConvTranspose2d, nn.ConvTranspose2d, MapNorm]:
        """What makes a map finer, twice, and the norm between."""
        wide, narrow = self.dim // 4, self.dim // 8
        return (
            nn.ConvTranspose2d(self.dim, wide, kernel_size=2, stride=2),
            nn.ConvTranspose2d(wide, narrow, kernel_size=2, stride=2),
            MapNorm(wide, EPS),
        )

    def brushes(self) -> nn.ModuleList:
        """For each mask token, what makes a vector to compare pixels with."""
        return nn.ModuleList(DeepMLP(self.dim, self.dim, self.dim // 8, 3) for _ in range(self.masks))

    def iou_head(self) -> DeepMLP:
        """How good the masks are."""
        return DeepMLP(self.dim, self.iou_hidden, self.masks, self.iou_depth, F.relu)

    def table(self, rows: int) -> nn.Embedding:
        """Learned tokens."""
        return nn.Embedding(rows, self.dim)


PROMPTED_KEYS: dict[str, Rule] = {"mask_decoder.hypernetworks": "mask_decoder.output_hypernetworks_mlps"}
"""Where checkpoints of the line keep what both of it have."""
