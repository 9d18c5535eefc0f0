"""UPerNet (https://arxiv.org/abs/1807.10221) on any backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack, cast

from torch import Tensor, nn

from omniform.architectures.backbone import Backbone
from omniform.architectures.family import Builder
from omniform.architectures.semantic import SemanticLoss, SemanticSegmenter, enlarged, read_ignored
from omniform.architectures.uper import AUXILIARY_MAP, Auxiliary, FcnHead, UperHead, read_scales
from omniform.core.config import Common
from omniform.core.context import Tapped
from omniform.core.errors import ConfigError
from omniform.core.outputs import BackboneOutput, ClassifierOutput
from omniform.core.reader import ConfigReader
from omniform.models.backbones import NestedBackbone, read_backbone
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What an UPerNet computes.

    Attributes:
        auxiliary_channels: of the map that the second head reads; None for the backbone's.
    """

    backbone: NestedBackbone
    dim: int
    scales: tuple[int, ...]
    auxiliary: Auxiliary | None
    auxiliary_channels: int | None
    ignored: int


USUAL = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
"""The backbone of a config that names none."""


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return Config(
        backbone=read_backbone(r, USUAL),
        dim=r.integer("hidden_size", 512),
        scales=read_scales(r),
        auxiliary=Auxiliary.read(r),
        auxiliary_channels=r.maybe_integer("auxiliary_in_channels"),
        ignored=read_ignored(r, "loss_ignore_index"),
    )


class UperNet(SemanticSegmenter):
    """A backbone and a head that reads all its maps; scores are as large as the pictures.

    Args:
        backbone: pictures to maps, from fine to coarse.
        decode_head: scores every place.
        auxiliary_head: a second head, for the loss.
    """

    backbone: Backbone
    decode_head: UperHead
    auxiliary_head: FcnHead | None

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> ClassifierOutput:
        """Scores of every pixel.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: Shape: [B, height, width], a class for every pixel; gives a loss.
            num_items_in_batch: how many pixels count in all batches of a step, if not those of this one.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        out = cast(BackboneOutput, self.backbone(pixel_values, **given))
        assert out.feature_maps is not None
        size = pixel_values.shape[2:]
        auxiliary = None
        if labels is not None and self.auxiliary_head is not None:
            auxiliary = enlarged(self.auxiliary_head(out.feature_maps[AUXILIARY_MAP]), size)
        return self.answer(
            enlarged(self.decode_head(out.feature_maps), size),
            labels,
            {"hidden_states": out.hidden_states, "attentions": out.attentions},
            auxiliary=auxiliary,
            items=num_items_in_batch,
        )


def build(c: Config, common: Common) -> UperNet:
    """A class for every pixel."""
    channels, labels = c.backbone.channels, common.num_labels
    second = None
    if c.auxiliary is not None:
        if len(channels) <= AUXILIARY_MAP:
            raise ConfigError(
                "the second head reads the third map",
                where="backbone_config: out_features",
                expected="3 maps or more",
                found=len(channels),
                remedy="Say use_auxiliary_head=False.",
            )
        second = FcnHead(c.auxiliary_channels or channels[AUXILIARY_MAP], c.auxiliary, labels)
    weight = 0.0 if c.auxiliary is None else c.auxiliary.weight
    return UperNet(
        backbone=c.backbone.build(),
        decode_head=UperHead(channels, c.dim, labels, c.scales),
        auxiliary_head=second,
        loss=SemanticLoss(labels, c.ignored, weight),
    )


BLOCKS = (
    "decode_head.bottleneck",
    "decode_head.lateral_convs.{i}",
    "decode_head.fpn_convs.{i}",
    "decode_head.fpn_bottleneck",
    "auxiliary_head.convs.{i}",
    "auxiliary_head.conv_cat",
)
HEAD_KEYS = KeyMap(
    {
        **{f"{block}.convolution": f"{block}.conv" for block in BLOCKS},
        **{f"{block}.normalization": f"{block}.batch_norm" for block in BLOCKS},
        "decode_head.psp_modules.{i}.convolution": "decode_head.psp_modules.{i}.1.conv",
        "decode_head.psp_modules.{i}.normalization": "decode_head.psp_modules.{i}.1.batch_norm",
    }
)


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return c.backbone.keys.under("backbone", "backbone") | HEAD_KEYS


FAMILY = (
    Builder("upernet", read, keys, prefix="")
    .public(
        config="UperNetConfig", image_processor="SegformerImageProcessor", row="semantic segmentation on any backbone"
    )
    .architecture("UperNetForSemanticSegmentation", ("semantic-segmentation",), build, keys)
    .done()
)
