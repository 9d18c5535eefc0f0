"""The residual networks that RT-DETR stands on: a deep stem, and shortcuts that average before they shrink.

Source: He et al. 2018, "Bag of Tricks for Image Classification" (https://arxiv.org/abs/1812.01187), section 4.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.backbone import ConvBackbone
from omniform.architectures.family import Builder
from omniform.blocks.mlp import activation
from omniform.blocks.patches import check_pictures
from omniform.blocks.resnet import NormedConvolution, ResNet, ResNetSpec
from omniform.core.reader import ConfigReader
from omniform.models import resnet
from omniform.models.resnet import Config
from omniform.weights.keymap import KeyMap


class DeepStem(nn.Module):
    """Three convolutions of 3x3 pixels, the first of which halves the picture."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__()
        half = spec.stem // 2
        self.layers = nn.ModuleList(
            (
                NormedConvolution(spec.norm, spec.channels, half, 3, stride=2),
                NormedConvolution(spec.norm, half, half, 3),
                NormedConvolution(spec.norm, half, spec.stem, 3),
            )
        )
        self._act = activation(spec.act)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Shape: [B, channels, H, W] to [B, C, H / 2, W / 2]."""
        x = pixel_values
        for layer in self.layers:
            x = self._act(layer(x))
        return x


class PooledShortcut(NormedConvolution):
    """A shortcut that averages four neighbours."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape: [B, C, H, W] to [B, C', H / 2, W / 2]."""
        return super().forward(F.avg_pool2d(x_BCHW, 2, 2, ceil_mode=True))


class DeepStemResNet(ResNet):
    """A residual network of this kind; see :class:`~omniform.blocks.resnet.ResNet`."""

    def __init__(self, spec: ResNetSpec) -> None:
        super().__init__(spec)
        self.stem = DeepStem(spec)  # type: ignore[assignment]
        for i, stage in enumerate(self.stages):
            stage[0].shortcut = _shortcut(spec, i)  # type: ignore[index]

    def _entered(self, pixel_values: Tensor) -> Tensor:
        check_pictures(pixel_values, self.spec.channels)
        entered: Tensor = self.stem(pixel_values.to(next(self.parameters()).dtype))
        return entered


def _pooled(spec: ResNetSpec, stage: int) -> bool:
    """Whether a stage's first shortcut averages."""
    if spec.block == "bottleneck":
        return spec.stages[stage].stride == 2
    return spec.widths[stage] != spec.widths[stage + 1]


def _shortcut(spec: ResNetSpec, stage: int) -> nn.Module | None:
    inner, outer, stride = spec.widths[stage], spec.widths[stage + 1], spec.stages[stage].stride
    if _pooled(spec, stage):
        return PooledShortcut(spec.norm, inner, outer, 1)
    if spec.block == "bottleneck" and inner == outer:
        return None
    return NormedConvolution(spec.norm, inner, outer, 1, stride=stride)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    c = resnet.read(r)
    for i, stage in enumerate(c.net.stages):
        if stage.stride == 1 and _pooled(c.net, i):
            # Its shortcut would halve the map, and its convolutions would not.
            raise r.fail("hidden_sizes", f"{c.net.widths[i]} in a basic stage that keeps the size", stage.channels)
    return c


def backbone(c: Config) -> ConvBackbone:
    """The network as a backbone."""
    net = DeepStemResNet(c.net)
    return ConvBackbone(
        network=net, names=c.names, outputs=c.outputs, num_features=c.net.widths, reductions=c.net.strides
    )


def keys(c: Config) -> KeyMap:
    """Where the weights live: behind the average, where a shortcut has one."""
    pooled = [i for i in range(len(c.net.stages)) if _pooled(c.net, i)]
    rules = {f"network.stages.{i}.0.shortcut": f"encoder.stages.{i}.layers.0.shortcut.1" for i in pooled}
    stem = {"network.stem.layers": "embedder.embedder"}
    return KeyMap({"network": "", **stem, "network.stages.{i}.{j}": "encoder.stages.{i}.layers.{j}", **rules})


FAMILY = (
    Builder("rt_detr_resnet", read, keys, prefix="")
    .public(config="RTDetrResNetConfig", image_processor="RTDetrImageProcessor")
    .backbone("RTDetrResNetBackbone", backbone)
    .done()
)
