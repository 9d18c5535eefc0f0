"""Spectrograms and mel filter banks, as pure functions.

The mel scale spaces frequencies as the ear does. Three scales are in use, and each model was trained on one of them:

- **Slaney** (Auditory Toolbox, 1998; the default of librosa): linear below 1 kHz, ``mel = 3 f / 200``, and logarithmic
  above it, ``mel = 15 + 27 ln(f / 1000) / ln 6.4``.
- **HTK** (Young et al., The HTK Book): ``mel = 2595 log10(1 + f / 700)``.
- **Kaldi**: ``mel = 1127 ln(1 + f / 700)``, the same curve with a rounded constant.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

_KNEE_HZ: Final = 1000.0
_KNEE_MEL: Final = 15.0
_LOG_STEP: Final = math.log(6.4) / 27.0


@dataclass(frozen=True, slots=True)
class MelScale:
    """A mel scale: two functions on float64 tensors, each the inverse of the other.

    Attributes:
        name: what papers call it.
        from_hertz: frequency in Hz to mel.
        to_hertz: mel to frequency in Hz.
    """

    name: str
    from_hertz: Callable[[Tensor], Tensor]
    to_hertz: Callable[[Tensor], Tensor]


def _slaney_from_hertz(hertz: Tensor) -> Tensor:
    above = _KNEE_MEL + torch.log(hertz.clamp(min=_KNEE_HZ) / _KNEE_HZ) / _LOG_STEP
    return torch.where(hertz < _KNEE_HZ, 3.0 * hertz / 200.0, above)


def _slaney_to_hertz(mel: Tensor) -> Tensor:
    above = _KNEE_HZ * torch.exp(_LOG_STEP * (mel - _KNEE_MEL))
    return torch.where(mel < _KNEE_MEL, 200.0 * mel / 3.0, above)


SLANEY: Final = MelScale("slaney", _slaney_from_hertz, _slaney_to_hertz)
HTK: Final = MelScale(
    "htk",
    lambda hertz: 2595.0 * torch.log10(1.0 + hertz / 700.0),
    lambda mel: 700.0 * (torch.pow(10.0, mel / 2595.0) - 1.0),
)
KALDI: Final = MelScale(
    "kaldi",
    lambda hertz: 1127.0 * torch.log(1.0 + hertz / 700.0),
    lambda mel: 700.0 * (torch.exp(mel / 1127.0) - 1.0),
)


def mel_filter_bank(
    *,
    bins: int,
    filters: int,
    lowest: float,
    highest: float,
    sampling_rate: int,
    scale: MelScale = SLANEY,
    equal_area: bool = True,
) -> Tensor:
    """Triangular filters that turn a spectrum into mel bands (Davis and Mermelstein, 1980).

    The filters' corners are ``filters + 2`` points spaced evenly in mel; filter ``i`` rises from corner ``i`` to
    corner ``i + 1`` and falls to corner ``i + 2``, linearly in Hz.

    Args:
        bins: frequencies of the spectrum, ``n_fft // 2 + 1``, evenly from 0 Hz to half the sampling rate.
        filters: how many mel bands.
        lowest: the lowest corner in Hz.
        highest: the highest corner in Hz.
        sampling_rate: samples per second of the waves.
        scale: the mel scale.
        equal_area: scale each triangle by ``2 / (its width in Hz)`` (Slaney's norm), so that white noise is flat.

    Returns:
        The weights. Shape: ``[bins, filters]``, float64.
    """
    ends = scale.from_hertz(torch.tensor([lowest, highest], dtype=torch.float64))
    mels = torch.linspace(float(ends[0]), float(ends[1]), filters + 2, dtype=torch.float64)
    corners = scale.to_hertz(mels)
    return triangles(torch.linspace(0.0, sampling_rate // 2, bins, dtype=torch.float64), corners, equal_area)


def kaldi_filter_bank(
    *,
    bins: int,
    filters: int,
    lowest: float,
    highest: float,
    sampling_rate: int,
    scale: MelScale = KALDI,
    equal_area: bool = False,
) -> Tensor:
    """Filters that are triangles in mel, as Kaldi has them, where :func:`mel_filter_bank` has triangles in Hz.

    Args:
        bins: frequencies of the spectrum.
        filters: how many mel bands.
        lowest: the lowest corner in Hz.
        highest: the highest corner in Hz.
        sampling_rate: samples per second of the waves.
        scale: the mel scale.
        equal_area: scale each triangle by ``2 / (its width in mel)``.

    Returns:
        The weights. Shape: ``[bins, filters]``, float64.
    """
    ends = scale.from_hertz(torch.tensor([lowest, highest], dtype=torch.float64))
    corners = torch.linspace(float(ends[0]), float(ends[1]), filters + 2, dtype=torch.float64)
    hertz = sampling_rate / ((bins - 1) * 2) * torch.arange(bins, dtype=torch.float64)
    return triangles(scale.from_hertz(hertz), corners, equal_area)


def triangles(points: Tensor, corners: Tensor, equal_area: bool) -> Tensor:
    """Filter ``i`` at every point: it rises from corner ``i`` to the next and falls to the one behind that.

    Args:
        points: where the spectrum has its bins. Shape: ``[bins]``.
        corners: Shape: ``[filters + 2]``.
        equal_area: scale each triangle by two over its width.

    Returns:
        Shape: ``[bins, filters]``.
    """
    widths = corners.diff()
    away = corners - points[:, None]
    rising = -away[:, :-2] / widths[:-1]
    falling = away[:, 2:] / widths[1:]
    bank = torch.minimum(rising, falling).clamp(min=0.0)
    return bank * (2.0 / (corners[2:] - corners[:-2])) if equal_area else bank


def log_mel_powers(waves: Tensor, *, window: Tensor, hop_length: int, bank: Tensor, floor: float) -> Tensor:
    """Base-ten logarithms of mel powers, frames centred on multiples of the hop.

    The ends are mirrored by half a window, so that frame ``t`` is centred on sample ``t * hop_length``; the last frame,
    which is centred on or past the end, is left out. Some frames are made at a time, so that they stay near the
    processor: nothing but the result is as long as the wave.

    Args:
        waves: samples; at least ``len(window) // 2 + 1`` of them. Shape: ``[batch, samples]``, float32.
        window: weights of a frame; its length is that of the Fourier transform. Shape: ``[n_fft]``.
        hop_length: samples from one frame to the next.
        bank: Shape: ``[n_fft // 2 + 1, bands]``.
        floor: the least power that is told from silence.

    Returns:
        Shape: ``[batch, bands, frames]``, float32; ``samples // hop_length`` frames where the window is even.
    """
    size, bands = window.shape[0], _bands(bank)
    frames = (waves.shape[1] + 2 * (size // 2) - size) // hop_length
    out = waves.new_empty(waves.shape[0], bank.shape[1], frames)
    for wave, row in zip(waves, out, strict=True):
        for start in range(0, frames, _AT_ONCE):
            part = row[:, start : start + _AT_ONCE]
            begin = start * hop_length - size // 2
            stretch = _mirrored(wave, begin, begin + (part.shape[1] - 1) * hop_length + size)
            spectrum = torch.fft.rfft(stretch.unfold(0, size, hop_length) * window)
            power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
            mel = power.new_zeros(power.shape[0], bank.shape[1])
            for rows, columns, weights in bands:
                mel[:, columns].addmm_(power[:, rows], weights)
            part.copy_(mel.clamp_(min=floor).log10_().T)
    return out


def _bands(bank: Tensor) -> list[tuple[slice, slice, Tensor]]:
    """A filter bank in parts that leave out most of its zeros: bins, the filters that hear them, and their weights."""
    parts = []
    bounds = [round(bank.shape[0] * i / _PARTS) for i in range(_PARTS + 1)]
    heard = bank.cpu() != 0
    for first, stop in itertools.pairwise(bounds):
        filters = heard[first:stop].any(dim=0).nonzero().flatten().tolist()
        if filters:
            columns = slice(filters[0], filters[-1] + 1)
            parts.append((slice(first, stop), columns, bank[first:stop, columns].contiguous()))
    return parts


def _mirrored(wave: Tensor, begin: int, stop: int) -> Tensor:
    """Samples from ``begin`` on, those before the first and behind the last one mirrored at them."""
    samples = wave.shape[0]
    if begin >= 0 and stop <= samples:
        return wave[begin:stop]
    before, behind = max(-begin, 0), max(stop - samples, 0)
    left, right = wave[1 : before + 1].flip(0), wave[samples - 1 - behind : samples - 1].flip(0)
    return torch.cat((left, wave[max(begin, 0) : stop], right))


_AT_ONCE: Final = 1024
"""Frames: half a million numbers in every step."""

_PARTS: Final = 4
"""More of them leave out more zeros, and are slower to multiply one by one."""
