"""Encoder-decoders that write speech: frames of a spectrogram, several a step, until they say that they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Unpack, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import state_for
from omniform.architectures.encoder_decoder import EncoderOutputs, MemoryEncoder, ReadingEncoder, encoder_output
from omniform.architectures.labels import Targets
from omniform.architectures.losses import counts
from omniform.architectures.model import Model, arrive_masked
from omniform.architectures.spectrogram_loss import GuidedAttention, spectrogram_counts, spectrogram_loss
from omniform.blocks.layers import run, surviving
from omniform.blocks.speech_frames import FramePostnet, FramePrenet
from omniform.core.context import Memory, StepContext, Tapped
from omniform.core.errors import InputError, check_shape
from omniform.core.layouts import layout_of
from omniform.core.outputs import BaseModelOutput, Seq2SeqModelOutput, Seq2SeqOutput
from omniform.core.state import DenseState

LEFT_OUT = -100.0
"""What stands in a spectrogram that is learned from, where there is nothing."""


@dataclass(slots=True)
class Seq2SeqSpectrogramOutput(Seq2SeqOutput):
    """Speech, and what was noted of encoder and decoder.

    Attributes:
        loss: when labels were given to a model that learns from them.
        spectrogram: Shape: [B, T, bands].
    """

    loss: Tensor | None = None
    spectrogram: Tensor | None = None


class VectorEncoder(MemoryEncoder):
    """An encoder of vectors that somebody else made of sound or text.

    Args:
        dim: width of the vectors.
        norm: applied once, before the layers.
        layers: called as ``layer(hidden, ctx)``.
        dropout: behind the norm, in training.
        layerdrop: probability of leaving out a layer in training.
    """

    main_input = "input_values"

    dim: int
    norm: nn.Module
    layers: nn.ModuleList
    dropout: float
    layerdrop: float

    def memory(self, hidden: Tensor, attention_mask: Tensor | None) -> Memory:
        return Memory(hidden, None if attention_mask is None else attention_mask.bool())

    def arrive(self, inputs: dict[str, object]) -> None:
        vectors = check_frames(inputs.get("input_values"), self.dim, "input_values")
        arrive_masked(inputs, rows=vectors.shape[0], new=vectors.shape[1])

    def forward(
        self, input_values: Tensor, attention_mask: Tensor | None = None, **given: Unpack[Tapped]
    ) -> BaseModelOutput:
        """Hidden states of vectors.

        Args:
            input_values: Shape: [B, T, D].
            attention_mask: Shape: [B, T], 1 for real ones.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        ctx = self.step(input_values, given, attention_mask=attention_mask)
        x = F.dropout(self.norm(input_values), self.dropout, self.training)
        hidden = run(surviving(self.layers, self.layerdrop), x, ctx)
        return BaseModelOutput(last_hidden_state=hidden, **ctx.taps.noted())


class SpokenReader(ReadingEncoder):
    """An encoder of text that is to be spoken. Distances are told for whole rows, so padding is not left out."""

    UNPADS: ClassVar[bool] = False


