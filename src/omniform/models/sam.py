"""SAM, Segment Anything (https://arxiv.org/abs/2304.02643): masks of what points and boxes point at."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from omniform.architectures.family import Builder, part_config, part_of
from omniform.architectures.mask_decoder import MaskDecoder
from omniform.architectures.parts import read_width
from omniform.architectures.prompted import MapEncoder, MapNeck, PromptedSegmenter
from omniform.architectures.prompted_family import EPS, PROMPTED_KEYS, DecoderSide, PromptSide, begins_in_parts
from omniform.architectures.prompts import FourierPlaces, PromptEncoder
from omniform.blocks.convnext import MapNorm
from omniform.blocks.decomposed import DecomposedBias, Everywhere, MapAttention, Squares
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.patches import Learned, Patching, PatchStem
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import shares, unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What SAM's encoder of pictures computes."""

    patching: Patching
    dim: int
    heads: int
    hidden: int
    out: int
    act: str
    eps: float
    dropout: float
    qkv_bias: bool
    absolute: bool
    relative: bool
    windows: tuple[int, ...]
    features: int
    scale: float

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read its config; every key is used, declared inert or refused."""
        r.number("initializer_range", 1e-10)  # of a fresh model
        dim, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
        ratio, layers = r.number("mlp_ratio", 4.0), r.layers("num_hidden_layers", 12)
        side, whole = r.integer("window_size", 14, least=0), r.integers("global_attn_indexes", (2, 5, 8, 11))
        hidden = r.maybe_integer("mlp_dim")
        r.values["mlp_dim"] = int(dim * ratio) if hidden is None else hidden
        size, patch = r.integer("image_size", 1024), r.integer("patch_size", 16)
        if patch > size:
            raise r.fail("patch_size", f"at most {size} (image_size)", patch)
        return cls(
            patching=Patching(
                channels=r.integer("num_channels", 3), image_size=(size, size), patch_size=(patch, patch)
            ),
            dim=dim,
            heads=heads,
            hidden=cast(int, r.values["mlp_dim"]),
            out=r.integer("output_channels", 256),
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-6),
            dropout=r.probability("attention_dropout"),
            qkv_bias=r.flag("qkv_bias", True),
            absolute=r.flag("use_abs_pos", True),
            relative=r.flag("use_rel_pos", True),
            windows=tuple(0 if i in whole else side for i in range(layers)),
            features=r.integer("num_pos_feats", 128),
            scale=r.number("scale", dim // 2),
        )

    def layer(self, window: int) -> PreNorm:
        """One layer; ``window``: the side of the squares that it attends within, 0 for the whole map."""
        reach = Squares(window) if window else Everywhere()
        grid = reach.piece(self.patching.grid)
        attention = MapAttention(
            self.dim,
            self.heads,
            reach=reach,
            bias=DecomposedBias(grid, self.dim // self.heads) if self.relative else None,
            biases="qkvo" if self.qkv_bias else "o",
            dropout=self.dropout,
        )
        mlp = MLP(self.dim, self.hidden, self.act)
        return PreNorm.of(lambda: nn.LayerNorm(self.dim, self.eps), self_attn=attention, mlp=mlp)

    def model(self) -> MapEncoder:
        """The encoder."""
        out = self.out
        return MapEncoder(
            patches=PatchStem(self.patching, self.dim),
            positions=Learned(*self.patching.grid, self.dim) if self.absolute else None,
            layers=nn.ModuleList(map(self.layer, self.windows)),
            neck=MapNeck(
                conv1=nn.Conv2d(self.dim, out, kernel_size=1, bias=False),
                layer_norm1=MapNorm(out, EPS),
                conv2=nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False),
                layer_norm2=MapNorm(out, EPS),
            ),
        )

    def places(self) -> FourierPlaces:
        """Places as vectors."""
        return FourierPlaces(self.features, self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSide:
    """What SAM's mask decoder computes."""

    side: DecoderSide
    act: str
    eps: float

    @classmethod
    def read(cls, r: ConfigReader) -> MaskSide:
        """Read its config; every key is used, declared inert or refused."""
        return cls(
            side=DecoderSide.read(r, turning=2),  # whatever the config says
            act=r.choice("hidden_act", ACTIVATIONS, "relu"),
            eps=r.number("layer_norm_eps", 1e-6),
        )

    def model(self) -> MaskDecoder:
        """The decoder."""
        s = self.side
        mlps: list[nn.Module] = [MLP(s.dim, s.hidden, self.act) for _ in range(s.layers)]
        first, second, norm = s.upscaling()
        return MaskDecoder(
            iou_token=s.table(1),
            mask_tokens=s.table(s.masks),
            transformer=s.transformer(mlps, self.eps),
            upscale_conv1=first,
            upscale_conv2=second,
            upscale_layer_norm=norm,
            hypernetworks=s.brushes(),
            iou_prediction_head=s.iou_head(),
        )


