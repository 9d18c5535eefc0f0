"""Codecs that go on from where they were: frames are read by layers of attention between convolutions (Mimi)."""

from __future__ import annotations

from typing import ClassVar, TypeVar, Unpack

import torch
from torch import Tensor, nn

from omniform.architectures.decoder import state_for
from omniform.architectures.model import Model
from omniform.blocks.codebooks import SplitResiduals
from omniform.blocks.composed import Composed
from omniform.blocks.layers import run
from omniform.blocks.seanet import Chain, PaddedConv
from omniform.core.context import StepContext, Tapped
from omniform.core.errors import InputError, MissingPartError, brief, check_shape
from omniform.core.heard import Heard
from omniform.core.layouts import layout_of
from omniform.core.outputs import ModelOutput
from omniform.core.recompute import Recompute
from omniform.core.sound_outputs import (
    LatentsOutput,
    SteppedCodecDecoderOutput,
    SteppedCodecEncoderOutput,
    SteppedCodecOutput,
)
from omniform.core.state import DenseState

Plain = tuple[object, ...]
Out = TypeVar("Out", bound=ModelOutput)


class Listening(Tapped, total=False):
    """What may come with samples.

    Attributes:
        padding_cache: what the convolutions keep of the pieces before this one; it goes on in place.
        use_streaming: whether this is a piece, and what comes after it goes on from it; by default as the config says.
    """

    padding_cache: Heard | None
    use_streaming: bool | None


class Sounding(Tapped, total=False):
    """What may come with codes.

    Attributes:
        use_cache: whether to return state to go on from; by default as the config says.
    """

    use_cache: bool | None


class FrameLayers(Composed):
    """Layers over frames.

    Args:
        layers: called as ``layer(hidden, ctx)``.
    """

    layers: nn.ModuleList
    recompute: ClassVar[Recompute | None] = None

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        return run(self.layers, x_BTD, ctx) if x_BTD.shape[1] else x_BTD


class FrameHalf(Model):
    """Half of a codec: what both have."""

    def read(
        self, layers: FrameLayers, x_BDT: Tensor, past: DenseState | None, asked: Tapped, *, kept: bool
    ) -> tuple[Tensor, StepContext]:
        """Frames through the layers, and the step in which they were read. Shape: [B, D, T] in and out.

        Args:
            past: state to go on from.
            kept: whether to make one where there is none.
        """
        rows, _, frames = x_BDT.shape
        if past is not None:
            past.admit(layout_of(layers), rows, frames)
        x_BTD = x_BDT.transpose(1, 2)
        ctx = self.step(x_BTD, asked, state=state_for(layers, past, kept, reads_memory=False))
        x_BTD = layers(x_BTD, ctx)
        if ctx.state is not None:
            ctx.state.advance(frames)
        return x_BTD.transpose(1, 2), ctx


def kept_by(ctx: StepContext) -> DenseState | None:
    """The state that a call returns."""
    return ctx.state if isinstance(ctx.state, DenseState) else None


