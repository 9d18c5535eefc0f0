"""SpeechT5's waves, and the log-mel spectrograms that it speaks (Ao et al., 2022, section 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import Array, FeatureExtractor, arrays_of, check_most, even
from omniform.inputs.audio.mel import SLANEY, mel_filter_bank
from omniform.inputs.audio.pad import Lengths, Padding, unit_variance
from omniform.inputs.audio.spectra import WINDOWS, optimal_fft_length, spectrogram, window_function
from omniform.inputs.checks import check_flag

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

_MAX_WINDOW: Final = 2**16
_MAX_BANDS: Final = 2**12


class SpeechT5FeatureExtractor(FeatureExtractor):
    """Waves for what hears, mel spectrograms for what speaks.

    Attributes:
        do_normalize: whether waves get zero mean and unit variance.
        num_mel_bins: mel bands of a spectrogram.
        hop_length: milliseconds from one frame to the next.
        win_length: milliseconds of a frame.
        win_function: the name of its window.
        fmin: the lowest frequency of a band, in Hz.
        fmax: the highest one.
        mel_floor: the least amplitude of a band.
        sample_stride: ``hop_length`` in samples.
        sample_size: ``win_length`` in samples.
        n_fft: samples that are transformed.
        mel_filters: the filter bank. Shape: ``[n_fft // 2 + 1, num_mel_bins]``.
        window: Shape: ``[sample_size]``.
    """

    type_name: ClassVar[str] = "SpeechT5FeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "attention_mask")
    feature_size_default: ClassVar[int] = 1
    mask_default: ClassVar[bool] = True

    def _read(self, r: ConfigReader) -> None:
        self.do_normalize = r.flag("do_normalize", False)
        self.num_mel_bins = r.integer("num_mel_bins", 80)
        self.hop_length = r.integer("hop_length", 16)
        self.win_length = r.integer("win_length", 64)
        self.win_function = r.choice("win_function", tuple(WINDOWS), "hann_window")
        self.fmin = r.number("fmin", 80.0)
        self.fmax = r.number("fmax", 7600.0)
        self.mel_floor = r.number("mel_floor", 1e-10)
        # What follows from the above, and what older releases had and did not need.
        r.inert("n_fft", "n_freqs", "sample_size", "sample_stride", "frame_signal_scale", "reduction_factor")
        self.sample_size = self.win_length * self.sampling_rate // 1000
        self.sample_stride = self.hop_length * self.sampling_rate // 1000
        check_most(
            r,
            win_length=(self.sample_size, _MAX_WINDOW),
            hop_length=(self.sample_stride, _MAX_WINDOW),
            num_mel_bins=(self.num_mel_bins, _MAX_BANDS),
        )
        for name, value, samples in (
            ("win_length", self.win_length, self.sample_size),
            ("hop_length", self.hop_length, self.sample_stride),
        ):
            if samples < 1:
                raise r.fail(name, "at least one sample", f"{value} ms at {self.sampling_rate} Hz")
        if not 0 <= self.fmin < self.fmax:
            raise r.fail("fmin", f"at least 0, and less than fmax {self.fmax:g}", self.fmin)
        self.n_fft = optimal_fft_length(self.sample_size)
        self.n_freqs = self.n_fft // 2 + 1
        self.window = window_function(self.sample_size, self.win_function)
        self.mel_filters = mel_filter_bank(
            bins=self.n_freqs,
            filters=self.num_mel_bins,
            lowest=self.fmin,
            highest=self.fmax,
            sampling_rate=self.sampling_rate,
            scale=SLANEY,
        ).numpy()

    def __call__(
        self,
        audio: Waves | None = None,
        audio_target: Waves | None = None,
        padding: Padding = False,
        max_length: int | None = None,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
        **unknown: object,
    ) -> Batch:
        """Turn waves into what the encoder hears, those of ``audio_target`` into what the decoder is to speak, or both.

        Args:
            audio: mono samples: an array, a tensor or a list; or several: a list of those, or ``[batch, samples]``.
            audio_target: the same, of speech that is to come out.
            padding: ``"longest"`` (True), ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: samples of waves, and frames of spectrograms, to cut and pad to.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length up to a multiple of this.
            return_attention_mask: return the masks of what was given; left out, the config decides.
            return_tensors: ``"pt"`` or ``"np"``; left out, arrays, in a list where they differ in length.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.

        Returns:
            ``input_values [batch, samples]`` and ``attention_mask`` of ``audio``; ``labels [batch, frames,
            num_mel_bins]`` (base-ten logarithms of amplitudes) and ``decoder_attention_mask`` of ``audio_target``,
            which are called ``input_values`` and ``attention_mask`` where there is no ``audio``.

        Raises:
            InputError: there is neither, a wrong sampling rate, no sound, a wave that is not mono or not finite, or
                lengths that differ and are not padded.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _ARGUMENTS)
        if audio is None and audio_target is None:
            raise InputError("there is neither sound to hear nor to speak", where=self.type_name)
        self._check_rate(sampling_rate)
        check_flag("return_attention_mask", return_attention_mask)
        lengths = self._lengths(padding, max_length, truncation, pad_to_multiple_of)
        masked = self.return_attention_mask if return_attention_mask is None else return_attention_mask
        batch = Batch() if audio is None else self._heard(audio, lengths, masked)
        if audio_target is not None:
            rows, masks = lengths.apply([self._log_mel(wave) for wave in arrays_of(audio_target)])
            batch["input_values" if audio is None else "labels"] = even(rows)
            if masked:
                batch["attention_mask" if audio is None else "decoder_attention_mask"] = masks
        return batch.as_tensors(return_tensors)

    def _heard(self, audio: Waves, lengths: Lengths, masked: bool) -> Batch:
        rows, masks = lengths.apply(arrays_of(audio))
        if self.do_normalize:
            # Without a mask the model takes padding for silence, and so does the mean, as in the reference.
            counted = masked and lengths.rule != "do_not_pad"
            counts = [int(mask.sum()) if counted else None for mask in masks]
            rows = [unit_variance(row, count, self.padding_value) for row, count in zip(rows, counts, strict=True)]
        batch = Batch({"input_values": rows if self.do_normalize else even(rows)})
        if masked:
            batch["attention_mask"] = masks
        return batch

    def _log_mel(self, wave: Array) -> Array:
        """Shape: ``[samples]`` to ``[frames, num_mel_bins]``, float32."""
        return np.asarray(
            spectrogram(
                wave,
                self.window,
                frame_length=self.sample_size,
                hop_length=self.sample_stride,
                fft_length=self.n_fft,
                mel_filters=self.mel_filters,
                mel_floor=self.mel_floor,
                log_mel="log10",
            ).T
        )


_ARGUMENTS: Final = frozenset(SpeechT5FeatureExtractor.__call__.__annotations__) - {"unknown", "return"}
