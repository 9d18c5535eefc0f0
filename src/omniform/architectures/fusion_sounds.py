"""Models that hear: an encoder of log-mel spectrograms, a projector, and a decoder that reads what they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar, Unpack, cast

from torch import Tensor, nn

from omniform.architectures.audio import FixedPositions, MelEncoder
from omniform.architectures.decoder import TextDecoder
from omniform.architectures.fusion import NOTHING, Medium, Merged, Multimodal, MultimodalLM
from omniform.architectures.parts import SIDE_KEYS, Side, Sides
from omniform.architectures.stack import Stepped
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.batch import Facts, Modality
from omniform.core.context import Tapped
from omniform.core.outputs import BaseModelOutput, MediaFeatures, Seen
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


class Ear(MelEncoder):
    """Whisper's encoder within another model, whose positions begin as any other weights."""

    POSITIONS = FixedPositions

    @property
    def frames(self) -> int:
        """Frames of a spectrogram's window once they were halved."""
        return self.embed_positions.num_embeddings


E = TypeVar("E", bound=Ear)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How a config calls the sizes of such an encoder: each name, and the other one that is understood."""

    dim: tuple[str, str]
    layers: tuple[str, str]
    heads: tuple[str, str]
    hidden: tuple[str, str]
    layerdrop: tuple[str, str]

    @property
    def swapped(self) -> Names:
        """The other names first."""
        return Names(
            dim=self.dim[::-1],
            layers=self.layers[::-1],
            heads=self.heads[::-1],
            hidden=self.hidden[::-1],
            layerdrop=self.layerdrop[::-1],
        )


WHISPER_NAMES = Names(
    dim=("d_model", "hidden_size"),
    layers=("encoder_layers", "num_hidden_layers"),
    heads=("encoder_attention_heads", "num_attention_heads"),
    hidden=("encoder_ffn_dim", "intermediate_size"),
    layerdrop=("encoder_layerdrop", "layerdrop"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarConfig:
    """What such an encoder computes.

    Attributes:
        mel_bins: frequency bands of the spectrogram.
        frames: of a window, once they were halved.
        sides: the layers.
    """

    mel_bins: int
    frames: int
    sides: Sides

    @classmethod
    def read(cls, r: ConfigReader, names: Names) -> Self:
        """Read a config; the defaults are those of Whisper's large models."""
        dim = r.integer(names.dim[0], 1280, also=names.dim[1:])
        heads = r.integer(names.heads[0], 20, also=names.heads[1:])
        if dim % heads:
            raise r.fail(names.heads[0], f"a divisor of {dim} ({names.dim[0]})", heads)
        side = Side(
            layers=r.layers(names.layers[0], 32, also=names.layers[1:]),
            heads=heads,
            hidden=r.integer(names.hidden[0], 5120, also=names.hidden[1:]),
            layerdrop=r.probability(names.layerdrop[0], also=names.layerdrop[1:]),
        )
        # A factor is computed of scale_embedding, and never used.
        r.inert("scale_embedding", "vocab_size")
        return cls(
            mel_bins=r.integer("num_mel_bins", 128),
            frames=r.integer("max_source_positions", 1500),
            sides=Sides(
                dim=dim,
                encoder=side,
                decoder=side,
                act=r.choice("activation_function", ACTIVATIONS, "gelu"),
                dropout=r.probability("dropout"),
                attention_dropout=r.probability("attention_dropout"),
                activation_dropout=r.probability("activation_dropout"),
            ),
        )

    def build(self, kind: type[E], *, layerdrop: float = 0.0) -> E:
        """The encoder."""
        return kind(
            mel_bins=self.mel_bins,
            dim=self.sides.dim,
            positions=self.frames,
            layers=self.sides.encoder_layers(PreNorm, biases="qvo"),
            dropout=self.sides.dropout,
            layerdrop=layerdrop,
        )


EAR_KEYS = KeyMap({ours: theirs for ours, theirs in SIDE_KEYS.items() if ours == "norm" or ours.startswith("layers.")})
"""Where its weights lie: as Whisper's."""


