"""RT-DETR v2 (https://arxiv.org/abs/2407.17140): places of the maps may be read without interpolation."""

from __future__ import annotations

from dataclasses import dataclass, fields

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
from omniform.blocks.deformable import DeformableCrossAttention, Sampling, bilinear, nearest
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


class FlatCrossAttention(DeformableCrossAttention):
    """The same, whose weights are told map after map in one row."""

    def note(self, weights_BQHLP: Tensor, ctx: StepContext) -> None:
        ctx.taps.cross_attentions.append(weights_BQHLP.flatten(3))


def _look(c: Config) -> FlatCrossAttention:
    d = c.decoder
    return FlatCrossAttention(d.dim, d.heads, d.levels, d.points, reach=c.reach, sampling=c.sampling)


def build(c: Config, common: Common) -> HybridDetector:
    """The detector without heads on its decoder."""
    return hybrid_model(c, common, lambda: _look(c))


def object_detector(c: Config, common: Common) -> HybridObjectDetector:
    """A class and a box per query."""
    return hybrid_object_detector(c, common, lambda: _look(c))


HEADS = KeyMap(
    {},
    # The heads have a second name, under which files may hold them, or hold them once more.
    aliases=((r"^(class|bbox)_embed\.", r"model.decoder.\1_embed."),),
    ignored=(r"n_points_scale$",),
)

FAMILY = (
    Builder("rt_detr_v2", read, hybrid_keys, prefix="model")
    .public(config="RTDetrV2Config", image_processor="RTDetrImageProcessor", row="object detection")
    .begins(hybrid_beginning)
    .architecture("RTDetrV2Model", ("base",), build, hybrid_keys)
    .head("RTDetrV2ForObjectDetection", "object-detection", object_detector, HEADS)
    .done()
)
