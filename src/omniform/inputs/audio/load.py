"""From any sound to mono samples at one rate: libsndfile decodes, soxr resamples."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Final, SupportsIndex, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import DependencyError, InputError
from omniform.inputs.audio.extractor import MAX_SAMPLING_RATE, check_wave, to_tensor
from omniform.inputs.audio.source import Readable, encoded

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    Samples: TypeAlias = Array | Tensor | Sequence[float]
    AudioSource: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | Readable | Samples | tuple[Samples, int] | Mapping[str, object]
    )

MAX_BYTES: Final = 1 << 30
MAX_SECONDS: Final = 4 * 3600.0
MAX_CHANNELS: Final = 64
MAX_SAMPLES: Final = 1 << 30
"""Of one channel: a few kilobytes of FLAC can stand for hours of silence at an absurd rate."""
_BLOCK: Final = 1 << 16

# What libsndfile maps to -1 .. 1: an offset, then a divisor.
_FULL_SCALE: Final[Mapping[torch.dtype, tuple[float, float]]] = {
    torch.uint8: (128.0, 2.0**7),
    torch.int8: (0.0, 2.0**7),
    torch.int16: (0.0, 2.0**15),
    torch.int32: (0.0, 2.0**31),
}


def load_audio(
    source: AudioSource,
    sampling_rate: int,
    *,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    timeout: float = 30.0,
) -> Tensor:
    """Decode a sound, mix it down to mono and resample it.

    Args:
        source: a path, bytes, an open binary file, a ``data:`` URI or an ``http(s)://`` address of anything that
            libsndfile reads (WAV, FLAC, OGG, MP3, AIFF, ...); or samples: an array, a tensor or a list, taken to be
            at ``sampling_rate``; a pair ``(samples, rate)``; a mapping with ``array`` (or ``raw``) and
            ``sampling_rate``, or with ``bytes`` or ``path``, as ``datasets`` has them. Samples with two dimensions
            have channels along the shorter one. Integers are scaled as libsndfile does: int16 by ``1 / 32768``.
        sampling_rate: the rate wanted, in Hz.
        max_bytes: refuse a larger file.
        max_seconds: refuse a longer sound.
        timeout: seconds that fetching an address may take.

    Returns:
        The mean of the channels. Shape: ``[samples]``, float32, nominally within -1 .. 1.

    Raises:
        RepoError: no such file, or the address cannot be reached.
        InputError: no sound, an empty or damaged one, a sample that is not finite, or a limit is passed.
        DependencyError: soundfile or soxr is needed and not installed.
    """
    _check_rate("sampling_rate", sampling_rate)
    if isinstance(source, Mapping):
        source = _unwrap(source)
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], Real):
        samples, given = source
        rate = _check_rate("audio[1]", given)
        wave = _mono(to_tensor(samples, "audio[0]"), rate, max_seconds)
        where = "audio"
    elif isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike, Readable)):
        file, where = encoded(source, max_bytes=max_bytes, timeout=timeout)
        wave, rate = _decode(file, where, max_seconds)
    else:
        where, rate = "audio", sampling_rate
        wave = _mono(to_tensor(source, where), rate, max_seconds)
    check_wave(wave, where)
    return wave if rate == sampling_rate else _resample(wave, rate, sampling_rate)


def _unwrap(source: Mapping[str, object]) -> AudioSource:
    """The samples and their rate, or the file, in a mapping of the ``datasets`` or the pipeline form."""
    for key in ("array", "raw"):
        samples = source.get(key)
        if samples is not None:
            if "sampling_rate" not in source:
                raise InputError("the sound has no sampling rate", where="audio", expected="a key 'sampling_rate'")
            return to_tensor(samples, f"audio[{key!r}]"), _check_rate("sampling_rate", source["sampling_rate"])
    for key in ("bytes", "path"):
        file = source.get(key)
        if isinstance(file, (str, bytes, bytearray, os.PathLike)):
            return file
    raise InputError(
        "this mapping holds no sound",
        where="audio",
        expected="'array' (or 'raw') and 'sampling_rate', or 'bytes', or 'path'",
        found=f"keys {sorted(map(str, source))}",
    )


def _mono(samples: Tensor, rate: int, max_seconds: float) -> Tensor:
    """Scale integers and mix channels. Shape: ``[samples]``, ``[samples, channels]`` or ``[channels, samples]``."""
    if samples.dtype in _FULL_SCALE:
        offset, divisor = _FULL_SCALE[samples.dtype]
        # In float64 no bit of an int32 is lost before the division.
        samples = ((samples.double() - offset) / divisor).float()
    elif not samples.is_floating_point():
        raise InputError(
            "integers of this width have no agreed full scale",
            where="audio",
            expected="int8, uint8, int16, int32 or floats",
            found=str(samples.dtype).removeprefix("torch."),
        )
    samples = samples.float()
    if samples.numel() == 0:
        return samples.flatten()
    if samples.ndim == 2:
        samples = samples if samples.shape[0] >= samples.shape[1] else samples.T
        _check_channels("audio", samples.shape[1])
        samples = samples.mean(dim=1) if samples.shape[1] != 1 else samples[:, 0]
    if samples.ndim != 1:
        raise InputError(
            "a sound has one or two dimensions",
            where="audio",
            expected="[samples], [samples, channels] or [channels, samples]",
            found=f"shape {list(samples.shape)}",
        )
    _check_length("audio", samples.shape[0], rate, max_seconds)
    return samples.contiguous()


def _decode(file: Path | io.BytesIO, where: str, max_seconds: float) -> tuple[Tensor, int]:
    """Decode with libsndfile, block by block, so that memory follows the sound and not what its header claims."""
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise _missing("soundfile", "to read sound files", error) from error
    blocks: list[Tensor] = []
    decoded = 0
    try:
        with soundfile.SoundFile(str(file) if isinstance(file, Path) else file) as sound:
            rate, declared = int(sound.samplerate), int(sound.frames)
            _check_channels(where, int(sound.channels))
            _check_rate(where, rate)
            _check_length(where, declared if sound.seekable() else 0, rate, max_seconds)
            for block in _blocks(sound):
                decoded += block.shape[0]
                _check_length(where, decoded, rate, max_seconds)
                blocks.append(block)
    except InputError:
        raise
    # soundfile reports a file it cannot read by a RuntimeError, and one without a header (.raw) by a TypeError.
    except (RuntimeError, TypeError, ValueError, OSError) as error:
        raise InputError(
            "this is no sound that can be read",
            where=where,
            expected="WAV, FLAC, OGG, MP3, AIFF or another format of libsndfile",
            found=str(error)[:200],
            remedy="Convert it first, for example: ffmpeg -i FILE out.wav",
        ) from None
    if decoded < declared < 1 << 62:
        logging.getLogger("omniform").warning(
            "%s: the sound is cut: %d of %d samples could be read", where, decoded, declared
        )
    return torch.cat(blocks) if blocks else torch.zeros(0), rate


def _blocks(sound: soundfile.SoundFile) -> Iterator[Tensor]:
    """The mean of the channels of an open file, block by block. Shape of each: ``[samples]``."""
    while (block := sound.read(_BLOCK, dtype="float32", always_2d=True)).shape[0]:
        yield torch.from_numpy(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])


def _resample(wave: Tensor, rate: int, wanted: int) -> Tensor:
    """Resample with soxr's "HQ" recipe to exactly ``ceil(samples * wanted / rate)`` samples."""
    try:
        import soxr
    except (ImportError, OSError) as error:
        raise _missing("soxr", f"to resample from {rate} to {wanted} Hz", error) from error
    length = math.ceil(wave.shape[0] * wanted / rate)
    # soxr works on numpy arrays; its result may be a sample longer or shorter than the exact ratio.
    resampled = torch.from_numpy(soxr.resample(wave.numpy(), rate, wanted, quality="HQ"))[:length]
    return torch.nn.functional.pad(resampled, (0, length - resampled.shape[0]))


