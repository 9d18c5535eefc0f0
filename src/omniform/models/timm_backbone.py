"""Networks of timm (https://github.com/huggingface/pytorch-image-models) as backbones.

Its plain residual networks are computed by our own; all others by timm itself, where it is installed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast

from torch import Tensor, nn

from omniform.architectures.backbone import Backbone, ConvBackbone, read_outputs
from omniform.architectures.family import Builder
from omniform.architectures.timm_models import timm_beginning, timm_network, timm_tools
from omniform.blocks.batchnorm import FrozenBatchNorm
from omniform.blocks.resnet import Block, LatePooledResNet, ResNetSpec, Stage
from omniform.core.config import Beginning, ModelConfig
from omniform.core.context import Taps
from omniform.core.errors import ConfigError, InputError
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
class Plain:
    """What a plain residual network of timm computes.

    Attributes:
        net: its stages up to the last one whose map is asked for: what is coarser is not there, nor in checkpoints.
        names: of all its stages, the stem's first.
        outputs: which stages' maps it gives.
        widths: channels of every stage's map.
        strides: of every stage's map.
    """

    net: ResNetSpec
    names: tuple[str, ...]
    outputs: tuple[int, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def frozen(self) -> Plain:
        """The same with norms that are frozen."""
        return replace(self, net=replace(self.net, norm=FrozenBatchNorm))

    def build(self) -> Backbone:
        """The backbone."""
        return ConvBackbone(
            network=LatePooledResNet(self.net),
            names=self.names,
            outputs=self.outputs,
            num_features=self.widths,
            reductions=self.strides,
        )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Any other network of timm's, which timm computes.

    Attributes:
        name: in timm's registry; empty where the config names none.
        arguments: how it is made.
        features: names of the maps that it gives, if the config says them.
        is_frozen: whether its batch norms are, as timm freezes them.
    """

    name: str
    arguments: Mapping[str, object]
    features: tuple[str, ...]
    is_frozen: bool

    def build(self) -> Backbone:
        """The backbone.

        Raises:
            DependencyError: timm is not installed.
            ConfigError: timm knows no such network, or not with these arguments.
        """
        network = timm_network(self.name, **self.arguments)
        if self.is_frozen:
            network = timm_tools().freeze_batch_norm_2d(network)
        told = cast(Told, network.feature_info)
        outputs = tuple(told.out_indices)
        found = [told.info[i]["module"] for i in outputs]
        if self.features and list(self.features) != found:
            raise ConfigError("these are not the maps at out_indices", where="out_features", expected=found,
                found=list(self.features))  # fmt: skip
        return TimmBackboneNet(
            network=network,
            names=tuple(str(one["module"]) for one in told.info),
            outputs=outputs,
            num_features=tuple(cast(int, one["num_chs"]) for one in told.info),
            reductions=tuple(cast(int, one["reduction"]) for one in told.info),
        )

    @property
    def bare_keys(self) -> KeyMap:
        """Where the weights live in a checkpoint of timm's own."""
        return KeyMap({"network": ""})


Config = Plain | Other


class Told(Protocol):
    """What timm tells of a network's stages."""

    info: Sequence[Mapping[str, object]]
    out_indices: Sequence[int]


class TimmBackboneNet(Backbone):
    """A network of timm's as a backbone.

    Args:
        network: pictures to maps.
    """

    network: nn.Module

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        if pixel_values.dim() != 4 or not pixel_values.is_floating_point():
            raise InputError(
                "the pictures do not fit the model",
                where="pixel_values",
                expected="floating-point numbers of shape [batch, channels, height, width]",
                found=f"{pixel_values.dtype} of shape {list(pixel_values.shape)}",
            )
        if taps is None or not taps.wants_hidden or not isinstance(vars(self.network).get("return_layers"), dict):
            maps = tuple(self.network(pixel_values))
            if taps is not None:
                for each in maps:
                    taps.hidden(each)
            return maps
        chosen = self.network.return_layers
        # timm's nets collect the maps of the stages that this names.
        self.network.return_layers = {name: str(i) for i, name in enumerate(self.names)}  # type: ignore[assignment]
        try:
            states = list(self.network(pixel_values))
        finally:
            self.network.return_layers = chosen
        for state in states:
            taps.hidden(state)
        return tuple(states[i] for i in self.outputs)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    whole = r.maybe_text("backbone") or ""
    name = whole.split(".")[0]  # what follows a dot names a set of pretrained weights
    r.only("features_only", True, why="a backbone gives feature maps")
    r.inert("use_pretrained_backbone", "in_chans", features_only=True)
    channels, stride = r.integer("num_channels", 3), r.maybe_integer("output_stride")
    freezes = r.flag("freeze_batch_norm_2d", False)
    if name in RESNETS:
        plain = _plain(r, name, channels, stride or 32)
        return plain.frozen() if freezes else plain
    r.inert("stage_names")
    features, indices = r.texts("out_features", ()), r.integers("out_indices", (-1,), least=-1000)
    arguments: dict[str, object] = {"features_only": True, "in_chans": channels, "out_indices": indices}
    if stride is not None:
        arguments["output_stride"] = stride
    return Other(name=whole, arguments=arguments, features=features, is_frozen=freezes)


def _plain(r: ConfigReader, name: str, channels: int, output_stride: int) -> Plain:
    block, depths = RESNETS[name]
    names = ("act1", *(f"layer{i + 1}" for i in range(4)))
    outputs = read_outputs(r, names)
    stages = _strided(depths, 4 if block == "bottleneck" else 1, output_stride, r)
    whole = ResNetSpec(channels=channels, stages=stages, block=block)
    return Plain(
        net=replace(whole, stages=stages[: outputs[-1]]),
        names=names,
        outputs=outputs,
        widths=whole.widths,
        strides=(2, *whole.strides[1:]),
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


def build(c: Config) -> Backbone:
    """The backbone; it is its own base model."""
    return c.build()


def keys(c: Config) -> KeyMap:
    """Where the weights live."""
    return c.bare_keys.under("", "_backbone")


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Networks begin as timm has them begin: what a block adds is multiplied by zeros at first."""
    spec = config.spec
    if isinstance(spec, Plain):
        last = 1 if spec.net.block == "basic" else 2
        return nn.init.zeros_ if path.endswith(f".layer.{last}.normalization.weight") else None
    if not isinstance(spec, Other):
        return None
    return timm_beginning(spec.name, spec.arguments, path.removeprefix("network."))


FAMILY = (
    Builder("timm_backbone", read, keys, prefix="")
    .public(config="TimmBackboneConfig", row="backbone (networks of timm)")
    .begins(beginning)
    .base("TimmBackbone", build, "backbone")
    .done()
)
