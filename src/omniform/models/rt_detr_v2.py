"""RT-DETR v2 (https://arxiv.org/abs/2407.17140): places of the maps may be read without interpolation."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from omniform.architectures.family import Builder
from omniform.architectures.hybrid_detector import HybridDetector, HybridObjectDetector
from omniform.architectures.hybrid_family import (
    HybridConfig,
    hybrid_beginning,
    hybrid_keys,
    hybrid_model,
    hybrid_object_detector,
    read_hybrid,
)
from omniform.blocks.deformable import DeformableCrossAttention, Sampling, Sizes, bilinear, nearest
from omniform.blocks.poolers import ComputedPart
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.models.backbones import read_backbone
from omniform.models.rt_detr import USUAL
from omniform.weights.keymap import KeyMap

SAMPLINGS: dict[str, Sampling] = {"default": bilinear, "discrete": nearest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(HybridConfig):
    """What an RT-DETR v2 computes.

    Attributes:
        reach: how far a head looks, in sizes of a query's box.
        sampling: how a value is read between pixels.
    """

    reach: float
    sampling: Sampling


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    shared = read_hybrid(r, read_backbone(r, USUAL))
    levels = r.integer("decoder_n_levels", 3)
    if levels != shared.decoder.levels:
        raise r.fail("decoder_n_levels", f"{shared.decoder.levels} (num_feature_levels)", levels)
    return Config(
        **{f.name: getattr(shared, f.name) for f in fields(HybridConfig)},
        reach=r.number("decoder_offset_scale", 0.5),
        sampling=SAMPLINGS[r.choice("decoder_method", SAMPLINGS, "default")],
    )


class PointScales(ComputedPart):
    """What offsets count by map and point: one over the number of points, unless a file says otherwise."""

    def __init__(self, levels: int, points: int) -> None:
        super().__init__()
        self.points = points
        self.register_buffer("weight", torch.full((levels * points,), 1 / points))
        self.weight: Tensor

    def reset(self, std: float) -> None:
        self.weight.fill_(1 / self.points)


class FlatCrossAttention(DeformableCrossAttention):
    """The same with scales that files hold; weights are told map after map in one row."""

    def __init__(self, c: Config) -> None:
        d = c.decoder
        super().__init__(d.dim, d.heads, d.levels, d.points, reach=c.reach, sampling=c.sampling)
        self.point_scales = PointScales(d.levels, d.points)

    def note(self, weights_BQHLP: Tensor, ctx: StepContext) -> None:
        ctx.taps.cross_attentions.append(weights_BQHLP.flatten(3))

    def places(self, offsets_BQHLP2: Tensor, references: Tensor, sizes: Sizes) -> Tensor:
        scales = self.point_scales.weight.to(offsets_BQHLP2.dtype).view(self.levels, self.points, 1)
        boxes = references[:, :, None, :, None]
        return boxes[..., :2] + offsets_BQHLP2 * scales * boxes[..., 2:] * self.reach


def build(c: Config, common: Common) -> HybridDetector:
    """The detector without heads on its decoder."""
    return hybrid_model(c, common, lambda: FlatCrossAttention(c))


def object_detector(c: Config, common: Common) -> HybridObjectDetector:
    """A class and a box per query."""
    return hybrid_object_detector(c, common, lambda: FlatCrossAttention(c))


SCALES = "decoder.layers.{i}.encoder_attn.point_scales.weight"


def keys(c: HybridConfig) -> KeyMap:
    """Where the weights live."""
    return hybrid_keys(c) | KeyMap({SCALES: "decoder.layers.{i}.encoder_attn.n_points_scale"})


HEADS = KeyMap(
    {},
    # The heads have a second name, under which files may hold them, or hold them once more.
    aliases=((r"^(class|bbox)_embed\.", r"model.decoder.\1_embed."),),
)

FAMILY = (
    Builder("rt_detr_v2", read, keys, prefix="model")
    .public(
        config="RTDetrV2Config",
        image_processor="RTDetrImageProcessor",
        row="object detection",
        usual={"eos_coefficient": 1e-4, "initializer_bias_prior_prob": None, "with_box_refine": True},
    )
    .begins(hybrid_beginning)
    .architecture("RTDetrV2Model", ("base",), build, keys)
    .head("RTDetrV2ForObjectDetection", "object-detection", object_detector, HEADS)
    .done()
)
