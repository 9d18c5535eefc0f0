"""Qwen2-Audio (https://arxiv.org/abs/2407.10759): Whisper's encoder, pooled, before a Qwen2."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_sounds import EAR_KEYS, WHISPER_NAMES, EarConfig
from omniform.architectures.pooled_sounds import PooledEar, PooledSoundLanguage, PooledSoundLM
from omniform.blocks.composed import Composed
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.models.voxtral import WRITER_LAYOUT, sound_keys
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Qwen2-Audio computes.

    Attributes:
        audio: the encoder.
        text: the decoder.
        audio_token_id: the placeholder in the text.
    """

    audio: Part
    text: Part
    audio_token_id: int


def read_ear(r: ConfigReader) -> EarConfig:
    """Read the encoder's config; every key is used, declared inert or refused."""
    return EarConfig.read(r, WHISPER_NAMES)


def build_ear(c: EarConfig) -> PooledEar:
    """The encoder alone."""
    return c.build(PooledEar, layerdrop=c.sides.encoder.layerdrop)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # The head has a matrix of its own. What the published files say besides follows from the decoder's config.
    r.inert("tie_word_embeddings", "vocab_size", "hidden_size")
    r.only("ignore_index", -100, why="answers are marked so everywhere")
    return Config(
        audio=Part.of(r, "audio_config", {"model_type": "qwen2_audio_encoder"}),
        text=Part.of(r, "text_config", {"model_type": "qwen2"}),
        audio_token_id=r.integer("audio_token_index", 151646, also=("audio_token_id",), least=0),
    )


class Projector(Composed):
    """The encoder's vectors to the decoder's width.

    Args:
        linear: one matrix.
    """

    linear: nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., E] to [..., D]."""
        out: Tensor = self.linear(x)
        return out


def build(c: Config) -> PooledSoundLanguage:
    """Encoder, projector and decoder without a head."""
    tower, decoder = c.audio.build_as(PooledEar), c.text.build_as(TextDecoder)
    pad = c.text.config.get("pad_token_id")
    return PooledSoundLanguage(
        audio_tower=tower,
        multi_modal_projector=Projector(linear=nn.Linear(tower.dim, decoder.width)),
        language_model=decoder,
        audio_token_id=c.audio_token_id,
        pad_token_id=pad if isinstance(pad, int) and pad >= 0 else 0,
    )


def writer(c: Config, _: Common) -> PooledSoundLM:
    """The model that writes."""
    model = build(c)
    table = model.language_model.embed_tokens
    return PooledSoundLM(model=model, lm_head=nn.Linear(table.embedding_dim, table.num_embeddings, bias=False))


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return sound_keys(c.audio, c.text)


AUDIO = (
    Builder("qwen2_audio_encoder", read_ear, EAR_KEYS, prefix="")
    .public(config="Qwen2AudioEncoderConfig", usual={"scale_embedding": False})
    .base("Qwen2AudioEncoder", build_ear)
    .done()
)
FAMILY = (
    Builder("qwen2_audio", read, keys, prefix="")
    .public(
        config="Qwen2AudioConfig",
        tokenizer="Qwen2Tokenizer",
        feature_extractor="WhisperFeatureExtractor",
        processor="Qwen2AudioProcessor",
        row="sounds and text to text",
    )
    .begins(parted_beginning)
    .base("Qwen2AudioModel", build)
    .architecture(
        "Qwen2AudioForConditionalGeneration",
        ("multimodal-lm", "seq2seq-lm"),
        writer,
        lambda c: keys(c).under("model", "") | WRITER_LAYOUT,
    )
    .done()
)
