"""CLAP's mel spectrograms: ten seconds of sound, of longer ones a random piece or four views (Wu et al., 2023, 3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import torch

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import Array, FeatureExtractor, arrays_of, check_most
from omniform.inputs.audio.mel import HTK, SLANEY, mel_filter_bank
from omniform.inputs.audio.spectra import spectrogram, window_function
from omniform.inputs.checks import check_length

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

_MAX_FFT: Final = 2**16
_MAX_BANDS: Final = 2**12
_MAX_SAMPLES: Final = 2**28

_TRUNCATIONS: Final = ("fusion", "rand_trunc")
_PADDINGS: Final = ("repeatpad", "repeat", "pad")


class ClapFeatureExtractor(FeatureExtractor):
    """Mel spectrograms in decibels. What is random comes from numpy's global generator.

    Attributes:
        feature_size: mel bands.
        hop_length: samples from one frame to the next.
        max_length_s: seconds that the encoder takes.
        fft_window_size: samples of a frame.
        frequency_min: the lowest frequency of a band, in Hz.
        frequency_max: the highest one.
        truncation: what is heard of longer sounds: ``"fusion"`` or ``"rand_trunc"``.
        padding: what becomes of shorter ones: ``"repeatpad"``, ``"repeat"`` or ``"pad"``.
        nb_max_samples: ``max_length_s`` in samples.
        mel_filters: the filter bank of ``"fusion"``. Shape: ``[fft_window_size // 2 + 1, feature_size]``.
        mel_filters_slaney: that of ``"rand_trunc"``.
    """

    type_name: ClassVar[str] = "ClapFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_features", "is_longer")
    feature_size_default: ClassVar[int] = 64
    mask_default: ClassVar[bool] = False
    rate_default: ClassVar[int] = 48000
    left_out = frozenset({"mel_filters", "mel_filters_slaney", "window"})

    def _read(self, r: ConfigReader) -> None:
        self.hop_length = r.integer("hop_length", 480)
        self.max_length_s = r.integer("max_length_s", 10)
        self.fft_window_size = r.integer("fft_window_size", 1024, least=2)
        self.frequency_min = r.number("frequency_min", 0.0)
        self.frequency_max = r.number("frequency_max", 14000.0)
        self.truncation = r.choice("truncation", _TRUNCATIONS, "fusion")
        self.padding = r.choice("padding", _PADDINGS, "repeatpad")
        self.top_db = r.maybe_number("top_db")  # changes nothing, as in the reference
        # Those that follow from the above, and what published files say twice.
        r.inert("nb_frequency_bins", "nb_max_samples", "chunk_length_s", "n_fft")
        self.nb_max_samples = self.max_length_s * self.sampling_rate
        self.nb_frequency_bins = self.fft_window_size // 2 + 1
        check_most(
            r,
            fft_window_size=(self.fft_window_size, _MAX_FFT),
            feature_size=(self.feature_size, _MAX_BANDS),
            max_length_s=(self.nb_max_samples, _MAX_SAMPLES),
        )
        if not 0 <= self.frequency_min < self.frequency_max:
            raise r.fail("frequency_min", f"at least 0, and less than {self.frequency_max:g}", self.frequency_min)
        self.mel_filters, self.mel_filters_slaney = (
            mel_filter_bank(
                bins=self.nb_frequency_bins,
                filters=self.feature_size,
                lowest=self.frequency_min,
                highest=self.frequency_max,
                sampling_rate=self.sampling_rate,
                scale=scale,
                equal_area=scale is SLANEY,
            ).numpy()
            for scale in (HTK, SLANEY)
        )

    def __call__(
        self,
        raw_speech: Waves,
        truncation: str | None = None,
        padding: bool | str | None = None,
        max_length: int | None = None,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into spectrograms of one length.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Floats are nominally within -1..1; integers are scaled by their own full scale.
            truncation: what is heard of longer sounds: ``"rand_trunc"``, a random piece; ``"fusion"``, all of it, made
                smaller, and a piece of its beginning, middle and end. Left out, the config decides.
            padding: what becomes of shorter sounds: ``"repeatpad"``, as often as it fits, then zeros; ``"repeat"``,
                again and again; ``"pad"`` (False), zeros. Left out or True, the config decides.
            max_length: samples; left out, ``max_length_s``.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            return_tensors: ``"pt"`` or ``"np"``; left out, lists.
            unknown: masks and multiples, which there are none of here; it changes nothing.

        Returns:
            ``input_features``: ``[batch, views, frames, feature_size]``, four views with ``"fusion"`` and one else,
            float32; ``is_longer``: ``[batch, 1]``, whether the views differ (with ``"fusion"`` one at random where
            none is longer, as the model was trained).

        Raises:
            InputError: a wrong sampling rate, no sound, a wave that is not mono or not finite, or an unknown way.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _ARGUMENTS | {"return_attention_mask", "pad_to_multiple_of"})
        self._check_rate(sampling_rate)
        cut = _chosen("truncation", self.truncation if truncation is None else truncation, _TRUNCATIONS)
        fill = {True: self.padding, False: "pad"}.get(padding) if isinstance(padding, bool) else padding
        fill = _chosen("padding", self.padding if fill is None else fill, _PADDINGS)
        length = check_length("max_length", max_length) or self.nb_max_samples
        views = [self._views(wave, length, cut, fill) for wave in arrays_of(raw_speech)]
        longer = [differ for _, differ in views]
        if cut == "fusion" and not any(longer):
            longer[np.random.randint(0, len(longer))] = True
        entries = {"input_features": [mel for mel, _ in views], "is_longer": [[one] for one in longer]}
        return Batch(entries).as_tensors(return_tensors)

    def _views(self, wave: Array, length: int, truncation: str, padding: str) -> tuple[Array, bool]:
        """Spectrograms of a wave, ``[views, frames, bands]``, and whether it is longer than what they show."""
        fused = truncation == "fusion"
        bank = self.mel_filters if fused else self.mel_filters_slaney
        if wave.shape[0] > length and not fused:
            start = np.random.randint(0, wave.shape[0] - length + 1)
            return self._mel(wave[start : start + length], bank)[None], True
        if wave.shape[0] > length:
            mel, frames = self._mel(wave, bank), length // self.hop_length + 1
            if mel.shape[0] > frames:
                return _fused(mel, frames), True
            return np.stack([mel] * 4), False
        if wave.shape[0] < length:
            times = length // wave.shape[0]
            if padding == "repeat":
                wave = np.tile(wave, times + 1)[:length]
            elif padding == "repeatpad":
                wave = np.tile(wave, times)
            wave = np.pad(wave, (0, length - wave.shape[0]))
        return np.stack([self._mel(wave, bank)] * (4 if fused else 1)), False

    def _mel(self, wave: Array, bank: Array) -> Array:
        """Decibels. Shape: ``[samples]`` to ``[frames, bands]``, float32."""
        return spectrogram(
            wave,
            window_function(self.fft_window_size),
            frame_length=self.fft_window_size,
            hop_length=self.hop_length,
            power=2.0,
            mel_filters=bank,
            log_mel="dB",
        ).T


_ARGUMENTS: Final = frozenset(ClapFeatureExtractor.__call__.__annotations__) - {"unknown", "return"}


def _fused(mel: Array, frames: int) -> Array:
    """All of a spectrogram, made smaller, and a random piece of each third. Shape: ``[4, frames, bands]``."""
    thirds = np.array_split(np.arange(mel.shape[0] - frames + 1), 3)
    starts = [int(np.random.choice(third)) if len(third) else int(np.random.choice([0])) for third in thirds]
    small = torch.nn.functional.interpolate(
        torch.tensor(mel)[None, None], size=[frames, mel.shape[1]], mode="bilinear", align_corners=False
    )
    return np.stack([small[0, 0].numpy(), *(mel[start : start + frames] for start in starts)])


def _chosen(name: str, value: object, among: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in among:
        return value
    raise InputError("there is no such way", where=name, expected=" or ".join(map(repr, among)), found=brief(value))
