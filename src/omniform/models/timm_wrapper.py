"""Checkpoints of timm's own (``timm/...`` on the Hub), computed by timm where it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor, nn

from omniform.architectures.family import Builder
from omniform.architectures.labels import Problem, Targets
from omniform.architectures.losses import Items, classification_items, classification_loss
from omniform.architectures.model import Model
from omniform.architectures.timm_models import timm_arguments, timm_beginning, timm_data, timm_network
from omniform.core.config import Beginning, Common, ModelConfig
from omniform.core.errors import ConfigError, DependencyError, InputError
from omniform.core.outputs import BaseModelOutput, ClassifierOutput, Layers
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap, Layout

Wish = bool | Sequence[int] | None
"""Whether hidden states are wanted: all, none, or those of some blocks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What timm is to make.

    Attributes:
        name: in timm's registry.
        arguments: how it is made.
        pools: whether the base model also gives one vector per picture.
    """

    name: str
    arguments: Mapping[str, object]
    pools: bool


def read(r: ConfigReader) -> Config:
    """Read a config, timm's own or one saved since; every key is used, declared inert or refused."""
    r.inert("pretrained_cfg", "num_features", "global_pool", "tag", "hf_hub_id")
    labels = _labels(r)
    if labels is not None:
        r.values["id2label"], r.values["num_labels"] = labels, len(labels)
        unique = len({*labels.values()}) == len(labels)
        r.values["label2id"] = {name: i for i, name in labels.items()} if unique else None
    named = cast("Mapping[int, str]", r.values["id2label"])
    r.values["num_classes"], r.values["label_names"] = len(named), list(named.values())
    return Config(
        name=r.text("architecture", "resnet50"),
        arguments=timm_arguments(r.mapping("model_args") or {}, f"{r.where}: model_args"),
        pools=r.flag("do_pooling", True),
    )


def _labels(r: ConfigReader) -> dict[int, str] | None:
    """The classes' names in timm's own words, where the config has none of the usual ones."""
    names, number = r.texts("label_names", ()), r.maybe_integer("num_classes", least=0)
    if "id2label" in r.raw or "num_labels" in r.raw or (number is None and not names):
        return None
    if names:
        return dict(enumerate(names))
    known = _imagenet(r.raw)
    return dict(enumerate(known or (f"LABEL_{i}" for i in range(number or 0))))


def _imagenet(raw: Mapping[str, object]) -> list[str]:
    """The names of the classes of whichever ImageNet a network was trained on; none without timm."""
    try:
        data = timm_data()
    except DependencyError:
        return []
    subset = data.infer_imagenet_subset(dict(raw))
    if not subset:
        return []
    info = data.ImageNetInfo(subset)
    told: Mapping[str, str] = info.label_descriptions(as_dict=True)
    return [told[synset] for synset in info.label_names()]


class Network(Protocol):
    """What timm's networks can be asked."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def forward_features(self, x: Tensor) -> Tensor: ...
    def forward_head(self, x: Tensor) -> Tensor: ...
    def forward_intermediates(self, x: Tensor, indices: Sequence[int] | None = None) -> tuple[Tensor, list[Tensor]]: ...


class Wrapped(Model):
    """Base of what wraps a network of timm's.

    Args:
        network: what timm made.
    """

    main_input = "pixel_values"

    network: nn.Module

    @property
    def timm_model(self) -> nn.Module:
        """The network, by the ecosystem's name."""
        return self.network

    @property
    def asked(self) -> Network:
        """The network, as what it can be asked."""
        return cast(Network, self.network)

    def intermediates(self, pixel_values: Tensor, wish: Wish) -> tuple[Tensor, Layers]:
        """The last features of pictures and those of the blocks before.

        Raises:
            InputError: the network does not tell of them.
        """
        if "forward_intermediates" not in dir(self.network):
            raise InputError(
                "this network does not tell of its hidden states",
                where="output_hidden_states",
                found=type(self.network).__name__,
            )
        chosen = list(wish) if isinstance(wish, Sequence) else None
        last, states = self.asked.forward_intermediates(pixel_values, indices=chosen)
        return last, tuple(states)

    def taken(self, pixel_values: Tensor, output_attentions: bool | None) -> Tensor:
        """Pictures in the network's dtype.

        Raises:
            InputError: no pictures; attention weights are asked for, which timm does not give.
        """
        if output_attentions:
            raise InputError("timm's networks give no attention weights", where="output_attentions", found=True)
        if pixel_values.dim() != 4:
            found = f"shape {list(pixel_values.shape)}"
            raise InputError("these are no pictures", where="pixel_values", expected="4 axes", found=found)
        return pixel_values.to(self.dtype)


