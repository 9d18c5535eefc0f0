"""BiT (https://arxiv.org/abs/1912.11370): residual networks of standardised convolutions and group norms."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import ConvBackbone, read_outputs
from omniform.architectures.convolutional import ConvEncoder, MeanMap, conv_classifier
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.blocks.composed import Composed
from omniform.blocks.drop_path import DropPath
from omniform.blocks.mlp import ACTIVATIONS, activation
from omniform.blocks.patches import check_pictures
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import InputError
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.weights.keymap import KeyMap

PADDINGS = ("SAME", "VALID")
LEAST = {"SAME": 5, "VALID": 7}
"""Sides of the smallest pictures that a stem reads: what its pooling needs, or its convolution; else 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A run of residual blocks.

    Attributes:
        stride: of its first block.
        dilations: of its first block and of the others.
        drops: how likely each block's branch is left out in training.
    """

    width: int
    stride: int
    dilations: tuple[int, int]
    drops: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a BiT computes.

    Attributes:
        before: whether norms and activations stand before the convolutions.
        padding: ``"SAME"`` as TensorFlow pads, ``"VALID"`` for none; None for the same on all sides.
        pooled_same: whether the stem's pooling is padded as TensorFlow pads.
        groups: of each norm.
    """

    channels: int
    stem: int
    stages: tuple[Stage, ...]
    before: bool
    act: str
    padding: str | None
    pooled_same: bool
    groups: int
    names: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the stem's map and of each stage's."""
        return (self.stem, *(stage.width for stage in self.stages))

    @property
    def strides(self) -> tuple[int, ...]:
        """How many pixels of a picture a place of these maps stands for."""
        return tuple(accumulate((4, *(stage.stride for stage in self.stages)), operator.mul))


def rounded(width: float) -> int:
    """The multiple of 8 near a width, never less than nine tenths of it."""
    near = max(8, int(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    widths, depths = r.integers("hidden_sizes", (256, 512, 1024, 2048), least=1), r.integers("depths", (3, 4, 6, 3))
    if sum(depths) > MOST_LAYERS or len(widths) != len(depths) or not depths or 0 in depths:
        raise r.fail("depths", f"{len(widths)} positive numbers, one per entry of hidden_sizes", list(depths))
    padding = r.maybe_text("global_padding")
    padding = None if padding is None else padding.upper()
    if padding is not None and padding not in PADDINGS:
        raise r.fail("global_padding", "'same', 'valid' or null", repr(padding))
    r.values["global_padding"] = padding
    factor, most, rate = r.integer("width_factor", 1), r.integer("output_stride", 32), r.probability("drop_path_rate")
    drops = torch.linspace(0, rate, sum(depths), dtype=torch.float64).float().tolist()
    stages, stride, dilation = [], 4, 1
    for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        step = 1 if number == 0 else 2
        if stride >= most:  # as coarse as it may be: its blocks look further instead
            dilation, step = dilation * step, 1
        stride *= step
        own, drops = tuple(drops[:depth]), drops[depth:]
        dilations = (1 if dilation in (1, 2) else 2, dilation)
        stages.append(Stage(width=rounded(width * factor), stride=step, dilations=dilations, drops=own))
    stem, groups = r.integer("embedding_size", 64), r.integer("num_groups", 32)
    names = ("stem", *(f"stage{i + 1}" for i in range(len(depths))))
    for width in (stem, *(s.width for s in stages), *(rounded(s.width / 4) for s in stages)):
        if width % groups:
            raise r.fail("num_groups", f"a divisor of all widths, {width} among them", groups)
    return Config(
        channels=r.integer("num_channels", 3),
        stem=stem,
        stages=tuple(stages),
        before=r.choice("layer_type", ("preactivation", "bottleneck"), "preactivation") == "preactivation",
        act=r.choice("hidden_act", ACTIVATIONS, "relu"),
        padding=padding,
        pooled_same=r.flag("embedding_dynamic_padding", False),
        groups=groups,
        names=names,
        outputs=read_outputs(r, names),
    )


def padded_same(x_BCHW: Tensor, kernel: int, stride: int, dilation: int = 1) -> Tensor:
    """A map with zeros around it, so that a convolution gives one place for each ``stride``; the odd one behind."""
    rows, columns = (max((-(-n // stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0) for n in x_BCHW.shape[2:])
    return F.pad(x_BCHW, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))


class StandardConvolution(nn.Conv2d):
    """A convolution whose filters are standardised each time (https://arxiv.org/abs/1903.10520).

    Args:
        padding: see :class:`Config`.
    """

    def __init__(
        self, inner: int, outer: int, size: int, padding: str | None, *, stride: int = 1, dilation: int = 1
    ) -> None:
        even = stride == 1 and dilation * (size - 1) % 2 == 0
        self.same = padding == "SAME" and not even
        around = 0 if self.same or padding == "VALID" else (stride - 1 + dilation * (size - 1)) // 2
        super().__init__(inner, outer, size, stride=stride, padding=around, dilation=dilation, bias=False)

    def reset(self, std: float) -> None:
        """Start so that a signal keeps its variance (https://arxiv.org/abs/1502.01852)."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H', W']."""
        if self.same:
            x_BCHW = padded_same(x_BCHW, self.kernel_size[0], self.stride[0], self.dilation[0])
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-8).reshape_as(self.weight)
        return F.conv2d(x_BCHW, weight, None, self.stride, self.padding, self.dilation)


class NormAct(nn.GroupNorm):
    """A group norm and an activation."""

    def __init__(self, groups: int, channels: int, act: str) -> None:
        super().__init__(groups, channels)
        self._act = activation(act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] in and out."""
        return self._act(super().forward(x_BCHW))


class Shortcut(Composed):
    """What fits a block's input to its output; the norm is none where norms stand before."""

    conv: StandardConvolution
    norm: nn.Module

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H', W']."""
        out: Tensor = self.norm(self.conv(x_BCHW))
        return out


class Block(Composed):
    """Three convolutions, each normed behind; the sum is activated (the hybrids of DPT and ViT)."""

    downsample: Shortcut | None
    conv1: StandardConvolution
    norm1: nn.Module
    conv2: StandardConvolution
    norm2: nn.Module
    conv3: StandardConvolution
    norm3: nn.Module
    drop_path: DropPath
    act: str

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H', W']."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        x = self.norm2(self.conv2(self.norm1(self.conv1(x_BCHW))))
        return self._act(self.drop_path(self.norm3(self.conv3(x))) + shortcut)


class NormedBefore(Block):
    """The same, each normed before (https://arxiv.org/abs/1603.05027); the shortcut reads what is normed."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        read = self.norm1(x_BCHW)
        shortcut = x_BCHW if self.downsample is None else self.downsample(read)
        x = self.conv3(self.norm3(self.conv2(self.norm2(self.conv1(read)))))
        out: Tensor = self.drop_path(x) + shortcut
        return out


def block(c: Config, inner: int, stage: Stage, number: int) -> Block:
    """One block of a stage."""
    outer, middle = stage.width, rounded(stage.width / 4)
    first = number == 0
    stride, dilation = stage.stride if first else 1, stage.dilations[0 if first else 1]
    shortcut = None
    if first:
        norm = nn.Identity() if c.before else nn.GroupNorm(c.groups, outer)
        shortcut = Shortcut(conv=StandardConvolution(inner, outer, 1, c.padding, stride=stride), norm=norm)
    # Where norms stand before, the reference's convolutions do not look further.
    wide = 1 if c.before else dilation
    kind = NormedBefore if c.before else Block
    return kind(
        downsample=shortcut,
        conv1=StandardConvolution(inner, middle, 1, c.padding),
        norm1=NormAct(c.groups, inner if c.before else middle, c.act),
        conv2=StandardConvolution(middle, middle, 3, c.padding, stride=stride, dilation=wide),
        norm2=NormAct(c.groups, middle, c.act),
        conv3=StandardConvolution(middle, outer, 1, c.padding),
        norm3=NormAct(c.groups, middle, c.act) if c.before else nn.GroupNorm(c.groups, outer),
        drop_path=DropPath(stage.drops[number]),
        act=c.act,
    )


class BitNet(Composed):
    """The network without its classifier; its stem is a convolution and a pooling.

    Args:
        norm: of the last map, where norms stand before; the backbones' maps go without.
        padding: see :class:`Config`, like the others.
        least: pixels that a side of a picture has to have.
    """

    convolution: StandardConvolution
    stem_norm: nn.Module
    stages: nn.ModuleList
    norm: nn.Module
    channels: int
    padding: str | None
    pooled_same: bool
    least: int

    def states(self, pixel_values: Tensor, last: int) -> list[Tensor]:
        """The stem's map and those of the stages; see :class:`~omniform.architectures.backbone.Staged`."""
        check_pictures(pixel_values, self.channels)
        if min(pixel_values.shape[2:]) < self.least:
            found = list(pixel_values.shape)
            raise InputError(
                "the pictures are too small", where="pixel_values", expected=f">= {self.least} pixels", found=found
            )
        x = self.convolution(pixel_values.to(self.convolution.weight.dtype))
        x = self.stem_norm(x if self.padding == "SAME" else F.pad(x, (1, 1, 1, 1)))
        states = [F.max_pool2d(padded_same(x, 3, 2) if self.pooled_same else x, 3, stride=2)]
        for stage in self.stages[:last]:
            x = states[-1]
            for one in cast(nn.ModuleList, stage):
                x = one(x)
            states.append(x)
        return states


def network(c: Config) -> BitNet:
    """The network."""

    def run_of(inner: int, stage: Stage) -> nn.ModuleList:
        return nn.ModuleList(block(c, stage.width if i else inner, stage, i) for i in range(len(stage.drops)))

    return BitNet(
        convolution=StandardConvolution(c.channels, c.stem, 7, c.padding, stride=2),
        stem_norm=nn.Identity() if c.before else NormAct(c.groups, c.stem, c.act),
        stages=nn.ModuleList(run_of(inner, stage) for inner, stage in zip(c.widths, c.stages, strict=False)),
        norm=NormAct(c.groups, c.widths[-1], c.act) if c.before else nn.Identity(),
        channels=c.channels,
        padding=c.padding,
        pooled_same=c.pooled_same,
        least=LEAST.get(c.padding or "", 1),
    )


class BitEncoder(ConvEncoder):
    """The network and the mean of its last map, which is normed where norms stand before."""

    def finished(self, x_BCHW: Tensor) -> Tensor:
        out: Tensor = cast(BitNet, self.network).norm(x_BCHW)
        return out


def build(c: Config) -> BitEncoder:
    """The network and the mean of its last map."""
    return BitEncoder(network=network(c), stages=len(c.stages), pooler=MeanMap())


def backbone(c: Config) -> ConvBackbone:
    """The network as a backbone."""
    facts = {"num_features": c.widths, "reductions": c.strides}
    return ConvBackbone(network=network(c), names=c.names, outputs=c.outputs, **facts)


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    return conv_classifier(build(c), c.widths[-1], common)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Matrices begin as torch's own do."""
    width = cast(Config, config.spec).widths[-1]
    rules: dict[str, Callable[[Tensor], Tensor]] = {
        "classifier.weight": lambda x: nn.init.kaiming_uniform_(x, a=5**0.5),
        "classifier.bias": lambda x: nn.init.uniform_(x, -(width**-0.5), width**-0.5),
    }
    return next((rule for end, rule in rules.items() if path.endswith(end)), None)


KEYS = KeyMap(
    {
        "network": "",
        "network.convolution": "embedder.convolution",
        "network.stem_norm": "embedder.norm",
        "network.stages.{i}.{j}": "encoder.stages.{i}.layers.{j}",
    }
)

FAMILY = (
    Builder("bit", read, KEYS, prefix="bit")
    .public(config="BitConfig", image_processor="BitImageProcessor", row="image classification, backbone")
    .begins(beginning)
    .base("BitModel", build)
    .head("BitForImageClassification", "image-classification", classifier, {"classifier": "classifier.1"})
    .backbone("BitBackbone", backbone, KEYS.under("", "bit"))
    .done()
)
