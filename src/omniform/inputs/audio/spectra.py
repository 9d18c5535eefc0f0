"""Spectrograms in numpy, with the ecosystem's options: what extractors of Kaldi's and librosa's kind are made of.

Frames are transformed many at a time, in float64, and kept as complex64: the reference does both, and logarithms of
quiet bands show every rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from omniform.core.errors import InputError, brief, nearest

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.floating]]

_AT_ONCE: Final = 2048
"""Frames that are transformed at a time."""

WINDOWS: Final[dict[str, Callable[[int], Array]]] = {
    "boxcar": np.ones,
    "hamming": np.hamming,
    "hamming_window": np.hamming,
    "hann": np.hanning,
    "hann_window": np.hanning,
    "povey": lambda length: np.power(np.hanning(length), 0.85),
}


def window_function(
    window_length: int, name: str = "hann", periodic: bool = True, frame_length: int | None = None, center: bool = True
) -> Array:
    """Weights of the samples of a frame.

    Args:
        window_length: samples.
        name: ``"boxcar"``, ``"hamming"``, ``"hann"`` or ``"povey"`` (Kaldi's: Hann to the power of 0.85).
        periodic: one of a row that repeats, as Fourier transforms want it, where a symmetric one ends with its first.
        frame_length: samples of a longer frame that zeros fill up.
        center: zeros on both sides of the window, or behind it only.

    Returns:
        Shape: ``[window_length]``, or ``[frame_length]``; float64.

    Raises:
        InputError: there is no such window, or it is longer than the frame.
    """
    if name not in WINDOWS:
        raise InputError("there is no such window", where="name", found=brief(name), remedy=nearest(str(name), WINDOWS))
    window = WINDOWS[name](window_length + 1)[:-1] if periodic else WINDOWS[name](window_length)
    if frame_length is None:
        return window
    if window_length > frame_length:
        raise InputError(
            "the window is longer than the frame",
            where="window_length",
            expected=f"at most {frame_length}",
            found=window_length,
        )
    left = (frame_length - window_length) // 2 if center else 0
    return np.pad(window, (left, frame_length - window_length - left))


def spectrogram(
    waveform: Array,
    window: Array,
    frame_length: int,
    hop_length: int,
    fft_length: int | None = None,
    power: float | None = 1.0,
    center: bool = True,
    pad_mode: str = "reflect",
    onesided: bool = True,
    dither: float = 0.0,
    preemphasis: float | None = None,
    mel_filters: Array | None = None,
    mel_floor: float = 1e-10,
    log_mel: str | None = None,
    reference: float = 1.0,
    min_value: float = 1e-10,
    db_range: float | None = None,
    remove_dc_offset: bool = False,
    dtype: type[np.generic] = np.float32,
) -> Array:
    """The short-time Fourier transform of a wave, as powers, mel bands or their logarithms.

    Args:
        waveform: Shape: ``[samples]``.
        window: weights of a frame. Shape: ``[frame_length]``.
        frame_length: samples of a frame.
        hop_length: samples from one frame to the next.
        fft_length: samples that are transformed, zeros behind a frame; by default ``frame_length``.
        power: 1 for amplitudes, 2 for powers, None for complex numbers.
        center: frame ``t`` lies around sample ``t * hop_length`` (the ends are padded), where it else begins there.
        pad_mode: what the ends are padded with, by numpy's names.
        onesided: leave out negative frequencies.
        dither: standard deviation of noise from numpy's global generator.
        preemphasis: how much of the sample before is taken from each.
        mel_filters: Shape: ``[bins, filters]``.
        mel_floor: the least value of a mel band.
        log_mel: ``"log"``, ``"log10"`` or ``"dB"`` (:func:`power_to_db`, :func:`amplitude_to_db`).
        reference: what 0 dB is.
        min_value: the least value that becomes decibels.
        db_range: how far under the loudest value decibels go.
        remove_dc_offset: take the mean from each frame first.
        dtype: of what is returned if ``log_mel`` is given.

    Returns:
        Shape: ``[bins, frames]`` or ``[filters, frames]``.

    Raises:
        InputError: the lengths or the options do not fit together, or the wave is none.
    """
    length = frame_length if fft_length is None else fft_length
    _check(waveform, window, frame_length, hop_length, length)
    if power is None and mel_filters is not None:
        raise InputError("mel bands need a power", where="power", expected="1.0 or 2.0", found="None")
    if center:
        half = int(frame_length // 2)
        waveform = np.pad(waveform, (half, half), mode=pad_mode)  # type: ignore[call-overload]
    samples = waveform
    if samples.size < frame_length:
        raise InputError(
            "the sound is too short for one frame",
            where="waveform",
            expected=f"at least {frame_length} samples",
            found=f"{samples.size} samples",
        )
    framed = sliding_window_view(samples, frame_length)[::hop_length]
    transform = np.fft.rfft if onesided else np.fft.fft
    bins = length // 2 + 1 if onesided else length
    rows = bins if mel_filters is None else mel_filters.shape[1]
    out = np.empty((rows, framed.shape[0]), dtype=np.complex64 if power is None else np.float64)
    for start in range(0, framed.shape[0], _AT_ONCE):
        frames = _prepared(framed[start : start + _AT_ONCE], dither, remove_dc_offset, preemphasis)
        spectrum = transform(frames * window.astype(np.float64), n=length).astype(np.complex64).T
        if power is None:
            out[:, start : start + _AT_ONCE] = spectrum
            continue
        values = np.abs(spectrum, dtype=np.float64) ** power
        if mel_filters is not None:
            values = np.maximum(mel_floor, np.dot(mel_filters.T, values))
        out[:, start : start + _AT_ONCE] = values
    if power is None or log_mel is None:
        return out
    return np.asarray(_compressed(out, log_mel, power, reference, min_value, db_range), dtype)


def _prepared(frames: Array, dither: float, centred: bool, preemphasis: float | None) -> Array:
    """Frames before the window. Shape: ``[frames, frame_length]``."""
    out: Array = np.array(frames, dtype=np.float64)
    if dither != 0.0:
        out += dither * np.random.randn(*out.shape)
    if centred:
        out -= out.mean(axis=1, keepdims=True)
    if preemphasis is not None:
        out[:, 1:] -= preemphasis * out[:, :-1]
        out[:, 0] *= 1 - preemphasis
    return out


def _compressed(
    values: Array, kind: str, power: float, reference: float, min_value: float, db_range: float | None
) -> Array:
    if kind == "log":
        return cast(Array, np.log(values))
    if kind == "log10":
        return cast(Array, np.log10(values))
    if kind != "dB":
        raise InputError(
            "unknown kind of logarithm", where="log_mel", expected="'log', 'log10' or 'dB'", found=brief(kind)
        )
    if power == 1.0:
        return amplitude_to_db(values, reference, min_value, db_range)
    if power == 2.0:
        return power_to_db(values, reference, min_value, db_range)
    raise InputError("decibels need a power of 1 or 2", where="power", found=power)


def _check(waveform: Array, window: Array, frame_length: int, hop_length: int, fft_length: int) -> None:
    if frame_length > fft_length:
        raise InputError(
            "the frame is longer than the transform",
            where="frame_length",
            expected=f"at most {fft_length}",
            found=frame_length,
        )
    if len(window) != frame_length:
        raise InputError(
            "the window is not as long as a frame", where="window", expected=frame_length, found=len(window)
        )
    if hop_length <= 0:
        raise InputError("this is no step", where="hop_length", expected="at least 1", found=hop_length)
    if waveform.ndim != 1 or np.iscomplexobj(waveform):
        found = f"{waveform.dtype} of shape {list(waveform.shape)}"
        raise InputError("this is no wave", where="waveform", expected="real samples, [samples]", found=found)


def spectrogram_batch(
    waveform_list: Sequence[Array],
    window: Array,
    frame_length: int,
    hop_length: int,
    fft_length: int | None = None,
    power: float | None = 1.0,
    center: bool = True,
    pad_mode: str = "reflect",
    onesided: bool = True,
    dither: float = 0.0,
    preemphasis: float | None = None,
    mel_filters: Array | None = None,
    mel_floor: float = 1e-10,
    log_mel: str | None = None,
    reference: float = 1.0,
    min_value: float = 1e-10,
    db_range: float | None = None,
    remove_dc_offset: bool = False,
    dtype: type[np.generic] = np.float32,
) -> list[Array]:
    """:func:`spectrogram` of several waves. ``db_range`` counts from each wave's own loudest value."""
    return [
        spectrogram(
            wave, window, frame_length, hop_length, fft_length, power, center, pad_mode, onesided, dither, preemphasis,
            mel_filters, mel_floor, log_mel, reference, min_value, db_range, remove_dc_offset, dtype,
        )
        for wave in waveform_list
    ]  # fmt: skip


def power_to_db(
    spectrogram: Array, reference: float = 1.0, min_value: float = 1e-10, db_range: float | None = None
) -> Array:
    """Powers as decibels, ``10 log10(power / reference)``.

    Args:
        spectrogram: powers, of any shape.
        reference: what 0 dB is.
        min_value: the least power that is told from silence.
        db_range: how far under the loudest value decibels go.

    Raises:
        InputError: one of them is not above 0.
    """
    return _decibels(10.0, spectrogram, reference, min_value, db_range, None)


def amplitude_to_db(
    spectrogram: Array, reference: float = 1.0, min_value: float = 1e-5, db_range: float | None = None
) -> Array:
    """Amplitudes as decibels, ``20 log10(amplitude / reference)``; as :func:`power_to_db`."""
    return _decibels(20.0, spectrogram, reference, min_value, db_range, None)


def power_to_db_batch(
    spectrogram: Array, reference: float = 1.0, min_value: float = 1e-10, db_range: float | None = None
) -> Array:
    """:func:`power_to_db` of several, each under its own loudest value. Shape: ``[batch, bins, frames]``, both."""
    return _decibels(10.0, spectrogram, reference, min_value, db_range, (1, 2))


def amplitude_to_db_batch(
    spectrogram: Array, reference: float = 1.0, min_value: float = 1e-5, db_range: float | None = None
) -> Array:
    """:func:`amplitude_to_db` of several, each under its own loudest value. Shape: ``[batch, bins, frames]``, both."""
    return _decibels(20.0, spectrogram, reference, min_value, db_range, (1, 2))


def _decibels(
    factor: float, values: Array, reference: float, least: float, span: float | None, axes: tuple[int, int] | None
) -> Array:
    for name, value in (("reference", reference), ("min_value", least), ("db_range", span)):
        if value is not None and not value > 0.0:
            raise InputError("this is not above 0", where=name, found=value)
    out = factor * (np.log10(np.clip(values, least, None)) - np.log10(max(least, reference)))
    if span is not None:
        out = np.clip(out, out.max(axis=axes, keepdims=True) - span, None)
    return cast(Array, out)


def optimal_fft_length(window_length: int) -> int:
    """The least power of two that is not below ``window_length``."""
    return int(2 ** int(np.ceil(np.log2(window_length))))
