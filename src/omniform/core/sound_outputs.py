"""What models of sound return beyond what models of all kinds do."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from omniform.core.heard import Heard
from omniform.core.outputs import BaseModelOutput, Layers, ModelOutput, StackOutput
from omniform.core.state import DenseState


@dataclass(slots=True)
class WaveOutput(BaseModelOutput):
    """Hidden states of frames.

    Attributes:
        extract_features: the frames before the layers, normed. Shape: [B, T, C].
    """

    extract_features: Tensor | None = None


@dataclass(slots=True)
class XVectorOutput(StackOutput):
    """Voices.

    Attributes:
        loss: mean of the additive margin softmax, when labels were given.
        logits: Shape: [B, D], the vectors that the loss reads.
        embeddings: Shape: [B, D], what stands for a voice.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    embeddings: Tensor | None = None


@dataclass(slots=True)
class WavePreTrainingOutput(StackOutput):
    """Frames, and the code vectors that they are to be told by.

    Attributes:
        loss: contrastive and diversity loss together, when negatives were given.
        projected_states: Shape: [B, T, D].
        projected_quantized_states: Shape: [B, T, D].
        codevector_perplexity: how many code vectors are in use. Scalar.
        contrastive_loss: summed over hidden frames.
        diversity_loss: likewise.
    """

    loss: Tensor | None = None
    projected_states: Tensor | None = None
    projected_quantized_states: Tensor | None = None
    codevector_perplexity: Tensor | None = None
    _: KW_ONLY
    contrastive_loss: Tensor | None = None
    diversity_loss: Tensor | None = None


@dataclass(slots=True)
class CodecOutput(ModelOutput):
    """A sound as codes, and as they sound.

    Attributes:
        audio_codes: entries of codebooks; see the codec's ``encode`` for the shape.
        audio_values: Shape: [B, channels, samples].
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


@dataclass(slots=True)
class CodecEncoderOutput(ModelOutput):
    """A sound as codes.

    Attributes:
        audio_codes: entries of codebooks. Shape: [chunks, B, codebooks, frames].
        audio_scales: how loud each chunk is, Shape: [B, 1] each; None where the codec does not normalise.
        last_frame_pad_length: frames of the last chunk that are no sound.
    """

    audio_codes: Tensor | None = None
    audio_scales: list[Tensor | None] | None = None
    last_frame_pad_length: int | None = None


@dataclass(slots=True)
class CodecDecoderOutput(ModelOutput):
    """Codes as they sound.

    Attributes:
        audio_values: Shape: [B, channels, samples].
    """

    audio_values: Tensor | None = None


@dataclass(slots=True)
class SteppedCodecOutput(CodecOutput):
    """The same of a codec that goes on from where it was.

    Attributes:
        encoder_past_key_values: what its encoder keeps of what it has heard.
        decoder_past_key_values: and its decoder.
    """

    encoder_past_key_values: DenseState | None = None
    decoder_past_key_values: DenseState | None = None


@dataclass(slots=True)
class SteppedCodecEncoderOutput(ModelOutput):
    """A sound, or a piece of one, as codes.

    Attributes:
        audio_codes: entries of codebooks. Shape: [B, codebooks, frames].
        encoder_past_key_values: what the layers keep of what was heard.
        padding_cache: and the convolutions.
        hidden_states: what each layer reads, and the last one's output. Shape: [B, T, D] each.
        attentions: each layer's weights. Shape: [B, H, T, S] each.
    """

    audio_codes: Tensor | None = None
    encoder_past_key_values: DenseState | None = None
    padding_cache: Heard | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class LatentsOutput(ModelOutput):
    """A sound, or a piece of one, as frames.

    Attributes:
        latents: Shape: [B, D, frames].
        past_key_values: what the layers keep of what was heard.
        padding_cache: and the convolutions.
        hidden_states: what each layer reads, and the last one's output. Shape: [B, T, D] each.
        attentions: each layer's weights. Shape: [B, H, T, S] each.
    """

    latents: Tensor | None = None
    past_key_values: DenseState | None = None
    padding_cache: Heard | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class SteppedCodecDecoderOutput(ModelOutput):
    """Frames as they sound.

    Attributes:
        audio_values: Shape: [B, channels, samples].
        decoder_past_key_values: what the layers keep.
        hidden_states: what each layer reads, and the last one's output. Shape: [B, T, D] each.
        attentions: each layer's weights. Shape: [B, H, T, S] each.
    """

    audio_values: Tensor | None = None
    decoder_past_key_values: DenseState | None = None
    hidden_states: Layers | None = None
    attentions: Layers | None = None


@dataclass(slots=True)
class SpeakerPreTrainingOutput(StackOutput):
    """What UniSpeech-SAT tells in pre-training.

    Attributes:
        loss: never computed.
        logits: the frames before the layers. Shape: [B, T, C].
        projected_states: hidden states. Shape: [B, T, D].
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    projected_states: Tensor | None = None


@dataclass(slots=True)
class NothingToPlay(ModelOutput):
    """What a composer is told where no text says what to play.

    Attributes:
        encoder_outputs: zeros instead of a text's hidden states. Shape: [B, 1, D].
        attention_mask: all zeros. Shape: [B, 1].
        guidance_scale: 1: there is nothing to be guided by.
    """

    encoder_outputs: tuple[Tensor, ...] | None = None
    attention_mask: Tensor | None = None
    guidance_scale: float | None = None
