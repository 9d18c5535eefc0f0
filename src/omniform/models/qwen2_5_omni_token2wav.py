"""Qwen2.5-Omni's token2wav (https://arxiv.org/abs/2503.20215): codes to a spectrogram by a flow, then to samples."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.family import Builder
from omniform.architectures.flow_sound import (
    AdaptedNorm,
    Blocks,
    FilteredVocoder,
    FirstHeadRotary,
    FlowEmbedding,
    FlowLayer,
    FlowMLP,
    FlowSound,
    Moments,
    SpectrogramFlow,
)
from omniform.blocks.attention import Attention
from omniform.blocks.bigvgan import BigVgan
from omniform.blocks.ecapa import Ecapa, EcapaSpec, check_sizes
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.core.reader import ConfigReader
from omniform.models.registry import Part
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What leads noise to a spectrogram.

    Attributes:
        growth: by how much feed-forwards are wider.
        said: width of a code's vector; ``codes``: how many there are; ``repeats``: frames of one.
        beside: width of what else is known of a voice.
        block: frames of a block; ``ahead`` and ``back``: layers that look into the next one, and the one before.
    """

    dim: int
    layers: int
    heads: int
    head_dim: int
    growth: int
    said: int
    codes: int
    repeats: int
    beside: int
    frequencies: Frequencies
    longest: int
    block: int
    ahead: tuple[int, ...]
    back: tuple[int, ...]
    dropout: float
    voice: EcapaSpec


def read_flow(r: ConfigReader) -> Flow:
    """Read a flow's config; every key is used, declared inert or refused."""
    head_dim, longest = r.integer("head_dim", 64), r.integer("max_position_embeddings", 32768)
    channels = r.integers("enc_channels", (256, 256, 256, 256, 768), least=1)
    kernels, dilations = (
        r.integers("enc_kernel_sizes", (5, 3, 3, 3, 1), least=1),
        r.integers("enc_dilations", (1, 2, 3, 4, 1), least=1),
    )
    parts = r.integer("enc_res2net_scale", 2)
    wanted = check_sizes(channels, kernels, dilations, parts)
    if wanted is not None:
        raise r.fail("enc_channels", wanted, list(channels))
    r.inert("depth", "dim", "heads", "enc_global_context", "enc_lin_neurons", "enc_attention_heads")  # published files
    return Flow(
        dim=r.integer("hidden_size", 1024),
        layers=r.layers("num_hidden_layers", 22),
        heads=r.integer("num_attention_heads", 16),
        head_dim=head_dim,
        growth=r.integer("ff_mult", 2),
        said=r.integer("emb_dim", 512),
        codes=r.integer("num_embeds", 8193),
        repeats=r.integer("repeats", 2),
        beside=r.integer("enc_emb_dim", 192),
        frequencies=read_frequencies(r, head_dim=head_dim, max_positions=longest),
        longest=longest,
        block=r.integer("block_size", 24),
        ahead=r.integers("look_ahead_layers", (10,)),
        back=r.integers("look_backward_layers", (0, 20)),
        dropout=r.probability("dropout", 0.1),
        voice=EcapaSpec(
            bands=r.integer("mel_dim", 80),
            channels=channels,
            kernels=kernels,
            dilations=dilations,
            attended=r.integer("enc_attention_channels", 64),
            parts=parts,
            excited=r.integer("enc_se_channels", 64),
            out=r.integer("enc_dim", 128),
        ),
    )


def build_flow(c: Flow) -> SpectrogramFlow:
    """What leads noise to a spectrogram."""
    bands = c.voice.bands

    def layer(i: int) -> FlowLayer:
        rule = Blocks(c.block, int(i in c.back), int(i in c.ahead))
        rotary = FirstHeadRotary(c.frequencies)
        return FlowLayer(
            attn_norm=AdaptedNorm(c.dim, 6),
            attn=Attention(c.dim, c.heads, head_dim=c.head_dim, rule=rule, positions=rotary),
            ff=FlowMLP(c.dim, c.dim * c.growth, c.dropout),
            dropout=c.dropout,
        )

    return SpectrogramFlow(
        time_embed=Moments(c.dim),
        codec_embed=nn.Embedding(c.codes + 1, c.said),
        input_embed=FlowEmbedding(
            proj=nn.Linear(bands + c.voice.out + c.beside + c.said, c.dim), spk_encoder=Ecapa(c.voice)
        ),
        layers=nn.ModuleList(layer(i) for i in range(c.layers)),
        norm_out=AdaptedNorm(c.dim, 2),
        proj_out=nn.Linear(c.dim, bands),
        repeats=c.repeats,
        longest=c.longest,
        bands=bands,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocoder:
    """What makes samples of a spectrogram."""

    bands: int
    channels: int
    rates: tuple[int, ...]
    kernels: tuple[int, ...]
    block_kernels: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]