class Heard(Stepped, total=False):
    """What may come with tokens and sounds.

    Attributes:
        mm_encoder_outputs, media_facts: see :class:`~omniform.architectures.fusion.Among`.
    """

    mm_encoder_outputs: Mapping[Modality, MediaFeatures] | None
    media_facts: Mapping[Modality, Sequence[Facts]] | None


@dataclass(frozen=True, kw_only=True)
class Windows(Medium):
    """Windows of sounds, each as many vectors as every other one; a long sound is several of them.

    Attributes:
        model: whose encoder and projector.
    """

    model: StackedSoundLanguage

    def facts(self, inputs: Mapping[str, Tensor]) -> list[Facts]:
        features = inputs["input_features"]
        self.model.audio_tower.check(features)
        return [(self.model.window_vectors,)] * features.shape[0]

    def lengths(self, facts: Sequence[Facts]) -> list[int]:
        return [length for (length,) in facts]

    def encode(self, inputs: Mapping[str, Tensor], facts: Sequence[Facts] | None) -> Tensor:
        heard = cast(BaseModelOutput, self.model.audio_tower(inputs["input_features"]))
        return self.model.projected(heard.last_hidden_state)


class SoundLanguage(Multimodal):
    """An encoder of sounds, a projector and a decoder; hidden states out. A subclass says how sounds become vectors."""

    audio_tower: Ear
    multi_modal_projector: nn.Module
    language_model: TextDecoder
    audio_token_id: int

    # Sounds come before the mask where inputs are given by position, as in the ecosystem.
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        input_features: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **given: Unpack[Heard],
    ) -> BaseModelOutput:
        """Hidden states of text with sounds in it.

        Args:
            input_ids: Shape: [B, T].
            input_features: the spectrograms of all rows' sounds, in reading order. Shape: [windows, bands, frames].
            attention_mask: Shape: [B, past + T], 1 for real tokens.
            given: see :class:`Heard`.
        """
        return self.read(input_ids, attention_mask, cast(Merged, {**given, "input_features": input_features}))


class StackedSoundLanguage(SoundLanguage):
    """Frames that follow one another are put side by side before they are projected (Voxtral).

    Args:
        audio_tower: encodes windows of sound.
        language_model: the decoder.
        multi_modal_projector: frames side by side to the decoder's width.
        audio_token_id: the placeholder in the text.
        stacked: how many numbers of an encoded window make a vector.
    """

    audio_tower: Ear
    language_model: TextDecoder
    multi_modal_projector: nn.Module
    audio_token_id: int
    stacked: int

    def media(self, options: Mapping[str, object] = NOTHING) -> tuple[Medium, ...]:
        names = ("input_features",)
        return (Windows(modality="audio", token_id=self.audio_token_id, inputs=names, model=self),)

    @property
    def window_vectors(self) -> int:
        """How many vectors a window becomes."""
        return self.audio_tower.frames * self.audio_tower.dim // self.stacked

    def projected(self, hidden: Tensor) -> Tensor:
        """Encoded windows to vectors of the decoder's width. Shape: [windows, T, E] to [vectors, D]."""
        vectors: Tensor = self.multi_modal_projector(hidden.reshape(-1, self.stacked))
        return vectors

    def get_audio_features(self, input_features: Tensor, **asked: Unpack[Tapped]) -> MediaFeatures:
        """The encoder's output, and all windows' vectors as the decoder reads them, in ``pooler_output``.

        Args:
            input_features: Shape: [windows, bands, frames].
            asked: see :class:`~omniform.core.context.Tapped`.
        """
        out = cast(BaseModelOutput, self.audio_tower(input_features, **asked))
        vectors = self.projected(out.last_hidden_state)
        return MediaFeatures(last_hidden_state=out.last_hidden_state, pooler_output=vectors, **out.noted())


class StackedSoundLM(MultimodalLM):
    """A model that hears, and writes."""

    model: StackedSoundLanguage

    def repeated(self, out: BaseModelOutput) -> Seen:
        return {
            **super().repeated(out),
            "audio_hidden_states": None,
        }  # who wants the vectors of sounds, asks for get_audio_features

    def get_audio_features(self, input_features: Tensor, **asked: Unpack[Tapped]) -> MediaFeatures:
        """See :meth:`StackedSoundLanguage.get_audio_features`."""
        return self.model.get_audio_features(input_features, **asked)
