"""SAM 2 (https://arxiv.org/abs/2408.00714), of pictures: masks of what points and boxes point at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import nn

from omniform.architectures.family import Builder, part_config, part_of
from omniform.architectures.hiera import (
    FineMaskDecoder,
    Hiera,
    PyramidEncoder,
    PyramidNeck,
    PyramidSegmenter,
    StabilityChoice,
)
from omniform.architectures.mask_decoder import DeepMLP
from omniform.architectures.prompted_family import PROMPTED_KEYS, DecoderSide, PromptSide, begins_in_parts
from omniform.architectures.prompts import FixedFourierPlaces, TablePromptEncoder
from omniform.blocks.decomposed import Everywhere, Squares
from omniform.blocks.hiera import (
    HieraLayer,
    MapMixer,
    PoolingLayer,
    PoolingMixer,
    TiledPositions,
    WideningLayer,
)
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.patches import Learned, Size
from omniform.blocks.positioned import SinePlaces
from omniform.core.config import Beginning, ModelConfig
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap, Rule
from omniform.weights.links import shares, unsqueezed


@dataclass(frozen=True, slots=True, kw_only=True)
class HieraSide:
    """What a Hiera computes; stages are counted from fine to coarse."""

    channels: int
    kernel: Size
    stride: Size
    padding: Size
    background: Size
    pool: Size
    pooled: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    whole: tuple[int, ...]
    mlp_ratio: float
    act: str
    eps: float

    @classmethod
    def read(cls, r: ConfigReader) -> HieraSide:
        """Read its config; every key is used, declared inert or refused."""
        r.inert(num_attention_heads=1, image_size=[1024, 1024])
        depths = r.integers("blocks_per_stage", (1, 2, 7, 2))
        per_stage = {
            "embed_dim_per_stage": r.integers("embed_dim_per_stage", (96, 192, 384, 768), least=1),
            "num_attention_heads_per_stage": r.integers("num_attention_heads_per_stage", (1, 2, 4, 8), least=1),
            "window_size_per_stage": r.integers("window_size_per_stage", (8, 4, 14, 7)),
        }
        if not depths or not depths[0] or sum(depths) > MOST_LAYERS:
            raise r.fail("blocks_per_stage", f"1 to {MOST_LAYERS} layers, one in the first stage", list(depths))
        for name, numbers in per_stage.items():
            if len(numbers) < len(depths):
                raise r.fail(name, f"{len(depths)} numbers, one per entry of blocks_per_stage", list(numbers))
        dims, heads, windows = per_stage.values()
        for dim, count in zip(dims, heads, strict=False):
            if dim % count:
                raise r.fail("num_attention_heads_per_stage", f"a divisor of {dim}", count)
        if r.integer("hidden_size", 96) != dims[0]:
            raise r.fail("hidden_size", f"{dims[0]} (the first of embed_dim_per_stage)", r.values["hidden_size"])
        if not windows[0]:
            raise r.fail("window_size_per_stage", "1 or more in the first stage", list(windows))
        return cls(
            channels=r.integer("num_channels", 3),
            kernel=read_size(r, "patch_kernel_size", 7),
            stride=read_size(r, "patch_stride", 4),
            padding=read_size(r, "patch_padding", 3, least=0),
            background=read_size(r, "window_positional_embedding_background_size", 7),
            pool=read_size(r, "query_stride", 2),
            pooled=r.integer("num_query_pool_stages", 3, least=0),
            depths=depths,
            dims=dims,
            heads=heads,
            windows=windows,
            whole=r.integers("global_attention_blocks", (5, 7, 9)),
            mlp_ratio=r.number("mlp_ratio", 4.0),
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-6),
        )

    @property
    def ends(self) -> tuple[int, ...]:
        """The numbers of the stages' last layers."""
        return tuple(count - 1 for count in accumulate(self.depths))

    def layers(self) -> list[HieraLayer]:
        """All layers; the first of a stage reads what the one before it gave."""
        places = [(stage, number) for stage, depth in enumerate(self.depths) for number in range(depth)]
        return [self._layer(stage, number == 0 and stage > 0, i) for i, (stage, number) in enumerate(places)]

    def _layer(self, stage: int, first: bool, number: int) -> HieraLayer:
        before, out, heads = stage - first, self.dims[stage], self.heads[stage]
        dim, window = self.dims[before], 0 if number in self.whole else self.windows[before]
        reach = Squares(window) if window else Everywhere()
        norms = {
            "input_layernorm": nn.LayerNorm(dim, self.eps),
            "post_attention_layernorm": nn.LayerNorm(out, self.eps),
        }
        mlp = MLP(out, int(out * self.mlp_ratio), self.act)
        if first and stage <= self.pooled:
            mixer = PoolingMixer(dim, out, heads, reach=reach, stride=self.pool)
            return PoolingLayer(**norms, self_attn=mixer, mlp=mlp, proj=nn.Linear(dim, out))
        plain = MapMixer(dim, out, heads, reach=reach)
        if dim != out:
            return WideningLayer(**norms, self_attn=plain, mlp=mlp, proj=nn.Linear(dim, out))
        return HieraLayer(**norms, self_attn=plain, mlp=mlp)

    def model(self) -> Hiera:
        """The network."""
        return Hiera(
            projection=nn.Conv2d(self.channels, self.dims[0], self.kernel, self.stride, self.padding),
            positions=TiledPositions(self.dims[0], self.background, self.windows[0]),
            layers=nn.ModuleList(self.layers()),
            ends=self.ends,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSide:
    """What SAM 2's encoder of pictures computes."""

    backbone: HieraSide
    channels: tuple[int, ...]
    sizes: tuple[Size, ...]
    dim: int
    kernel: int
    stride: int
    padding: int
    joined: tuple[int, ...]
    levels: int

    @classmethod
    def read(cls, r: ConfigReader) -> VisionSide:
        """Read its config; every key is used, declared inert or refused."""
        r.inert(hidden_act="gelu", layer_norm_eps=1e-6)
        backbone = Part.of(r, "backbone_config", {"model_type": "sam2_hiera_det_model"}).spec(HieraSide)
        maps = [backbone.dims[i] for i, depth in enumerate(backbone.depths) if depth]
        channels = r.integers("backbone_channel_list", (768, 384, 192, 96))
        if [*channels] != maps[::-1]:
            raise r.fail("backbone_channel_list", f"{maps[::-1]} (embed_dim_per_stage, backwards)", list(channels))
        dim = r.integer("fpn_hidden_size", 256)
        if dim % 4:
            raise r.fail("fpn_hidden_size", "a multiple of 4", dim)
        return cls(
            backbone=backbone,
            channels=channels,
            sizes=read_sizes(r, "backbone_feature_sizes", ((256, 256), (128, 128), (64, 64))),
            dim=dim,
            kernel=r.integer("fpn_kernel_size", 1),
            stride=r.integer("fpn_stride", 1),
            padding=r.integer("fpn_padding", 0, least=0),
            joined=r.integers("fpn_top_down_levels", (2, 3)),
            levels=r.integer("num_feature_levels", 3),
        )

    def model(self) -> PyramidEncoder:
        """The encoder."""
        convs = (nn.Conv2d(width, self.dim, self.kernel, self.stride, self.padding) for width in self.channels)
        neck = PyramidNeck(convs=nn.ModuleList(convs), joined=self.joined, places=SinePlaces(self.dim))
        return PyramidEncoder(backbone=self.backbone.model(), neck=neck, levels=self.levels)


def read_size(r: ConfigReader, name: str, default: int, *, least: int = 1) -> Size:
    """Rows and columns, or one number for both."""
    sides = r.one_or_more(name, (default, default))
    if len(sides) > 2 or min(sides) < least:
        raise r.fail(name, f"[rows, columns], at least {least} each", list(sides))
    return sides[0], sides[-1]


def read_sizes(r: ConfigReader, name: str, default: Sequence[Size]) -> tuple[Size, ...]:
    """A list of pairs of rows and columns.

    Raises:
        ConfigError: it is something else.
    """
    told = r.raw.get(name)
    r.inert(**{name: [list(size) for size in default]})
    sizes = default if told is None else told
    if not isinstance(sizes, (list, tuple)) or not all(
        isinstance(size, (list, tuple)) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
        for size in sizes
    ):
        raise r.fail(name, "a list of [rows, columns]", told)
    r.values[name] = [list(size) for size in sizes]
    return tuple((size[0], size[1]) for size in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What SAM 2's encoder of prompts computes."""

    side: PromptSide
    scale: float
    mask_size: Size

    @classmethod
    def read(cls, r: ConfigReader) -> Prompts:
        """Read its config; every key is used, declared inert or refused."""
        side = PromptSide.read(r)
        fine = 4 * side.image_size // r.integer("patch_size", 16)
        return cls(side=side, scale=r.number("scale", 1), mask_size=(fine, fine))

    def places(self) -> FixedFourierPlaces:
        """Places as vectors."""
        return FixedFourierPlaces(self.side.dim // 2, self.scale)

    def model(self) -> TablePromptEncoder:
        """The encoder."""
        side = self.side
        return TablePromptEncoder(
            shared_embedding=self.places(),
            mask_embed=side.masks(),
            no_mask_embed=side.one(),
            not_a_point_embed=side.one(),
            kinds=nn.Embedding(side.kinds, side.dim),
            image_size=side.image_size,
            map_size=side.map_size,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSide:
    """What SAM 2's mask decoder computes."""

    side: DecoderSide
    stable: bool
    delta: float
    threshold: float

    @classmethod
    def read(cls, r: ConfigReader) -> MaskSide:
        """Read its config; every key is used, declared inert or refused."""
        r.inert(hidden_act="gelu")  # the reference's layers have another
        return cls(
            side=DecoderSide.read(r),
            stable=r.flag("dynamic_multimask_via_stability", True),
            delta=r.number("dynamic_multimask_stability_delta", 0.05),
            threshold=r.number("dynamic_multimask_stability_thresh", 0.98),
        )

    def model(self) -> FineMaskDecoder:
        """The decoder. Its layers' feed-forwards are as deep as there are layers."""
        s = self.side
        mlps: list[nn.Module] = [DeepMLP(s.dim, s.hidden, s.dim, s.layers) for _ in range(s.layers)]
        first, second, norm = s.upscaling()
        return FineMaskDecoder(
            iou_token=s.table(1),
            mask_tokens=s.table(s.masks),
            transformer=s.transformer(mlps, 1e-5),
            upscale_conv1=first,
            upscale_conv2=second,
            upscale_layer_norm=norm,
            hypernetworks=s.brushes(),
            iou_prediction_head=s.iou_head(),
            conv_s0=nn.Conv2d(s.dim, s.dim // 8, kernel_size=1),
            conv_s1=nn.Conv2d(s.dim, s.dim // 4, kernel_size=1),
            obj_score_token=s.table(1),
            pred_obj_score_head=DeepMLP(s.dim, s.dim, 1, 3),
            choice=StabilityChoice(delta=self.delta, threshold=self.threshold) if self.stable else None,
        )


PROMPTS = part_config("Sam2PromptEncoderConfig", "sam2_prompt_encoder", Prompts.read)
MASKS = part_config("Sam2MaskDecoderConfig", "sam2_mask_decoder", MaskSide.read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What SAM 2 computes."""

    vision: VisionSide
    prompts: Prompts
    masks: MaskSide


def read(r: ConfigReader) -> Config:
    """Read the config of all parts."""
    c = Config(
        vision=Part.of(r, "vision_config", {"model_type": "sam2_vision_model"}).spec(VisionSide),
        prompts=part_of(r, "prompt_encoder_config", PROMPTS, Prompts),
        masks=part_of(r, "mask_decoder_config", MASKS, MaskSide),
    )
    dim = c.masks.side.dim
    widths = {"vision_config: fpn_hidden_size": c.vision.dim, "prompt_encoder_config: hidden_size": c.prompts.side.dim}
    for name, width in widths.items():
        if width != dim:
            raise r.fail(name, f"{dim} (mask_decoder_config: hidden_size)", width)
    if c.vision.levels != 3 or len(c.vision.sizes) != 3:
        told = f"{c.vision.levels} and {len(c.vision.sizes)}"
        raise r.fail("vision_config", "num_feature_levels of 3, and 3 backbone_feature_sizes", told)
    if c.prompts.side.map_size != c.vision.sizes[-1]:
        found = list(c.prompts.side.map_size)
        raise r.fail("prompt_encoder_config", f"a map of {list(c.vision.sizes[-1])} (backbone_feature_sizes)", found)
    return c


def build(c: Config) -> PyramidSegmenter:
    """The whole model."""
    return PyramidSegmenter(
        shared_image_embedding=c.prompts.places(),
        vision_encoder=c.vision.model(),
        prompt_encoder=c.prompts.model(),
        mask_decoder=c.masks.model(),
        no_memory=Learned(c.vision.dim),
        sizes=c.vision.sizes,
        mask_size=c.prompts.mask_size,
    )


def beginning(_: ModelConfig, path: str) -> Beginning | None:
    """Positions begin with zeros."""
    return nn.init.zeros_ if re.search(r"^positions\.(background|square)\.weight$", path) else None


def whole_beginning(config: ModelConfig, path: str) -> Beginning | None:
    """So does what stands for no memory."""
    return nn.init.zeros_ if path == "no_memory.weight" else begins_in_parts(config, path)


HIERA: dict[str, Rule] = {
    "projection": "patch_embed.projection",
    "positions.background.weight": unsqueezed("pos_embed", 1),
    "positions.square.weight": unsqueezed("pos_embed_window", 1),
    "layers": "blocks",
    "layers.{i}.input_layernorm": "blocks.{i}.layer_norm1",
    "layers.{i}.post_attention_layernorm": "blocks.{i}.layer_norm2",
    "layers.{i}.self_attn.o_proj": "blocks.{i}.attn.proj",
    "layers.{i}.mlp.fc1": "blocks.{i}.mlp.proj_in",
    "layers.{i}.mlp.fc2": "blocks.{i}.mlp.proj_out",
    **shares("layers.{i}.self_attn", "blocks.{i}.attn.qkv", "qkv"),
}
"""Where checkpoints keep a Hiera."""

HIERA_KEYS = KeyMap(HIERA)
VISION_KEYS = HIERA_KEYS.under("backbone", "backbone")
MEMORY = (
    r"^(memory_|mask_downsample|object_pointer_proj|temporal_positional_encoding_projection_layer)",
    r"^(no_memory_positional_encoding|no_object_pointer|occlusion_spatial_embedding_parameter)",
)
"""What checkpoints that follow objects through videos hold besides."""

KEYS = VISION_KEYS.under("vision_encoder", "vision_encoder") | KeyMap(
    {
        **PROMPTED_KEYS,
        "prompt_encoder.kinds": "prompt_encoder.point_embed",
        "no_memory.weight": unsqueezed("no_memory_embedding", 2),
    },
    ignored=MEMORY,
)
HIERA_FAMILY = (
    Builder("sam2_hiera_det_model", HieraSide.read, HIERA_KEYS, prefix="")
    .public(config="Sam2HieraDetConfig")
    .begins(beginning)
    .base("Sam2HieraDetModel", HieraSide.model)
    .done()
)
VISION_FAMILY = (
    Builder("sam2_vision_model", VisionSide.read, VISION_KEYS, prefix="")
    .public(config="Sam2VisionConfig", image_processor="Sam2ImageProcessor")
    .begins(begins_in_parts)
    .base("Sam2VisionModel", VisionSide.model)
    .done()
)
FAMILY = (
    Builder("sam2", read, KEYS, prefix="sam2")
    .public(
        config="Sam2Config",
        image_processor="Sam2ImageProcessor",
        processor="Sam2Processor",
        row="masks of what points, boxes and masks point at, in pictures",
    )
    .begins(whole_beginning)
    .parts(PROMPTS, MASKS)
    .base("Sam2Model", build, "mask-generation")
    .done()
)
