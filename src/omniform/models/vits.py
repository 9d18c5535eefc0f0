"""VITS (https://arxiv.org/abs/2106.06103), and MMS-TTS, which is VITS in a thousand languages: text to a wave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.spoken import (
    ConvolvedFeedForward,
    DrawnDurations,
    LetterEncoder,
    LetterLayer,
    PlainDurations,
    Posterior,
    Spoken,
)
from omniform.blocks.convolutions import SoundConv1d, SoundConvTranspose1d
from omniform.blocks.flows import LEAST, Coupling, CouplingFlow, WaveNet
from omniform.blocks.hifigan import HifiGan, Upsampling
from omniform.blocks.mlp import activation
from omniform.blocks.windowed_relative import DistanceAttention
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """The text's encoder."""

    vocab_size: int
    pad: int | None
    dim: int
    layers: int
    heads: int
    window: int
    bias: bool
    hidden: int
    kernel: int
    activation: str
    eps: float
    dropout: float
    attention_dropout: float
    activation_dropout: float
    layerdrop: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lasting:
    """How durations are predicted."""

    drawn: bool
    kernel: int
    dropout: float
    flows: int
    bins: int
    bound: float
    channels: int
    layers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a VITS computes."""

    letters: Letters
    lasting: Lasting
    upsampling: Upsampling
    flow: int
    flows: int
    wavenet_layers: int
    posterior_layers: int
    wavenet_kernel: int
    wavenet_rate: int
    wavenet_dropout: float
    bins: int
    speakers: int
    voice: int
    speaking_rate: float
    noise: float
    noise_duration: float


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    # The wave's rate is told to whoever plays it.
    r.inert(sampling_rate=16000)
    r.inert("initializer_range")
    flow = r.integer("flow_size", 192)
    if flow % 2:
        raise r.fail("flow_size", "an even number", flow)
    rate = r.number("speaking_rate", 1.0)
    if rate <= 0:
        raise r.fail("speaking_rate", "a number above 0", rate)
    return Config(
        letters=read_letters(r),
        lasting=read_lasting(r),
        upsampling=Upsampling.read(r, rates=(8, 8, 2, 2), kernels=(16, 16, 4, 4)),
        flow=flow,
        flows=r.layers("prior_encoder_num_flows", 4),
        wavenet_layers=r.layers("prior_encoder_num_wavenet_layers", 4),
        posterior_layers=r.layers("posterior_encoder_num_wavenet_layers", 16),
        wavenet_kernel=_odd(r, "wavenet_kernel_size", 5),
        wavenet_rate=r.integer("wavenet_dilation_rate", 1),
        wavenet_dropout=r.probability("wavenet_dropout", 0.0),
        bins=r.integer("spectrogram_bins", 513),
        speakers=r.integer("num_speakers", 1),
        voice=r.integer("speaker_embedding_size", 0, least=0),
        speaking_rate=rate,
        noise=r.number("noise_scale", 0.667),
        noise_duration=r.number("noise_scale_duration", 0.8),
    )


def read_letters(r: ConfigReader) -> Letters:
    dim, heads = r.integer("hidden_size", 192), r.integer("num_attention_heads", 2)
    if dim % heads:
        raise r.fail("hidden_size", f"a multiple of num_attention_heads, {heads}", dim)
    return Letters(
        vocab_size=r.integer("vocab_size", 38),
        pad=r.token("pad_token_id", None),
        dim=dim,
        layers=r.layers("num_hidden_layers", 6),
        heads=heads,
        window=r.integer("window_size", 4),
        bias=r.flag("use_bias", True),
        hidden=r.integer("ffn_dim", 768),
        kernel=r.integer("ffn_kernel_size", 3),
        activation=r.text("hidden_act", "relu"),
        eps=r.number("layer_norm_eps", 1e-5),
        dropout=r.probability("hidden_dropout", 0.1),
        attention_dropout=r.probability("attention_dropout", 0.1),
        activation_dropout=r.probability("activation_dropout", 0.1),
        layerdrop=r.probability("layerdrop", 0.1),
    )


def read_lasting(r: ConfigReader) -> Lasting:
    drawn, bins = r.flag("use_stochastic_duration_prediction", True), r.integer("duration_predictor_flow_bins", 10)
    channels = r.integer("depth_separable_channels", 2)
    if drawn and channels != 2:
        raise r.fail("depth_separable_channels", "2: noise of so many channels becomes durations", channels)
    if bins * LEAST > 1:
        raise r.fail("duration_predictor_flow_bins", f"at most {math.floor(1 / LEAST)}", bins)
    return Lasting(
        drawn=drawn,
        kernel=_odd(r, "duration_predictor_kernel_size", 3),
        dropout=r.probability("duration_predictor_dropout", 0.5),
        flows=r.layers("duration_predictor_num_flows", 4),
        bins=bins,
        bound=r.number("duration_predictor_tail_bound", 5.0),
        channels=r.integer("duration_predictor_filter_channels", 256),
        layers=r.layers("depth_separable_num_layers", 3),
    )


def _odd(r: ConfigReader, name: str, default: int) -> int:
    size = r.integer(name, default)
    if size % 2 == 0:
        raise r.fail(name, "an odd number, so that there are as many steps after as before", size)
    return size


def build_letters(c: Letters, flow: int) -> LetterEncoder:
    """The text's encoder."""
    norm = partial(nn.LayerNorm, c.dim, eps=c.eps)
    layers = [
        LetterLayer.of(
            norm,
            self_attn=DistanceAttention(c.dim, c.heads, window=c.window, bias=c.bias, dropout=c.attention_dropout),
            mlp=ConvolvedFeedForward(c.dim, c.hidden, c.kernel, activation(c.activation), c.activation_dropout),
            dropout=c.dropout,
        )
        for _ in range(c.layers)
    ]
    return LetterEncoder(
        embed_tokens=nn.Embedding(c.vocab_size, c.dim, padding_idx=c.pad),
        layers=nn.ModuleList(layers),
        project=SoundConv1d(c.dim, 2 * flow, 1),
        layerdrop=c.layerdrop,
    )


