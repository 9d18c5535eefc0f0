"""Phi-4-multimodal's filter banks: frames of 25 ms every 10 ms, each with its own pre-emphasis, natural logarithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import torch
from torch import Tensor

from omniform.core.batch import Batch
from omniform.core.errors import InputError, check_arguments
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import FeatureExtractor, arrays_of, check_most
from omniform.inputs.audio.mel import kaldi_filter_bank
from omniform.inputs.audio.pad import Padding
from omniform.inputs.checks import check_flag

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

_SIXTEEN_BITS: Final = 32768
"""Frames are heard as integers of 16 bits."""
_QUIETEST: Final = 1.0
_AT_ONCE: Final = 4096
"""Frames that are transformed at a time."""
_MAX_FFT: Final = 2**16
_MAX_BANDS: Final = 2**12


class Phi4MultimodalFeatureExtractor(FeatureExtractor):
    """Logarithms of mel powers, and how many tokens stand for each sound.

    Attributes:
        hop_length: samples from one frame to the next.
        n_fft: points of a transform.
        win_length: samples of a frame.
        preemphasis: how much of the sample before is taken from each.
        audio_compression_rate: frames that become one vector in the encoder.
        audio_downsample_rate: vectors that become one token.
        audio_feat_stride: what the number of frames is multiplied by before that.
        mel_filters: the filter bank. Shape: ``[n_fft // 2 + 1, feature_size]``.
    """

    type_name: ClassVar[str] = "Phi4MultimodalFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = (
        "audio_input_features", "audio_embed_sizes", "audio_attention_mask",
    )  # fmt: skip
    feature_size_default: ClassVar[int] = 80
    mask_default: ClassVar[bool] = True

    def _read(self, r: ConfigReader) -> None:
        self.hop_length = r.integer("hop_length", 160)
        self.n_fft = r.integer("n_fft", 512, least=2)
        self.win_length = r.integer("win_length", 400, least=2)
        self.preemphasis = r.number("preemphasis", 0.97)
        self.audio_compression_rate = r.integer("audio_compression_rate", 8)
        self.audio_downsample_rate = r.integer("audio_downsample_rate", 1)
        self.audio_feat_stride = r.integer("audio_feat_stride", 1)
        lowest, highest = r.number("mel_min_frequency", 0.0), r.number("mel_max_frequency", 7690.0)
        r.inert("dynamic_hd", "image_processor_type")  # published files hold the pictures' settings too
        check_most(r, n_fft=(self.n_fft, _MAX_FFT), feature_size=(self.feature_size, _MAX_BANDS))
        if self.win_length > self.n_fft:
            raise r.fail("win_length", f"at most {self.n_fft} (n_fft)", self.win_length)
        if not 0 <= lowest < highest:
            raise r.fail("mel_min_frequency", f"at least 0, and less than {highest:g}", lowest)
        self.mel_filters = kaldi_filter_bank(
            bins=self.n_fft // 2 + 1,
            filters=self.feature_size,
            lowest=lowest,
            highest=highest,
            sampling_rate=self.sampling_rate,
        ).numpy()

    def __call__(
        self,
        raw_speech: Waves,
        sampling_rate: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding: Padding = "longest",
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = True,
        device: str | torch.device | None = "cpu",
        **unknown: object,
    ) -> Batch:
        """Turn one wave or several into filter banks.

        Args:
            raw_speech: mono samples: an array, a tensor or a list; or several: a list of those, or
                ``[batch, samples]``. Floats are nominally within -1..1; integers are scaled by their own full scale.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.
            pad_to_multiple_of: round the samples that all are padded to up to a multiple of this.
            padding: ``"longest"`` (True), ``"max_length"``, or ``"do_not_pad"`` (False).
            max_length: samples to cut and pad to.
            truncation: cut what is longer than ``max_length``.
            return_tensors: ``"pt"`` or ``"np"``; left out, tensors.
            return_attention_mask: tell which frames are of the sound, where there are several.
            device: where to compute.

        Returns:
            ``audio_input_features``: ``[batch, frames, feature_size]``, float32; ``audio_embed_sizes``: ``[batch]``,
            how many tokens stand for each; of several sounds ``audio_attention_mask``: ``[batch, frames]``, bool.

        Raises:
            InputError: a wrong sampling rate, no sound, one that is too short for a frame, or a wave that is not mono
                or not finite.
            UnknownArgumentError: an argument that does not exist.
        """
        check_arguments(self.type_name, unknown, _ARGUMENTS)
        self._check_rate(sampling_rate)
        check_flag("return_attention_mask", return_attention_mask)
        lengths = self._lengths(padding, max_length, truncation, pad_to_multiple_of)
        rows, masks = lengths.apply(arrays_of(raw_speech))
        counts = torch.tensor([int(mask.sum()) for mask in masks])
        if int(counts.min()) < self.win_length:
            raise InputError(
                "the sound is too short for one frame",
                where="audio",
                expected=f"at least {self.win_length} samples",
                found=f"{int(counts.min())} samples",
            )
        if len({len(row) for row in rows}) > 1:
            raise InputError(
                "sounds of different lengths do not make one tensor", where="padding", remedy="Pass padding=True."
            )
        waves = torch.stack([torch.from_numpy(row) for row in rows]).to(device or "cpu")
        frames = self.frames_of(counts) * self.audio_feat_stride
        data: dict[str, object] = {
            "audio_input_features": torch.stack(
                [self._banks(w, cut) for w, cut in zip(waves, self._cuts(counts), strict=True)]
            ),
            "audio_embed_sizes": self.tokens_of(frames),
        }
        if len(rows) > 1 and return_attention_mask:
            data["audio_attention_mask"] = torch.arange(int(frames.max()))[None] < frames[:, None]
        return Batch(data).as_tensors(return_tensors)

    def frames_of(self, samples: Tensor) -> Tensor:
        """How many frames so many samples have. Shape: [...] in and out."""
        return (samples - self.win_length) // self.hop_length + 1

    def tokens_of(self, frames: Tensor) -> Tensor:
        """How many tokens stand for so many frames. Shape: [...] in and out."""
        vectors = -(-frames // self.audio_compression_rate)
        return -(-vectors // self.audio_downsample_rate)

    def _cuts(self, counts: Tensor) -> Sequence[tuple[int, int]]:
        """Which frames of each sound are silenced: those that its end cuts short, as nobody heard them alone.

        The last of them, which begins within a hop and two of the end, is left as it is.
        """
        longest = int(counts.max())
        ends = zip(
            self.frames_of(counts).tolist(), (counts // self.hop_length - 1).tolist(), counts.tolist(), strict=True
        )
        return [(0, 0) if count == longest else (first, last) for first, last, count in ends]

    def _banks(self, wave: Tensor, silenced: tuple[int, int]) -> Tensor:
        """Logarithms of mel powers. Shape: [samples] to [frames, feature_size]."""
        framed = wave.unfold(-1, self.win_length, self.hop_length)
        bands = torch.from_numpy(self.mel_filters).to(wave.device, torch.float32)
        window = torch.hamming_window(self.win_length, periodic=False, device=wave.device, dtype=torch.float64)
        out = []
        for start in range(0, len(framed), _AT_ONCE):
            frames = framed[start : start + _AT_ONCE].clone()
            first, last = (min(max(at - start, 0), len(frames)) for at in silenced)
            frames[first:last] = 0
            before = torch.roll(frames, 1, dims=-1)
            before[:, 0] = before[:, 1]
            frames = (frames - self.preemphasis * before) * _SIXTEEN_BITS
            # In float64, and kept as complex64: the reference does both.
            spectrum = torch.fft.rfft(window * frames, n=self.n_fft, dim=1).to(torch.complex64)
            out.append(((spectrum.abs() ** 2) @ bands).clamp(min=_QUIETEST).log())
        return torch.cat(out)


_ARGUMENTS: Final = frozenset(Phi4MultimodalFeatureExtractor.__call__.__annotations__) - {"unknown", "return"}
