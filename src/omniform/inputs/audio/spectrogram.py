"""The log-mel spectrogram of a sound of any length, made window by window: the same numbers as of the whole."""

from __future__ import annotations

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.audio.recording import Recording
from omniform.inputs.audio.whisper import WhisperFeatureExtractor


class RecordedSpectrogram:
    """The features of a recording, computed where they are asked for.

    Features are cut off a number of decades below the loudest of the whole sound. A first pass finds that, and counts
    the samples; it keeps none of them. Windows are then asked for from the beginning on, and each sample is read once.

    Args:
        recording: the sound, at its beginning.
        extractor: the model's.

    Attributes:
        samples: of the sound.
        frames: of its spectrogram.

    Raises:
        InputError: a sound that comes only once, that is shorter than a frame, or that cannot be used.
    """

    def __init__(self, recording: Recording, extractor: WhisperFeatureExtractor) -> None:
        if not recording.again:
            raise InputError(
                "what comes only once cannot be heard as a whole",
                where=recording.where,
                remedy="model.transcribe hears it as it comes.",
            )
        self._recording = recording
        self._extractor = extractor
        self._hop = extractor.hop_length
        self._beside = -(-(extractor.n_fft // 2) // self._hop)
        """Frames beside a stretch of sound whose windows reach into it."""
        self._held, self._start = torch.zeros(0), 0
        self.samples = 0
        self._loudest = self._first_pass()
        self.frames = self.samples // self._hop
        recording.rewind()

    @property
    def seconds(self) -> float:
        """How long the sound is."""
        return self.samples / self._extractor.sampling_rate

    def features(self, first: int, frames: int) -> Tensor:
        """Some of the features. Shape: [1, bands, frames].

        Args:
            first: the first frame.
            frames: how many; as many as there are, at most.
        """
        stop = min(self.frames, first + frames)
        begin = max(0, first - self._beside)
        samples = self._read(begin * self._hop, min(self.samples, (stop + self._beside) * self._hop))
        logs = self._extractor.log_powers(samples[None])
        return self._extractor.within(logs[..., first - begin : stop - begin].contiguous(), self._loudest)

    def _first_pass(self) -> float:
        """Count the samples; gives the greatest log power of a band in any frame."""
        loudest = float("-inf")
        beside = 2 * self._beside * self._hop
        held, start = torch.zeros(0), 0
        for block in self._recording.blocks(max(self._extractor.n_samples, 2 * beside)):
            self.samples += block.shape[0]
            held = torch.cat((held, block))
            if held.shape[0] > beside:
                loudest = max(loudest, self._greatest(held, first=start == 0, last=False))
            # Frames near a joint are left to the stretch after it, which begins with a frame.
            kept = min(held.shape[0], beside + self.samples % self._hop)
            start, held = self.samples - kept, held[held.shape[0] - kept :].clone()
        return max(loudest, self._greatest(held, first=start == 0, last=True))

    def _greatest(self, samples: Tensor, *, first: bool, last: bool) -> float:
        least = self._extractor.n_fft // 2 + 1
        if samples.shape[0] < least:
            raise InputError(
                "the sound is too short for one frame",
                where=self._recording.where,
                expected=f"at least {least} samples",
                found=f"{samples.shape[0]} samples",
            )
        logs = self._extractor.log_powers(samples[None])
        logs = logs[..., 0 if first else self._beside :]
        logs = logs if last else logs[..., : max(0, logs.shape[-1] - self._beside)]
        return float(logs.amax()) if logs.numel() else float("-inf")

    def _read(self, begin: int, stop: int) -> Tensor:
        """Samples, from what is held or further on. Shape: [stop - begin]."""
        if begin < self._start:
            self._recording.seek(begin)
            self._held, self._start = torch.zeros(0), begin
        missing = stop - self._start - self._held.shape[0]
        if missing > 0:
            self._held = torch.cat((self._held, self._recording.read(missing)))
        self._held = self._held[begin - self._start :].clone()
        self._start = begin
        return self._held[: stop - begin]
