"""Small tools of the ecosystem's ``audio_utils``: mel scales, filter banks, spectrograms, and lists of sounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from omniform.core.errors import InputError, brief, nearest
from omniform.inputs.audio.load import load_audio as loaded
from omniform.inputs.audio.mel import HTK, KALDI, SLANEY, MelScale, triangles
from omniform.inputs.audio.spectra import (
    Array,
    amplitude_to_db,
    amplitude_to_db_batch,
    optimal_fft_length,
    power_to_db,
    power_to_db_batch,
    spectrogram,
    spectrogram_batch,
    window_function,
)
from omniform.inputs.media_access import OWN, from_base64, is_web

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource

__all__ = [
    "AudioInput", "amplitude_to_db", "amplitude_to_db_batch", "chroma_filter_bank", "conv1d_output_length",
    "hertz_to_mel", "hertz_to_octave", "is_valid_audio", "is_valid_list_of_audio", "load_audio",
    "make_list_of_audio", "mel_filter_bank", "mel_to_hertz", "optimal_fft_length", "power_to_db", "power_to_db_batch",
    "spectrogram", "spectrogram_batch", "window_function",
]  # fmt: skip

AudioInput: TypeAlias = np.ndarray | Tensor | Sequence[np.ndarray] | Sequence[Tensor]
"""A sound, or a list of them."""

_SCALES: dict[str, MelScale] = {scale.name: scale for scale in (HTK, KALDI, SLANEY)}


def _scale(name: object) -> MelScale:
    if not isinstance(name, str) or name not in _SCALES:
        remedy = nearest(str(name)[:40], _SCALES)
        raise InputError("there is no such mel scale", where="mel_scale", found=brief(name), remedy=remedy)
    return _SCALES[name]


def hertz_to_mel(freq: float | Array, mel_scale: str = "htk") -> float | Array:
    """Frequencies in Hz on a mel scale: ``"htk"``, ``"kaldi"`` or ``"slaney"``.

    Raises:
        InputError: there is no such scale.
    """
    mels = _scale(mel_scale).from_hertz(torch.as_tensor(freq, dtype=torch.float64))
    return cast(Array, mels.numpy()) if isinstance(freq, np.ndarray) else float(mels)


def mel_to_hertz(mels: float | Array, mel_scale: str = "htk") -> float | Array:
    """The inverse of :func:`hertz_to_mel`."""
    hertz = _scale(mel_scale).to_hertz(torch.as_tensor(mels, dtype=torch.float64))
    return cast(Array, hertz.numpy()) if isinstance(mels, np.ndarray) else float(hertz)


def hertz_to_octave(freq: float | Array, tuning: float = 0.0, bins_per_octave: int = 12) -> float | Array:
    """Frequencies in Hz as octaves over a sixteenth of 440 Hz.

    Args:
        freq: in Hz.
        tuning: how far the pitch is from 440 Hz, in bins of an octave.
        bins_per_octave: how many those are.
    """
    base = 440.0 * 2.0 ** (tuning / bins_per_octave) / 16
    return cast(Array, np.log2(freq / base))


def mel_filter_bank(
    num_frequency_bins: int,
    num_mel_filters: int,
    min_frequency: float,
    max_frequency: float,
    sampling_rate: int,
    norm: str | None = None,
    mel_scale: str = "htk",
    triangularize_in_mel_space: bool = False,
    dtype: DTypeLike = np.float64,
) -> Array:
    """Triangular filters that turn a spectrum into mel bands; see :func:`~omniform.inputs.audio.mel.mel_filter_bank`.

    Args:
        num_frequency_bins: of the spectrum, ``n_fft // 2 + 1``.
        num_mel_filters: bands.
        min_frequency: the lowest corner in Hz.
        max_frequency: the highest corner in Hz.
        sampling_rate: samples per second.
        norm: ``"slaney"`` for triangles of one area; None for triangles of one height.
        mel_scale: ``"htk"``, ``"kaldi"`` or ``"slaney"``.
        triangularize_in_mel_space: triangles in mel, as Kaldi has them, where they else are in Hz.
        dtype: of the result.

    Returns:
        Shape: ``[num_frequency_bins, num_mel_filters]``.

    Raises:
        InputError: a value that is none.
    """
    if norm is not None and norm != "slaney":
        raise InputError("there is no such norm", where="norm", expected="'slaney' or None", found=brief(norm))
    if num_frequency_bins < 2:
        raise InputError("too few bins", where="num_frequency_bins", expected="at least 2", found=num_frequency_bins)
    if min_frequency > max_frequency:
        raise InputError("no frequency is within", where="min_frequency", expected=max_frequency, found=min_frequency)
    scale = _scale(mel_scale)
    ends = scale.from_hertz(torch.tensor([min_frequency, max_frequency], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), num_mel_filters + 2, dtype=torch.float64)
    if triangularize_in_mel_space:
        width = sampling_rate / ((num_frequency_bins - 1) * 2)
        points = scale.from_hertz(width * torch.arange(num_frequency_bins, dtype=torch.float64))
    else:
        corners = scale.to_hertz(corners)
        points = torch.linspace(0, sampling_rate // 2, num_frequency_bins, dtype=torch.float64)
    return cast(Array, triangles(points, corners, norm == "slaney").numpy().astype(dtype, copy=False))


def chroma_filter_bank(
    num_frequency_bins: int,
    num_chroma: int,
    sampling_rate: int,
    tuning: float = 0.0,
    power: float | None = 2.0,
    weighting_parameters: tuple[float, float] | None = (5.0, 2.0),
    start_at_c_chroma: bool = True,
) -> Array:
    """Filters that turn a spectrum into pitch classes, whatever the octave (Ellis, 2007).

    Args:
        num_frequency_bins: points of the Fourier transform.
        num_chroma: pitch classes.
        sampling_rate: samples per second.
        tuning: how far the pitch is from 440 Hz, in classes.
        power: of the norm that the filters of a bin have; None for no norm.
        weighting_parameters: centre and width, in octaves, of the bell that bins are weighted by; None for none.
        start_at_c_chroma: the first class is C, where it else is A.

    Returns:
        Shape: ``[num_chroma, num_frequency_bins // 2 + 1]``.
    """
    hertz = np.linspace(0, sampling_rate, num_frequency_bins, endpoint=False)[1:]
    octaves = cast(Array, hertz_to_octave(hertz, tuning, num_chroma))
    # Silence has no pitch: its bin lies one and a half octaves under the first.
    places = num_chroma * np.concatenate(([octaves[0] - 1.5], octaves))
    widths = np.append(np.maximum(np.diff(places), 1.0), 1.0)
    half = np.round(num_chroma / 2)
    away = places - np.arange(num_chroma, dtype=np.float64)[:, None]
    away = np.remainder(away + half + 10 * num_chroma, num_chroma) - half
    bank = np.exp(-0.5 * (2 * away / widths) ** 2)
    if power is not None:
        bank = bank / np.sum(bank**power, axis=0, keepdims=True) ** (1.0 / power)
    if weighting_parameters is not None:
        centre, width = weighting_parameters
        bank = bank * np.exp(-0.5 * ((places / num_chroma - centre) / width) ** 2)
    if start_at_c_chroma:
        bank = np.roll(bank, -3 * (num_chroma // 12), axis=0)
    return np.ascontiguousarray(bank[:, : int(1 + num_frequency_bins / 2)])


def load_audio(
    audio: object, sampling_rate: int = 16000, timeout: float | None = None, backend: str = "auto"
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    """A sound as an array; arrays are given back as they are. :func:`omniform.inputs.audio.load_audio` does more.

    Args:
        audio: an array, or whatever that function takes, or base64.
        sampling_rate: the rate wanted, in Hz.
        timeout: seconds that a web address may take.
        backend: changes nothing: libsndfile decodes, PyAV what that does not read, and soxr resamples.

    Raises:
        RepoError, InputError, DependencyError: as there.
    """
    if backend not in ("auto", "soundfile", "librosa", "torchcodec", "torchaudio"):
        raise InputError("there is no such backend", where="backend", expected="'auto'", found=brief(backend))
    if isinstance(audio, np.ndarray):
        return audio
    if isinstance(audio, str) and not is_web(audio) and audio[:5].lower() not in ("data:", "file:"):
        audio = audio if OWN.names_file(audio) else from_base64(audio) or audio
    return loaded(cast("AudioSource", audio), sampling_rate, timeout=timeout).numpy()


def conv1d_output_length(module: torch.nn.Conv1d, input_length: int) -> int:
    """How long the output of a convolution is."""
    reach = module.dilation[0] * (module.kernel_size[0] - 1)
    return int((input_length + 2 * cast(int, module.padding[0]) - reach - 1) / module.stride[0] + 1)


def is_valid_audio(audio: object) -> bool:
    """Whether it is a sound: an array, a tensor, or a list that begins with a float."""
    if isinstance(audio, (list, tuple)):
        return bool(audio) and isinstance(audio[0], float)
    return isinstance(audio, (np.ndarray, Tensor))


def is_valid_list_of_audio(audio: object) -> bool:
    """Whether it is a list of sounds."""
    return isinstance(audio, (list, tuple)) and bool(audio) and all(is_valid_audio(one) for one in audio)


def make_list_of_audio(audio: object) -> list[object]:
    """A list of sounds of one, of a list, or of a list of lists.

    Raises:
        InputError: these are no sounds.
    """
    if is_valid_audio(audio):
        return [audio]
    if isinstance(audio, (list, tuple)) and audio:
        if is_valid_list_of_audio(audio):
            return list(audio)
        if all(is_valid_list_of_audio(one) or one == [] for one in audio):
            return [sound for several in audio for sound in several]
    raise InputError("these are no sounds", where="audio", expected="a sound, or a list of them", found=brief(audio))
