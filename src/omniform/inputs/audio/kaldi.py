"""Kaldi's filter banks, and three extractors that stand on them: AST, SeamlessM4T (Wav2Vec2-BERT) and Speech2Text.

Frames of 25 ms every 10 ms at 16 kHz, the mean taken from each, pre-emphasis 0.97, 512 points, triangles in mel from
20 Hz on, natural logarithms (Povey et al., 2011, ``feature-fbank``). Lengths are in samples whatever the rate is, as in
the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import Array, FeatureExtractor, arrays_of, check_most, even
from omniform.inputs.audio.mel import kaldi_filter_bank
from omniform.inputs.audio.pad import Padding
from omniform.inputs.audio.spectra import spectrogram, window_function
from omniform.inputs.checks import check_flag

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

_FRAME: Final = 400
_HOP: Final = 160
_FFT: Final = 512
_PREEMPHASIS: Final = 0.97
_LEAST: Final = 1.192092955078125e-07
_LOWEST_HZ: Final = 20.0
_SIXTEEN_BITS: Final = 2.0**15
"""Kaldi hears integers of 16 bits."""

_MAX_BANDS: Final = 2**12
_MAX_FRAMES: Final = 2**20


class KaldiExtractor(FeatureExtractor):
    """What the three share.

    Attributes:
        num_mel_bins: mel bands.
        mel_filters: the filter bank. Shape: ``[257, num_mel_bins]``.
        window: Shape: ``[400]``.
    """

    window_name: ClassVar[str]
    bands_default: ClassVar[int]

    def _read(self, r: ConfigReader) -> None:
        self.num_mel_bins = r.integer("num_mel_bins", self.bands_default)
        check_most(r, num_mel_bins=(self.num_mel_bins, _MAX_BANDS))
        if self.sampling_rate <= 2 * _LOWEST_HZ:
            raise r.fail("sampling_rate", f"above {2 * _LOWEST_HZ:g} Hz", self.sampling_rate)
        self.window = window_function(_FRAME, self.window_name, periodic=False)
        self.mel_filters = kaldi_filter_bank(
            bins=_FFT // 2 + 1,
            filters=self.num_mel_bins,
            lowest=_LOWEST_HZ,
            highest=float(self.sampling_rate // 2),
            sampling_rate=self.sampling_rate,
        ).numpy()

    def _filter_bank(self, wave: Array, dither: float = 0.0) -> Array:
        """Logarithms of mel powers. Shape: ``[samples]`` to ``[frames, num_mel_bins]``, float32."""
        if wave.shape[0] < _FRAME:
            raise InputError(
                "the sound is too short for one frame",
                where="audio",
                expected=f"at least {_FRAME} samples",
                found=f"{wave.shape[0]} samples",
            )
        return spectrogram(
            wave,
            self.window,
            frame_length=_FRAME,
            hop_length=_HOP,
            fft_length=_FFT,
            power=2.0,
            center=False,
            dither=dither,
            preemphasis=_PREEMPHASIS,
            mel_filters=self.mel_filters,
            log_mel="log",
            mel_floor=_LEAST,
            remove_dc_offset=True,
        ).T


class ASTFeatureExtractor(KaldiExtractor):
    """The audio spectrogram transformer's filter banks (Gong et al., 2021): frames to a fixed number.

    Attributes:
        max_length: frames.
        do_normalize: whether values become ``(value - mean) / (2 std)``.
        mean: of the training data.
        std: the same.
    """

    type_name: ClassVar[str] = "ASTFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "attention_mask")
    feature_size_default: ClassVar[int] = 1
    mask_default: ClassVar[bool] = False
    window_name: ClassVar[str] = "hann"
    bands_default: ClassVar[int] = 128

    def _read(self, r: ConfigReader) -> None:
        super()._read(r)
        self.max_length = r.integer("max_length", 1024)
        check_most(r, max_length=(self.max_length, _MAX_FRAMES))
        self.do_normalize = r.flag("do_normalize", True)
        self.mean = r.number("mean", -4.2677393)
        self.std = r.number("std", 4.5689974)
        if self.do_normalize and not self.std:
            raise r.fail("std", "another number than 0", self.std)

    def __call__(
        self,
        raw_speech: Waves,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into filter banks of ``max_length`` frames.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Array are nominally within -1..1; integers are scaled by their own full scale.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            return_tensors: ``"pt"`` or ``"np"``; left out, a list of arrays.
            unknown: how other extractors pad; lengths are fixed here, and it changes nothing.

        Returns:
            ``input_values``: ``[batch, max_length, num_mel_bins]``, float32.

        Raises:
            InputError: a wrong sampling rate, no sound, one of less than 400 samples, or a wave that is not mono or
                not finite.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _FIXED | {"raw_speech", "sampling_rate", "return_tensors"})
        self._check_rate(sampling_rate)
        rows = []
        for wave in arrays_of(raw_speech):
            bank = self._filter_bank(wave)[: self.max_length]
            row: Array = np.pad(bank, [(0, self.max_length - bank.shape[0]), (0, 0)])
            rows.append((row - self.mean) / (self.std * 2) if self.do_normalize else row)
        return Batch({"input_values": rows}).as_tensors(return_tensors)

    def normalize(self, input_values: Array) -> Array:
        """``(value - mean) / (2 std)``."""
        return (input_values - self.mean) / (self.std * 2)


_FIXED: Final = frozenset({"padding", "max_length", "truncation", "pad_to_multiple_of", "return_attention_mask"})


class SeamlessM4TFeatureExtractor(KaldiExtractor):
    """SeamlessM4T's and Wav2Vec2-BERT's filter banks, every band normalised over a sound, frames stacked in pairs.

    Attributes:
        stride: how many frames become one.
    """

    type_name: ClassVar[str] = "SeamlessM4TFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_features", "attention_mask")
    feature_size_default: ClassVar[int] = 80
    mask_default: ClassVar[bool] = True
    window_name: ClassVar[str] = "povey"
    bands_default: ClassVar[int] = 80

    def _read(self, r: ConfigReader) -> None:
        super()._read(r)
        self.stride = r.integer("stride", 2)
        check_most(r, stride=(self.stride, _MAX_FRAMES))

    def __call__(
        self,
        raw_speech: Waves,
        padding: Padding = True,
        pad_to_multiple_of: int | None = 2,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        return_attention_mask: bool | None = None,
        do_normalize_per_mel_bins: bool | None = True,
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into stacked filter banks.

        Args:
            raw_speech: samples: an array, a tensor or a list; or several: a list of those, or ``[batch, samples]``.
                Of a sound ``[channels, samples]`` in a list or a batch the first channel is heard.
            padding: ``"longest"`` (True), ``"max_length"``, or ``"do_not_pad"`` (False).
            pad_to_multiple_of: round every target length, in frames, up to a multiple of this.
            max_length: frames to cut and pad to, before they are stacked.
            truncation: cut what is longer than ``max_length``.
            return_tensors: ``"pt"`` or ``"np"``; left out, arrays.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            return_attention_mask: return the mask of given frames; left out, the config decides.
            do_normalize_per_mel_bins: give every band of a sound zero mean and unit variance.

        Returns:
            ``input_features``: ``[batch, frames // stride, num_mel_bins * stride]``, float32; ``attention_mask``:
            ``[batch, frames // stride]``, int32.

        Raises:
            InputError: a wrong sampling rate, no sound, one of less than 400 samples, a wave that is not finite, or
                lengths that differ and are not padded.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _SEAMLESS)
        self._check_rate(sampling_rate)
        check_flag("return_attention_mask", return_attention_mask)
        check_flag("do_normalize_per_mel_bins", do_normalize_per_mel_bins)
        lengths = self._lengths(padding, max_length, truncation, pad_to_multiple_of)
        banks = [self._filter_bank(wave * np.float32(_SIXTEEN_BITS)) for wave in arrays_of(_first_channels(raw_speech))]
        if do_normalize_per_mel_bins:
            banks = [_per_band(bank) for bank in banks]
        rows, masks = lengths.apply(banks)
        if len({row.shape for row in rows}) > 1:
            raise InputError(
                "sounds of different lengths do not make one tensor",
                where="audio",
                found=f"{', '.join(str(row.shape[0]) for row in rows[:8])} frames",
                remedy="Ask for padding='longest' (and truncation=True).",
            )
        whole = rows[0].shape[0] // self.stride * self.stride
        features = np.stack([row[:whole].reshape(-1, self.num_mel_bins * self.stride) for row in rows])
        batch = Batch({"input_features": features})
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            batch["attention_mask"] = np.stack([mask[min(1, self.stride - 1) : whole : self.stride] for mask in masks])
        return batch.as_tensors("np" if return_tensors is None else return_tensors)


_SEAMLESS: Final = frozenset(SeamlessM4TFeatureExtractor.__call__.__annotations__) - {"unknown", "return"}


def _first_channels(audio: Waves) -> Waves:
    from torch import Tensor

    if isinstance(audio, (np.ndarray, Tensor)):
        return audio[:, 0] if audio.ndim == 3 else audio
    if isinstance(audio, (list, tuple)):
        return [one[0] if isinstance(one, (np.ndarray, Tensor)) and one.ndim == 2 else one for one in audio]
    return audio


def _per_band(bank: Array) -> Array:
    """Zero mean and unit variance of every band. Shape: ``[frames, bands]``, both."""
    # The variance of a single frame is not known, and its mean leaves nothing.
    spread = bank.var(0, ddof=1)[None] if bank.shape[0] > 1 else np.zeros((1, bank.shape[1]), dtype=bank.dtype)
    return np.asarray((bank - bank.mean(0)[None]) / np.sqrt(spread + 1e-7))


class Speech2TextFeatureExtractor(KaldiExtractor):
    """Speech2Text's filter banks, every band normalised over a sound (Wang et al., 2020).

    Attributes:
        dither: standard deviation of noise on samples of 16 bits, from numpy's global generator.
        do_ceptral_normalize: whether bands are normalised.
        normalize_means: to zero mean.
        normalize_vars: to unit variance.
    """

    type_name: ClassVar[str] = "Speech2TextFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_features", "attention_mask")
    feature_size_default: ClassVar[int] = 80
    mask_default: ClassVar[bool] = True
    window_name: ClassVar[str] = "povey"
    bands_default: ClassVar[int] = 80

    def _read(self, r: ConfigReader) -> None:
        super()._read(r)
        self.dither = r.number("dither", 0.0)
        self.do_ceptral_normalize = r.flag("do_ceptral_normalize", True)
        self.normalize_means = r.flag("normalize_means", True)
        self.normalize_vars = r.flag("normalize_vars", True)
        self.return_attention_mask = True  # whatever the file says, as in the reference

    def __call__(
        self,
        raw_speech: Waves,
        padding: Padding = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        return_attention_mask: bool | None = None,
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into filter banks.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Array are nominally within -1..1; integers are scaled by their own full scale.
            padding: ``"longest"`` (True), ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: frames to cut and pad to.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length, in frames, up to a multiple of this.
            return_tensors: ``"pt"`` or ``"np"``; left out, a list of arrays.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            return_attention_mask: return the mask of given frames; left out, it is.

        Returns:
            ``input_features``: ``[batch, frames, num_mel_bins]``, float32; ``attention_mask``: ``[batch, frames]``.

        Raises:
            InputError: a wrong sampling rate, no sound, one of less than 400 samples, a wave that is not mono or not
                finite, or lengths that are to become one tensor and are not padded.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _SPEECH2TEXT)
        self._check_rate(sampling_rate)
        check_flag("return_attention_mask", return_attention_mask)
        lengths = self._lengths(padding, max_length, truncation, pad_to_multiple_of)
        waves = [wave * np.float32(_SIXTEEN_BITS) for wave in arrays_of(raw_speech)]
        rows, masks = lengths.apply([self._filter_bank(wave, self.dither) for wave in waves])
        # Rows of one array are summed in its order, and bands that hardly change show it.
        features = even(rows)
        if self.do_ceptral_normalize:
            features = [self._normalized(row, int(mask.sum())) for row, mask in zip(features, masks, strict=True)]
        batch = Batch({"input_features": features})
        if return_attention_mask is None or return_attention_mask:
            batch["attention_mask"] = masks
        return batch.as_tensors(return_tensors)

    def _normalized(self, row: Array, count: int) -> Array:
        """Bands by mean and deviation of the first ``count`` frames. Shape: ``[frames, num_mel_bins]``, both."""
        out: Array = np.array(row, dtype=np.float32)
        if self.normalize_means:
            out = out - out[:count].mean(axis=0)
        if self.normalize_vars:
            deviation = out[:count].std(axis=0)
            out = out / np.where(deviation == 0, np.float32(1), deviation)  # a band that never changes
        out[count:] = self.padding_value
        return out


_SPEECH2TEXT: Final = frozenset(Speech2TextFeatureExtractor.__call__.__annotations__) - {"unknown", "return"}
