"""MusicGen (https://arxiv.org/abs/2306.05284): music by a text, as the codes of a codec."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.codec import Codec
from omniform.architectures.codes import CodeLM, CodeStack
from omniform.architectures.composer import Composer
from omniform.architectures.family import Architecture, Builder
from omniform.architectures.parts import SIDE_KEYS, read_width
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.layers import CrossPreNorm
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.core.config import Common
from omniform.core.errors import ConfigError
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """What writes codes.

    Attributes:
        codes: entries of a codebook.
        books: how many there are.
        looks_wide: ``cross_attention_hidden_size``, with which a text's hidden states are not projected.
    """

    codes: int
    books: int
    channels: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    dropout: float
    attention_dropout: float
    activation_dropout: float
    layerdrop: float
    pad: int | None
    start: int | None
    looks_wide: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What text, codec and writer compute together."""

    text: Part
    codec: Part
    decoder: Part
    writer: Writer

    @property
    def reading(self) -> Architecture:
        """How the text is read.

        Raises:
            ConfigError: its family has no such encoder.
        """
        found = [a for a in self.text.family.architectures.values() if "text-encoding" in a.tasks]
        if not found:
            told = repr(self.text.config.model_type)
            raise ConfigError("this family reads no texts alone", where=self.text.where, found=told)
        return found[0]


def read_writer(r: ConfigReader) -> Writer:
    """Read a decoder's config; every key is used, declared inert or refused."""
    r.inert("tie_word_embeddings", "is_decoder", "add_cross_attention")
    # Positions are sines of any length, and vectors are never scaled, whatever is said of it.
    r.inert(max_position_embeddings=2048, scale_embedding=False, initializer_factor=0.02)
    r.special_tokens(pad_token_id=2048, bos_token_id=2048, eos_token_id=None)
    dim, heads = read_width(r, "hidden_size", 1024, "num_attention_heads", 16)
    books, channels = r.integer("num_codebooks", 4), r.integer("audio_channels", 1)
    if channels not in (1, 2):
        raise r.fail("audio_channels", "1 or 2", channels)
    if books % channels:
        raise r.fail("num_codebooks", f"a multiple of audio_channels, {channels}", books)
    bos = r.token("bos_token_id", 2048)
    return Writer(
        codes=r.integer("vocab_size", 2048),
        books=books,
        channels=channels,
        dim=dim,
        hidden=r.integer("ffn_dim", 4096),
        layers=r.layers("num_hidden_layers", 24),
        heads=heads,
        act=r.choice("activation_function", ACTIVATIONS, "gelu"),
        dropout=r.probability("dropout", 0.1),
        attention_dropout=r.probability("attention_dropout", 0.0),
        activation_dropout=r.probability("activation_dropout", 0.0),
        layerdrop=r.probability("layerdrop", 0.0),
        pad=r.token("pad_token_id", 2048),
        start=r.token("decoder_start_token_id", bos),
        looks_wide=r.maybe_integer("cross_attention_hidden_size"),
    )


def read(r: ConfigReader) -> Config:
    """Read the config of all three."""
    r.inert(initializer_factor=0.02)
    text = Part.of(r, "text_encoder", {"model_type": "t5"})
    codec = Part.of(r, "audio_encoder", {"model_type": "encodec"})
    decoder = Part.of(r, "decoder", {"model_type": "musicgen_decoder"})
    r.values["sampling_rate"] = codec.config.get("sampling_rate")
    writer = decoder.spec(Writer)
    width = text.config.get("hidden_size")
    if writer.looks_wide is not None and writer.looks_wide != width:
        raise r.fail("decoder: cross_attention_hidden_size", f"{width}, the text's hidden_size", writer.looks_wide)
    return Config(text=text, codec=codec, decoder=decoder, writer=writer)


def build_stack(c: Writer) -> CodeStack:
    """The decoder without heads."""

    def layer() -> CrossPreNorm:
        return CrossPreNorm.of(
            lambda: nn.LayerNorm(c.dim),
            self_attn=Attention(c.dim, c.heads, rule=Causal(), biases="", dropout=c.attention_dropout),
            encoder_attn=CrossAttention(c.dim, c.heads, biases="", dropout=c.attention_dropout),
            mlp=MLP(c.dim, c.hidden, c.act, bias=False, dropout=c.activation_dropout),
            dropout=c.dropout,
        )

    return CodeStack(
        embed_tokens=nn.ModuleList(nn.Embedding(c.codes + 1, c.dim) for _ in range(c.books)),
        layers=nn.ModuleList(layer() for _ in range(c.layers)),
        norm=nn.LayerNorm(c.dim),
        dim=c.dim,
        dropout=c.dropout,
        layerdrop=c.layerdrop,
    )


def build_writer(c: Writer, common: Common) -> CodeLM:
    """The decoder with its heads."""
    return CodeLM(
        model=build_stack(c),
        lm_heads=nn.ModuleList(nn.Linear(c.dim, c.codes, bias=False) for _ in range(c.books)),
        channels=c.channels,
        pad=c.pad,
        start=c.start,
    )


def build(c: Config) -> Composer:
    """All three."""
    writer = c.decoder.model(DECODER.architectures["MusicgenForCausalLM"])
    assert isinstance(writer, CodeLM)
    width = c.text.config.get("hidden_size")
    if not isinstance(width, int):
        raise ConfigError("this text encoder does not say its width", where=c.text.where)
    bridge = nn.Linear(width, c.writer.dim) if width != c.writer.dim and c.writer.looks_wide is None else None
    return Composer(
        text_encoder=c.text.model(c.reading),
        audio_encoder=c.codec.build_as(Codec),
        codes=writer,
        enc_to_dec_proj=bridge,
    )


def keys(c: Config) -> KeyMap:
    """Each model's own map, at its place."""
    text = c.reading.keys(c.text.config.spec).under("text_encoder", "text_encoder")
    codec = c.codec.keys.under("audio_encoder", "audio_encoder")
    return text | codec | DECODER.architectures["MusicgenForCausalLM"].keys(c.writer).under("codes", "decoder")


DECODER = (
    Builder("musicgen_decoder", read_writer, KeyMap(SIDE_KEYS).under("", "decoder"), prefix="model")
    .public(config="MusicgenDecoderConfig", padding="learned")
    .base("MusicgenModel", build_stack)
    .head("MusicgenForCausalLM", "causal-lm", build_writer)
    .done()
)
FAMILY = (
    Builder("musicgen", read, keys, prefix="encoder_decoder")
    .public(
        config="MusicgenConfig",
        tokenizer="T5Tokenizer",
        feature_extractor="EncodecFeatureExtractor",
        processor="MusicgenProcessor",
        row="text to music",
        padding="learned",
        usual={"is_encoder_decoder": True},
    )
    .base("MusicgenForConditionalGeneration", build, "text-to-waveform")
    .done()
)