def build(c: Config) -> Spoken:
    """The whole model."""
    dim, lasting = c.letters.dim, c.lasting

    def wavenet(layers: int) -> WaveNet:
        how = {"kernel": c.wavenet_kernel, "rate": c.wavenet_rate, "voice": c.voice}
        return WaveNet(dim, layers, **how, dropout=c.wavenet_dropout)

    durations = (
        DrawnDurations(
            dim,
            kernel=lasting.kernel,
            layers=lasting.layers,
            flows=lasting.flows,
            bins=lasting.bins,
            bound=lasting.bound,
            dropout=lasting.dropout,
            voice=c.voice,
        )
        if lasting.drawn
        else PlainDurations(
            dim, lasting.channels, lasting.kernel, eps=c.letters.eps, dropout=lasting.dropout, voice=c.voice
        )
    )
    return Spoken(
        text_encoder=build_letters(c.letters, c.flow),
        flow=CouplingFlow([Coupling(c.flow, dim, wavenet(c.wavenet_layers)) for _ in range(c.flows)]),
        decoder=HifiGan(c.flow, c.upsampling, bias=False, voice=c.voice, conv=SoundConv1d, wider=SoundConvTranspose1d),
        duration_predictor=durations,
        embed_speaker=nn.Embedding(c.speakers, c.voice) if c.speakers > 1 else None,
        posterior_encoder=Posterior(c.bins, dim, c.flow, wavenet(c.posterior_layers)),
        speaking_rate=c.speaking_rate,
        noise_scale=c.noise,
        noise_scale_duration=c.noise_duration,
        samples=math.prod(c.upsampling.rates),
    )


LAYER = "text_encoder.encoder.layers.{i}"
KEYS = KeyMap(
    {
        "text_encoder.layers.{i}.self_attn": f"{LAYER}.attention",
        "text_encoder.layers.{i}.self_attn.o_proj": f"{LAYER}.attention.out_proj",
        "text_encoder.layers.{i}.self_attn_layer_norm": f"{LAYER}.layer_norm",
        "text_encoder.layers.{i}.mlp": f"{LAYER}.feed_forward",
        "text_encoder.layers.{i}.final_layer_norm": f"{LAYER}.final_layer_norm",
    }
)

FAMILY = (
    Builder("vits", read, KEYS, prefix="vits")
    .public(config="VitsConfig", tokenizer="VitsTokenizer", row="text to speech")
    .base("VitsModel", build, "text-to-waveform")
    .done()
)
