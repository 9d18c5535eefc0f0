"""A sound of any length, read as it is needed: from a file, from samples, or as blocks come from a microphone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.audio.decoders import Decoder
from omniform.inputs.audio.held import mixed
from omniform.inputs.audio.resample import Resampler, beginning, resampled_length
from omniform.inputs.audio.samples import check_finite, warn_of_scale
from omniform.inputs.audio.source import Encoded
from omniform.inputs.checks import check_length


class Recording:
    """A sound at a model's rate, mono, read in order and in pieces; :func:`~omniform.inputs.audio.load.open_recording`
    opens one. Only a few blocks are ever in memory. It is a context manager that closes its file.

    Args:
        decoder: where the samples come from.
        sampling_rate: the rate wanted, in Hz.
        channel: which channel to hear; None for the mean of all.
        max_seconds: refuse a longer sound; None for any length.
        file: closed with the recording.

    Attributes:
        sampling_rate: samples per second that are read.
        position: the sample that is read next, counted from the beginning.
    """

    def __init__(
        self,
        decoder: Decoder,
        sampling_rate: int,
        *,
        channel: int | None = None,
        max_seconds: float | None = None,
        file: Encoded | None = None,
    ) -> None:
        self.sampling_rate, self.position = sampling_rate, 0
        self._decoder, self._channel, self._file = decoder, channel, file
        self._most = max_seconds
        self._held: list[Tensor] = []
        self._count = 0
        self._came = 0
        """Samples that the decoder has given, and those it left out where decoding began later."""
        self._spare: Tensor | None = None
        """The rest of a decoder's block whose beginning was left out."""
        self._resampler: Resampler | None = None
        self._ended = self._told = self._warned = False
        if decoder.frames is not None:
            if not decoder.frames:
                self._empty()
            self._check_length(decoder.frames)

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return self._decoder.where

    @property
    def seconds(self) -> float | None:
        """How long it is; None where nothing says it, as of a microphone that has not ended."""
        if self._ended:
            return self._came / self._decoder.rate
        return None if self._decoder.frames is None else self._decoder.frames / self._decoder.rate

    @property
    def samples(self) -> int | None:
        """:attr:`seconds` in samples that are read."""
        frames = self._came if self._ended else self._decoder.frames
        return None if frames is None else resampled_length(frames, self._decoder.rate, self.sampling_rate)

    @property
    def missing(self) -> float | None:
        """Seconds by which the sound is shorter than its file says; None where it breaks off and nothing says by how
        much. It is known for good when the sound has been read to its end."""
        declared = self._decoder.declared
        if not self._ended or not self._decoder.cut_at(self._came):
            return 0.0
        return None if declared is None or declared <= self._came else (declared - self._came) / self._decoder.rate

    @property
    def again(self) -> bool:
        """Whether one can go back in it."""
        return self._decoder.again

    def read(self, samples: int) -> Tensor:
        """The next samples; fewer at the end only, and none after it. Shape: ``[samples]``, float32.

        Raises:
            InputError: no length, a sound without a sample, one that is not finite, or the sound is too long.
        """
        wanted = check_length("samples", samples)
        if wanted is None:
            raise InputError("this is no length", where="samples", expected="an integer >= 1", found="None")
        while self._count < wanted and not self._ended:
            self._pull()
        held = self._held[0] if len(self._held) == 1 else torch.cat([torch.zeros(0), *self._held])
        out, rest = held[:wanted], held[wanted:]
        # What is given away is a copy: it would keep a whole block in memory, and hand out the caller's own samples.
        self._held, self._count = [rest] if rest.shape[0] else [], rest.shape[0]
        self.position += out.shape[0]
        return out.clone()

    def blocks(self, samples: int) -> Iterator[Tensor]:
        """All that is still to come, so many samples at a time; the last block may be shorter."""
        while (block := self.read(samples)).shape[0]:
            yield block

    def rewind(self) -> None:
        """Go back to the beginning.

        Raises:
            InputError: the sound comes only once.
        """
        self.seek(0)

    def seek(self, sample: int) -> None:
        """Go to a sample, counted from the beginning at :attr:`sampling_rate`; behind the end nothing is read.

        Uncompressed files and FLAC are entered where it is; others are decoded up to there.

        Raises:
            InputError: no place, or it lies behind in a sound that comes only once.
        """
        if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
            raise InputError("this is no place in a sound", where="sample", expected="an integer >= 0", found=sample)
        ahead = sample - self.position
        if ahead == 0:
            return
        if self._decoder.again and not 0 <= ahead <= self.sampling_rate:
            source, target = beginning(sample, self._decoder.rate, self.sampling_rate)
            self._held, self._count, self._resampler, self._ended = [], 0, None, False
            self._spare = None
            self._came, self.position = self._decoder.start(source), target
            self._leave_out(source - self._came)
        elif ahead < 0:
            self._decoder.start(sample)  # says why it cannot
        while self.position < sample and self.read(min(sample - self.position, self.sampling_rate)).shape[0]:
            pass

    def close(self) -> None:
        """Close the file, if there is one."""
        self._decoder.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        length = "of unknown length" if self.seconds is None else f"{self.seconds:.3f} s"
        return f"Recording({self.where!r}, {length}, {self.sampling_rate} Hz, at {self.position})"

    def _pull(self) -> None:
        """Have the decoder's next block."""
        block, self._spare = (self._decoder.read() if self._spare is None else self._spare), None
        if block is None:
            self._end()
            return
        if self._resampler is None:
            self._resampler = Resampler(self._decoder.rate, self.sampling_rate)
        wave = mixed(block, self._channel, self.where)
        check_finite(wave, self.where, self._came)
        self._came += wave.shape[0]
        self._check_length(self._came)
        if not self._warned:
            self._warned = warn_of_scale([wave])
        self._hold(self._resampler.feed(wave))

    def _leave_out(self, samples: int) -> None:
        """Decode so many samples for nothing: nobody resamples what is before the place that is looked for."""
        while samples > 0 and (block := self._decoder.read()) is not None:
            left = min(samples, block.shape[0])
            self._spare = block[left:] if left < block.shape[0] else None
            self._came += left
            samples -= left

    def _end(self) -> None:
        self._ended = True
        if not self._came:
            self._empty()
        if self._resampler is not None:
            self._hold(self._resampler.finish())
        if not self._told and self._decoder.cut_at(self._came):
            self._told = True
            warn_of_cut(self._decoder, self._came)

    def _hold(self, samples: Tensor) -> None:
        if samples.shape[0]:
            self._held.append(samples)
            self._count += samples.shape[0]

    def _check_length(self, samples: int) -> None:
        if self._most is not None and samples > self._most * self._decoder.rate:
            raise InputError(
                "the sound is too long",
                where=self.where,
                expected=f"at most {self._most:g} seconds",
                found=f"{samples / self._decoder.rate:.1f} seconds",
                remedy="Split it, or pass a larger max_seconds.",
            )

    def _empty(self) -> None:
        raise InputError("the sound is empty", where=self.where, expected="at least one sample", found="none")


def warn_of_cut(decoder: Decoder, decoded: int) -> None:
    """Say how much of a file that breaks off was read."""
    declared = decoder.declared
    of = f" of {declared}" if declared is not None and declared > decoded else ""
    logging.getLogger("omniform").warning(
        "%s: the sound is cut: %d%s samples could be read (%.2f seconds)",
        decoder.where, decoded, of, decoded / decoder.rate,
    )  # fmt: skip
