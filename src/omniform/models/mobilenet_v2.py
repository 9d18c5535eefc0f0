"""MobileNetV2 (https://arxiv.org/abs/1801.04381), and DeepLabV3+ on it (https://arxiv.org/abs/1802.02611)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier, pooled
from omniform.architectures.model import Model
from omniform.architectures.semantic import SemanticLoss, SemanticSegmenter, read_ignored
from omniform.blocks.composed import Composed
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.blocks.patches import check_pictures
from omniform.core.config import Common
from omniform.core.context import Tapped, Taps
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

CHANNELS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Of the stem and of each block after it, before the multiplier."""

STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
"""Of each block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a MobileNetV2 computes.

    Attributes:
        stem: channels after the first convolution.
        dims: channels of the stem and of each block.
        inner: channels inside each block.
        steps: stride and dilation of each block.
        last: channels of the last map.
        expands: whether the stem has a convolution of its own to expand.
        pads: whether maps are padded as TensorFlow pads them.
        ignored: the label that leaves a pixel out.
    """

    channels: int
    stem: int
    dims: tuple[int, ...]
    inner: tuple[int, ...]
    steps: tuple[tuple[int, int], ...]
    last: int
    expands: bool
    pads: bool
    act: str
    eps: float
    dropout: float
    ignored: int


