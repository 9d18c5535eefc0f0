"""Mimi (https://arxiv.org/abs/2410.00037): speech as few codes a second, the first of which tell what is said."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import nn

from omniform.architectures.codec_family import read_net, read_size
from omniform.architectures.family import Builder
from omniform.architectures.frame_codec import FrameCodec, FrameDecoder, FrameEncoder, FrameLayers
from omniform.architectures.parts import Heads
from omniform.blocks.attention import Attention
from omniform.blocks.codebooks import ProjectedResiduals, Residuals, SplitResiduals, SummedCodebook
from omniform.blocks.convolutions import SoundConv1d, SoundConvTranspose1d
from omniform.blocks.drop_path import DropPath, LayerScale, ScaledBranches
from omniform.blocks.frequencies import Frequencies, read_frequencies
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.rotary import Rotary
from omniform.blocks.seanet import PaddedConv, SeaNetSpec
from omniform.core.reader import ConfigReader
from omniform.core.rules import Causal, Window
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """What reads frames on either side."""

    dim: int
    hidden: int
    number: int
    heads: Heads
    frequencies: Frequencies
    window: int
    act: str
    eps: float
    bias: bool
    scale: float
    dropout: float

    def build(self) -> FrameLayers:
        """One side's."""
        rotary, rule = Rotary(self.frequencies), Causal() & Window(self.window)

        def layer() -> ScaledBranches:
            return ScaledBranches.of(
                lambda: nn.LayerNorm(self.dim, self.eps),
                self_attn=Attention(
                    self.dim,
                    self.heads.queries,
                    rule=rule,
                    positions=rotary,
                    kv_heads=self.heads.kv,
                    head_dim=self.heads.dim,
                    biases="qkvo" if self.bias else "",
                    dropout=self.dropout,
                ),
                mlp=MLP(self.dim, self.hidden, self.act, bias=False),
                layer_scale1=LayerScale(self.dim, self.scale),
                layer_scale2=LayerScale(self.dim, self.scale),
                drop_path=DropPath(0.0),
            )

        return FrameLayers(layers=nn.ModuleList(layer() for _ in range(self.number)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a Mimi, or half of one, computes.

    Attributes:
        stride: steps of the convolutions that become one frame; 1 where they are the frames.
        groups: in which frames become steps again.
        size: entries of a codebook, ``width`` numbers each.
        semantic: codebooks that tell what is said; ``acoustic``: how it sounds.
        hears: whether there is an encoder; ``sounds``: a decoder.
        streams: whether sounds come in pieces, where a call does not say.
        keeps: whether the decoder returns state likewise.
    """

    net: SeaNetSpec
    layers: Layers
    stride: int
    groups: int
    size: int
    width: int
    semantic: int
    acoustic: int
    streams: bool
    keeps: bool
    hears: bool = True
    sounds: bool = True


RATIOS = (8, 6, 5, 4)


def read(r: ConfigReader) -> Config:
    """Read the config of both halves; a null for either drops it, and anything else is said by the other fields."""
    made = read_half(r)
    gone = {name for name in HALVES if name in r.raw and r.raw[name] is None}
    shared = {name: value for name, value in r.raw.items() if name in r.touched - {"model_type", "architectures"}}
    for name, family in HALVES.items():
        r.only(name, None, why="the halves share the fields of the whole, and can only be dropped")
        half = family.config_class
        r.values[name] = None if name in gone else half.from_raw({"model_type": half.model_type, **shared})
    if len(gone) == len(HALVES):
        raise r.fail("decoder_config", "an encoder, a decoder, or both", None)
    return replace(made, hears="encoder_config" not in gone, sounds="decoder_config" not in gone)


def read_half(r: ConfigReader) -> Config:
    """Read the fields that the halves share with the whole; every key is used, declared inert or refused."""
    r.inert("tie_word_embeddings")
    net = read_net(r, norm="none", dim=512, filters=64, ratios=RATIOS, last=3, shortcut=False, ends="constant")
    stride = read_stride(r, net)
    semantic, total = r.integer("num_semantic_quantizers", 1), r.integer("num_quantizers", 32)
    if semantic >= total:
        raise r.fail("num_semantic_quantizers", f"fewer than num_quantizers, {total}", semantic)
    size, width = read_size(r, 2048), r.integer("vector_quantization_hidden_dimension", 256)
    entries = r.integer_or_null("codebook_dim", 256) or net.dim
    if entries != width:
        raise r.fail("codebook_dim", f"{width}, as vector_quantization_hidden_dimension", entries)
    groups = r.integer("upsample_groups", 512)
    if stride > 1 and net.dim % groups:
        raise r.fail("upsample_groups", f"a divisor of {net.dim} (hidden_size)", groups)
    r.values.update(latent_dim=net.dim, num_codebooks=total, codebook_dim=entries)
    return Config(
        net=net,
        layers=read_layers(r, net.dim),
        stride=stride,
        groups=groups,
        size=size,
        width=width,
        semantic=semantic,
        acoustic=total - semantic,
        streams=r.flag("use_streaming", False),
        keeps=r.flag("use_cache", False),
    )


def read_stride(r: ConfigReader, net: SeaNetSpec) -> int:
    """How many steps become one frame: two, or as a rate says that is given, which saved files call ``_frame_rate``."""
    rate = r.integer("sampling_rate", 24_000)
    given, saved = r.maybe_number("frame_rate"), r.maybe_number("_frame_rate")
    frame_rate = saved if "_frame_rate" in r.raw else given
    if frame_rate is not None and frame_rate <= 0:
        raise r.fail("frame_rate", "a number above 0", frame_rate)
    frame_rate = rate / (2 * net.hop) if frame_rate is None else frame_rate
    steps = math.ceil(rate / net.hop)
    stride = int(steps / frame_rate)
    if stride < 1 or (stride == 1 and steps != frame_rate):
        raise r.fail(
            "frame_rate", f"{steps} (what the convolutions make of a second), or at most half as much", frame_rate
        )
    r.values.update(
        frame_rate=frame_rate, encodec_frame_rate=steps, latent_stride=stride, frame_size=2 * net.hop,
    )  # fmt: skip
    return stride


def read_layers(r: ConfigReader, dim: int) -> Layers:
    """What reads frames."""
    heads = Heads.read(r, dim, heads=8, kv_heads=8)
    if dim % heads.queries:
        raise r.fail("num_attention_heads", f"a divisor of {dim} (hidden_size)", heads.queries)
    longest = r.integer("max_position_embeddings", 8000)
    return Layers(
        dim=dim,
        hidden=r.integer("intermediate_size", 2048),
        number=r.layers("num_hidden_layers", 8),
        heads=heads,
        frequencies=read_frequencies(r, head_dim=heads.dim, max_positions=longest),
        window=r.integer("sliding_window", 250),
        act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
        eps=r.number("norm_eps", 1e-5),
        bias=r.flag("attention_bias", False),
        scale=r.number("layer_scale_initial_scale", 0.01),
        dropout=r.probability("attention_dropout", 0.0),
    )


def build_encoder(c: Config) -> FrameEncoder:
    """Samples to frames."""
    dim, stride = c.net.dim, c.stride
    fewer = PaddedConv(
        conv=SoundConv1d(dim, dim, 2 * stride, stride=stride, bias=False),
        norm=None,
        reach=2 * stride,
        stride=stride,
        causal=c.net.causal,
        ends="replicate",
    )
    return FrameEncoder(
        encoder_seanet=c.net.encoder(),
        encoder_transformer=c.layers.build(),
        downsample=fewer if stride > 1 else nn.Identity(),
        channels=c.net.channels,
        streams=c.streams,
    )


def build_decoder(c: Config) -> FrameDecoder:
    """Frames to samples."""
    dim, stride = c.net.dim, c.stride
    more = SoundConvTranspose1d(dim, dim, 2 * stride, stride=stride, groups=c.groups, bias=False)
    return FrameDecoder(
        upsample=c.net.trimming(more, stride) if stride > 1 else nn.Identity(),
        decoder_transformer=c.layers.build(),
        decoder_seanet=c.net.decoder(),
        dim=dim,
        keeps=c.keeps,
    )


def build_residuals(c: Config, stages: int) -> ProjectedResiduals:
    """Codebooks of one kind."""
    narrow = c.width != c.net.dim
    return ProjectedResiduals(
        layers=Residuals.of(stages, c.size, c.width, SummedCodebook).layers,
        input_proj=SoundConv1d(c.net.dim, c.width, 1, bias=False) if narrow else None,
        output_proj=SoundConv1d(c.width, c.net.dim, 1, bias=False) if narrow else None,
    )


def build(c: Config) -> FrameCodec:
    """Both."""
    return FrameCodec(
        encoder=build_encoder(c) if c.hears else None,
        quantizer=SplitResiduals(
            semantic_residual_vector_quantizer=build_residuals(c, c.semantic),
            acoustic_residual_vector_quantizer=build_residuals(c, c.acoustic),
        ),
        decoder=build_decoder(c) if c.sounds else None,
    )


def half_keys(half: str) -> dict[str, str]:
    """Where a half's modules live."""
    layers = f"{half}_transformer.layers.{{i}}"
    return {
        f"{half}_seanet": half,
        f"{layers}.layer_scale1.lambda1": f"{layers}.self_attn_layer_scale.scale",
        f"{layers}.layer_scale2.lambda1": f"{layers}.mlp_layer_scale.scale",
    }


KEYS = KeyMap(
    {
        name: theirs
        for half in ("encoder", "decoder")
        for name, theirs in {half: "", **{f"{half}.{ours}": key for ours, key in half_keys(half).items()}}.items()
    },
    modules=[
        (r"^(en|de)coder\.layers", r"\1coder.\1coder_seanet.layers"),
        (r"^(en|de)coder_transformer", r"\1coder.\1coder_transformer"),
        (r"^downsample", "encoder.downsample"),
        (r"^upsample", "decoder.upsample"),
    ],
)

ENCODER = (
    Builder(
        "mimi_encoder",
        read_half,
        KeyMap(
            half_keys("encoder"),
            ignored=[r"^(decoder|decoder_transformer|upsample|quantizer)\."],
            modules=[(r"^encoder\.layers", "encoder_seanet.layers")],
        ),
        prefix="encoder",
    )
    .public(config="MimiEncoderConfig")
    .base("MimiEncoderModel", build_encoder)
    .done()
)
DECODER = (
    Builder(
        "mimi_decoder",
        read_half,
        KeyMap(
            half_keys("decoder"),
            ignored=[r"^(encoder|encoder_transformer|downsample|quantizer)\."],
            modules=[(r"^decoder\.layers", "decoder_seanet.layers")],
        ),
        prefix="decoder",
    )
    .public(config="MimiDecoderConfig")
    .base("MimiDecoderModel", build_decoder)
    .done()
)
HALVES = {"encoder_config": ENCODER, "decoder_config": DECODER}
FAMILY = (
    Builder("mimi", read, KEYS, prefix="mimi")
    .public(
        config="MimiConfig",
        feature_extractor="EncodecFeatureExtractor",
        row="sounds as codes and back, whole or in pieces; encoder and decoder alone",
    )
    .base("MimiModel", build, "audio-tokenization")
    .done()
)
