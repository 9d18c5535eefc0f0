"""Resampling by soxr, of a whole sound or as it comes: both give the same numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from omniform.inputs.audio.decoders import missing

if TYPE_CHECKING:
    import soxr

_QUALITY: Final = "HQ"

# A resampler begins anew this many seconds before the sample that is looked for; soxr's filters are far shorter.
_PREROLL: Final = 0.5
# Its phases repeat after so many samples; where that takes longer, it interpolates, and other numbers would come out.
_LONGEST_PERIOD: Final = 1280


def resampled_length(samples: int, rate: int, wanted: int) -> int:
    """How many samples so many become: rounded up."""
    return -(-samples * wanted // rate)


class Resampler:
    """From one rate to another, as samples come. Exactly ``ceil(samples * wanted / rate)`` come out in all.

    Args:
        rate: samples per second that come in.
        wanted: samples per second that come out.

    Raises:
        DependencyError: soxr is needed and not installed.
    """

    def __init__(self, rate: int, wanted: int) -> None:
        self.rate, self.wanted = rate, wanted
        self._stream = None if rate == wanted else _stream(rate, wanted)
        self._taken = self._given = 0

    def feed(self, samples: Tensor) -> Tensor:
        """What comes out for samples that come in; some of it later. Shape: ``[samples]``, both."""
        if self._stream is None:
            return samples
        self._taken += samples.shape[0]
        out = torch.from_numpy(self._stream.resample_chunk(samples.numpy(), last=False))
        self._given += out.shape[0]
        return out

    def finish(self) -> Tensor:
        """What is still to come after the last samples. Shape: ``[samples]``."""
        if self._stream is None or not self._taken:
            return torch.zeros(0)
        out = torch.from_numpy(self._stream.resample_chunk(torch.zeros(0).numpy(), last=True))
        left = resampled_length(self._taken, self.rate, self.wanted) - self._given
        return torch.nn.functional.pad(out[: max(left, 0)], (0, max(left - out.shape[0], 0)))


def resample(wave: Tensor, rate: int, wanted: int) -> Tensor:
    """A whole wave at another rate. Shape: ``[samples]``, both.

    Raises:
        DependencyError: soxr is needed and not installed.
    """
    if rate == wanted:
        return wave
    try:
        import soxr
    except (ImportError, OSError) as error:
        raise _missing(rate, wanted, error) from error
    length = resampled_length(wave.shape[0], rate, wanted)
    # soxr works on numpy arrays; its result may be a sample longer or shorter than the exact ratio.
    out = torch.from_numpy(soxr.resample(wave.numpy(), rate, wanted, quality=_QUALITY))[:length]
    return torch.nn.functional.pad(out, (0, length - out.shape[0]))


def beginning(sample: int, rate: int, wanted: int) -> tuple[int, int]:
    """Where to begin anew, so that ``sample`` and what follows come out as if the whole sound had been resampled.

    Args:
        sample: of what comes out.
        rate: samples per second that come in.
        wanted: samples per second that come out.

    Returns:
        A sample of what comes in, and the sample of what comes out that lies at the same time.
    """
    shared = math.gcd(rate, wanted)
    down, up = rate // shared, wanted // shared
    if rate == wanted:
        return sample, sample
    if max(down, up) > _LONGEST_PERIOD:
        return 0, 0
    periods = max(sample // up - math.ceil(_PREROLL * wanted / up), 0)
    return periods * down, periods * up


def _stream(rate: int, wanted: int) -> soxr.ResampleStream:
    try:
        import soxr
    except (ImportError, OSError) as error:
        raise _missing(rate, wanted, error) from error
    return soxr.ResampleStream(rate, wanted, 1, dtype="float32", quality=_QUALITY)


def _missing(rate: int, wanted: int, error: Exception) -> Exception:
    return missing("soxr", f"to resample from {rate} to {wanted} Hz", error)
