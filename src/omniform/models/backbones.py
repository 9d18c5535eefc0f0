"""Backbones that detectors are built on: their configs, and the two layouts their weights are stored in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.resnet import Block, ResNetSpec, Stage
from omniform.core.config import ModelConfig
from omniform.core.reader import MOST_LAYERS, ConfigReader
from omniform.weights.keymap import KeyMap

Layout = Literal["hub", "timm"]

TIMM_RESNETS: dict[str, tuple[Block, tuple[int, int, int, int]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet26": ("bottleneck", (2, 2, 2, 2)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
    "resnet200": ("bottleneck", (3, 24, 36, 3)),
}
"""Kind of block and depths of the plain residual networks of timm."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A residual network and how its weights are named in checkpoints: as the Hub's ``resnet`` family or as timm's."""

    spec: ResNetSpec
    layout: Layout

    @property
    def keys(self) -> KeyMap:
        """Where the weights live."""
        if self.layout == "hub":
            return KeyMap({"stem": "embedder.embedder", "stages.{i}.{j}": "encoder.stages.{i}.layers.{j}"})
        rules = {"stem.convolution": "conv1", "stem.normalization": "bn1"}
        for stage in range(len(self.spec.stages)):
            ours, theirs = f"stages.{stage}.{{j}}", f"layer{stage + 1}.{{j}}"
            for i in range(3):
                rules[f"{ours}.layer.{i}.convolution"] = f"{theirs}.conv{i + 1}"
                rules[f"{ours}.layer.{i}.normalization"] = f"{theirs}.bn{i + 1}"
            rules[f"{ours}.shortcut.convolution"] = f"{theirs}.downsample.0"
            rules[f"{ours}.shortcut.normalization"] = f"{theirs}.downsample.1"
        return KeyMap(rules)


def read_backbone(r: ConfigReader) -> Backbone:
    """The backbone that a detector's config names, in any of the ways that releases wrote it.

    ``backbone_config`` counts if it is there. Otherwise ``use_timm_backbone`` tells whether ``backbone`` and
    ``backbone_kwargs`` name a network of timm's; if not, it is the Hub's ResNet-50 with its coarsest map alone.
    """
    r.inert("use_pretrained_backbone")
    channels, dilated = r.integer("num_channels", 3), r.flag("dilation", False)
    timm = r.flag("use_timm_backbone", True)
    name = r.text("backbone", "resnet50")
    nested = r.mapping("backbone_config")
    if nested:
        r.inert("backbone_kwargs")
        config = ModelConfig.from_raw(nested, read=_read_nested, where=f"{r.where}: backbone_config")
        r.values["backbone_config"] = config
        return cast(Backbone, config.spec)
    if timm:
        given = r.sub("backbone_kwargs", {})
        named: dict[str, object] = {
            "backbone": name,
            "out_indices": [1, 2, 3, 4],
            "num_channels": given.integer("in_chans", given.integer("num_channels", channels)),
            "output_stride": 16 if dilated else None,
        }
        return _read_timm(ConfigReader({**named, **given.raw}, where=r.where))
    r.only("backbone", None, "resnet50", "microsoft/resnet-50", why="give a backbone_config")
    return _read_resnet(ConfigReader({"out_features": ["stage4"]}, where=r.where))


def _read_nested(r: ConfigReader) -> Backbone:
    kind = r.choice("model_type", ("resnet", "timm_backbone"))
    return _read_resnet(r) if kind == "resnet" else _read_timm(r)


def _read_resnet(r: ConfigReader) -> Backbone:
    widths, depths = r.integers("hidden_sizes", (256, 512, 1024, 2048), least=1), r.integers("depths", (3, 4, 6, 3))
    if sum(depths) > MOST_LAYERS:
        raise r.fail("depths", f"at most {MOST_LAYERS} altogether", list(depths))
    if len(widths) != len(depths) or not depths or 0 in depths:
        raise r.fail("depths", f"{len(widths)} positive numbers, one per entry of hidden_sizes", list(depths))
    block = cast(Block, r.choice("layer_type", ("basic", "bottleneck"), "bottleneck"))
    first = 2 if r.flag("downsample_in_first_stage", False) else 1
    strides = (first, *(2 for _ in widths[1:]))
    names = ("stem", *(f"stage{i + 1}" for i in range(len(depths))))
    r.inert("stage_names")
    spec = ResNetSpec(
        channels=r.integer("num_channels", 3),
        stem=r.integer("embedding_size", 64),
        stages=tuple(Stage(w, d, s) for w, d, s in zip(widths, depths, strides, strict=True)),
        block=block,
        act=r.choice("hidden_act", ACTIVATIONS, "relu"),
        stride_first=r.flag("downsample_in_bottleneck", False),
        # The Hub's stem is pooled: our map 1.
        outputs=tuple(i + 1 for i in _outputs(r, names)),
    )
    return Backbone(spec, "hub")


def _read_timm(r: ConfigReader) -> Backbone:
    name = r.text("backbone").split(".")[0]  # what follows a dot names a set of pretrained weights
    if name not in TIMM_RESNETS:
        raise r.fail("backbone", f"one of {', '.join(TIMM_RESNETS)}", repr(r.raw["backbone"]))
    block, depths = TIMM_RESNETS[name]
    r.only("features_only", True, why="a detector needs feature maps")
    r.inert("freeze_batch_norm_2d", "use_pretrained_backbone", "stage_names", "in_chans")
    names = ("act1", *(f"layer{i + 1}" for i in range(4)))
    outputs = _outputs(r, names)
    stages = _strided(depths, 4 if block == "bottleneck" else 1, r.maybe_integer("output_stride") or 32, r)
    spec = ResNetSpec(
        channels=r.integer("num_channels", 3),
        # What is coarser than the last map asked for is not there, nor in the checkpoint.
        stages=stages[: outputs[-1]],
        block=block,
        # timm's first map is the stem before pooling: our map 0.
        outputs=tuple(i + 1 if i else 0 for i in outputs),
    )
    return Backbone(spec, "timm")


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


def _outputs(r: ConfigReader, names: tuple[str, ...]) -> tuple[int, ...]:
    """Which maps a backbone gives, from ``out_features`` or ``out_indices``; the coarsest alone by default."""
    features = r.texts("out_features", ())
    indices = r.integers("out_indices", (), least=-len(names))
    for feature in features:
        if feature not in names:
            raise r.fail("out_features", f"names among {', '.join(names)}", repr(feature))
    places = tuple(names.index(f) for f in features) or tuple(i % len(names) for i in indices) or (len(names) - 1,)
    if any(i >= len(names) for i in indices) or list(places) != sorted(set(places)):
        raise r.fail("out_indices", f"rising numbers below {len(names)}", list(indices or features))
    if features and indices and places != tuple(i % len(names) for i in indices):
        raise r.fail("out_indices", f"the places of {', '.join(features)}", list(indices))
    return places
