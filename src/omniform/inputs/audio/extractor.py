"""What all feature extractors share: the settings every ``preprocessor_config.json`` has, and the checks of waves."""

from __future__ import annotations

import copy
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeAlias, Unpack, cast

import numpy as np
import torch

from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, brief, check_arguments, listed
from omniform.core.pushing import SaveOptions
from omniform.core.reader import ConfigReader
from omniform.core.upstairs import upstairs
from omniform.inputs.audio.base import SequenceFeatureExtractor
from omniform.inputs.audio.pad import Lengths, padding_rule, unit_variance
from omniform.inputs.audio.samples import MAX_SAMPLING_RATE, as_waves, check_rate
from omniform.inputs.checks import check_flag, check_length

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.floating]]

# Written by tools and older releases; they name other objects, or repeat what follows from the settings.
_BOOKKEEPING = (
    "feature_extractor_type", "processor_class", "auto_map", "transformers_version", "image_processor_type",
    "tokenizer_class", "mel_filters", "mel_filters_slaney", "window",
)  # fmt: skip


class FeatureExtractor(SequenceFeatureExtractor, ABC):
    """Turns waves into what an audio model takes. Immutable: for other settings build another one.

    Args:
        config: a parsed ``preprocessor_config.json``.
        where: the file, for messages.
        settings: the config's keys one by one, over ``config``.

    Attributes:
        raw: the config, verbatim.
        sampling_rate: samples per second that waves must have.
        feature_size: features per time step.
        padding_value: what padding samples hold.
        padding_side: where padding goes.
        settings: the names of all settings that this kind has.
        return_attention_mask: whether a mask is returned when a call does not say.

    Raises:
        ConfigError: a value has a wrong type or cannot be used.
    """

    type_name: ClassVar[str]
    """The ``feature_extractor_type`` of the config file."""
    model_input_names: ClassVar[tuple[str, ...]]
    """The entries of the batch that hold features."""
    feature_size_default: ClassVar[int]
    mask_default: ClassVar[bool]
    rate_default: ClassVar[int] = 16000

    def __init__(
        self,
        config: Mapping[str, object] | None = None,
        *,
        where: str = "preprocessor_config.json",
        **settings: object,
    ) -> None:
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError("the settings are an object", where=where, found=brief(config))
        self.raw: Final = {**copy.deepcopy(dict(config or {})), **settings}
        reader = ConfigReader(self.raw, where=where)
        self.sampling_rate = reader.integer("sampling_rate", self.rate_default)
        if self.sampling_rate > MAX_SAMPLING_RATE:
            raise reader.fail("sampling_rate", f"at most {MAX_SAMPLING_RATE} Hz", self.sampling_rate)
        self.feature_size = reader.integer("feature_size", self.feature_size_default)
        self.padding_value = reader.number("padding_value", 0.0)
        if abs(self.padding_value) > torch.finfo(torch.float32).max:
            raise reader.fail("padding_value", "what a sample can hold, a float32", self.padding_value)
        side = reader.choice("padding_side", ("left", "right"), "right")
        self.padding_side = "left" if side == "left" else "right"
        self.return_attention_mask = reader.flag("return_attention_mask", self.mask_default)
        self._read(reader)
        self.settings: Final = tuple(sorted(reader.touched))  # a set would be pickled in another order each time
        self._as_read: Final = {name: value for name, value in vars(self).items() if name in self.settings}
        reader.inert(*_BOOKKEEPING)
        unknown = reader.unknown()
        if unknown:
            logging.getLogger("omniform").warning(
                "%s: %s does not know %s; kept, not used", where, self.type_name, listed(map(repr, unknown))
            )

    @abstractmethod
    def _read(self, r: ConfigReader) -> None:
        """Read the settings that this extractor has beyond the shared ones."""

    @abstractmethod
    def __call__(
        self, audio: Waves, /, *, sampling_rate: int | None = None, return_tensors: str | None = None
    ) -> Batch:
        """Turn one wave or several into a batch."""

    def to_dict(self) -> dict[str, object]:
        """The config to write to ``preprocessor_config.json``: what was read, verbatim but for attributes that somebody
        has set since, and the type's name."""
        since = {name: vars(self)[name] for name, value in self._as_read.items() if vars(self)[name] != value}
        return {**copy.deepcopy(self.raw), **since, "feature_extractor_type": self.type_name}

    @classmethod
    def from_dict(cls, settings: Mapping[str, object], **changes: object) -> Self:
        """Build it of the object in its file, some settings changed; see :meth:`Kept.from_dict`."""
        pair = changes.pop("return_unused_kwargs", False) is True
        known = cls(settings).settings
        left = {name: value for name, value in changes.items() if name not in known}
        if not pair:
            check_arguments(f"{cls.__name__}.from_dict", left, known)
        made = cls({**settings, **{name: value for name, value in changes.items() if name in known}})
        return cast(Self, (made, left)) if pair else made

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **hub: Unpack[SaveOptions]
    ) -> None:
        """Save as ``preprocessor_config.json``, whole or not at all; other files in the folder stay.

        Args:
            push_to_hub: also commit it to a repository.
            hub: to which, and how; see :class:`~omniform.core.pushing.SaveOptions`.

        Raises:
            RepoError: the folder cannot be written. Or the Hub refuses the files.
        """
        upstairs("hub.auto_inputs:save_inputs")(self, save_directory, push_to_hub, **hub)

    def __getstate__(self) -> object:
        # Tensors as arrays: a pickled tensor holds the address of its memory, and `datasets` names caches by the bytes.
        tensors = {name: value.numpy() for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        return {name: value for name, value in vars(self).items() if name not in tensors}, tensors

    def __setstate__(self, state: tuple[dict[str, object], dict[str, Array]]) -> None:
        vars(self).update(state[0])
        vars(self).update({name: torch.from_numpy(value) for name, value in state[1].items()})

    def __repr__(self) -> str:
        return f"{self.type_name}(sampling_rate={self.sampling_rate}, feature_size={self.feature_size})"

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is not None and check_rate("sampling_rate", sampling_rate) != self.sampling_rate:
            raise InputError(
                "the sound has another sampling rate than the model",
                where="sampling_rate",
                expected=f"{self.sampling_rate} Hz",
                found=f"{sampling_rate!r} Hz",
                remedy=f"Resample it: load_audio((samples, {sampling_rate!r}), {self.sampling_rate}).",
            )

    @staticmethod
    def zero_mean_unit_var_norm(
        input_values: Sequence[Array], attention_mask: Sequence[Array] | None, padding_value: float = 0.0
    ) -> list[Array]:
        """Waves with zero mean and unit variance, each by itself; see :func:`~omniform.inputs.audio.pad.unit_variance`.

        Args:
            input_values: Shape of each: ``[samples]``.
            attention_mask: 1 where a sample was given; mean and variance are those of the first so many. None for all.
            padding_value: what padding holds afterwards.
        """
        counts = [None] * len(input_values) if attention_mask is None else [int(sum(row)) for row in attention_mask]
        return [unit_variance(row, n, padding_value) for row, n in zip(input_values, counts, strict=True)]

    def _lengths(self, padding: object, max_length: object, truncation: object, multiple: object) -> Lengths:
        """What a call's arguments ask for."""
        check_flag("truncation", truncation)
        return Lengths(
            padding_rule(padding),
            check_length("max_length", max_length),
            bool(truncation),
            check_length("pad_to_multiple_of", multiple),
            self.padding_value,
            self.padding_side,
        )


def arrays_of(waves: Waves) -> list[Array]:
    """The waves of a call as arrays. Shape of each: ``[samples]``, float32.

    Raises:
        InputError: as :func:`~omniform.inputs.audio.samples.as_waves`.
    """
    return [wave.numpy() for wave in as_waves(waves)]


def even(rows: Sequence[Array]) -> Array | list[Array]:
    """One array of rows of one shape; others stay a list."""
    # In the order of C, where stack would keep that of the rows.
    return np.ascontiguousarray(np.stack(rows)) if len({row.shape for row in rows}) == 1 else list(rows)


def check_most(r: ConfigReader, **limits: tuple[int, int]) -> None:
    """Refuse sizes that a damaged or hostile file would only exhaust memory by: each name with its value and the most.

    Raises:
        ConfigError: as said.
    """
    for name, (value, most) in limits.items():
        if value > most:
            raise r.fail(name, f"at most {most}", value)
