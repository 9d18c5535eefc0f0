"""Speech encoder-decoders (https://arxiv.org/abs/2104.06678): any encoder of sounds, any decoder that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from omniform.architectures.decoder import TextDecoder, WritingHead
from omniform.architectures.encoder_decoder import RightShift
from omniform.architectures.family import Architecture, Builder
from omniform.architectures.paired import PairedWriter, as_decoder
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap

W = TypeVar("W", bound=PairedWriter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What both models compute together."""

    encoder: Part
    decoder: Part
    shift: RightShift

    @property
    def writing(self) -> Architecture:
        """The decoder's architecture.

        Raises:
            ConfigError: its family has none that writes.
        """
        found = [a for a in self.decoder.family.architectures.values() if "causal-lm" in a.tasks]
        if not found:
            raise ConfigError(
                "this family does not write", where=self.decoder.where, found=repr(self.decoder.config.model_type)
            )
        return found[0]


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    return read_pair(r, "wav2vec2")


def read_pair(r: ConfigReader, usual: str) -> Config:
    """Read the config of a pair.

    Args:
        usual: the encoder's family where the config names none.
    """
    r.inert("tie_word_embeddings")  # of both together: the decoder's own config says whether its head is its table
    encoder = Part.of(r, "encoder", {"model_type": usual})
    decoder = Part.of(r, "decoder", {"model_type": "bert", "is_decoder": True, "add_cross_attention": True})
    return Config(
        encoder=encoder,
        decoder=decoder,
        shift=RightShift(r.token("decoder_start_token_id"), r.token("pad_token_id")),
    )


def build(c: Config) -> PairedWriter:
    """Both models, and what brings one's hidden states to the other's width."""
    return compose(c, PairedWriter)


def compose(c: Config, kind: type[W]) -> W:
    """The same as a kind of pair."""
    encoder, writer = c.encoder.model(), c.decoder.model(c.writing)
    stack = writer.decoder if isinstance(writer, WritingHead) and writer.can_generate() else None
    if not isinstance(writer, WritingHead) or not isinstance(stack, TextDecoder) or not stack.reads_memory:
        raise ConfigError(
            "this decoder reads no encoder",
            where=f"{c.decoder.where}: add_cross_attention",
            expected="a decoder with cross-attention",
            found=repr(c.decoder.config.model_type),
            remedy="is_decoder and add_cross_attention must be true in its config.",
        )
    inside, width = c.encoder.config.get("hidden_size"), stack.width
    given = c.encoder.config.get("output_hidden_size", inside)
    if not isinstance(inside, int):
        raise ConfigError("this encoder does not say its width", where=c.encoder.where, found=type(encoder).__name__)
    told = _says_width(c, inside, stack.memory_width)
    bridge = nn.Linear(inside, width) if given != width and not told else None
    if bridge is not None and given != inside and c.encoder.config.get("add_adapter"):
        raise ConfigError(
            "what the encoder gives is neither as wide as its layers nor as the decoder",
            where=f"{c.encoder.where}: output_hidden_size",
            expected=f"{inside} (hidden_size), or {width}, the decoder's width",
            found=given,
        )
    return kind(encoder=encoder, writer=writer, enc_to_dec_proj=bridge, shift=c.shift)


def _says_width(c: Config, inside: int, width: int) -> bool:
    """Whether the decoder's config says how wide what it looks at is; ``width``: what it can look at."""
    said = c.decoder.config.raw.get("cross_attention_hidden_size")
    if said is not None and not said == inside == width:
        raise ConfigError(
            "what the decoder looks at is not as wide as what the encoder gives",
            where=f"{c.decoder.where}: cross_attention_hidden_size",
            expected=inside,
            found=said,
        )
    return said is not None


def keys(c: Config) -> KeyMap:
    """Each model's own map, at its place."""
    written = c.writing.keys(c.decoder.config.spec).under("writer", "decoder")
    return c.encoder.keys.under("encoder", "encoder") | written


FAMILY = (
    Builder("speech-encoder-decoder", read, keys, prefix="")
    .public(
        config="SpeechEncoderDecoderConfig",
        row="speech to text, of any encoder and any decoder",
        usual={"is_encoder_decoder": True},
    )
    .base("SpeechEncoderDecoderModel", build, "speech-seq2seq")
    .done()
)


def from_encoder_decoder_configs(
    cls: type[ModelConfig], /, encoder_config: ModelConfig, decoder_config: ModelConfig, **kwargs: object
) -> ModelConfig:
    """The config of two models together, the second as one that writes and looks at the first.

    Args:
        kwargs: other keys of the config.
    """
    return cls(encoder=encoder_config, decoder=as_decoder(decoder_config), **kwargs)


type.__setattr__(FAMILY.config_class, from_encoder_decoder_configs.__name__, classmethod(from_encoder_decoder_configs))
