"""Waves for neural codecs, of one channel or two: EnCodec and DAC."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np
import torch

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.core.reader import ConfigReader
from omniform.inputs.audio.extractor import Array, FeatureExtractor, arrays_of, check_most
from omniform.inputs.audio.pad import Lengths, Padding

if TYPE_CHECKING:
    from omniform.inputs.audio.samples import Waves

_MAX_HOP: Final = 2**24


class CodecExtractor(FeatureExtractor):
    """What the two share: waves become ``[channels, samples]``, with a mask of samples that were given."""

    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "padding_mask")
    feature_size_default: ClassVar[int] = 1
    mask_default: ClassVar[bool] = True
    most_channels: ClassVar[int]

    def _read(self, r: ConfigReader) -> None:
        if self.feature_size > self.most_channels:
            raise r.fail("feature_size", f"1 to {self.most_channels} channels", self.feature_size)

    def _rows(self, audio: Waves) -> list[Array]:
        """Shape of each: ``[samples, channels]``, float32."""
        if self.feature_size == 1:
            return [wave[:, None] for wave in arrays_of(audio)]
        if isinstance(audio, (np.ndarray, torch.Tensor)) and audio.ndim == 2:
            audio = [audio]
        rows = []
        for index, one in enumerate(audio):
            channels = arrays_of(one)
            if len(channels) != self.feature_size:
                raise InputError(
                    "the sound has another number of channels than the model",
                    where=f"audio[{index}]",
                    expected=f"[{self.feature_size}, samples]",
                    found=f"{len(channels)} channels",
                )
            rows.append(np.stack(channels, axis=1))
        return rows

    def _given(self, rows: list[Array], lengths: Lengths | None, masked: bool, kind: str | None) -> Batch:
        """The batch of rows; without lengths they are not padded."""
        masks = None
        if lengths is not None:
            rows, masks = lengths.apply(rows)
        batch = Batch({"input_values": [row.T for row in rows]})
        if masks is not None and masked:
            batch["padding_mask"] = np.stack(masks) if len({len(mask) for mask in masks}) == 1 else masks
        return batch.as_tensors(kind)


def _padding(padding: Padding | None, truncation: bool | None) -> Padding:
    if padding and truncation:
        raise InputError(
            "one either pads or cuts", where="padding", found=f"padding={padding!r}, truncation=True", remedy="Set one."
        )
    return True if padding is None else padding


class EncodecFeatureExtractor(CodecExtractor):
    """EnCodec's waves (Défossez et al., 2022); with chunks, lengths are such that whole chunks cover them.

    Attributes:
        chunk_length_s: seconds of a chunk; None for no chunks.
        overlap: the part of a chunk that the next one has too; None for no chunks.
        chunk_length: samples of a chunk, or None.
        chunk_stride: samples from one chunk to the next, or None.
    """

    type_name: ClassVar[str] = "EncodecFeatureExtractor"
    rate_default: ClassVar[int] = 24000
    most_channels: ClassVar[int] = 2

    def _read(self, r: ConfigReader) -> None:
        super()._read(r)
        self.chunk_length_s = r.maybe_number("chunk_length_s")
        self.overlap = r.maybe_number("overlap")
        for name, value in (("chunk_length_s", self.chunk_length_s), ("overlap", self.overlap)):
            if value is not None and not 0 <= value < (1 if name == "overlap" else 3600):
                raise r.fail(name, "a part of a chunk" if name == "overlap" else "seconds, less than an hour", value)
        if self.chunk_length == 0:
            raise r.fail("chunk_length_s", "at least one sample", self.chunk_length_s)

    @property
    def chunk_length(self) -> int | None:
        """Samples of a chunk; None for no chunks."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from one chunk to the next; None for no chunks."""
        if self.chunk_length is None or self.overlap is None:
            return None
        return max(1, int((1.0 - self.overlap) * self.chunk_length))

    def __call__(
        self,
        raw_audio: Waves,
        padding: Padding | None = None,
        truncation: bool | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> Batch:
        """Turn one wave or several into a model's input.

        Args:
            raw_audio: samples ``[samples]``, or ``[2, samples]`` where ``feature_size`` is 2; or several: a list of
                those, or an array or a tensor of them.
            padding: ``"longest"`` (True, the default), ``"max_length"``, or ``"do_not_pad"`` (False).
            truncation: cut to whole chunks of the shortest wave, or to ``max_length``.
            max_length: samples to cut and pad to.
            return_tensors: ``"pt"`` or ``"np"``; left out, a list of arrays.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.

        Returns:
            ``input_values``: ``[batch, channels, samples]``, float32; where it was padded, ``padding_mask``:
            ``[batch, samples]``, int32, 1 where a sample was given.

        Raises:
            InputError: a wrong sampling rate or number of channels, no sound, a sample that is not finite, padding and
                cutting at once, or lengths that are to become one tensor and are not padded.
        """
        self._check_rate(sampling_rate)
        padding = _padding(padding, truncation)
        rows = self._rows(raw_audio)
        length, stride = self.chunk_length, self.chunk_stride
        if stride is not None and length is not None and max_length is None:
            if truncation:
                steps = min(row.shape[0] for row in rows) // stride
                max_length = (steps - 1) * stride + length
            elif padding:
                steps = math.ceil(max(row.shape[0] for row in rows) / stride)
                max_length, padding = (steps - 1) * stride + length, "max_length"
            else:
                return self._given(rows, None, False, return_tensors)
        return self._given(rows, self._lengths(padding, max_length, truncation, None), bool(padding), return_tensors)


class DacFeatureExtractor(CodecExtractor):
    """DAC's waves (Kumar et al., 2023): whole hops of one channel.

    Attributes:
        hop_length: samples of a frame of the codec.
    """

    type_name: ClassVar[str] = "DacFeatureExtractor"
    model_input_names: ClassVar[tuple[str, ...]] = ("input_values", "n_quantizers")
    rate_default: ClassVar[int] = 16000
    most_channels: ClassVar[int] = 1

    def _read(self, r: ConfigReader) -> None:
        super()._read(r)
        self.hop_length = r.integer("hop_length", 512)
        check_most(r, hop_length=(self.hop_length, _MAX_HOP))

    def __call__(
        self,
        raw_audio: Waves,
        padding: Padding | None = None,
        truncation: bool | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> Batch:
        """Turn one wave or several into a model's input, lengths rounded up to a multiple of ``hop_length``.

        Args:
            raw_audio: mono samples: an array, a tensor or a list; or several: a list of those, or ``[batch, samples]``.
            padding: ``"longest"`` (True, the default), ``"max_length"``, or ``"do_not_pad"`` (False).
            truncation: cut what is longer than ``max_length``.
            max_length: samples to cut and pad to.
            return_tensors: ``"pt"`` or ``"np"``; left out, a list of arrays.
            sampling_rate: rate of the waves in Hz, to be checked; without it the right rate is assumed.

        Returns:
            As :meth:`EncodecFeatureExtractor.__call__`.

        Raises:
            InputError: as there.
        """
        self._check_rate(sampling_rate)
        padding = _padding(padding, truncation)
        lengths = self._lengths(padding, max_length, truncation, self.hop_length)
        return self._given(self._rows(raw_audio), lengths, bool(padding), return_tensors)
