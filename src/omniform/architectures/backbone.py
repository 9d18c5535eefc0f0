"""Backbones: pictures in, maps of some of a model's stages out, from fine to coarse."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, Unpack, cast

from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.core.context import Tapped, Taps
from omniform.core.outputs import BackboneOutput
from omniform.core.reader import ConfigReader


class Backbone(Model):
    """Base of backbones: a family says its stages, and how their maps are made.

    Args:
        names: of all stages, from fine to coarse; the first is the stem's.
        outputs: which stages' maps it gives, as rising indices into ``names``.
        num_features: channels of every stage's map.
        reductions: how many pixels of a picture a place of every stage's map stands for.
    """

    main_input = "pixel_values"

    names: tuple[str, ...]
    outputs: tuple[int, ...]
    num_features: tuple[int, ...]
    reductions: tuple[int, ...]

    @property
    def stage_names(self) -> list[str]:
        """The names of all stages."""
        return list(self.names)

    @property
    def channels(self) -> list[int]:
        """Channels of the maps it gives."""
        return [self.num_features[i] for i in self.outputs]

    @property
    def strides(self) -> list[int]:
        """How many pixels of a picture a place of each map that it gives stands for."""
        return [self.reductions[i] for i in self.outputs]

    @property
    def is_pyramid(self) -> bool:
        """Whether its stages are maps of several sizes; of one size they may be tokens."""
        return len(set(self.reductions)) > 1

    @property
    def out_feature_channels(self) -> dict[str, int]:
        """Channels of every stage's map, by the stage's name."""
        return dict(zip(self.names, self.num_features, strict=True))

    @property
    def out_features(self) -> list[str]:
        """The names of the stages whose maps it gives; may be set."""
        return [self.names[i] for i in self.outputs]

    @out_features.setter
    def out_features(self, features: Sequence[str]) -> None:
        self._give(*_read(ConfigReader({"out_features": list(features)}, where=type(self).__name__), self.names))

    @property
    def out_indices(self) -> list[int]:
        """The indices of the stages whose maps it gives; may be set."""
        return list(self.outputs)

    @out_indices.setter
    def out_indices(self, indices: Sequence[int]) -> None:
        self._give(*_read(ConfigReader({"out_indices": list(indices)}, where=type(self).__name__), self.names))

    def _give(self, *outputs: int) -> None:
        self.outputs = outputs

    @abstractmethod
    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        """The feature maps.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            taps: what a caller wants to see on the way; noted there.

        Returns:
            One map for each of :attr:`outputs`; Shape: [B, C, H, W] each.

        Raises:
            InputError: pictures of the wrong shape.
        """

    def forward(self, pixel_values: Tensor, **given: Unpack[Tapped]) -> BackboneOutput:
        """The feature maps of pictures.

        Args:
            pixel_values: Shape: [B, channels, height, width].
            given: see :class:`~omniform.core.context.Tapped`.

        Raises:
            InputError: pictures of the wrong shape.
        """
        taps = Taps(given)
        feature_maps = self.maps(pixel_values, taps)
        hidden, attentions = taps.hidden_or_none, taps.attentions_or_none
        # Convolutions have no attention weights to tell of.
        return BackboneOutput(feature_maps=feature_maps, hidden_states=hidden, attentions=attentions or None)


class Staged(Protocol):
    """A network of convolutions that gives a map for its stem and for each of its stages."""

    def states(self, pixel_values: Tensor, last: int) -> list[Tensor]: ...


class ConvBackbone(Backbone):
    """A network of convolutions as a backbone; its hidden states are the maps of all stages.

    Args:
        network: the :class:`Staged` network; no stage beyond the last one that is wanted is computed.
    """

    network: nn.Module

    def maps(self, pixel_values: Tensor, taps: Taps | None = None) -> tuple[Tensor, ...]:
        told = taps is not None and taps.wants_hidden
        last = len(self.names) - 1 if told else self.outputs[-1]
        states = cast(Staged, self.network).states(pixel_values, last)
        if taps is not None:
            for state in states:
                taps.hidden(state)
        return self.finished([states[i] for i in self.outputs])

    def finished(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps as they are given."""
        return tuple(maps)


def read_outputs(r: ConfigReader, stage_names: Sequence[str]) -> tuple[int, ...]:
    """Which maps a backbone gives: ``out_features`` or ``out_indices``; the coarsest alone where neither is said.

    A family reads it for its base model too, since both have one class of configs. Changing either of the two keys
    drops the other.

    Args:
        stage_names: of all stages, from fine to coarse.

    Returns:
        Rising indices into ``stage_names``.

    Raises:
        ConfigError: stages that are not there, not in their order, or told otherwise by the other key.
    """
    places = _read(r, stage_names)
    r.inert("stage_names")
    r.values["stage_names"] = list(stage_names)
    r.values["out_features"] = [stage_names[i] for i in places]
    if not r.values.get("out_indices"):
        r.values["out_indices"] = list(places)
    r.rivals |= {"out_features": ("out_indices",), "out_indices": ("out_features",)}
    return places


def _read(r: ConfigReader, names: Sequence[str]) -> tuple[int, ...]:
    features = r.texts("out_features", ())
    indices = r.integers("out_indices", (), least=-len(names))
    for feature in features:
        if feature not in names:
            raise r.fail("out_features", f"names among {', '.join(names)}", repr(feature))
    places = tuple(names.index(f) for f in features) or tuple(i % len(names) for i in indices) or (len(names) - 1,)
    if any(i >= len(names) for i in indices) or list(places) != sorted(set(places)):
        name = "out_features" if features else "out_indices"
        raise r.fail(name, f"rising places below {len(names)}", list(features or indices))
    if features and indices and places != tuple(i % len(names) for i in indices):
        raise r.fail("out_indices", f"the places of {', '.join(features)}", list(indices))
    return places
