"""ResNet (https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from torch import nn

from omniform.architectures.backbone import ConvBackbone, read_outputs
from omniform.architectures.convolutional import ConvEncoder, MeanMap, conv_classifier
from omniform.architectures.family import Builder
from omniform.architectures.heads import SequenceClassifier
from omniform.blocks.batchnorm import FrozenBatchNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.resnet import Block, ResNet, ResNetSpec, Stage
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a ResNet computes.

    Attributes:
        names: of its stages, the stem's first.
        outputs: which stages' maps it gives as a backbone.
    """

    net: ResNetSpec
    names: tuple[str, ...]
    outputs: tuple[int, ...]

    def frozen(self) -> Config:
        """The same with norms that are frozen."""
        return replace(self, net=replace(self.net, norm=FrozenBatchNorm))


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    widths, depths = r.integers("hidden_sizes", (256, 512, 1024, 2048), least=1), r.integers("depths", (3, 4, 6, 3))
    if sum(depths) > MOST_LAYERS:
        raise r.fail("depths", f"at most {MOST_LAYERS} altogether", list(depths))
    if len(widths) != len(depths) or not depths or 0 in depths:
        raise r.fail("depths", f"{len(widths)} positive numbers, one per entry of hidden_sizes", list(depths))
    block = cast(Block, r.choice("layer_type", ("basic", "bottleneck"), "bottleneck"))
    first = 2 if r.flag("downsample_in_first_stage", False) else 1
    strides = (first, *(2 for _ in widths[1:]))
    names = ("stem", *(f"stage{i + 1}" for i in range(len(depths))))
    net = ResNetSpec(
        channels=r.integer("num_channels", 3),
        stem=r.integer("embedding_size", 64),
        stages=tuple(Stage(w, d, s) for w, d, s in zip(widths, depths, strides, strict=True)),
        block=block,
        act=r.choice("hidden_act", ACTIVATIONS, "relu"),
        stride_first=r.flag("downsample_in_bottleneck", False),
    )
    return Config(net=net, names=names, outputs=read_outputs(r, names))


def build(c: Config) -> ConvEncoder:
    """The network and the mean of its last map."""
    return ConvEncoder(network=ResNet(c.net), stages=len(c.net.stages), pooler=MeanMap())


def backbone(c: Config) -> ConvBackbone:
    """The network as a backbone."""
    facts = {"num_features": c.net.widths, "reductions": c.net.strides}
    return ConvBackbone(network=ResNet(c.net), names=c.names, outputs=c.outputs, **facts)


def classifier(c: Config, common: Common) -> SequenceClassifier:
    """One class per picture."""
    return conv_classifier(build(c), c.net.widths[-1], common)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Matrices begin as torch's own do."""
    if path.endswith("classifier.weight"):
        return lambda x: nn.init.kaiming_uniform_(x, a=5**0.5)
    if path.endswith("classifier.bias"):
        width = cast(Config, config.spec).net.widths[-1]
        return lambda x: nn.init.uniform_(x, -(width**-0.5), width**-0.5)
    return None


KEYS = KeyMap(
    {
        "network": "",
        "network.stem": "embedder.embedder",
        "network.stages.{i}.{j}": "encoder.stages.{i}.layers.{j}",
    }
)

FAMILY = (
    Builder("resnet", read, KEYS, prefix="resnet")
    .public(config="ResNetConfig", image_processor="ConvNextImageProcessor", row="image classification, backbone")
    .begins(beginning)
    .base("ResNetModel", build)
    .head("ResNetForImageClassification", "image-classification", classifier, {"classifier": "classifier.1"})
    .backbone("ResNetBackbone", backbone)
    .done()
)
