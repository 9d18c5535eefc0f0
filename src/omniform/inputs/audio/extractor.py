"""What all feature extractors share: the settings every ``preprocessor_config.json`` has, and the checks of waves."""

from __future__ import annotations

import copy
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.core.reader import ConfigReader
from omniform.core.upstairs import upstairs
from omniform.inputs.audio.pad import Side

if TYPE_CHECKING:
    import numpy as np

    Wave: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]] | Tensor | Sequence[float]
    Waves: TypeAlias = Wave | Sequence[Wave]

MAX_SAMPLING_RATE: Final = 10_000_000
"""Highest sampling rate in Hz that is believed; ultrasound recorders stay under it."""

_LOAD_FIRST: Final = "For a file, bytes or an address call load_audio first."

# Written by tools and older releases; they name other objects, or repeat what follows from the settings.
_BOOKKEEPING = (
    "feature_extractor_type", "processor_class", "auto_map", "transformers_version", "image_processor_type",
    "tokenizer_class", "mel_filters", "window",
)  # fmt: skip


class FeatureExtractor(ABC):
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

    type_name: ClassVar[str]
    """The ``feature_extractor_type`` of the config file."""
    model_input_names: ClassVar[tuple[str, ...]]
    """The entries of the batch that hold features."""
    feature_size_default: ClassVar[int]
    mask_default: ClassVar[bool]

    def __init__(self, config: Mapping[str, object] | None = None, *, where: str = "preprocessor_config.json") -> None:
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
                "%s: %s does not know %s; kept, not used", where, self.type_name, ", ".join(map(repr, unknown))
            )

    @abstractmethod
    def _read(self, r: ConfigReader) -> None:
        """Read the settings that this extractor has beyond the shared ones."""

    @abstractmethod
    def __call__(self, audio: Waves, *, sampling_rate: int | None = None, return_tensors: str | None = None) -> Batch:
        """Turn one wave or several into a batch."""

    def to_dict(self) -> dict[str, object]:
        """The config to write to ``preprocessor_config.json``: verbatim what was read, and the type's name."""
        return {**copy.deepcopy(self.raw), "feature_extractor_type": self.type_name}

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Save as ``preprocessor_config.json``, whole or not at all; other files in the folder stay.

        Raises:
            RepoError: the folder cannot be written.
        """
        upstairs("hub.auto_inputs:save_inputs")(self, save_directory)

    def __repr__(self) -> str:
        return f"{self.type_name}(sampling_rate={self.sampling_rate}, feature_size={self.feature_size})"

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise InputError(
                "the sound has another sampling rate than the model",
                where="sampling_rate",
                expected=f"{self.sampling_rate} Hz",
                found=f"{sampling_rate!r} Hz",
                remedy=f"Resample it: load_audio((samples, {sampling_rate!r}), {self.sampling_rate}).",
            )


def as_waves(audio: object) -> list[Tensor]:
    """One wave or several, as float32 tensors on the CPU. Integers keep their values: nothing is rescaled.

    Args:
        audio: samples (array, tensor or list of numbers); or several of those: a list, or an array or a tensor
            ``[batch, samples]``.

    Returns:
        At least one wave. Shape of each: ``[samples]``.

    Raises:
        InputError: no numbers, an empty wave, too many dimensions, or a sample that is not finite.
    """
    if isinstance(audio, (list, tuple)):
        if not audio:
            raise InputError("there is no sound", where="audio", expected="at least one", found="an empty list")
        if isinstance(audio[0], Real):
            return [_wave(audio, "audio")]
        return [_wave(item, f"audio[{i}]") for i, item in enumerate(audio)]
    samples = to_tensor(audio, "audio", remedy=_LOAD_FIRST)
    if samples.ndim != 2:
        return [_wave(samples, "audio")]
    if samples.shape[0] == 0:
        raise InputError("there is no sound", where="audio", found=f"shape {tuple(samples.shape)}")
    return [_wave(row, f"audio[{i}]") for i, row in enumerate(samples)]


def to_tensor(value: object, where: str, *, remedy: str | None = None) -> Tensor:
    """An array, a tensor or nested lists of real numbers as a tensor of the same dtype (lists: float32).

    Raises:
        InputError: it holds no real numbers, or its rows differ in length.
    """
    import numpy as np

    tensor: Tensor | None = None
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
    elif isinstance(value, (np.ndarray, list, tuple)):
        try:
            # torch refuses arrays with negative strides and foreign byte order; numpy's copy has neither.
            array = np.asarray(value, dtype=np.float32 if not isinstance(value, np.ndarray) else None)
            tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
        except (TypeError, ValueError, OverflowError):
            tensor = None
    if tensor is None or tensor.is_complex() or tensor.dtype == torch.bool:
        found = type(value).__name__ if tensor is None else str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            "this is no wave",
            where=where,
            expected="samples: an array, a tensor or a list of real numbers",
            found=found,
            remedy=remedy,
        )
    return tensor


def check_wave(samples: Tensor, where: str) -> None:
    """Refuse a wave that has no samples or holds NaN or infinity.

    Raises:
        InputError: which of the two, and where the first such sample stands.
    """
    if samples.numel() == 0:
        raise InputError("the sound is empty", where=where, expected="at least one sample", found="none")
    # One pass: a sum is finite only if every term is; the rare overflow of the sum itself is told apart below.
    if not bool(samples.sum().isfinite()):
        bad = samples.isfinite().logical_not().nonzero()
        if bad.numel():
            raise InputError(
                "the sound holds a sample that is not finite",
                where=where,
                expected="real numbers",
                found=f"{float(samples[tuple(bad[0])])} at sample {int(bad[0, 0])}",
            )


def _wave(value: object, where: str) -> Tensor:
    samples = to_tensor(value, where, remedy=_LOAD_FIRST)
    if samples.ndim != 1:
        raise InputError(
            "a wave has one dimension",
            where=where,
            expected="[samples], mono",
            found=f"shape {list(samples.shape)}",
            remedy="Mix the channels first, for example with load_audio((samples, rate), rate).",
        )
    samples = samples.float()
    check_wave(samples, where)
    return samples
