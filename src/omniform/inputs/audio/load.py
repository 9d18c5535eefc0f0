"""From any sound to mono samples at one rate: libsndfile decodes, soxr resamples."""

from __future__ import annotations

import io
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import DependencyError, InputError, brief
from omniform.inputs.audio.samples import check_rate, check_wave, full_scale, to_tensor, warn_of_scale
from omniform.inputs.audio.source import Readable, encoded
from omniform.inputs.checks import positive_limit, whole_limit
from omniform.inputs.media_access import MediaAccess, checked_access

if TYPE_CHECKING:
    import numpy as np
    import soundfile

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    Samples: TypeAlias = Array | Tensor | Sequence[float]
    AudioSource: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | Readable | Samples | tuple[Samples, int] | Mapping[str, object]
    )

MAX_SECONDS: Final = 4 * 3600.0
MAX_CHANNELS: Final = 64
MAX_SAMPLES: Final = 1 << 30
"""Of one channel: a few kilobytes of FLAC can stand for hours of silence at an absurd rate."""
_BLOCK: Final = 1 << 16


def load_audio(
    source: AudioSource,
    sampling_rate: int,
    *,
    max_bytes: int | None = None,
    max_seconds: float = MAX_SECONDS,
    timeout: float | None = None,
    media_access: MediaAccess | None = None,
) -> Tensor:
    """Decode a sound, mix it down to mono and resample it.

    Args:
        source: a path, bytes, an open binary file (read from its start wherever it stands), a ``data:`` URI, a
            ``file://`` or an ``http(s)://`` address of anything that libsndfile reads (WAV, FLAC, OGG, MP3, AIFF,
            ...); or samples: an array, a tensor or a list, taken to be at ``sampling_rate``; a pair
            ``(samples, rate)``; a mapping with ``array`` (or ``raw``) and ``sampling_rate``, or with ``bytes`` or
            ``path``, as ``datasets`` has them. Samples with two dimensions have channels along the shorter one.
            Integers are scaled as libsndfile does: int16 by ``1 / 32768``.
        sampling_rate: the rate wanted, in Hz.
        max_bytes: refuse a larger file; by default of 1 GiB, or of what ``media_access`` lets download.
        max_seconds: refuse a longer sound.
        timeout: seconds that fetching an address may take; by default as ``media_access`` says.
        media_access: what may be read; by default every local file and public addresses.

    Returns:
        The mean of the channels. Shape: ``[samples]``, float32, nominally within -1 .. 1.

    Raises:
        RepoError: no such file, it may not be read, or the address cannot be reached.
        InputError: no sound, an empty or damaged one, a sample that is not finite, or a limit is passed.
        DependencyError: soundfile or soxr is needed and not installed.
    """
    sampling_rate = check_rate("sampling_rate", sampling_rate)
    access = checked_access(media_access)
    positive_limit("max_seconds", max_seconds)
    if max_bytes is not None:
        whole_limit("max_bytes", max_bytes)
    if timeout is not None:
        positive_limit("timeout", timeout)
    if isinstance(source, Mapping):
        source = _unwrap(source)
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], Real):
        samples, given = source
        rate = check_rate("audio[1]", given)
        wave = _mono(to_tensor(samples, "audio[0]"), rate, max_seconds)
        where = "audio"
    elif isinstance(source, (str, bytes, bytearray, memoryview, os.PathLike, Readable)):
        file, where = encoded(source, access, max_bytes=max_bytes, timeout=timeout)
        wave, rate = _decode(file, where, max_seconds)
    else:
        where, rate = "audio", sampling_rate
        wave = _mono(to_tensor(source, where), rate, max_seconds)
    check_wave(wave, where)
    warn_of_scale([wave])
    return wave if rate == sampling_rate else _resample(wave, rate, sampling_rate)


def _unwrap(source: Mapping[str, object]) -> AudioSource:
    """The samples and their rate, or the file, in a mapping of the ``datasets`` or the pipeline form."""
    for key in ("array", "raw"):
        samples = source.get(key)
        if samples is not None:
            if "sampling_rate" not in source:
                raise InputError("the sound has no sampling rate", where="audio", expected="a key 'sampling_rate'")
            return to_tensor(samples, f"audio[{key!r}]"), check_rate("sampling_rate", source["sampling_rate"])
    for key in ("bytes", "path"):
        file = source.get(key)
        if isinstance(file, (str, bytes, bytearray, memoryview, os.PathLike)):
            return file
    raise InputError(
        "this mapping holds no sound",
        where="audio",
        expected="'array' (or 'raw') and 'sampling_rate', or 'bytes', or 'path'",
        found=f"keys {brief(sorted(map(str, source)))}",
    )


def _mono(samples: Tensor, rate: int, max_seconds: float) -> Tensor:
    """Scale integers and mix channels. Shape: ``[samples]``, ``[samples, channels]`` or ``[channels, samples]``."""
    samples = full_scale(samples, "audio")
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
            check_rate(where, rate)
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
