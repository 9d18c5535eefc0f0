"""Neural codecs: samples to frames, frames to entries of codebooks, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.model import Model
from omniform.blocks.codebooks import Residuals
from omniform.core.errors import InputError, brief, check_shape
from omniform.core.sound_outputs import CodecDecoderOutput, CodecEncoderOutput, CodecOutput

Scales = Sequence[Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunks:
    """How long sounds are cut.

    Attributes:
        length: samples of a chunk; None for the whole sound.
        stride: samples from one chunk's first to the next one's; None where there are none.
        frame: samples that a frame of codes stands for.
    """

    length: int | None
    stride: int | None
    frame: int

    def of(self, samples: int) -> list[tuple[int, int]]:
        """First sample and end of each chunk."""
        if self.length is None or self.stride is None:
            return [(0, samples)]
        return [(start, min(start + self.length, samples)) for start in range(0, samples, self.stride)]


class Codec(Model):
    """A codec that hears sounds in chunks, which overlap.

    Args:
        encoder: samples to frames.
        decoder: frames to samples.
        quantizer: frames to codes and back.
        chunks: how sounds are cut.
        normalizes: whether each chunk is brought to one loudness.
        channels: of the samples.
        stages: how many codebooks each bandwidth takes, by kilobits per second; the first is taken where none is named.
    """

    main_input = "input_values"

    encoder: nn.Module
    decoder: nn.Module
    quantizer: Residuals
    chunks: Chunks
    normalizes: bool
    channels: int
    stages: dict[float, int]

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder

    def arrive(self, inputs: dict[str, object]) -> None:
        codes, scales = inputs.get("audio_codes"), inputs.get("audio_scales")
        if (codes is None) != (scales is None):
            raise InputError(
                "codes are decoded with the scales that were made with them",
                where="audio_scales" if scales is None else "audio_codes",
                expected="both, or neither",
                found="one of them",
            )
        self._checked(inputs.get("input_values"), inputs.get("bandwidth"))

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        audio_codes: Tensor | None = None,
        audio_scales: Scales | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> CodecOutput:
        """What a sound is as codes, and what these sound like.

        Args:
            input_values: samples at the model's rate. Shape: [B, channels, samples].
            padding_mask: 1 for samples of sound. Shape: [B, samples] or [B, channels, samples].
            bandwidth: kilobits per second, one of the config's ``target_bandwidths``; by default the first.
            audio_codes: of an earlier call; the sound is then not encoded again. With ``audio_scales``.
            audio_scales: of that call.
            last_frame_pad_length: likewise.

        Raises:
            InputError: other shapes, a bandwidth that the model does not have.
        """
        if audio_codes is None or audio_scales is None:
            made = self.encode(input_values, padding_mask, bandwidth)
            assert isinstance(made, CodecEncoderOutput)
            audio_codes, audio_scales, last_frame_pad_length = (
                made.audio_codes,
                made.audio_scales,
                made.last_frame_pad_length,
            )
        assert audio_codes is not None and audio_scales is not None
        mask = input_values if padding_mask is None else padding_mask
        heard = self._heard(audio_codes, audio_scales, last_frame_pad_length or 0)
        return CodecOutput(audio_codes=audio_codes, audio_values=heard[..., : mask.shape[-1]])

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
    ) -> CodecEncoderOutput | tuple[object, ...]:
        """A sound as codes; see :meth:`forward` for the inputs.

        Returns:
            ``audio_codes``: Shape: [chunks, B, codebooks, frames]; the last chunk is filled up with zeros, and
            ``last_frame_pad_length`` says with how many. ``audio_scales``: one for each chunk.
        """
        stages = self.stages[self._checked(input_values, bandwidth)]
        if padding_mask is not None:
            mask = padding_mask.view(padding_mask.shape[0], -1, padding_mask.shape[-1]).bool()
            input_values = mask * input_values
        coded = [self._coded(input_values[..., a:b], stages) for a, b in self.chunks.of(input_values.shape[-1])]
        short = coded[0][0].shape[-1] - coded[-1][0].shape[-1]
        codes = [*(codes for codes, _ in coded[:-1]), F.pad(coded[-1][0], (0, short))]
        scales = [scale for _, scale in coded]
        if return_dict is False:
            return torch.stack(codes), scales, short
        return CodecEncoderOutput(audio_codes=torch.stack(codes), audio_scales=scales, last_frame_pad_length=short)

    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Scales,
        padding_mask: Tensor | None = None,
        return_dict: bool | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> CodecDecoderOutput | tuple[Tensor]:
        """What codes sound like; see :meth:`encode` for what they are.

        Args:
            audio_codes: Shape: [chunks, B, codebooks, frames].
            audio_scales: one for each chunk.
            padding_mask: of the samples that were encoded: what is longer than it is cut off.
            return_dict: False for a tuple.
            last_frame_pad_length: frames of the last chunk that are no sound.
        """
        self._check_codes(audio_codes, audio_scales)
        heard = self._heard(audio_codes, audio_scales, last_frame_pad_length or 0)
        if padding_mask is not None:
            heard = heard[..., : padding_mask.shape[-1]]
        return (heard,) if return_dict is False else CodecDecoderOutput(audio_values=heard)

    def _checked(self, values: object, bandwidth: object) -> float:
        """The bandwidth, if samples and bandwidth are such as the model has."""
        if not isinstance(values, Tensor) or values.dim() != 3 or not values.is_floating_point():
            raise InputError(
                "these are no samples of sounds",
                where="input_values",
                expected=f"floating-point numbers of shape [batch, {self.channels}, samples]",
                found=f"shape {list(values.shape)}" if isinstance(values, Tensor) else brief(values),
                remedy="The checkpoint's feature extractor makes them.",
            )
        rows, _, samples = values.shape
        check_shape("not the model's channels", values.shape, (rows, self.channels, samples), where="input_values")
        if not samples:
            raise InputError("the sound is empty", where="input_values", expected="at least one sample", found="none")
        # The codes of all but the last are laid side by side: they must be as many, which short sounds may have too.
        first, *between = [-(-(b - a) // self.chunks.frame) for a, b in self.chunks.of(samples)][:-1] or [1]
        short = [frames for frames in between if frames != first]
        if short:
            raise InputError(
                "only the last chunk of a sound may be short",
                where="input_values",
                expected=f"chunks of {self.chunks.length} samples, {self.chunks.stride} apart",
                found=f"{len(short) + 1} shorter ones at the end of {samples} samples",
                remedy="The checkpoint's feature extractor fills sounds up.",
            )
        known = next(iter(self.stages)) if bandwidth is None else bandwidth
        if not isinstance(known, (int, float)) or known not in self.stages:
            raise InputError(
                "the codec has no such bandwidth",
                where="bandwidth",
                expected=f"one of {', '.join(f'{b:g}' for b in self.stages)} (kilobits per second)",
                found=brief(bandwidth),
            )
        return float(known)

    def _check_codes(self, codes: Tensor, scales: Scales) -> None:
        if codes.dim() != 4 or len(codes) != len(scales) or codes.shape[2] > len(self.quantizer.layers):
            raise InputError(
                "these are no codes of this codec",
                where="audio_codes",
                expected=f"shape [chunks, batch, 1 to {len(self.quantizer.layers)}, frames], a scale per chunk",
                found=f"shape {list(codes.shape)}, {len(scales)} scales",
            )
        if self.chunks.length is None and len(codes) != 1:
            raise InputError("this codec hears sounds whole", where="audio_codes", expected="1 chunk", found=len(codes))

    def _coded(self, x_BCT: Tensor, stages: int) -> tuple[Tensor, Tensor | None]:
        """One chunk: its codes, Shape: [B, stages, frames], and how loud it is, Shape: [B, 1]."""
        scale = None
        if self.normalizes:
            loud = (x_BCT.sum(1, keepdim=True) / x_BCT.shape[1]).pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-8
            x_BCT, scale = x_BCT / loud, loud.view(-1, 1)
        return self.quantizer.encode(self.encoder(x_BCT), stages).transpose(0, 1), scale

    def _heard(self, codes: Tensor, scales: Scales, pad: int) -> Tensor:
        chunks = []
        for number, (coded, scale) in enumerate(zip(codes, scales, strict=True)):
            real = coded.shape[-1] - (pad if number == len(codes) - 1 else 0)
            wave: Tensor = self.decoder(self.quantizer.decode(coded[..., :real].transpose(0, 1)))
            chunks.append(wave if scale is None else wave * scale.view(-1, 1, 1))
        return chunks[0] if self.chunks.stride is None else faded(chunks, self.chunks.stride)


def faded(chunks: Sequence[Tensor], stride: int) -> Tensor:
    """Chunks that overlap as one sound, each fading in and out (a triangle over its length).

    Args:
        chunks: all but the last of one length. Shape: [B, C, T] each.
        stride: samples from one chunk's first to the next one's.
    """
    length = chunks[0].shape[-1]
    places = torch.linspace(0, 1, length + 2, device=chunks[0].device, dtype=chunks[0].dtype)[1:-1]
    triangle = 0.5 - (places - 0.5).abs()
    # Whole frames may reach beyond the end of the last chunk, if that is short.
    end = max(number * stride + chunk.shape[-1] for number, chunk in enumerate(chunks))
    whole = chunks[0].new_zeros(*chunks[0].shape[:-1], end)
    weight = whole.new_zeros(whole.shape[-1])
    for number, chunk in enumerate(chunks):
        here = slice(number * stride, number * stride + chunk.shape[-1])
        share = triangle[: chunk.shape[-1]]
        whole[..., here] += share * chunk
        weight[here] += share
    return whole / weight