def read_vocoder(r: ConfigReader) -> Vocoder:
    """Read a vocoder's config; every key is used, declared inert or refused."""
    rates = r.integers("upsample_rates", (5, 3, 2, 2, 2, 2), least=1)
    kernels = r.integers("upsample_kernel_sizes", (11, 7, 4, 4, 4, 4), least=1)
    channels = r.integer("upsample_initial_channel", 1536)
    if len(kernels) != len(rates):
        raise r.fail("upsample_kernel_sizes", f"{len(rates)} kernels, one a stage", len(kernels))
    if channels >> len(rates) == 0:
        raise r.fail("upsample_initial_channel", f"at least {2 ** len(rates)}, halved a stage", channels)
    r.inert("use_bias_at_final")  # in published files; there is none
    return Vocoder(
        bands=r.integer("mel_dim", 80),
        channels=channels,
        rates=rates,
        kernels=kernels,
        block_kernels=r.integers("resblock_kernel_sizes", (3, 7, 11), least=1),
        dilations=r.integer_lists("resblock_dilation_sizes", ((1, 3, 5),) * 3, least=1),
    )


def build_vocoder(c: Vocoder) -> FilteredVocoder:
    """What makes samples of a spectrogram."""
    return FilteredVocoder(net=BigVgan(c.bands, c.channels, c.rates, c.kernels, c.block_kernels, c.dilations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What makes a sound of codes."""

    flow: Part
    vocoder: Part


def read(r: ConfigReader) -> Config:
    """Read the config of both."""
    flow = Part.of(r, "dit_config", {"model_type": "qwen2_5_omni_dit"})
    return Config(flow=flow, vocoder=Part.of(r, "bigvgan_config", {"model_type": "qwen2_5_omni_bigvgan"}))


def build(c: Config) -> FlowSound:
    """Both."""
    return FlowSound(
        code2wav_dit_model=c.flow.build_as(SpectrogramFlow), code2wav_bigvgan_model=c.vocoder.build_as(FilteredVocoder)
    )


LAYER, THEIRS = "layers.{i}", "transformer_blocks.{i}"
FLOW_KEYS = KeyMap(
    {
        LAYER: THEIRS,
        **{f"{LAYER}.attn.{name}_proj": f"{THEIRS}.attn.to_{name}" for name in "qkv"},
        f"{LAYER}.attn.o_proj": f"{THEIRS}.attn.to_out.0",
        f"{LAYER}.ff.fc1": f"{THEIRS}.ff.ff.0",
        f"{LAYER}.ff.fc2": f"{THEIRS}.ff.ff.3",
        "time_embed.fc1": "time_embed.time_mlp.0",
        "time_embed.fc2": "time_embed.time_mlp.2",
        "codec_embed": "text_embed.codec_embed",
    }
)
VOCODER_KEYS = KeyMap({"net": ""})
KEYS = FLOW_KEYS.under("code2wav_dit_model", "code2wav_dit_model") | VOCODER_KEYS.under(
    "code2wav_bigvgan_model", "code2wav_bigvgan_model"
)

NAME = "Qwen2_5Omni"
FLOW = (
    Builder("qwen2_5_omni_dit", read_flow, FLOW_KEYS, prefix="code2wav_dit_model")
    .public(config=f"{NAME}DiTConfig")
    .base(f"{NAME}Token2WavDiTModel", build_flow)
    .done()
)
VOCODER = (
    Builder("qwen2_5_omni_bigvgan", read_vocoder, VOCODER_KEYS, prefix="code2wav_bigvgan_model")
    .public(config=f"{NAME}BigVGANConfig")
    .base(f"{NAME}Token2WavBigVGANModel", build_vocoder)
    .done()
)
FAMILY = (
    Builder("qwen2_5_omni_token2wav", read, KEYS, prefix="token2wav")
    .public(config=f"{NAME}Token2WavConfig")
    .base(f"{NAME}Token2WavModel", build)
    .done()
)
