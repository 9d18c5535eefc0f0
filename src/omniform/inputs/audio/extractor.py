"""What all feature extractors share: the settings every ``preprocessor_config.json`` has, and the checks of waves."""

from __future__ import annotations

import copy
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final, Unpack

import numpy as np
import torch

from omniform.core.auto_class import AutoNamed
from omniform.core.batch import Batch
from omniform.core.errors import ConfigError, InputError, brief, listed
from omniform.core.pushing import PushToHub, SaveOptions
from omniform.core.reader import ConfigReader
from omniform.core.upstairs import upstairs
from omniform.inputs.audio.collate import collate
from omniform.inputs.audio.pad import Padding, Side, padding_rule
from omniform.inputs.audio.samples import MAX_SAMPLING_RATE, check_rate
from omniform.inputs.checks import check_flag, check_length

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

# Written by tools and older releases; they name other objects, or repeat what follows from the settings.
_BOOKKEEPING = (
    "feature_extractor_type", "processor_class", "auto_map", "transformers_version", "image_processor_type",
    "tokenizer_class", "mel_filters", "window",
)  # fmt: skip


class FeatureExtractor(AutoNamed, PushToHub, ABC):
    """Turns waves into what an audio model takes. Immutable: for other settings build another one.

    Args:
        config: a parsed ``preprocessor_config.json``.
        where: the file, for messages.

    Attributes:
        raw: the config, verbatim.
        sampling_rate: samples per second that waves must have.
        feature_size: features per time step.
        padding_value: what padding samples hold.
        padding_side: where padding goes.
        return_attention_mask: whether a mask is returned when a call does not say.

    Raises:
        ConfigError: a value has a wrong type or cannot be used.
    """

    _usual_auto_class: ClassVar[str] = "AutoFeatureExtractor"

    type_name: ClassVar[str]
    """The ``feature_extractor_type`` of the config file."""
    model_input_names: ClassVar[tuple[str, ...]]
    """The entries of the batch that hold features."""
    feature_size_default: ClassVar[int]
    mask_default: ClassVar[bool]

    def __init__(self, config: Mapping[str, object] | None = None, *, where: str = "preprocessor_config.json") -> None:
        if config is not None and not isinstance(config, Mapping):
            raise ConfigError("the settings are an object", where=where, found=brief(config))
        self.raw: Final = copy.deepcopy(dict(config or {}))
        reader = ConfigReader(self.raw, where=where)
        self.sampling_rate: Final = reader.integer("sampling_rate", 16000)
        if self.sampling_rate > MAX_SAMPLING_RATE:
            raise reader.fail("sampling_rate", f"at most {MAX_SAMPLING_RATE} Hz", self.sampling_rate)
        self.feature_size: Final = reader.integer("feature_size", self.feature_size_default)
        self.padding_value: Final = reader.number("padding_value", 0.0)
        if abs(self.padding_value) > torch.finfo(torch.float32).max:
            raise reader.fail("padding_value", "what a sample can hold, a float32", self.padding_value)
        side = reader.choice("padding_side", ("left", "right"), "right")
        self.padding_side: Final[Side] = "left" if side == "left" else "right"
        self.return_attention_mask: Final = reader.flag("return_attention_mask", self.mask_default)
        self._read(reader)
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
    def __call__(self, audio: Waves, *, sampling_rate: int | None = None, return_tensors: str | None = None) -> Batch:
        """Turn one wave or several into a batch."""

    def pad(
        self,
        processed_features: Mapping[str, object] | Sequence[Mapping[str, object]],
        padding: Padding = True,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> Batch:
        """Bring examples whose features were computed before to one length, as a data loader's collate function does.

        Args:
            processed_features: a mapping of names to one value for each example, or a list of mappings, one for each.
                The first of ``model_input_names`` is cut and padded along its first dimension, which is time, and
                ``attention_mask`` with it; other entries are stacked as they are. Shape of an example: ``[time]``, or
                ``[time, feature_size]``.
            padding: to the ``"longest"`` (True), to ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: time steps to pad to, and with ``truncation`` to cut to.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length up to a multiple of this.
            return_attention_mask: add the mask of given time steps, int32; left out, the config decides.
            return_tensors: ``"pt"`` or ``"np"``; left out, tensors give tensors and all else arrays.

        Returns:
            The entries as ``[batch, ...]``; float64 becomes float32.

        Raises:
            InputError: no features, a length that is missing, or examples that do not fit together.
        """
        check_flag("truncation", truncation)
        check_flag("return_attention_mask", return_attention_mask)
        return collate(
            processed_features,
            name=self.model_input_names[0],
            rule=padding_rule(padding),
            max_length=check_length("max_length", max_length),
            truncate=bool(truncation),
            multiple=check_length("pad_to_multiple_of", pad_to_multiple_of),
            mask=self.return_attention_mask if return_attention_mask is None else bool(return_attention_mask),
            value=self.padding_value,
            side=self.padding_side,
            kind=return_tensors,
        )

    def to_dict(self) -> dict[str, object]:
        """The config to write to ``preprocessor_config.json``: verbatim what was read, and the type's name."""
        return {**copy.deepcopy(self.raw), "feature_extractor_type": self.type_name}

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

    def __getstate__(self) -> dict[str, object]:
        # Tensors as arrays: a pickled tensor holds the address of its memory, and `datasets` names caches by the bytes.
        return {name: v.numpy() if isinstance(v, torch.Tensor) else v for name, v in vars(self).items()}

    def __setstate__(self, state: dict[str, object]) -> None:
        made = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}
        vars(self).update(made)

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