class WrappedModel(Wrapped):
    """A network of timm's without its classifier.

    Args:
        pools: whether it also gives one vector per picture, where a call does not say.
    """

    pools: bool

    def forward(
        self,
        pixel_values: Tensor,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: Wish = None,
        do_pooling: bool | None = None,
    ) -> BaseModelOutput:
        """The features of pictures, in whichever shape the network has them.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            output_attentions: refused.
            output_hidden_states: True for the features of all blocks, or which.
            do_pooling: whether to give one vector per picture.
        """
        pixels, states = self.taken(pixel_values, output_attentions), None
        if output_hidden_states:
            last, states = self.intermediates(pixels, output_hidden_states)
        else:
            last = self.asked.forward_features(pixels)
        pools = self.pools if do_pooling is None else do_pooling
        pooled = self.asked.forward_head(last) if pools else None
        return BaseModelOutput(last_hidden_state=last, pooler_output=pooled, hidden_states=states)


class WrappedMaps(Wrapped):
    """A network of timm's that gives its feature maps (``features_only``)."""

    def forward(
        self,
        pixel_values: Tensor,
        *,
        output_attentions: bool | None = None,
        output_hidden_states: Wish = None,
        do_pooling: bool | None = None,
    ) -> BaseModelOutput:
        """The feature maps of pictures as ``last_hidden_state``; see :meth:`WrappedModel.forward`."""
        maps = self.asked(self.taken(pixel_values, output_attentions))
        states = tuple(maps) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=maps, hidden_states=states)


class WrappedClassifier(Wrapped):
    """A network of timm's with its classifier."""

    common: Common

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Problem(self.common)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        return classification_items(inputs.get("labels"), self.common)

    def forward(
        self,
        pixel_values: Tensor,
        *,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: Wish = None,
        num_items_in_batch: Items = None,
    ) -> ClassifierOutput:
        """Class scores of pictures; see :meth:`WrappedModel.forward`.

        Args:
            labels: Shape: [B] of class indices, or [B, C] of targets; gives a loss.
            num_items_in_batch: what the loss's sum over rows is divided by, if not this batch's own rows.
        """
        pixels, states = self.taken(pixel_values, output_attentions), None
        if output_hidden_states:
            last, states = self.intermediates(pixels, output_hidden_states)
            logits = self.asked.forward_head(last)
        else:
            logits = self.asked(pixels)
        loss = None if labels is None else classification_loss(logits, labels, self.common, num_items_in_batch)
        return ClassifierOutput(loss=loss, logits=logits, hidden_states=states)


def build(c: Config) -> Wrapped:
    """The network without its classifier."""
    network = timm_network(c.name, num_classes=0, **c.arguments)
    if c.arguments.get("features_only"):
        return WrappedMaps(network=network)
    return WrappedModel(network=network, pools=c.pools)


def classifier(c: Config, common: Common) -> WrappedClassifier:
    """The network with its classifier.

    Raises:
        ConfigError: the checkpoint has no classes.
    """
    if not common.num_labels:
        raise ConfigError("this checkpoint has no classes", where="num_classes", expected="1 or more", found=0)
    network = timm_network(c.name, num_classes=common.num_labels, **c.arguments)
    return WrappedClassifier(network=network, common=common)


def beginning(config: ModelConfig, path: str) -> Beginning | None:
    """Networks begin as timm has them begin."""
    spec = cast(Config, config.spec)
    arguments = {**spec.arguments, "num_classes": config.num_labels}
    return timm_beginning(spec.name, arguments, path.removeprefix("network."))


# Bare in timm's own checkpoints; under a name in those of models that began in the reference.
KEYS = KeyMap({"network": ""}, layouts=[Layout(r"^timm_model\.", {"network": "timm_model"})])

FAMILY = (
    Builder("timm_wrapper", read, KEYS, prefix="")
    .public(config="TimmWrapperConfig", row="image features, image classification (any network of timm)")
    .begins(beginning)
    .base("TimmWrapperModel", build)
    .architecture("TimmWrapperForImageClassification", ("image-classification",), classifier, KEYS)
    .done()
)
