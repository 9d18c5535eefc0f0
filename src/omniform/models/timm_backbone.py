"""Networks of timm (https://github.com/huggingface/pytorch-image-models) as backbones.

Its plain residual networks are computed by our own; all others by timm itself, where it is installed.
"""

from __future__ import annotations

from dataclasses import dataclass

from omniform.architectures.backbone import ConvBackbone, read_outputs
from omniform.architectures.family import Builder
from omniform.blocks.batchnorm import frozen
from omniform.blocks.resnet import Block, LatePooledResNet, ResNetSpec, Stage
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap

RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet26": ("bottleneck", (2, 2, 2, 2)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "resnet200": ("bottleneck", (3, 24, 36, 3)),
}
"""Kind of block and depths of the plain residual networks of timm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a plain residual network of timm computes.

    Attributes:
        net: its stages up to the last one whose map is asked for: what is coarser is not there, nor in checkpoints.
        names: of all its stages, the stem's first.
        outputs: which stages' maps it gives.
        widths: channels of every stage's map.
        strides: of every stage's map.
        is_frozen: whether its batch norms are.
    """

    net: ResNetSpec
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    is_frozen: bool

    @property
    def bare_keys(self) -> KeyMap:
        """Where the weights live in a checkpoint of timm's own."""
        rules = {"network": "", "network.stem.convolution": "conv1", "network.stem.normalization": "bn1"}
        for stage in range(len(self.net.stages)):
            ours, theirs = f"network.stages.{stage}.{{j}}", f"layer{stage + 1}.{{j}}"
            for i in range(3):
                rules[f"{ours}.layer.{i}.convolution"] = f"{theirs}.conv{i + 1}"
                rules[f"{ours}.layer.{i}.normalization"] = f"{theirs}.bn{i + 1}"
            rules[f"{ours}.shortcut.convolution"] = f"{theirs}.downsample.0"
            rules[f"{ours}.shortcut.normalization"] = f"{theirs}.downsample.1"
        return KeyMap(rules)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    name = r.text("backbone").split(".")[0]  # what follows a dot names a set of pretrained weights
    if name not in RESNETS:
        raise r.fail("backbone", f"one of {', '.join(RESNETS)}", repr(r.raw["backbone"]))
    block, depths = RESNETS[name]
    r.only("features_only", True, why="a backbone gives feature maps")
    r.inert("use_pretrained_backbone", "in_chans")
    names = ("act1", *(f"layer{i + 1}" for i in range(4)))
    outputs = read_outputs(r, names)
    stages = _strided(depths, 4 if block == "bottleneck" else 1, r.maybe_integer("output_stride") or 32, r)
    whole = ResNetSpec(channels=r.integer("num_channels", 3), stages=stages, block=block)
    return Config(
        net=ResNetSpec(channels=whole.channels, stages=stages[: outputs[-1]], block=block),
        names=names,
        outputs=outputs,
        widths=whole.widths,
        strides=(2, *whole.strides[1:]),
        is_frozen=r.flag("freeze_batch_norm_2d", False),
    )


def _strided(depths: tuple[int, ...], widening: int, output_stride: int, r: ConfigReader) -> tuple[Stage, ...]:
    """Stages that shrink the map until it is ``output_stride`` times smaller, and dilate from there on."""
    if output_stride not in (8, 16, 32):
        raise r.fail("output_stride", "8, 16 or 32", output_stride)
    stages: list[Stage] = []
    shrunk, dilation = 4, 1
    for i, depth in enumerate(depths):
        stride, before = (2 if i else 1), dilation
        if shrunk >= output_stride:
            dilation, stride = dilation * stride, 1
        else:
            shrunk *= stride
        stages.append(Stage(64 * 2**i * widening, depth, stride, (before, dilation)))
    return tuple(stages)


def build(c: Config) -> ConvBackbone:
    """The backbone; it is its own base model."""
    net = LatePooledResNet(c.net)
    facts = {"num_features": c.widths, "reductions": c.strides}
    return ConvBackbone(network=frozen(net) if c.is_frozen else net, names=c.names, outputs=c.outputs, **facts)


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return c.bare_keys.under("", "_backbone")


FAMILY = (
    Builder("timm_backbone", read, keys, prefix="")
    .public(config="TimmBackboneConfig", row="backbone (the residual networks of timm)")
    .base("TimmBackbone", build, "backbone")
    .done()
)