def divisible(value: int, divisor: int, least: int) -> int:
    """A number of channels nearby that can be divided, and is not smaller by more than a tenth."""
    near = max(least, int(value + divisor / 2) // divisor * divisor)
    return near + divisor if near < 0.9 * value else near


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(image_size=224)
    factor, ratio = r.number("depth_multiplier", 1.0), r.number("expand_ratio", 6.0)
    for name, value in (("depth_multiplier", factor), ("expand_ratio", ratio)):
        if value <= 0:
            raise r.fail(name, "a number above 0", value)
    divisor, least = r.integer("depth_divisible_by", 8), r.integer("min_depth", 8)

    def scaled(channels: int, by: float) -> int:
        return divisible(round(channels * by), divisor, least)

    dims = tuple(scaled(c, factor) for c in CHANNELS)
    fine = r.flag("finegrained_output", True) and factor < 1
    return Config(
        channels=r.integer("num_channels", 3),
        stem=scaled(32, factor),
        dims=dims,
        inner=tuple(scaled(c, ratio) for c in dims[:-1]),
        steps=_steps(r.integer("output_stride", 32)),
        last=1280 if fine else scaled(1280, factor),
        expands=not r.flag("first_layer_is_expansion", True),
        pads=r.flag("tf_padding", True),
        act=r.choice("hidden_act", ACTIVATIONS, "relu6"),
        eps=r.number("layer_norm_eps", 0.001),
        dropout=r.probability("classifier_dropout_prob", 0.8),
        ignored=read_ignored(r),
    )


def _steps(output_stride: int) -> tuple[tuple[int, int], ...]:
    """Strides until the map is so much smaller, and dilations from there on."""
    steps: list[tuple[int, int]] = []
    shrunk, dilation = 2, 1
    for stride in STRIDES:
        if shrunk == output_stride:
            steps.append((1, dilation))
            dilation *= stride
        else:
            steps.append((stride, 1))
            shrunk *= stride
    return tuple(steps)


class SamePadding(nn.Module):
    """Pads a map as TensorFlow's "SAME" does before a convolution: as much as it takes, more at the end."""

    def __init__(self, size: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.size, self.stride, self.dilation = size, stride, dilation

    def _around(self, side: int) -> tuple[int, int]:
        along = max(self.size - (side % self.stride or self.stride), 0)
        return along // 2 * self.dilation, (along - along // 2) * self.dilation

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C, H + ..., W + ...]."""
        height, width = x_BCHW.shape[2:]
        return F.pad(x_BCHW, (*self._around(width), *self._around(height)))

    def extra_repr(self) -> str:
        return f"{self.size}, stride={self.stride}, dilation={self.dilation}"


class MobileConvolution(Composed):
    """A convolution, its norm and its activation."""

    convolution: nn.Conv2d
    normalization: nn.BatchNorm2d
    act: str | None = None
    padding: SamePadding | None = None

    def __post_init__(self) -> None:
        self._act = None if self.act is None else activation(self.act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        padded = x_BCHW if self.padding is None else self.padding(x_BCHW)
        out: Tensor = self.normalization(self.convolution(padded))
        return out if self._act is None else self._act(out)


class InvertedBlock(Composed):
    """Expands a map's channels, looks around in each, and draws them together; no activation at the end."""

    conv_3x3: MobileConvolution
    reduce_1x1: MobileConvolution
    expand_1x1: MobileConvolution | None = None

    def branch(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        x = x_BCHW if self.expand_1x1 is None else self.expand_1x1(x_BCHW)
        reduced: Tensor = self.reduce_1x1(self.conv_3x3(x))
        return reduced

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / stride, W / stride]."""
        return self.branch(x_BCHW)


class InvertedResidual(InvertedBlock):
    """One whose result is added to what came in."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        return x_BCHW + self.branch(x_BCHW)


class MobileNet(Model):
    """A MobileNetV2 without its classifier; its hidden states are the maps of all blocks but the stem.

    Args:
        first_conv: pixels to the first map.
        stem: the first block.
        layers: the others.
        conv_1x1: the last map to the one that is given.
        channels: colour channels of a picture.
        pools: gives one vector per picture.
    """

    main_input = "pixel_values"

    first_conv: MobileConvolution
    stem: InvertedBlock
    layers: nn.ModuleList
    conv_1x1: MobileConvolution
    channels: int
    pooler: nn.Module | None = None

    def blocks(self, pixel_values: Tensor, taps: Taps) -> Tensor:
        """The last block's map. Shape: [B, channels, height, width] to [B, C, H, W]."""
        check_pictures(pixel_values, self.channels)
        x: Tensor = self.stem(self.first_conv(pixel_values.to(self.first_conv.convolution.weight.dtype)))
        for layer in self.layers:
            x = layer(x)
            taps.hidden(x)
        return x

    def forward(self, pixel_values: Tensor | None = None, **given: Unpack[Tapped]) -> BaseModelOutput:
        """The last map of pictures, and one vector for each.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Returns:
            ``last_hidden_state`` has Shape: [B, C, H, W].

        Raises:
            InputError: no pictures, or pictures of the wrong shape.
        """
        if pixel_values is None:
            raise InputError("there are no pictures", where="pixel_values", expected="a tensor", found="None")
        taps = Taps(given)
        last = self.conv_1x1(self.blocks(pixel_values, taps))
        return BaseModelOutput(
            last_hidden_state=last,
            pooler_output=None if self.pooler is None else self.pooler(last),
            hidden_states=taps.hidden_or_none,
        )


class MeanVector(nn.Module):
    """The mean of a map's places."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C]."""
        return x_BCHW.mean(dim=(2, 3))


class AtrousPooling(Composed):
    """DeepLabV3+ as MobileNets have it: every place, and the mean of all, to scores."""

    conv_pool: MobileConvolution
    conv_aspp: MobileConvolution
    conv_projection: MobileConvolution
    classifier: nn.Conv2d
    dropout: float

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, classes, H, W]."""
        mean = self.conv_pool(x_BCHW.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x_BCHW.shape[2:])
        both = torch.cat((mean, self.conv_aspp(x_BCHW)), dim=1)
        projected = F.dropout2d(self.conv_projection(both), self.dropout, self.training)
        scores: Tensor = self.classifier(projected)
        return scores


class MobileSegmenter(SemanticSegmenter):
    """A class for every place of a picture.

    Args:
        model: the network.
        segmentation_head: its last block's map to scores.
    """

    model: MobileNet
    segmentation_head: AtrousPooling

    def forward(
        self,
        pixel_values: Tensor,
        *,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **given: Unpack[Tapped],
    ) -> ClassifierOutput:
        """Scores of every place.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            labels: Shape: [B, height, width] of class indices; gives a loss.
            num_items_in_batch: how many pixels count in all batches of a step, if not those of this one.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        taps = Taps(given)
        scores = self.segmentation_head(self.model.blocks(pixel_values, taps))
        noted = taps.noted()
        return self.answer(
            scores, labels, {"hidden_states": noted["hidden_states"], "attentions": None}, items=num_items_in_batch
        )


