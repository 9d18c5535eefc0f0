"""Backbones that other models stand on: any family that has one, named in any of the ways that releases wrote it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from omniform.architectures.backbone import Backbone
from omniform.architectures.family import Architecture
from omniform.architectures.model import Origin
from omniform.blocks.batchnorm import Freezable, frozen
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.models.timm_backbone import Other, Plain
from omniform.weights.init import NoInitialising
from omniform.weights.keymap import KeyMap

RESNET: Mapping[str, object] = {"model_type": "resnet", "out_features": ["stage4"]}
"""The Hub's ResNet-50 and its coarsest map."""

HUB_NAMES: Mapping[str, Mapping[str, object]] = {"microsoft/resnet-50": {"model_type": "resnet"}}
"""Repositories whose configs are known here: reading a config does not reach out for another."""


class NestedBackbone(Part):
    """The backbone that a model stands on, which may be of any family that has one.

    Attributes:
        channels: of the maps it gives, from fine to coarse.
        strides: how many pixels of a picture a place of each of these maps stands for.
    """

    def __init__(self, reader: ConfigReader, default: str) -> None:
        super().__init__(reader, default)
        # Known when the model is built: some backbones are told by a library that has to build them.
        self._facts: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def architecture(self) -> Architecture:
        """Its family's backbone.

        Raises:
            ConfigError: the family has none.
        """
        for architecture in self.family.architectures.values():
            if "backbone" in architecture.tasks:
                return architecture
        raise ConfigError(
            "this model_type has no backbone",
            where=self.where,
            expected="a family with one (resnet, convnext, swin)",
            found=repr(self.config.model_type),
        )

    def check(self) -> None:
        """Raise :class:`ConfigError` where its family has no backbone."""
        assert self.architecture

    @property
    def channels(self) -> tuple[int, ...]:
        return self._told()[0]

    @property
    def strides(self) -> tuple[int, ...]:
        return self._told()[1]

    def _told(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._facts is None:
            built = self.build()
            self._facts = (tuple(built.channels), tuple(built.strides))
        return self._facts

    @property
    def keys(self) -> KeyMap:
        """Where its weights live in a checkpoint of its own."""
        return self.architecture.keys(self.config.spec)

    @property
    def bare_keys(self) -> KeyMap:
        """The same where timm's network is held without what wraps it, as DETR and its like hold it."""
        spec = self.config.spec
        return spec.bare_keys if isinstance(spec, (Plain, Other)) else self.keys

    def build(self) -> Backbone:
        """The backbone itself, as its family makes it: with batch norms that train, where it has them."""
        return self._built(self.config.spec)

    def build_frozen(self) -> Backbone:
        """The same with batch norms that are frozen, as detectors have them."""
        spec = self.config.spec
        return self._built(spec.frozen()) if isinstance(spec, Freezable) else frozen(self._built(spec))

    def _built(self, spec: object) -> Backbone:
        with torch.device("meta"), NoInitialising():
            model = self.architecture.build(spec, self.config.common)
        assert isinstance(model, Backbone)
        return model.bind(Origin(self.config, self.family, self.architecture))


def read_backbone(
    r: ConfigReader, usual: Mapping[str, object] = RESNET, timm: Mapping[str, object] | None = None
) -> NestedBackbone:
    """The backbone of a config, in any of the ways that releases wrote it.

    ``backbone_config`` counts if it is there. Otherwise ``backbone`` and ``backbone_kwargs`` name a network of timm's.

    Args:
        usual: the backbone's config where the file names none.
        timm: the same of models that stood on timm's networks, unless ``use_timm_backbone`` says otherwise;
            ``backbone`` names another network.

    Raises:
        ConfigError: the family has no backbone; values that are not supported.
        UnknownNameError: an unknown family.
    """
    r.inert("use_pretrained_backbone")
    name, given = r.maybe_text("backbone"), r.mapping("backbone_kwargs") or {}
    nested = r.mapping("backbone_config")
    stood = r.flag("use_timm_backbone", True) and timm is not None
    if nested is None and stood and not given:
        named = {} if name is None else {"backbone": name}
        nested = {"model_type": "timm_backbone", "backbone": "resnet50", **(timm or {}), **named}
    elif nested is None and name is not None and name in HUB_NAMES:
        nested = {**HUB_NAMES[name], **given}
    elif nested is None and (name is not None or stood):
        if name is not None and "/" in name:
            raise r.fail("backbone", "a name of timm's", repr(name), "Give its config as backbone_config.")
        nested = {"model_type": "timm_backbone", "backbone": name or "resnet50", **given}
    elif nested is None:
        nested = usual
    part = NestedBackbone(r.within(nested, "backbone_config"), str(usual["model_type"]))
    part.check()
    r.values["backbone_config"] = part.config
    return part


def read_detr_backbone(r: ConfigReader) -> NestedBackbone:
    """The backbone of DETR and its like, which stand on all of timm's ResNet-50 where the file does not say."""
    timm: dict[str, object] = {"num_channels": r.integer("num_channels", 3), "out_indices": [1, 2, 3, 4]}
    if r.flag("dilation", False):
        timm["output_stride"] = 16
    return read_backbone(r, timm=timm)