class FrameDecoder(Model):
    """Reads frames of speech, or vectors, and an encoder's output.

    Args:
        reads: width of what it reads.
        prenet: frames to vectors; None where vectors are given.
        layers: called as ``layer(hidden, ctx)``.
        layerdrop: probability of leaving out a layer in training.
    """

    main_input = "decoder_input_values"

    reads: int
    prenet: FramePrenet | None
    layers: nn.ModuleList
    layerdrop: float

    def get_input_embeddings(self) -> nn.Module:
        return self if self.prenet is None else self.prenet.final_layer

    def vectors(self, frames_BTM: Tensor, voice_BV: Tensor | None, length: int | None = None) -> Tensor:
        """What the layers read. Shape: [B, T, bands] to [B, T, D]; see :class:`FramePrenet`."""
        made = frames_BTM if self.prenet is None else self.prenet(frames_BTM, voice_BV, length)
        return cast(Tensor, made)

    def decode(self, embeds_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Vectors to hidden states; the state moves on. Shape: [B, T, D] in and out."""
        hidden = run(surviving(self.layers, self.layerdrop), embeds_BTD, ctx)
        if ctx.state is not None:
            ctx.state.advance(embeds_BTD.shape[1])
        return hidden

    def state(self, past: DenseState | None, use_cache: bool | None) -> DenseState | None:
        """What a call reads and writes."""
        return state_for(self, past, use_cache, reads_memory=True)


class FrameSeq2Seq(Model):
    """An encoder, and a decoder of frames that reads its output, without a head.

    Args:
        encoder: reads text or sound.
        decoder: reads its output, and the frames before.
    """

    encoder: MemoryEncoder
    decoder: FrameDecoder

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.encoder.main_input

    def keeper(self) -> FrameDecoder:
        return self.decoder

    def accepts(self) -> frozenset[str]:
        return super().accepts() | self.encoder.accepts() - {"first_only", "row_lengths"}

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.get_input_embeddings()

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions that read waves out of training."""
        stem = self.encoder._modules.get("feature_extractor")
        if stem is not None:
            stem.requires_grad_(False)

    def arrive(self, inputs: dict[str, object]) -> None:
        frames = check_frames(inputs.get("decoder_input_values"), self.decoder.reads, "decoder_input_values")
        rows, new = frames.shape[:2]
        check_rows(inputs.get(self.main_input, inputs.get("features")), frames, "decoder_input_values")
        past, kept = inputs.get("past_key_values"), 0
        if isinstance(past, DenseState):
            past.admit(layout_of(self.decoder), rows, new)
            kept = past.length
        mask = {"attention_mask": inputs.get("decoder_attention_mask")}
        arrive_masked(mask, rows=rows, new=new, past=kept)
        inputs["decoder_attention_mask"] = mask["attention_mask"]
        prenet = self.decoder.prenet
        if prenet is not None:
            if new > prenet.places:
                raise InputError(
                    "the speech is longer than the model's positions",
                    where="decoder_input_values",
                    expected=f"at most {prenet.places} frames",
                    found=f"{new} frames",
                )
            check_voice(inputs.get("speaker_embeddings"), prenet, rows)

    def forward(
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_values: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        past_key_values: DenseState | None = None,
        use_cache: bool | None = None,
        speaker_embeddings: Tensor | None = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **inputs: object,
    ) -> Seq2SeqModelOutput:
        """The decoder's hidden states, and the encoder's.

        Args:
            features: the encoder's main input, by position; by keyword it goes by the encoder's name for it.
            attention_mask: of the encoder's inputs, 1 for real ones.
            decoder_input_values: frames. Shape: [B, T, bands].
            decoder_attention_mask: Shape: [B, past + T], 1 for real frames.
            encoder_outputs: of an earlier call, instead of the encoder's inputs.
            past_key_values: state of an earlier call to continue from; it is extended in place.
            use_cache: whether to return state; by default in evaluation mode only.
            speaker_embeddings: the voice. Shape: [B or 1, V].
            inputs: the encoder's other inputs.

        Raises:
            InputError: inputs that do not fit.
        """
        if features is not None:
            inputs[self.main_input] = features
        asked: Tapped = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        if encoder_outputs is not None:
            encoded = encoder_output(encoder_outputs)
        else:
            encoded = cast(BaseModelOutput, self.encoder(attention_mask=attention_mask, **asked, **inputs))
        assert decoder_input_values is not None, "calls are checked when they arrive"
        embeds = self.decoder.vectors(decoder_input_values, speaker_embeddings)
        state = self.decoder.state(past_key_values, use_cache)
        memory = self.encoder.memory_of(encoded, attention_mask)
        ctx = self.decoder.step(embeds, asked, attention_mask=decoder_attention_mask, state=state)
        ctx = ctx.with_(memory=memory)
        hidden = self.decoder.decode(embeds, ctx)
        return Seq2SeqModelOutput(
            last_hidden_state=hidden,
            past_key_values=state,
            decoder_hidden_states=ctx.taps.hidden_or_none,
            decoder_attentions=ctx.taps.attentions_or_none,
            cross_attentions=ctx.taps.cross_or_none,
            encoder_last_hidden_state=encoded.last_hidden_state,
            encoder_hidden_states=encoded.hidden_states,
            encoder_attentions=encoded.attentions,
        )


@dataclass(frozen=True, slots=True)
class Spectrograms(Targets):
    """Frames of speech.

    Attributes:
        bands: numbers of a frame.
        each: how many frames a step writes, where they are compared with the labels.
    """

    bands: int
    each: int

    def check(self, name: str, labels: Tensor, inputs: Mapping[str, object]) -> None:
        frames = check_frames(labels, self.bands, name)
        for source in ("input_ids", "input_values", "features"):
            check_rows(inputs.get(source), frames, name)
        if inputs.get("decoder_input_values") is None and frames.shape[1] % self.each:
            raise InputError(
                "frames are written several at a time",
                where=name,
                expected=f"a multiple of {self.each} frames (reduction_factor)",
                found=f"{frames.shape[1]} frames",
                remedy=f"Cut off the last {frames.shape[1] % self.each}, or pad with {LEFT_OUT}.",
            )


class FrameWriter(Model):
    """A model that speaks, of text or in another voice.

    Args:
        model: the encoder-decoder.
        postnet: hidden states to frames.
        each: how many frames a step writes.
        pad: the token that is no text.
        guided: what makes cross-attention look at one place after another; None for nothing.

    Attributes:
        LEARNS: whether labels give a loss.
    """

    LEARNS: ClassVar[bool] = True

    model: FrameSeq2Seq
    postnet: FramePostnet
    each: int
    pad: int
    guided: GuidedAttention | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.main_input = self.model.main_input

    def keeper(self) -> FrameDecoder:
        return self.model.decoder

    def freeze_feature_encoder(self) -> None:
        """Keep the convolutions that read waves out of training."""
        self.model.freeze_feature_encoder()

    def targets(self) -> Mapping[str, Targets]:
        return {"labels": Spectrograms(self.postnet.bands, self.each if self.LEARNS else 1)}

    def loss_items(self, inputs: Mapping[str, object]) -> Tensor | int | None:
        labels, text, mask = (inputs.get(name) for name in ("labels", "input_ids", "attention_mask"))
        if not self.LEARNS or not isinstance(labels, Tensor):
            return None
        tensors = (x if isinstance(x, Tensor) else None for x in (mask, text))
        return torch.stack(self._scored(labels, *tensors))

    def _steps(self, labels_BTM: Tensor) -> Tensor:
        """True for the steps that write something. Shape: [B, steps]."""
        return (labels_BTM != LEFT_OUT)[:, self.each - 1 :: self.each, 0]

    def _scored(self, labels_BTM: Tensor, read_BS: Tensor | None, text_BS: Tensor | None) -> list[Tensor]:
        """What the parts of the loss are means over: numbers, frames, and pairs of a step and a token."""
        found = [*spectrogram_counts(labels_BTM)]
        read = read_BS if read_BS is not None or text_BS is None else torch.ones_like(text_BS)
        if self.guided is not None and read is not None:
            found.append(self.guided.count(read, self._steps(labels_BTM)))
        return found

    def forward(
        self,
        features: Tensor | None = None,
        /,
        attention_mask: Tensor | None = None,
        decoder_input_values: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        stop_labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_attentions: bool | None = None,
        **inputs: object,
    ) -> Seq2SeqSpectrogramOutput:
        """Frames; see :meth:`FrameSeq2Seq.forward` for the inputs.

        Args:
            labels: the speech that is to be written, ``-100`` where there is none; the decoder's inputs are made of it.
                Shape: [B, T, bands].
            stop_labels: not read: where speech ends, the labels tell.
            num_items_in_batch: what the loss's sums are divided by, if not this batch's own; see :meth:`loss_items`.
        """
        guided = self.guided if self.LEARNS and labels is not None else None
        if labels is not None and decoder_input_values is None:
            decoder_input_values, decoder_attention_mask = self.shifted(labels, decoder_attention_mask)
        out = cast(
            Seq2SeqModelOutput,
            self.model(
                features,
                attention_mask=attention_mask,
                decoder_input_values=decoder_input_values,
                decoder_attention_mask=decoder_attention_mask,
                output_attentions=True if guided is not None else output_attentions,
                **inputs,
            ),
        )
        before, after, ends = self.postnet(out.last_hidden_state)
        loss = None
        if self.LEARNS and labels is not None:
            told = None if guided is None else inputs.get("input_ids", features)
            own = self._scored(labels, attention_mask, told if isinstance(told, Tensor) else None)
            numbers, frames, *places = counts(num_items_in_batch, *own)
            loss = spectrogram_loss(before, after, ends, labels, numbers, frames)
            if guided is not None:
                assert out.cross_attentions is not None
                divisor = places[0] if places else None
                loss = loss + guided(out.cross_attentions, attention_mask, self._steps(labels), divisor)
        return Seq2SeqSpectrogramOutput(
            loss=loss, spectrogram=after, past_key_values=out.past_key_values, **out.noted()
        )

    def shifted(self, labels_BTM: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the decoder reads to write given speech: silence, then the last frame of each step but the last."""
        frames = labels_BTM[:, self.each - 1 :: self.each]
        mask = None if mask_BT is None else mask_BT[:, self.each - 1 :: self.each]
        frames = F.pad(frames[:, :-1], (0, 0, 1, 0))
        return frames.masked_fill(frames == LEFT_OUT, 0.0), mask


def check_frames(frames: object, width: int, where: str) -> Tensor:
    """The frames, if they are numbers of such a width; raises :class:`InputError` otherwise."""
    if not isinstance(frames, Tensor) or frames.dim() != 3 or frames.shape[2] != width or not frames.numel():
        raise InputError(
            "these are no frames that the model reads",
            where=where,
            expected=f"numbers of shape [batch, frames, {width}]",
            found=f"shape {list(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__,
        )
    return frames


def check_rows(source: object, frames: Tensor, where: str) -> None:
    """Raise :class:`InputError` unless there are frames for each row of what is read."""
    if isinstance(source, Tensor) and source.dim() and source.shape[0] != frames.shape[0]:
        raise InputError("not as many rows as are read", where=where, expected=source.shape[0], found=frames.shape[0])


def check_voice(voice: object, prenet: FramePrenet, rows: int) -> None:
    """Raise :class:`InputError` unless there is one voice for all rows, or one for each, or none."""
    if voice is None:
        return
    if not isinstance(voice, Tensor):
        raise InputError("a voice is a tensor", where="speaker_embeddings", found=type(voice).__name__)
    wanted = (voice.shape[0] if voice.dim() == 2 and voice.shape[0] == 1 else rows, prenet.voice)
    check_shape("the voice does not fit", voice.shape, wanted, where="speaker_embeddings")