def convolution(
    c: Config, inner: int, outer: int, size: int, act: str | None, *, step: tuple[int, int] = (1, 1), groups: int = 1,
    eps: float | None = None,
) -> MobileConvolution:  # fmt: skip
    """A convolution of ``size`` pixels on a side; ``step``: its stride and dilation."""
    stride, dilation = step
    pads = c.pads and size > 1
    around = 0 if pads else (size - 1) // 2 * dilation
    return MobileConvolution(
        convolution=nn.Conv2d(inner, outer, size, stride, around, dilation, groups, bias=False),
        normalization=nn.BatchNorm2d(outer, eps=c.eps if eps is None else eps, momentum=0.997),
        act=act,
        padding=SamePadding(size, stride, dilation) if pads else None,
    )


def network(c: Config, pooler: nn.Module | None = None) -> MobileNet:
    """The network."""

    def block(i: int) -> InvertedBlock:
        inner, (stride, _) = c.inner[i], c.steps[i]
        kind = InvertedResidual if stride == 1 and c.dims[i] == c.dims[i + 1] else InvertedBlock
        return kind(
            expand_1x1=convolution(c, c.dims[i], inner, 1, c.act),
            conv_3x3=convolution(c, inner, inner, 3, c.act, step=c.steps[i], groups=inner),
            reduce_1x1=convolution(c, inner, c.dims[i + 1], 1, None),
        )

    stem = InvertedBlock(
        expand_1x1=convolution(c, c.stem, c.stem, 1, c.act) if c.expands else None,
        conv_3x3=convolution(c, c.stem, c.stem, 3, c.act, groups=c.stem),
        reduce_1x1=convolution(c, c.stem, c.dims[0], 1, None),
    )
    return MobileNet(
        first_conv=convolution(c, c.channels, c.stem, 3, c.act, step=(2, 1)),
        stem=stem,
        layers=nn.ModuleList(block(i) for i in range(len(c.steps))),
        conv_1x1=convolution(c, c.dims[-1], c.last, 1, c.act),
        channels=c.channels,
        pooler=pooler,
    )


def build(c: Config) -> MobileNet:
    """The network and the mean of its last map."""
    return network(c, MeanVector())


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    scores = nn.Linear(c.last, common.num_labels) if common.num_labels else nn.Identity()
    return SequenceClassifier(model=build(c), pool=pooled, classifier=scores, common=common, dropout=c.dropout)


def segmenter(c: Config, common: Common) -> MobileSegmenter:
    """A class for every place."""
    head = AtrousPooling(
        conv_pool=convolution(c, c.dims[-1], 256, 1, "relu", eps=1e-5),
        conv_aspp=convolution(c, c.dims[-1], 256, 1, "relu", eps=1e-5),
        conv_projection=convolution(c, 512, 256, 1, "relu", eps=1e-5),
        classifier=nn.Conv2d(256, common.num_labels, 1),
        dropout=c.dropout,
    )
    loss = SemanticLoss(common.num_labels, c.ignored)
    return MobileSegmenter(model=network(c), segmentation_head=head, loss=loss)


KEYS = KeyMap({"first_conv": "conv_stem.first_conv", "stem": "conv_stem", "layers.{i}": "layer.{i}"})
HEAD_KEYS = {"segmentation_head.classifier": "segmentation_head.classifier.convolution"}

FAMILY = (
    Builder("mobilenet_v2", read, KEYS, prefix="mobilenet_v2")
    .public(
        config="MobileNetV2Config",
        image_processor="MobileNetV2ImageProcessor",
        row="image classification, semantic segmentation",
    )
    .base("MobileNetV2Model", build)
    .head("MobileNetV2ForImageClassification", "image-classification", classifier)
    .head("MobileNetV2ForSemanticSegmentation", "semantic-segmentation", segmenter, HEAD_KEYS)
    .done()
)