def read_prompts(r: ConfigReader) -> PromptSide:
    """Read the config of the encoder of prompts, which may say how large the map is."""
    side = PromptSide.read(r)
    return replace(side, map_side=r.integer("image_embedding_size", side.map_side))


PROMPTS = part_config("SamPromptEncoderConfig", "sam_prompt_encoder", read_prompts)
MASKS = part_config("SamMaskDecoderConfig", "sam_mask_decoder", MaskSide.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What SAM computes."""

    vision: VisionSide
    prompts: PromptSide
    masks: MaskSide
    tied: bool


def read(r: ConfigReader) -> Config:
    """Read the config of all parts."""
    vision = Part.of(r, "vision_config", {"model_type": "sam_vision_model"}).spec(VisionSide)
    c = Config(
        vision=vision,
        prompts=part_of(r, "prompt_encoder_config", PROMPTS, PromptSide),
        masks=part_of(r, "mask_decoder_config", MASKS, MaskSide),
        tied=r.flag("tie_word_embeddings", True),
    )
    widths = {"vision_config: output_channels": vision.out, "prompt_encoder_config: hidden_size": c.prompts.dim}
    widths["vision_config: num_pos_feats, twice"] = 2 * vision.features
    for name, width in widths.items():
        if width != c.masks.side.dim:
            raise r.fail(name, f"{c.masks.side.dim} (mask_decoder_config: hidden_size)", width)
    if c.prompts.map_size != vision.patching.grid:
        raise r.fail("prompt_encoder_config", f"a map of {list(vision.patching.grid)}", list(c.prompts.map_size))
    return c


def build(c: Config) -> PromptedSegmenter:
    """The whole model; directions of places on maps and of points are the same, unless the config unties them."""
    places, of_points, p = c.vision.places(), c.vision.places(), c.prompts
    if c.tied:
        of_points.positional_embedding = places.positional_embedding
    return PromptedSegmenter(
        shared_image_embedding=places,
        vision_encoder=c.vision.model(),
        prompt_encoder=PromptEncoder(
            shared_embedding=of_points,
            mask_embed=p.masks(),
            no_mask_embed=p.one(),
            not_a_point_embed=p.one(),
            kinds=nn.ModuleList(p.one() for _ in range(p.kinds)),
            image_size=p.image_size,
            map_size=p.map_size,
        ),
        mask_decoder=c.masks.model(),
    )


def beginning(_: ModelConfig, path: str) -> Beginning | None:
    """Positions of the encoder of pictures begin with zeros."""
    return nn.init.zeros_ if re.search(r"^positions\.weight$|\.bias\.(rows|columns)\.weight$", path) else None


VISION: dict[str, Rule] = {
    "patches": "patch_embed",
    "positions.weight": unsqueezed("pos_embed", 1),
    "layers": "layers",
    "neck": "neck",
    "layers.{i}.input_layernorm": "layers.{i}.layer_norm1",
    "layers.{i}.post_attention_layernorm": "layers.{i}.layer_norm2",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attn.proj",
    "layers.{i}.self_attn.bias.rows.weight": "layers.{i}.attn.rel_pos_h",
    "layers.{i}.self_attn.bias.columns.weight": "layers.{i}.attn.rel_pos_w",
    "layers.{i}.mlp.fc1": "layers.{i}.mlp.lin1",
    "layers.{i}.mlp.fc2": "layers.{i}.mlp.lin2",
    **shares("layers.{i}.self_attn", "layers.{i}.attn.qkv", "qkv"),
}
"""Where a checkpoint keeps the encoder of pictures, below ``vision_encoder``."""

LAYER = "mask_decoder.transformer.layers.{i}"
ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
KEYS = KeyMap(VISION).under("vision_encoder", "vision_encoder") | KeyMap(
    {
        **PROMPTED_KEYS,
        "prompt_encoder.kinds": "prompt_encoder.point_embed",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj": (
            "mask_decoder.transformer.final_attn_token_to_image.out_proj"
        ),
        **{f"{LAYER}.{name}.o_proj": f"{LAYER}.{name}.out_proj" for name in ATTENTIONS},
        **{f"{LAYER}.mlp.fc{n}": f"{LAYER}.mlp.lin{n}" for n in (1, 2)},
    }
)
OTHERS = KeyMap({}, ignored=(r"^(shared_image_embedding|prompt_encoder|mask_decoder)\.",))
"""An encoder of pictures can be loaded from a file that holds all."""

VISION_FAMILY = (
    Builder("sam_vision_model", VisionSide.read, KeyMap(VISION).under("", "vision_encoder") | OTHERS, prefix="")
    .public(config="SamVisionConfig", image_processor="SamImageProcessor")
    .begins(beginning)
    .base("SamVisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("sam", read, KEYS, prefix="sam")
    .public(
        config="SamConfig",
        image_processor="SamImageProcessor",
        processor="SamProcessor",
        row="masks of what points, boxes and masks point at",
    )
    .begins(begins_in_parts)
    .parts(PROMPTS, MASKS)
    .base("SamModel", build, "mask-generation")
    .done()
)