def _check_rate(where: str, rate: object) -> int:
    value = 0
    if isinstance(rate, float) and rate.is_integer():
        value = int(rate)
    elif isinstance(rate, SupportsIndex) and not isinstance(rate, bool):
        # Integers of numpy and torch too; an array of several has the method and refuses.
        with contextlib.suppress(TypeError):
            value = operator.index(rate)
    if not 1 <= value <= MAX_SAMPLING_RATE:
        raise InputError(
            "this is no sampling rate", where=where, expected=f"1 to {MAX_SAMPLING_RATE} Hz", found=repr(rate)[:80]
        )
    return value


def _check_channels(where: str, channels: int) -> None:
    if not 1 <= channels <= MAX_CHANNELS:
        raise InputError("this is no number of channels", where=where, expected=f"1 to {MAX_CHANNELS}", found=channels)


def _check_length(where: str, samples: int, rate: int, max_seconds: float) -> None:
    if samples > min(max_seconds * rate, MAX_SAMPLES):
        raise InputError(
            "the sound is too long",
            where=where,
            expected=f"at most {max_seconds:g} seconds and {MAX_SAMPLES} samples",
            found=f"{samples / rate:.1f} seconds, {samples} samples",
            remedy="Split it, or pass a larger max_seconds.",
        )


def _missing(package: str, why: str, error: Exception) -> DependencyError:
    return DependencyError(
        f"{package} is needed {why}",
        found=str(error),
        remedy="Install it: pip install 'omniform[audio]'.",
    )
