"""The door of sounds: any source becomes mono samples at one rate, all at once or in pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.audio.decoders import open_decoder
from omniform.inputs.audio.held import BlockDecoder, HeldDecoder, laid_out, mixed
from omniform.inputs.audio.recording import Recording, warn_of_cut
from omniform.inputs.audio.resample import resample
from omniform.inputs.audio.samples import check_rate, check_wave, full_scale, to_tensor, warn_of_scale
from omniform.inputs.audio.source import Encoded, Readable, SoundDecoder, encoded
from omniform.inputs.checks import positive_limit, whole_limit
from omniform.inputs.media_access import MediaAccess, checked_access

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
    Samples: TypeAlias = Array | Tensor | Sequence[float]
    AudioSource: TypeAlias = (
        str | os.PathLike[str] | bytes | bytearray | Readable | Samples | tuple[Samples, int] | Mapping[str, object]
        | SoundDecoder
    )  # fmt: skip
    Blocks: TypeAlias = Iterator[Samples | Mapping[str, object]]

MAX_SECONDS: Final = 4 * 3600.0
MAX_SAMPLES: Final = 1 << 30
"""Of one channel: a few kilobytes of FLAC can stand for hours of silence at an absurd rate."""

_FILES = (str, bytes, bytearray, memoryview, os.PathLike, Readable)


def load_audio(
    source: AudioSource,
    sampling_rate: int,
    *,
    channel: int | None = None,
    max_bytes: int | None = None,
    max_seconds: float = MAX_SECONDS,
    timeout: float | None = None,
    media_access: MediaAccess | None = None,
) -> Tensor:
    """Decode a sound, mix it down to mono and resample it.

    Args:
        source: a path, bytes, an open binary file (read from its start wherever it stands), a ``data:`` URI, a
            ``file://`` or an ``http(s)://`` address of anything that libsndfile (WAV, FLAC, OGG, MP3, AIFF, ...) or
            PyAV (M4A, MP4, WebM, WMA, ...) reads; or samples: an array, a tensor or a list, taken to be at
            ``sampling_rate``; a pair ``(samples, rate)``; a mapping with ``array`` (or ``raw``) and
            ``sampling_rate``, or with ``bytes`` or ``path``, as ``datasets`` has them, or a decoder of torchcodec's.
            Samples with two dimensions have channels along the shorter one. Integers are scaled as libsndfile does:
            int16 by ``1 / 32768``.
        sampling_rate: the rate wanted, in Hz.
        channel: which channel to hear, from 0 on; by default the mean of all.
        max_bytes: refuse a larger file; by default of 1 GiB, or of what ``media_access`` lets download.
        max_seconds: refuse a longer sound; :func:`open_recording` reads any length in pieces.
        timeout: seconds that fetching an address may take; by default as ``media_access`` says.
        media_access: what may be read; by default every local file and public addresses.

    Returns:
        Shape: ``[samples]``, float32, nominally within -1 .. 1. A file that breaks off is read as far as it goes, and
        a warning says how far that is.

    Raises:
        RepoError: no such file, it may not be read, or the address cannot be reached.
        InputError: no sound, an empty or damaged one, a sample that is not finite, or a limit is passed.
        DependencyError: soundfile, soxr or PyAV is needed and not installed.
    """
    sampling_rate = check_rate("sampling_rate", sampling_rate)
    access = _checked(channel, max_bytes, timeout, media_access)
    positive_limit("max_seconds", max_seconds)
    heard, given, name = _told(source, sampling_rate)
    if isinstance(heard, _FILES):
        file = encoded(heard, access, max_bytes=max_bytes, timeout=timeout)
        where = file.where
        try:
            wave, rate = _decode(file, channel, max_seconds)
        finally:
            file.close()
    else:
        where, rate = "audio", given
        block = laid_out(full_scale(to_tensor(heard, name), where), where)
        _check_length(where, block.shape[0], rate, max_seconds)
        wave = mixed(block, channel, where) if block.numel() else torch.zeros(0)
    check_wave(wave, where)
    warn_of_scale([wave])
    return resample(wave, rate, sampling_rate)


def open_recording(
    source: AudioSource | Recording | Blocks | tuple[Blocks, int],
    sampling_rate: int,
    *,
    channel: int | None = None,
    max_bytes: int | None = None,
    max_seconds: float | None = None,
    timeout: float | None = None,
    media_access: MediaAccess | None = None,
) -> Recording:
    """Open a sound of any length, to be read in pieces: the numbers that :func:`load_audio` gives of the whole.

    Args:
        source: whatever :func:`load_audio` takes; or an iterator of blocks of samples as they come from a microphone,
            at ``sampling_rate``; or a pair ``(blocks, rate)``. A block is an array, a tensor or a list ``[samples]``
            or ``[samples, channels]``, or a mapping with ``raw`` (or ``array``) and ``sampling_rate``. A recording at
            this rate is given back as it is.
        sampling_rate: the rate wanted, in Hz.
        channel: which channel to hear, from 0 on; by default the mean of all.
        max_bytes: refuse a larger file; by default of 1 GiB, or of what ``media_access`` lets download.
        max_seconds: refuse a longer sound; by default it may have any length.
        timeout: seconds that fetching an address may take; by default as ``media_access`` says.
        media_access: what may be read; by default every local file and public addresses.

    Raises:
        RepoError: no such file, it may not be read, or the address cannot be reached.
        InputError: no sound, an empty or damaged one, or a limit is passed. What is wrong further on is said where it
            is read.
        DependencyError: soundfile or PyAV is needed and not installed.
    """
    sampling_rate = check_rate("sampling_rate", sampling_rate)
    access = _checked(channel, max_bytes, timeout, media_access)
    if max_seconds is not None:
        positive_limit("max_seconds", max_seconds)
    if isinstance(source, Recording):
        if source.sampling_rate != sampling_rate:
            raise InputError(
                "the recording is read at another rate",
                where=source.where,
                expected=f"{sampling_rate} Hz",
                found=f"{source.sampling_rate} Hz",
                remedy=f"Open it so: open_recording(source, {sampling_rate}).",
            )
        return source
    heard, rate, name = _told(source, sampling_rate)
    if isinstance(heard, Iterator) and not isinstance(heard, _FILES):
        return Recording(BlockDecoder(heard, rate), sampling_rate, channel=channel, max_seconds=max_seconds)
    if not isinstance(heard, _FILES):
        held = HeldDecoder(to_tensor(heard, name), rate)
        return Recording(held, sampling_rate, channel=channel, max_seconds=max_seconds)
    file = encoded(heard, access, max_bytes=max_bytes, timeout=timeout)
    try:
        decoder = open_decoder(file.file, file.where)
        return Recording(decoder, sampling_rate, channel=channel, max_seconds=max_seconds, file=file)
    except BaseException:
        file.close()
        raise


def _checked(channel: object, max_bytes: object, timeout: object, media_access: object) -> MediaAccess:
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or channel < 0):
        raise InputError("this is no channel", where="channel", expected="0, 1, ... or None", found=brief(channel))
    if timeout is not None:
        positive_limit("timeout", timeout)
    if max_bytes is not None:
        whole_limit("max_bytes", max_bytes)
    return checked_access(media_access)


def _told(source: object, wanted: int) -> tuple[object, int, str]:
    """What is to be heard, the rate that samples have, and what to call them in messages."""
    name, rate = "audio", wanted
    if isinstance(source, SoundDecoder):
        whole = source.get_all_samples()
        return whole.data, check_rate("audio.sample_rate", whole.sample_rate), name
    if isinstance(source, Mapping):
        source = _unwrap(source)
    if isinstance(source, tuple) and len(source) == 2 and not isinstance(source[0], Real):
        pair: tuple[object, object] = source
        source, rate, name = pair[0], check_rate("audio[1]", pair[1]), "audio[0]"
        if isinstance(source, _FILES):
            raise InputError(
                "a file says its own sampling rate",
                where="audio",
                found=f"a pair with {rate} Hz",
                remedy="Pass it alone.",
            )
    return source, rate, name


def _unwrap(source: Mapping[str, object]) -> object:
    """The samples and their rate, or the file, in a mapping of the ``datasets`` or the pipeline form."""
    for key in ("array", "raw"):
        samples = source.get(key)
        if samples is not None:
            if "sampling_rate" not in source:
                raise InputError("the sound has no sampling rate", where="audio", expected="a key 'sampling_rate'")
            rate = check_rate("sampling_rate", source["sampling_rate"])
            return samples if isinstance(samples, Iterator) else to_tensor(samples, f"audio[{key!r}]"), rate
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


def _decode(file: Encoded, channel: int | None, max_seconds: float) -> tuple[Tensor, int]:
    """All samples of a file, and their rate."""
    blocks: list[Tensor] = []
    decoder = open_decoder(file.file, file.where)
    try:
        decoded, rate = 0, decoder.rate
        _check_length(file.where, decoder.frames or 0, rate, max_seconds)
        while (block := decoder.read()) is not None:
            decoded += block.shape[0]
            _check_length(file.where, decoded, rate, max_seconds)
            blocks.append(mixed(block, channel, file.where))
        if decoder.cut_at(decoded):
            warn_of_cut(decoder, decoded)
    finally:
        decoder.close()
    return torch.cat(blocks) if blocks else torch.zeros(0), rate


def _check_length(where: str, samples: int, rate: int, max_seconds: float) -> None:
    if samples > min(max_seconds * rate, MAX_SAMPLES):
        raise InputError(
            "the sound is too long",
            where=where,
            expected=f"at most {max_seconds:g} seconds and {MAX_SAMPLES} samples",
            found=f"{samples / rate:.1f} seconds, {samples} samples",
            remedy="Split it, or pass a larger max_seconds; open_recording reads any length in pieces.",
        )
