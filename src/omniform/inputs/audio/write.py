"""Sounds to files: WAV by Python's own module, FLAC by libsndfile; whole, or not at all."""

from __future__ import annotations

import io
import logging
import operator
import os
import tempfile
import wave
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, nearest
from omniform.inputs.audio.decoders import missing
from omniform.inputs.audio.samples import MAX_SAMPLING_RATE, to_tensor

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Wave

AudioFormat = Literal["wav", "flac"]

FORMATS: Final[dict[str, AudioFormat]] = {"wav": "wav", "wave": "wav", "flac": "flac"}
"""What a file's name may end in."""

_MOST_CHANNELS: Final = 8
_MOST_BYTES: Final = 2**32 - 64
"""More does not fit into a WAV file, which counts its bytes in 32 bits."""

# Integers on the scale of 16 bits: what is taken off, and by how much they are shifted.
_SHIFTS: Final = {torch.uint8: (128, -8), torch.int8: (0, -8), torch.int16: (0, 0), torch.int32: (0, 16)}


def save_audio(
    audio: Wave, to: str | os.PathLike[str] | IO[bytes], rate: int, format: AudioFormat | None = None
) -> None:
    """Write a sound, as 16 bits a sample.

    What is read again by ``load_audio`` differs by half a step of 16 bits at most; samples of 16 bits not at all.

    Args:
        audio: samples between -1 and 1, or integers of their own full scale. Shape: [samples], or [channels, samples].
        to: a path, or a file that bytes are written to. A path is replaced in one step once all is written.
        rate: samples per second.
        format: ``"wav"`` or ``"flac"``; by default what the path ends in, and WAV for a file.

    Raises:
        InputError: no samples, one that is not finite, a rate or a format that there is none of, too long a sound.
        DependencyError: soundfile is needed and not installed.
        OSError: the file cannot be written.
    """
    kind = _format(to, format)
    data = _encoded(_whole(audio), _rate(rate, kind), kind)
    if isinstance(to, (str, os.PathLike)):
        _replace(Path(to), data)
    else:
        to.write(data)


def _format(to: object, asked: str | None) -> AudioFormat:
    """The format that a call means."""
    path = Path(to) if isinstance(to, (str, os.PathLike)) else None
    if asked is None and path is None:
        return "wav"
    said = str(asked).lower() if asked is not None else path.suffix.lower().removeprefix(".") if path else ""
    if said not in FORMATS:
        raise InputError(
            "sounds are not written in this format",
            where="format" if asked is not None else f"the name {brief(str(path))}",
            expected="wav or flac",
            found=brief(said) if said else "no ending",
            remedy=nearest(said, FORMATS) if said else "Say format='wav', or end the name in .wav.",
        )
    return FORMATS[said]


def _rate(rate: object, kind: AudioFormat) -> int:
    most = 655_350 if kind == "flac" else MAX_SAMPLING_RATE
    try:
        whole = operator.index(rate)  # type: ignore[arg-type]
    except TypeError:
        whole = int(rate) if isinstance(rate, float) and rate.is_integer() else 0
    if isinstance(rate, bool) or not 0 < whole <= most:
        raise InputError(
            f"this is no sampling rate of a {kind} file", where="rate", expected=f"1 to {most} Hz", found=brief(rate)
        )
    return whole


def _whole(audio: object) -> Tensor:
    """Samples of 16 bits. Shape: [samples, channels]."""
    found = to_tensor(audio, "audio")
    if found.dim() == 1:
        found = found[None]
    if found.dim() == 2 and found.shape[0] > _MOST_CHANNELS >= found.shape[1] > 0:
        found = found.t()  # as soundfile gives them
    if found.dim() != 2 or found.numel() == 0 or found.shape[0] > _MOST_CHANNELS:
        raise InputError(
            "this is no one sound",
            where="audio",
            expected=f"samples, or up to {_MOST_CHANNELS} channels of them",
            found=f"shape {list(found.shape)}",
            remedy="Write the rows of a batch one by one, each as long as it is.",
        )
    if found.dtype in _SHIFTS:
        zero, shift = _SHIFTS[found.dtype]
        whole = found.to(torch.int32) - zero
        return (whole >> shift if shift > 0 else whole << -shift).to(torch.int16).t()
    samples = found.float() if found.is_floating_point() else found.double()
    if not bool(samples.isfinite().all()):
        raise InputError("a sample is not finite", where="audio", expected="numbers between -1 and 1")
    peak = float(samples.abs().amax())
    if peak > 1.001:
        logging.getLogger("omniform").warning("the sound has samples up to %g: what lies beyond 1 is cut off", peak)
    return (samples * 2.0**15).round().clamp(-(2**15), 2**15 - 1).to(torch.int16).t()


def _encoded(samples: Tensor, rate: int, kind: AudioFormat) -> bytes:
    """The file's bytes. Shape: [samples, channels]."""
    array, out = samples.contiguous().numpy(), io.BytesIO()
    if kind == "wav":
        if array.nbytes > _MOST_BYTES:
            raise InputError("the sound is too long for a WAV file", where="audio", remedy="Write it as FLAC.")
        with wave.open(out, "wb") as file:
            file.setnchannels(array.shape[1])
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(array.astype("<i2", copy=False).tobytes())
        return out.getvalue()
    try:
        import soundfile
    except ImportError as error:
        raise missing("soundfile", "to write FLAC files", error) from error
    soundfile.write(out, array, rate, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def _replace(path: Path, data: bytes) -> None:
    """Put a file where it belongs in one step: whoever reads it sees the old one, or the whole new one."""
    handle, staging = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(staging, 0o666 & ~mask)
        os.replace(staging, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(staging)
        raise
