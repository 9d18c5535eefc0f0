"""Whisper's features: the log-mel spectrogram of 30 seconds of sound (Radford et al., 2022, section 2.2)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, ClassVar, Final

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, brief, check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import FeatureExtractor
from omniform.inputs.audio.mel import SLANEY, log_mel_powers, mel_filter_bank
from omniform.inputs.audio.pad import Padded, Padding, normalize, pad, padding_rule
from omniform.inputs.audio.samples import as_waves
from omniform.inputs.checks import check_flag, check_length

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

# The published models were trained on these; no config changes them.
_HIGHEST_HZ: Final = 8000.0
_POWER_FLOOR: Final = 1e-10
_DECADES: Final = 8.0

# Above these a config is damaged or hostile, and would only exhaust memory.
_MAX_N_FFT: Final = 2**16
_MAX_BANDS: Final = 2**12
_MAX_SAMPLES: Final = 2**28


class WhisperFeatureExtractor(FeatureExtractor):
    """Log-mel spectrograms of fixed-length chunks.

    Attributes:
        feature_size: mel bands (80, or 128 from large-v3 on).
        hop_length: samples from one frame to the next.
        chunk_length: seconds that the encoder takes.
        n_fft: samples in one frame.
        dither: standard deviation of Gaussian noise added to every sample, from torch's global generator.
        n_samples: samples in a chunk.
        nb_max_frames: frames in a chunk.
        mel_filters: the filter bank. Shape: ``[n_fft // 2 + 1, feature_size]``, float32.
    """

    type_name: ClassVar[str] = "WhisperFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_features",)
    feature_size_default: ClassVar[int] = 80
    mask_default: ClassVar[bool] = False

    def _read(self, r: ConfigReader) -> None:
        self.hop_length = r.integer("hop_length", 160)
        self.chunk_length = r.integer("chunk_length", 30)
        self.n_fft = r.integer("n_fft", 400, least=2)
        self.dither = r.number("dither", 0.0)
        # n_samples and nb_max_frames repeat the above. do_normalize is an argument of the call; in the file the
        # reference ignores it.
        r.inert("n_samples", "nb_max_frames", "do_normalize")
        self.n_samples = self.chunk_length * self.sampling_rate
        self.nb_max_frames = self.n_samples // self.hop_length
        for name, value, most in (
            ("n_fft", self.n_fft, _MAX_N_FFT),
            ("feature_size", self.feature_size, _MAX_BANDS),
            ("chunk_length", self.n_samples, _MAX_SAMPLES),
        ):
            if value > most:
                raise r.fail(name, f"at most {most}{' samples' if name == 'chunk_length' else ''}", value)
        # A frame needs half a window to mirror at either end, and a hop to move on by.
        self._least_samples = max(self.n_fft // 2 + 1, self.hop_length)
        if self.n_samples < self._least_samples:
            raise r.fail("chunk_length", f"at least one frame of {self._least_samples} samples", self.n_samples)
        bank = mel_filter_bank(
            bins=self.n_fft // 2 + 1,
            filters=self.feature_size,
            lowest=0.0,
            highest=_HIGHEST_HZ,
            sampling_rate=self.sampling_rate,
            scale=SLANEY,
        )
        if bool((bank.amax(dim=0) == 0).any()):
            logging.getLogger("omniform").warning(
                "%s: some mel bands are always silent: feature_size %d is too many for n_fft %d at %d Hz",
                r.where, self.feature_size, self.n_fft, self.sampling_rate,
            )  # fmt: skip
        self.mel_filters = bank.float()

    def __call__(
        self,
        raw_speech: Waves,
        *,
        sampling_rate: int | None = None,
        padding: Padding = "max_length",
        max_length: int | None = None,
        truncation: bool | None = True,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_token_timestamps: bool | None = False,
        do_normalize: bool | None = False,
        return_tensors: str | None = None,
        device: torch.device | str | None = "cpu",
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into log-mel features.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Floats are nominally within -1..1; integers are scaled by their own full scale
                (int16 by 1/32768).
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            padding: ``"max_length"``, ``"longest"`` (True), or ``"do_not_pad"`` (False).
            max_length: samples to cut and pad to; a chunk's length if left out.
            truncation: cut what is longer than ``max_length``.
            pad_to_multiple_of: round every target length, in samples, up to a multiple of this.
            return_attention_mask: return the mask of given frames; left out, the config decides (see Returns).
            return_token_timestamps: return ``num_frames``, the frames of each whole wave before cutting and padding.
            do_normalize: give each wave zero mean and unit variance first.
            return_tensors: ``"pt"`` for torch tensors; ``"np"`` or None for numpy arrays.
            device: where the spectrogram is computed; the results are on the CPU.

        Returns:
            ``input_features``: ``[batch, feature_size, samples // hop_length]``, float32. ``attention_mask``, int32:
            ``[batch, frames]`` where the call asks for it; where only the config or ``do_normalize`` does,
            ``[batch, samples]``, as in the reference. ``num_frames``: ``[batch]``, int64.

        Raises:
            InputError: a wrong sampling rate, no sound, a wave that is not mono or not finite, too short a wave for
                one frame, or waves of different lengths that are not padded.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _ARGUMENTS)
        self._check_rate(sampling_rate)
        wanted = {"return_attention_mask": return_attention_mask, "return_token_timestamps": return_token_timestamps}
        max_length = check_length("max_length", max_length)
        multiple = check_length("pad_to_multiple_of", pad_to_multiple_of)
        for name, flag in {"truncation": truncation, **wanted, "do_normalize": do_normalize}.items():
            check_flag(name, flag)
        place = _device(device)
        waves = as_waves(raw_speech)
        padded = self._padded(waves, padding, max_length, bool(truncation), multiple)
        if do_normalize:
            padded = normalize(padded, value=self.padding_value)
        batch = Batch({"input_features": self._log_mel(padded.values, place)})
        batch.update(self._mask(padded, return_attention_mask, bool(do_normalize)))
        if return_token_timestamps:
            batch["num_frames"] = torch.tensor([wave.shape[0] // self.hop_length for wave in waves])
        return batch.as_tensors("np" if return_tensors is None else return_tensors)

    def _padded(
        self, waves: list[Tensor], padding: Padding, max_length: int | None, truncate: bool, multiple: int | None
    ) -> Padded:
        """Waves cut and padded; to a chunk's length where no other is named."""
        return pad(
            waves,
            rule=padding_rule(padding),
            max_length=self.n_samples if max_length is None else max_length,
            truncate=truncate,
            multiple=multiple,
            value=self.padding_value,
            side=self.padding_side,
        )

    def _mask(self, padded: Padded, asked: bool | None, normalized: bool) -> dict[str, Tensor]:
        """The mask, if there is to be one: of frames where the call asks for it, else of samples, as the reference."""
        if asked:
            return {"attention_mask": self._frame_mask(padded)}
        if normalized or (asked is None and self.return_attention_mask):
            return {"attention_mask": padded.mask}
        return {}

    def _log_mel(self, waves: Tensor, device: torch.device) -> Tensor:
        """``(log10(mel power) + 4) / 4``, about -1 to 1. Shape: ``[batch, samples]`` to ``[batch, bands, frames]``."""
        least = self._least_samples
        if waves.shape[1] < least:
            raise InputError(
                "the sound is too short for one frame",
                where="audio",
                expected=f"at least {least} samples",
                found=f"{waves.shape[1]} samples",
                remedy="Ask for padding='max_length'.",
            )
        logs = self.log_powers(waves.to(device))
        return self.within(logs, logs.amax(dim=(-2, -1), keepdim=True)).cpu()

    def log_powers(self, waves: Tensor) -> Tensor:
        """``log10(mel power)``, silence cut off. Shape: ``[batch, samples]`` to ``[batch, bands, frames]``.

        A frame reads half a window to either side; the ends of what is given are mirrored there.
        """
        if self.dither:
            waves = waves + self.dither * torch.randn(waves.shape, device=waves.device)
        window = torch.hann_window(self.n_fft, device=waves.device)
        bank = self.mel_filters.to(waves.device)
        return log_mel_powers(waves, window=window, hop_length=self.hop_length, bank=bank, floor=_POWER_FLOOR)

    def within(self, logs: Tensor, loudest: Tensor | float) -> Tensor:
        """Features, from :meth:`log_powers` and the greatest of them in the whole sound; those are changed in place."""
        least = loudest - _DECADES
        kept = torch.maximum(logs, least, out=logs) if isinstance(least, Tensor) else logs.clamp_(min=least)
        return kept.add_(4.0).div_(4.0)

    def _frame_mask(self, padded: Padded) -> Tensor:
        """The mask of samples seen at every hop. Shape: ``[batch, samples // hop_length]``."""
        return padded.mask[:, :: self.hop_length][:, : padded.mask.shape[1] // self.hop_length].contiguous()


_ARGUMENTS: Final = frozenset(WhisperFeatureExtractor.__call__.__annotations__) - {"unknown", "return"}


def _device(device: object) -> torch.device:
    if device is None:
        return torch.device("cpu")
    try:
        if isinstance(device, (str, torch.device)):
            place = torch.device(device)
            torch.empty(0, device=place)
            if place.type != "meta":
                return place
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError("no such device here", where="device", found=brief(device)) from error
    raise InputError("no such device here", where="device", expected="a name such as 'cpu'", found=brief(device))