class FrameEncoder(FrameHalf):
    """Samples to frames.

    A sound may come in pieces (``use_streaming``), of any lengths: frames that are complete come out, and are those of
    the whole; what is left at a sound's end is filled up only where the sound is whole.

    Args:
        encoder_seanet: samples to steps.
        encoder_transformer: reads these.
        downsample: makes fewer frames of them.
        channels: of the samples.
        streams: whether sounds come in pieces, where a call does not say.
    """

    main_input = "input_values"

    encoder_seanet: Chain
    encoder_transformer: FrameLayers
    downsample: nn.Module
    channels: int
    streams: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        for slot, conv in enumerate(self.convolutions()):
            conv.slot = slot

    def convolutions(self) -> list[PaddedConv]:
        """All that shorten a sound, in order."""
        last = [self.downsample] if isinstance(self.downsample, PaddedConv) else []
        return [*self.encoder_seanet.convolutions(), *last]

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder_seanet

    def arrive(self, inputs: dict[str, object]) -> None:
        values, heard = inputs.get("input_values"), inputs.get("padding_cache")
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
        if heard is not None and not isinstance(heard, Heard):
            told = "what an earlier call has returned"
            raise InputError("no such state", where="padding_cache", expected=told, found=brief(heard))

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        past_key_values: DenseState | None = None,
        **given: Unpack[Listening],
    ) -> LatentsOutput:
        """A sound as frames.

        Args:
            input_values: samples at the model's rate. Shape: [B, channels, samples].
            padding_mask: not read, as in the ecosystem: silence is a sound too.
            past_key_values: of the piece before this one, with its ``padding_cache``.
            given: see :class:`Listening`.

        Raises:
            InputError: other shapes, or the convolutions cannot hear in pieces.
        """
        told = given.get("use_streaming")
        streams, heard = self.streams if told is None else told, given.get("padding_cache")
        if heard is None and streams:
            heard = Heard()
        x = self.encoder_seanet(input_values) if heard is None else self.encoder_seanet.stream(input_values, heard)
        x, ctx = self.read(self.encoder_transformer, x, past_key_values, given, kept=streams)
        if heard is not None and isinstance(self.downsample, PaddedConv):
            x = self.downsample.stream(x, heard)
        else:
            x = self.downsample(x)
        return LatentsOutput(latents=x, past_key_values=kept_by(ctx), padding_cache=heard, **ctx.taps.noted())

    def get_encoded_length(self, input_length: Tensor | int) -> Tensor:
        """How many frames there are of so many samples. Shape: any, and the same."""
        frames = torch.as_tensor(input_length)
        for conv in self.convolutions():
            if conv.stride > 1:
                frames = -(-frames // conv.stride)
        return frames

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Which frames are of sound. Shape: [B, samples] to [B, frames of the longest].

        Args:
            padding_mask: 1 for samples of sound.
            padding_side: ``"right"``, or ``"left"`` where sounds stand at the end.
        """
        lengths = self.get_encoded_length(padding_mask.sum(dim=-1))
        mask = torch.arange(int(lengths.max()), device=lengths.device) < lengths[:, None]
        return mask if padding_side == "right" else mask.flip(-1)


class FrameDecoder(FrameHalf):
    """Frames to samples.

    Args:
        upsample: makes more steps of few frames.
        decoder_transformer: reads these.
        decoder_seanet: steps to samples.
        dim: of the frames.
        keeps: whether state is returned, where a call does not say.
    """

    main_input = "latents"

    upsample: nn.Module
    decoder_transformer: FrameLayers
    decoder_seanet: Chain
    dim: int
    keeps: bool

    def get_input_embeddings(self) -> nn.Module:
        return self.upsample

    def arrive(self, inputs: dict[str, object]) -> None:
        latents = inputs.get("latents")
        shape = list(latents.shape) if isinstance(latents, Tensor) and latents.is_floating_point() else []
        if len(shape) != 3 or shape[1] != self.dim or not shape[2]:
            found = f"shape {list(latents.shape)}" if isinstance(latents, Tensor) else brief(latents)
            wanted = f"numbers of shape [batch, {self.dim}, frames]"
            raise InputError("these are no frames", where="latents", expected=wanted, found=found)

    def forward(
        self,
        latents: Tensor,
        padding_mask: Tensor | None = None,
        past_key_values: DenseState | None = None,
        **given: Unpack[Sounding],
    ) -> SteppedCodecDecoderOutput:
        """What frames sound like.

        Args:
            latents: Shape: [B, D, frames].
            padding_mask: of the samples that the frames are of: what is longer is cut off. Shape: [..., samples].
            past_key_values: of the frames before these.
            given: see :class:`Sounding`.

        Raises:
            InputError: other shapes.
        """
        told = given.get("use_cache")
        kept = self.keeps if told is None else told
        x, ctx = self.read(self.decoder_transformer, self.upsample(latents), past_key_values, given, kept=kept)
        heard = self.decoder_seanet(x)
        if padding_mask is not None:
            heard = heard[..., : padding_mask.shape[-1]]
        return SteppedCodecDecoderOutput(audio_values=heard, decoder_past_key_values=kept_by(ctx), **ctx.taps.noted())


class FrameCodec(Model):
    """Samples to codes, and back; either half may be missing.

    Args:
        encoder: samples to frames.
        decoder: frames to samples.
        quantizer: frames to codes and back.
    """

    main_input = "input_values"

    encoder: FrameEncoder | None
    quantizer: SplitResiduals
    decoder: FrameDecoder | None

    @property
    def hearing(self) -> FrameEncoder:
        """The encoder.

        Raises:
            MissingPartError: there is none.
        """
        if self.encoder is None:
            raise MissingPartError("this codec has no encoder: its config says encoder_config null")
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.hearing

    def arrive(self, inputs: dict[str, object]) -> None:
        self._stages(inputs.get("num_quantizers"))
        codes = inputs.get("audio_codes")
        if codes is not None:
            self._check_codes(codes)

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        audio_codes: Tensor | None = None,
        encoder_past_key_values: DenseState | None = None,
        decoder_past_key_values: DenseState | None = None,
    ) -> SteppedCodecOutput:
        """What a sound is as codes, and what these sound like.

        Args:
            input_values: samples at the model's rate. Shape: [B, channels, samples].
            padding_mask: what comes out is as long as this, or as the sound. Shape: [..., samples].
            num_quantizers: how many codes there are to be of each frame; all by default.
            audio_codes: of an earlier call; the sound is then not encoded again. Shape: [B, codebooks, frames].
            encoder_past_key_values: state to go on from.
            decoder_past_key_values: likewise.

        Raises:
            InputError: other shapes, more codes than there are codebooks.
            MissingPartError: a half that is needed is missing.
        """
        if audio_codes is None:
            made = self.encode(input_values, padding_mask, num_quantizers, encoder_past_key_values)
            assert isinstance(made, SteppedCodecEncoderOutput) and made.audio_codes is not None
            audio_codes, encoder_past_key_values = made.audio_codes, made.encoder_past_key_values
        mask = input_values if padding_mask is None else padding_mask
        heard = self.decode(audio_codes, mask, decoder_past_key_values)
        assert isinstance(heard, SteppedCodecDecoderOutput)
        return SteppedCodecOutput(
            audio_codes=audio_codes,
            audio_values=heard.audio_values,
            encoder_past_key_values=encoder_past_key_values,
            decoder_past_key_values=heard.decoder_past_key_values,
        )

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        num_quantizers: int | None = None,
        encoder_past_key_values: DenseState | None = None,
        padding_cache: Heard | None = None,
        use_streaming: bool | None = None,
        return_dict: bool | None = None,
        **asked: Unpack[Tapped],
    ) -> SteppedCodecEncoderOutput | Plain:
        """A sound, or a piece of one, as codes; see :meth:`forward` and :class:`FrameEncoder` for the inputs.

        Returns:
            ``audio_codes``: Shape: [B, codebooks, frames].
        """
        stages = self._stages(num_quantizers)
        listening: Listening = {"padding_cache": padding_cache, "use_streaming": use_streaming, **asked}
        made = self.hearing(input_values, past_key_values=encoder_past_key_values, **listening)
        assert isinstance(made, LatentsOutput) and made.latents is not None
        rows, _, frames = made.latents.shape
        none = torch.zeros(stages, rows, 0, dtype=torch.long, device=made.latents.device)
        codes = self.quantizer.encode(made.latents, stages) if frames else none  # the piece may be shorter than that
        out = SteppedCodecEncoderOutput(
            audio_codes=codes.transpose(0, 1),
            encoder_past_key_values=made.past_key_values,
            padding_cache=made.padding_cache,
            hidden_states=made.hidden_states,
            attentions=made.attentions,
        )
        return _given(out, return_dict)

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        decoder_past_key_values: DenseState | None = None,
        return_dict: bool | None = None,
        **asked: Unpack[Sounding],
    ) -> SteppedCodecDecoderOutput | Plain:
        """What codes sound like; see :meth:`encode` for what they are, and :class:`FrameDecoder` for the rest."""
        if self.decoder is None:
            raise MissingPartError("this codec has no decoder: its config says decoder_config null")
        self._check_codes(audio_codes)
        latents = self.quantizer.decode(audio_codes.transpose(0, 1))
        out = self.decoder(latents, padding_mask, decoder_past_key_values, **asked)
        assert isinstance(out, SteppedCodecDecoderOutput)
        return _given(out, return_dict)

    def get_encoded_length(self, input_length: Tensor | int) -> Tensor:
        """How many frames there are of so many samples; see :meth:`FrameEncoder.get_encoded_length`."""
        return self.hearing.get_encoded_length(input_length)

    def get_audio_codes_mask(self, padding_mask: Tensor, padding_side: str = "right") -> Tensor:
        """Which frames are of sound; see :meth:`FrameEncoder.get_audio_codes_mask`."""
        return self.hearing.get_audio_codes_mask(padding_mask, padding_side)

    def _stages(self, asked: object) -> int:
        fewest, most = self.quantizer.fewest, self.quantizer.most
        stages = most if asked is None else asked
        if not isinstance(stages, (int, float)) or not fewest <= stages <= most:
            raise InputError(
                "the codec has no such number of codes",
                where="num_quantizers",
                expected=f"{fewest} (the semantic ones) to {most}",
                found=brief(asked),
            )
        return int(stages)

    def _check_codes(self, codes: object) -> None:
        fewest, most = self.quantizer.fewest, self.quantizer.most
        fits = isinstance(codes, Tensor) and codes.dim() == 3 and fewest <= codes.shape[1] <= most and codes.numel() > 0
        if not fits:
            raise InputError(
                "these are no codes of this codec",
                where="audio_codes",
                expected=f"shape [batch, {fewest} to {most}, frames]",
                found=f"shape {list(codes.shape)}" if isinstance(codes, Tensor) else brief(codes),
            )


def _given(out: Out, return_dict: bool | None) -> Out | Plain:
    """An output as the call wants it."""
    return out.to_tuple() if return_dict is False else out
