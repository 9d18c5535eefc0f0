"""Voxtral (https://arxiv.org/abs/2507.13264): Whisper's encoder, four frames a vector, and a decoder of Mistral's."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.family import Builder
from omniform.architectures.fusion import parted_beginning
from omniform.architectures.fusion_sounds import (
    EAR_KEYS,
    WHISPER_NAMES,
    Ear,
    EarConfig,
    StackedSoundLanguage,
    StackedSoundLM,
)
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.models.llava import Projector
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

# What a config's decoder is where it does not say.
TEXT = {
    "model_type": "llama",
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05,
    "use_cache": True,
    "rope_theta": 100000000.0,
    "head_dim": 128,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Voxtral computes.

    Attributes:
        audio: the encoder.
        text: the decoder.
        audio_token_id: the placeholder in the text.
        act: between the projector's two matrices.
    """

    audio: Part
    text: Part
    audio_token_id: int
    act: str


def read_ear(r: ConfigReader) -> EarConfig:
    """Read the encoder's config; layers are never left out."""
    return EarConfig.read(r, WHISPER_NAMES.swapped)


def build_ear(c: EarConfig) -> Ear:
    """The encoder alone."""
    return c.build(Ear)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # The head has a matrix of its own, and the width is the decoder's.
    r.inert("tie_word_embeddings", "hidden_size")
    audio = Part.of(r, "audio_config", {"model_type": "voxtral_encoder"})
    ear = audio.spec(EarConfig)
    numbers = ear.frames * ear.sides.dim
    if numbers % ear.sides.encoder.hidden:
        where = "audio_config.intermediate_size"
        raise r.fail(where, f"a divisor of {numbers} (max_source_positions * hidden_size)", ear.sides.encoder.hidden)
    placeholder = r.maybe_integer("audio_token_id", least=0)
    text = Part(r.within({**TEXT, **r.sub("text_config", {}).raw}, "text_config"), "llama")
    r.values["text_config"] = text.config
    r.values["hidden_size"] = text.config.get("hidden_size")
    return Config(
        audio=audio,
        text=text,
        audio_token_id=24 if placeholder is None else placeholder,
        act=r.choice("projector_hidden_act", ACTIVATIONS, "gelu"),
    )


def build(c: Config) -> StackedSoundLanguage:
    """Encoder, projector and decoder without a head."""
    stacked, decoder = c.audio.spec(EarConfig).sides.encoder.hidden, c.text.build_as(TextDecoder)
    return StackedSoundLanguage(
        audio_tower=c.audio.build_as(Ear),
        language_model=decoder,
        multi_modal_projector=Projector(stacked, decoder.width, c.act, bias=False),
        audio_token_id=c.audio_token_id,
        stacked=stacked,
    )


def writer(c: Config, _: Common) -> StackedSoundLM:
    """The model that writes."""
    model = build(c)
    table = model.language_model.embed_tokens
    return StackedSoundLM(model=model, lm_head=nn.Linear(table.embedding_dim, table.num_embeddings, bias=False))


PARTS = "audio_tower|multi_modal_projector"

# How releases of today call things in memory, and some files too.
SPELLINGS = (
    (r"^lm_head\.", "language_model.lm_head."),
    (rf"^model\.(?={PARTS}|language_model)", ""),
    (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
    (r"^language_model\.model\.model\.", "language_model.model."),
)


def sound_keys(audio: Part, text: Part) -> KeyMap:
    """Each part's own map, at its place."""
    found = audio.keys.under("audio_tower", "audio_tower") | text.keys.under("language_model", "language_model.model")
    return found | KeyMap({}, aliases=SPELLINGS)


# The head's place, and what the ecosystem's modules are called today: files of adapters are spelled by them.
WRITER_LAYOUT = KeyMap(
    {"lm_head": "language_model.lm_head"},
    modules=(
        (r"^language_model\.model(?=\.|$)", "language_model"),
        (rf"^(?={PARTS}|language_model(?!\.lm_head))", "model."),
        (r"^language_model\.lm_head", "lm_head"),
    ),
)


def keys(c: Config) -> KeyMap:
    """Each part's own map, at its place."""
    return sound_keys(c.audio, c.text)


AUDIO = (
    Builder("voxtral_encoder", read_ear, EAR_KEYS, prefix="")
    .public(config="VoxtralEncoderConfig", usual={"scale_embedding": False, "vocab_size": 51866})
    .base("VoxtralEncoder", build_ear)
    .done()
)
FAMILY = (
    Builder("voxtral", read, keys, prefix="")
    .public(
        config="VoxtralConfig",
        tokenizer="TokenizersBackend",
        feature_extractor="WhisperFeatureExtractor",
        processor="VoxtralProcessor",
        row="sounds and text to text, speech to text",
    )
    .begins(parted_beginning)
    .base("VoxtralModel", build)
    .architecture(
        "VoxtralForConditionalGeneration",
        ("multimodal-lm", "seq2seq-lm", "speech-seq2seq"),
        writer,
        lambda c: keys(c).under("model", "") | WRITER_LAYOUT,
    )
    .done()
)
