"""Samples of every kind as waves: what is one, on which scale it is, and at which rate."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Final, SupportsIndex, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief

if TYPE_CHECKING:
    import numpy as np

    Wave: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]] | Tensor | Sequence[float]
    Waves: TypeAlias = Wave | Sequence[Wave]

MAX_SAMPLING_RATE: Final = 10_000_000
"""Highest sampling rate in Hz that is believed; ultrasound recorders stay under it."""

_LOAD_FIRST: Final = "For a file, bytes or an address call load_audio first."

# An array [many, few] is more likely the channels of one sound than many sounds of so few samples.
_MOST_CHANNELS: Final = 8

# Mixing and filtering leave -1 .. 1 by a little, never by this much.
_LOUDEST: Final = 16.0

# What libsndfile maps to -1 .. 1: an offset, then a divisor.
_FULL_SCALE: Final[Mapping[torch.dtype, tuple[float, float]]] = {
    torch.uint8: (128.0, 2.0**7),
    torch.int8: (0.0, 2.0**7),
    torch.int16: (0.0, 2.0**15),
    torch.int32: (0.0, 2.0**31),
}


def as_waves(audio: object) -> list[Tensor]:
    """One wave or several, as float32 tensors on the CPU, integers scaled by their own full scale.

    Args:
        audio: samples (array, tensor or list of numbers); or several of those: a list, or an array or a tensor
            ``[batch, samples]``.

    Returns:
        At least one wave. Shape of each: ``[samples]``.

    Raises:
        InputError: no numbers, an empty wave, too many dimensions, or a sample that is not finite.
    """
    waves = _split(audio)
    warn_of_scale(waves)
    return waves


def warn_of_scale(waves: Sequence[Tensor]) -> bool:
    """Say it, once for all, where floats are far from -1 .. 1: somebody forgot to scale the integers they were."""
    peak = max(max(abs(float(end)) for end in wave.aminmax()) for wave in waves)
    if peak > _LOUDEST:
        logging.getLogger("omniform").warning(
            "the sound has samples up to %g, where models expect -1 to 1; int16 samples, for one, are divided by 32768",
            peak,
        )
    return peak > _LOUDEST


def _split(audio: object) -> list[Tensor]:
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
    if 0 < samples.shape[1] <= _MOST_CHANNELS < samples.shape[0]:
        raise InputError(
            "these may be the channels of one sound, or many sounds of a few samples",
            where="audio",
            expected="[batch, samples]",
            found=f"shape {list(samples.shape)}",
            remedy="Mix the channels first, for example with load_audio((samples, rate), rate).",
        )
    return [_wave(row, f"audio[{i}]") for i, row in enumerate(samples)]


def to_tensor(value: object, where: str, *, remedy: str | None = None) -> Tensor:
    """An array, a tensor or nested lists of real numbers as a tensor of their own dtype.

    Raises:
        InputError: it holds no real numbers, or its rows differ in length.
    """
    import numpy as np

    tensor: Tensor | None = None
    if isinstance(value, Tensor):
        if value.layout == torch.strided and not value.is_meta and not value.is_quantized:
            tensor = value.detach().cpu()
    elif isinstance(value, (np.ndarray, list, tuple)):
        try:
            # torch refuses arrays with negative strides and foreign byte order; numpy's copy has neither.
            array = np.asarray(value)
            tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
        # Lists hold anything, with errors of their own.
        except Exception:
            tensor = None
    if tensor is None or tensor.is_complex() or tensor.dtype == torch.bool or _is_float8(tensor.dtype):
        found = type(value).__name__ if tensor is None else str(tensor.dtype).removeprefix("torch.")
        raise InputError(
            "this is no wave",
            where=where,
            expected="samples: an array, a tensor or a list of real numbers",
            found=found,
            remedy=remedy,
        )
    return tensor


def _is_float8(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point and dtype.itemsize == 1


def check_wave(samples: Tensor, where: str) -> None:
    """Refuse a wave that has no samples or holds NaN or infinity.

    Raises:
        InputError: which of the two, and where the first such sample stands.
    """
    if samples.numel() == 0:
        raise InputError("the sound is empty", where=where, expected="at least one sample", found="none")
    check_finite(samples, where)


def check_finite(samples: Tensor, where: str, first: int = 0) -> None:
    """Refuse NaN and infinity.

    Args:
        samples: Shape: ``[samples]``.
        where: what to call them in messages.
        first: the number of the first of them.

    Raises:
        InputError: it says where the first such sample stands.
    """
    # One pass: a sum is finite only if every term is; the rare overflow of the sum itself is told apart below.
    if not bool(samples.sum().isfinite()):
        bad = samples.isfinite().logical_not().nonzero()
        if bad.numel():
            raise InputError(
                "the sound holds a sample that is not finite",
                where=where,
                expected="real numbers",
                found=f"{float(samples[tuple(bad[0])])} at sample {first + int(bad[0, 0])}",
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
    samples = full_scale(samples, where)
    check_wave(samples, where)
    return samples


def full_scale(samples: Tensor, where: str) -> Tensor:
    """Samples as float32: floats as they are, integers within -1 .. 1 by their own full scale, as libsndfile does.

    Integers of other widths (and lists of whole numbers, which have none) are read only where they are -1, 0 or 1.

    Args:
        samples: of any real type and shape.

    Raises:
        InputError: integers without a full scale.
    """
    if samples.is_floating_point():
        return samples.float()
    if samples.dtype in _FULL_SCALE:
        offset, divisor = _FULL_SCALE[samples.dtype]
        # In float64 no bit of an int32 is lost before the division.
        return ((samples.double() - offset) / divisor).float()
    wide = samples.to(torch.int64)
    if bool(((wide < -1) | (wide > 1)).any()):
        raise InputError(
            "integers of this width have no agreed full scale",
            where=where,
            expected="int8, uint8, int16, int32 or floats",
            found=str(samples.dtype).removeprefix("torch."),
            remedy="Say which they are: np.asarray(samples, dtype=np.int16).",
        )
    return wide.float()


def check_rate(where: str, rate: object) -> int:
    """A sampling rate in Hz, as an integer of Python.

    Raises:
        InputError: it is none, or out of range.
    """
    value = 0
    if isinstance(rate, bool):
        value = 0
    elif isinstance(rate, SupportsIndex):
        # Integers of numpy and torch too; an array of several has the method and refuses.
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            value = operator.index(rate)
    elif isinstance(rate, Real) and float(rate).is_integer():
        value = int(float(rate))
    if not 1 <= value <= MAX_SAMPLING_RATE:
        raise InputError(
            "this is no sampling rate", where=where, expected=f"1 to {MAX_SAMPLING_RATE} Hz", found=brief(rate)
        )
    return value
