"""Whisper (https://arxiv.org/abs/2212.04356): an encoder of sound, a decoder that writes what was said."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.audio import AudioClassifier, LayerMix, MelEncoder
from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, MemoryCausalLM, RightShift
from omniform.architectures.family import Builder
from omniform.architectures.parts import SIDE_KEYS, Sides
from omniform.architectures.speech import SpeechToText
from omniform.blocks.augment import SpecAugment, read_spec_augment
from omniform.blocks.embeddings import PositionedEmbeddings, PositionTable
from omniform.blocks.layers import CrossPreNorm, PreNorm
from omniform.core.config import Common
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Whisper computes."""

    vocab_size: int
    mel_bins: int
    sides: Sides
    frames: int
    max_positions: int
    augment: SpecAugment | None
    tie: bool
    shift: RightShift
    layer_mix: bool
    classifier_dim: int


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    sides = Sides.read(r, dim=384, layers=4, heads=6, hidden=1536, dropout=0.0)
    if sides.dim % 2:
        raise r.fail("d_model", "an even number", sides.dim)
    r.special_tokens(bos_token_id=50256, eos_token_id=50256)
    # The reference computes a factor from scale_embedding and never uses it. The median filter smooths the timestamps
    # of words, after the model.
    r.inert("scale_embedding", "median_filter_width", "init_std")
    return Config(
        vocab_size=r.integer("vocab_size", 51865),
        mel_bins=r.integer("num_mel_bins", 80),
        sides=sides,
        frames=r.integer("max_source_positions", 1500),
        max_positions=r.integer("max_target_positions", 448),
        augment=read_spec_augment(r, False),
        tie=r.flag("tie_word_embeddings", True),
        shift=RightShift(r.token("decoder_start_token_id", 50257), r.token("pad_token_id", 50256)),
        layer_mix=r.flag("use_weighted_layer_sum", False),
        classifier_dim=r.integer("classifier_proj_size", 256),
    )


def build_encoder(c: Config, augment: SpecAugment | None = None) -> MelEncoder:
    """The encoder alone."""
    sides = c.sides
    return MelEncoder(
        mel_bins=c.mel_bins,
        dim=sides.dim,
        positions=c.frames,
        layers=sides.encoder_layers(PreNorm, biases="qvo"),
        dropout=sides.dropout,
        layerdrop=sides.encoder.layerdrop,
        augment=augment,
    )


def build_decoder(c: Config) -> TextDecoder:
    """The decoder alone."""
    dim = c.sides.dim
    return TextDecoder(
        embed_tokens=nn.Embedding(c.vocab_size, dim),
        embeddings=PositionedEmbeddings(embed_positions=PositionTable(c.max_positions, dim), dropout=c.sides.dropout),
        layers=c.sides.decoder_layers(CrossPreNorm, biases="qvo"),
        norm=c.sides.norm(),
        max_positions=c.max_positions,
        layerdrop=c.sides.decoder.layerdrop,
    )


def build(c: Config) -> EncoderDecoder:
    """Encoder and decoder without a head."""
    return EncoderDecoder(encoder=build_encoder(c, c.augment), decoder=build_decoder(c))


def projection(c: Config, decoder: TextDecoder) -> nn.Linear:
    """Hidden states to scores of tokens."""
    return tied(nn.Linear(c.sides.dim, c.vocab_size, bias=False), decoder.embed_tokens, c.tie)


def speech_to_text(c: Config, _: Common) -> SpeechToText:
    """The model that writes what was said."""
    model = build(c)
    return SpeechToText(model=model, lm_head=projection(c, model.decoder), shift=c.shift)


def causal_lm(c: Config, _: Common) -> MemoryCausalLM:
    """The decoder alone, which drafts for a bigger model that shares its encoder."""
    decoder = build_decoder(c)
    return MemoryCausalLM(model=decoder, lm_head=projection(c, decoder))


def audio_classifier(c: Config, common: Common) -> AudioClassifier:
    """One class per recording."""
    return AudioClassifier(
        model=build_encoder(c),
        projector=nn.Linear(c.sides.dim, c.classifier_dim),
        classifier=nn.Linear(c.classifier_dim, common.num_labels),
        layer_mix=LayerMix(c.sides.encoder.layers + 1) if c.layer_mix else None,
    )


SIDE = KeyMap(SIDE_KEYS)
KEYS = SIDE.under("encoder", "encoder") | SIDE.under("decoder", "decoder")
CAUSAL_KEYS = SIDE.under("model", "model.decoder") | KeyMap({"lm_head": "proj_out"})
CLASSIFIER_KEYS = SIDE.under("model", "encoder") | KeyMap({"layer_mix.weights": "layer_weights"})

FAMILY = (
    Builder("whisper", read, KEYS, prefix="model")
    .public(
        config="WhisperConfig",
        tokenizer="WhisperTokenizer",
        feature_extractor="WhisperFeatureExtractor",
        processor="WhisperProcessor",
        row="speech to text, audio classification",
        usual={"is_encoder_decoder": True, "init_std": 0.02, "median_filter_width": 7, "scale_embedding": False},
    )
    .base("WhisperModel", build)
    .head("WhisperForConditionalGeneration", "speech-seq2seq", speech_to_text, {"lm_head": "proj_out"})
    .architecture("WhisperForCausalLM", ("causal-lm",), causal_lm, CAUSAL_KEYS)
    .architecture("WhisperForAudioClassification", ("audio-classification",), audio_classifier, CLASSIFIER_KEYS)
    .done()
)
