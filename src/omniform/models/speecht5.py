"""SpeechT5 (https://arxiv.org/abs/2110.07205): one encoder-decoder between text and speech, either way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from omniform.architectures.decoder import TextDecoder, tied
from omniform.architectures.encoder_decoder import EncoderDecoder, RightShift, Seq2SeqLM
from omniform.architectures.family import Builder
from omniform.architectures.frames import FrameDecoder, FrameSeq2Seq, SpokenReader, VectorEncoder
from omniform.architectures.parts import Side
from omniform.architectures.speaking import Speaker, TextSpeaker, VoiceChanger
from omniform.architectures.spectrogram_loss import GuidedAttention
from omniform.architectures.wave_family import Stem
from omniform.architectures.waves import PlainWaveEncoder, WaveLayers
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.augment import SpecAugment, read_spec_augment
from omniform.blocks.embeddings import ScaledEmbedding
from omniform.blocks.fused import FusedMLP
from omniform.blocks.layers import CrossPostNorm, PostNorm
from omniform.blocks.sinusoids import CountedSinusoids, WeighedSines, sines_then_cosines
from omniform.blocks.speech_frames import FramePostnet, FramePrenet, KeyDistances, SpokenText
from omniform.blocks.waves import ConvPositions, EvenLinear, FeatureProjection, SpecMask
from omniform.blocks.weight_norm import NormedConv1d
from omniform.core.config import Common
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Full
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Speech:
    """What stands around the layers that write speech."""

    bands: int
    each: int
    voice: int
    prenet_layers: int
    prenet_units: int
    prenet_dropout: float
    postnet_layers: int
    postnet_units: int
    postnet_kernel: int
    postnet_dropout: float
    places: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a SpeechT5 computes."""

    vocab_size: int
    dim: int
    encoder: Side
    decoder: Side
    act: str
    eps: float
    dropout: float
    placed_dropout: float
    attention_dropout: float
    activation_dropout: float
    scaled: bool
    reach: int
    text_places: int
    stem: Stem
    projection_dropout: float
    kernel: int
    groups: int
    augment: SpecAugment | None
    hides: bool
    speech: Speech
    guided: GuidedAttention | None
    tie: bool
    shift: RightShift
    pad: int

    def norm(self) -> nn.LayerNorm:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def mlp(self, side: Side) -> FusedMLP:
        """One feed-forward."""
        return FusedMLP(self.dim, side.hidden, self.act, dropout=self.activation_dropout)

    def encoder_layers(self) -> nn.ModuleList:
        """The encoder's layers, which share what they know of distances."""
        heads = self.encoder.heads
        told = KeyDistances(self.reach, self.dim // heads, (self.dim // heads) ** -0.5)
        biases = [told, *[told.twin() for _ in range(self.encoder.layers - 1)]]
        return nn.ModuleList(
            PostNorm.of(
                self.norm,
                self_attn=Attention(self.dim, heads, rule=Full(), bias=bias, dropout=self.attention_dropout),
                mlp=self.mlp(self.encoder),
                dropout=self.dropout,
            )
            for bias in biases
        )

    def decoder_layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        dim, heads, dropout = self.dim, self.decoder.heads, self.attention_dropout
        return nn.ModuleList(
            CrossPostNorm.of(
                self.norm,
                self_attn=Attention(dim, heads, rule=Causal(), dropout=dropout),
                encoder_attn=CrossAttention(dim, heads, dropout=dropout),
                mlp=self.mlp(self.decoder),
                dropout=self.dropout,
            )
            for _ in range(self.decoder.layers)
        )


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    dim = r.integer("hidden_size", 768)
    r.special_tokens(bos_token_id=0, eos_token_id=2)
    pad, groups = r.token("pad_token_id", 1), r.integer("num_conv_pos_embedding_groups", 16)
    if pad is None:
        raise r.fail("pad_token_id", "a token: positions are counted from it", None)
    if dim < 4 or dim % groups:
        raise r.fail("hidden_size", f"4 or more, a multiple of num_conv_pos_embedding_groups ({groups})", dim)
    augment = read_spec_augment(r, True)
    return Config(
        vocab_size=r.integer("vocab_size", 81),
        dim=dim,
        encoder=Side.read(r, "encoder", dim, layers=12, heads=12, hidden=3072, layerdrop=0.1, least=1),
        decoder=Side.read(r, "decoder", dim, layers=6, heads=12, hidden=3072, layerdrop=0.1),
        act=r.text("hidden_act", "gelu"),
        eps=r.number("layer_norm_eps", 1e-5),
        dropout=r.probability("hidden_dropout", 0.1),
        placed_dropout=r.probability("positional_dropout", 0.1),
        attention_dropout=r.probability("attention_dropout", 0.1),
        activation_dropout=r.probability("activation_dropout", 0.1),
        scaled=r.flag("scale_embedding", False),
        reach=r.integer("encoder_max_relative_position", 160),
        text_places=r.integer("max_text_positions", 450),
        stem=Stem.read(r),
        projection_dropout=r.probability("feat_proj_dropout", 0.0),
        kernel=r.integer("num_conv_pos_embeddings", 128),
        groups=groups,
        augment=augment,
        hides=r.probability("mask_time_prob", 0.05) > 0 or r.probability("mask_feature_prob", 0.0) > 0,
        speech=read_speech(r),
        guided=read_guided(r),
        tie=r.flag("tie_word_embeddings", True),
        shift=RightShift(r.token("decoder_start_token_id", 2), pad),
        pad=pad,
    )


def read_speech(r: ConfigReader) -> Speech:
    kernel, dropout = (
        r.integer("speech_decoder_postnet_kernel", 5),
        r.probability("speech_decoder_prenet_dropout", 0.5),
    )
    if kernel % 2 == 0:
        raise r.fail("speech_decoder_postnet_kernel", "an odd number: as many frames after as before", kernel)
    if dropout == 1:
        raise r.fail("speech_decoder_prenet_dropout", "below 1: what is left is divided by the rest", dropout)
    return Speech(
        bands=r.integer("num_mel_bins", 80),
        each=r.integer("reduction_factor", 2),
        voice=r.integer("speaker_embedding_dim", 512),
        prenet_layers=r.layers("speech_decoder_prenet_layers", 2),
        prenet_units=r.integer("speech_decoder_prenet_units", 256),
        prenet_dropout=dropout,
        postnet_layers=r.layers("speech_decoder_postnet_layers", 5),
        postnet_units=r.integer("speech_decoder_postnet_units", 256),
        postnet_kernel=kernel,
        postnet_dropout=r.probability("speech_decoder_postnet_dropout", 0.5),
        places=r.integer("max_speech_positions", 4000),
    )


def read_guided(r: ConfigReader) -> GuidedAttention | None:
    guided = GuidedAttention(
        heads=r.integer("guided_attention_loss_num_heads", 2, least=-1),
        sigma=r.number("guided_attention_loss_sigma", 0.4),
        scale=r.number("guided_attention_loss_scale", 10.0),
    )
    return guided if r.flag("use_guided_attention_loss", True) else None


class PlacedWaveLayers(WaveLayers):
    """Layers whose frames are also told apart by sines; padding is read as it comes."""

    padding: int
    dim: int

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        placed = x_BTD + self.pos_conv_embed(x_BTD)
        # Padding is marked by a one, and told from sound by whether that is the padding token's number.
        marks = x_BTD.new_zeros(x_BTD.shape[:2]) if ctx.padding is None else ~ctx.padding
        real = (marks.long() != self.padding).long()
        places = real.cumsum(1) * real
        sines = sines_then_cosines(places + self.padding, self.dim) * (places > 0)[..., None]
        return self.encode(placed + sines.to(x_BTD.dtype), ctx)


def hearing(c: Config) -> PlainWaveEncoder:
    """The encoder of waves."""
    conv = NormedConv1d(c.dim, c.dim, c.kernel, padding=c.kernel // 2, groups=c.groups, along=2)
    frame = c.stem.channels[-1]
    return PlainWaveEncoder(
        feature_extractor=c.stem.build(),
        feature_projection=FeatureProjection(
            layer_norm=nn.LayerNorm(frame, c.eps), projection=EvenLinear(frame, c.dim), dropout=c.projection_dropout
        ),
        masking=SpecMask(c.dim, c.augment) if c.hides else None,
        encoder=PlacedWaveLayers(
            pos_conv_embed=ConvPositions(conv=conv, act=c.stem.act),
            layer_norm=c.norm(),
            layers=c.encoder_layers(),
            dropout=c.dropout,
            layerdrop=c.encoder.layerdrop,
            padding=c.pad,
            dim=c.dim,
        ),
    )


def reading(c: Config) -> SpokenReader:
    """The encoder of text."""
    embeddings = SpokenText(
        sines=WeighedSines(c.dim),
        norm=c.norm(),
        places=c.text_places,
        placed_dropout=c.placed_dropout,
        dropout=c.dropout,
    )
    return SpokenReader(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim, padding_idx=c.pad),
        embeddings=embeddings,
        layers=c.encoder_layers(),
        max_positions=c.text_places,
        layerdrop=c.encoder.layerdrop,
    )


def writing(c: Config) -> TextDecoder:
    """The decoder of text."""
    table = ScaledEmbedding(c.vocab_size, c.dim, c.dim**0.5) if c.scaled else nn.Embedding(c.vocab_size, c.dim)
    return TextDecoder(
        embed_tokens=table,
        embeddings=CountedSinusoids(dim=c.dim, padding=c.pad, dropout=c.placed_dropout),
        layers=c.decoder_layers(),
        layerdrop=c.decoder.layerdrop,
    )


def speaking(c: Config) -> FrameDecoder:
    """The decoder of speech."""
    s = c.speech
    widths = [s.bands, *[s.prenet_units] * s.prenet_layers]
    prenet = FramePrenet(
        layers=nn.ModuleList([nn.Linear(widths[i], widths[i + 1]) for i in range(s.prenet_layers)]),
        final_layer=nn.Linear(s.prenet_units, c.dim),
        encode_positions=WeighedSines(c.dim),
        speaker_embeds_layer=nn.Linear(s.voice + c.dim, c.dim),
        keep=s.prenet_dropout,
        dropout=c.placed_dropout,
        places=s.places,
    )
    return FrameDecoder(reads=s.bands, prenet=prenet, layers=c.decoder_layers(), layerdrop=c.decoder.layerdrop)


def build(c: Config) -> FrameSeq2Seq:
    """The layers alone, which read and write vectors."""
    encoder = VectorEncoder(
        dim=c.dim, norm=c.norm(), layers=c.encoder_layers(), dropout=c.dropout, layerdrop=c.encoder.layerdrop
    )
    decoder = FrameDecoder(reads=c.dim, prenet=None, layers=c.decoder_layers(), layerdrop=c.decoder.layerdrop)
    return FrameSeq2Seq(encoder=encoder, decoder=decoder)


def speech_to_text(c: Config, _: Common) -> Seq2SeqLM:
    """The model that writes what was said."""
    decoder = writing(c)
    head = tied(nn.Linear(c.dim, c.vocab_size, bias=False), decoder.embed_tokens, c.tie)
    return Seq2SeqLM(model=EncoderDecoder(encoder=hearing(c), decoder=decoder), lm_head=head, shift=c.shift)


S = TypeVar("S", bound=Speaker)


def _speaker(kind: type[S], c: Config, model: FrameSeq2Seq) -> S:
    s = c.speech
    postnet = FramePostnet.of(
        c.dim,
        s.bands,
        s.each,
        layers=s.postnet_layers,
        units=s.postnet_units,
        kernel=s.postnet_kernel,
        dropout=s.postnet_dropout,
    )
    return kind(model=model, postnet=postnet, each=s.each, pad=c.pad, guided=c.guided)


def text_to_speech(c: Config, _: Common) -> TextSpeaker:
    """The model that says what is written."""
    return _speaker(TextSpeaker, c, FrameSeq2Seq(encoder=reading(c), decoder=speaking(c)))


def speech_to_speech(c: Config, _: Common) -> VoiceChanger:
    """The model that says it in another voice."""
    return _speaker(VoiceChanger, c, FrameSeq2Seq(encoder=hearing(c), decoder=speaking(c)))


def _layers(ours: str, theirs: str, attention: str, norm: str) -> dict[str, str]:
    layer, there = f"{ours}.layers.{{i}}", f"{theirs}.layers.{{i}}"
    return {
        f"{ours}.layers": f"{theirs}.layers",
        f"{layer}.self_attn": f"{there}.{attention}",
        f"{layer}.self_attn.o_proj": f"{there}.{attention}.out_proj",
        f"{layer}.encoder_attn.o_proj": f"{there}.encoder_attn.out_proj",
        f"{layer}.self_attn_layer_norm": f"{there}.{norm}",
        f"{layer}.mlp.fc1": f"{there}.feed_forward.intermediate_dense",
        f"{layer}.mlp.fc2": f"{there}.feed_forward.output_dense",
        f"{ours}.layers.{{i}}.self_attn.bias": f"{theirs}.embed_positions.pe_k",
    }


WRAPPED = "encoder.wrapped_encoder"
KEYS = KeyMap(
    {
        **_layers("encoder", WRAPPED, "attention", "layer_norm"),
        **_layers("encoder.encoder", WRAPPED, "attention", "layer_norm"),
        **_layers("decoder", "decoder.wrapped_decoder", "self_attn", "self_attn_layer_norm"),
        "encoder.norm": f"{WRAPPED}.layer_norm",
        "encoder.embed_tokens": "encoder.prenet.embed_tokens",
        "encoder.embeddings.sines": "encoder.prenet.encode_positions",
        "encoder.embeddings.norm": f"{WRAPPED}.layer_norm",
        "encoder.feature_extractor": "encoder.prenet.feature_encoder",
        "encoder.feature_projection": "encoder.prenet.feature_projection",
        "encoder.masking.embed": "encoder.prenet.masked_spec_embed",
        "encoder.encoder.pos_conv_embed": "encoder.prenet.pos_conv_embed",
        "encoder.encoder.layer_norm": f"{WRAPPED}.layer_norm",
        "decoder.embed_tokens": "decoder.prenet.embed_tokens",
    }
)
POSTNET = {"postnet": "speech_decoder_postnet"}

FAMILY = (
    Builder("speecht5", read, KEYS, prefix="speecht5")
    .public(
        config="SpeechT5Config",
        tokenizer="SpeechT5Tokenizer",
        feature_extractor="SpeechT5FeatureExtractor",
        processor="SpeechT5Processor",
        row="text to speech, speech to text, voice conversion",
        usual={"is_encoder_decoder": True, "initializer_range": 0.02},
    )
    .base("SpeechT5Model", build)
    .head("SpeechT5ForSpeechToText", "speech-seq2seq", speech_to_text, {"lm_head": "text_decoder_postnet.lm_head"})
    .head("SpeechT5ForTextToSpeech", "text-to-spectrogram", text_to_speech, POSTNET)
    .head("SpeechT5ForSpeechToSpeech", (), speech_to_speech, POSTNET)
    .done()
)
