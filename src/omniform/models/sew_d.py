"""SEW-D (https://arxiv.org/abs/2109.06870): SEW whose layers compare contents and places apart, as DeBERTa's do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from omniform.architectures.disentangled import Places, read_compared
from omniform.architectures.encoder_family import EncoderText
from omniform.architectures.family import Builder
from omniform.architectures.squeezed import (
    SQUEEZED_KEYS,
    STEM,
    SqueezedLayers,
    places,
    squeezed_beginning,
    squeezed_encoder,
    upsampling,
)
from omniform.architectures.wave_family import Stem, Waves
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.architectures.waves import PlainWaveEncoder
from omniform.blocks.layers import run
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.context import StepContext
from omniform.core.reader import ConfigReader
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a SEW-D computes."""

    waves: Waves
    text: EncoderText
    places: Places
    sizes: HeadSizes
    factor: int


class BareLayers(SqueezedLayers):
    """Layers that read what they are given as it is."""

    def read(self, placed_BTD: Tensor, ctx: StepContext) -> Tensor:
        return run(self.layers, placed_BTD, ctx)


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.only("conv_kernel_size", 0, None, why="no convolution beside the first layer")
    waves = Waves.read(r, stem=Stem.read(r, usual=STEM), stable=False, adapts=False)
    # Frames are normed as in other models of waves, layers as in DeBERTa.
    waves = replace(waves, eps=r.number("feature_layer_norm_eps", 1e-5))
    longest, buckets = r.integer("max_position_embeddings", 512), r.integer("position_buckets", 256, least=-1)
    farthest = r.integer("max_relative_positions", -1, least=-1)
    text = EncoderText(
        vocab_size=1, token_types=0, dim=waves.dim, hidden=waves.hidden, layers=waves.layers, heads=waves.heads,
        act=r.choice("hidden_act", ACTIVATIONS, "gelu_python"), eps=r.number("layer_norm_eps", 1e-7),
        max_positions=longest, causal=False, cross_attention=False, dropout=waves.dropout,
        attention_dropout=waves.attention_dropout, classifier_dropout=0.0, tie=False,
    )  # fmt: skip
    return Config(
        waves=waves,
        text=text,
        places=Places(
            relative=r.flag("relative_attention", True),
            compared=read_compared(r, ("p2c", "c2p")),
            buckets=max(buckets, 0),
            farthest=farthest if farthest > 0 else longest,
            normed="layer_norm" in r.text("norm_rel_ebd", "layer_norm").lower(),
            shared=r.flag("share_att_key", True),
        ),
        sizes=HeadSizes.read(r, reduction="mean", voices=False),
        factor=r.integer("squeeze_factor", 2),
    )


def build(c: Config) -> PlainWaveEncoder:
    """The encoder."""
    attention = c.places.attentions(c.text)
    text = replace(c.text, dropout=c.waves.activation_dropout)
    layers = BareLayers(
        pos_conv_embed=places(c.waves, c.factor),
        layer_norm=nn.Identity(),
        layers=nn.ModuleList(text.postnorm(attention()) for _ in range(text.layers)),
        upsample=upsampling(c.waves, c.factor),
    )
    return squeezed_encoder(c.waves, layers)


_OURS, _THEIRS = "encoder.layers.{i}", "encoder.encoder.layer.{i}"
_SELF = {"q_proj": "query_proj", "k_proj": "key_proj", "v_proj": "value_proj", "bias.c2p": "pos_key_proj"}
KEYS = SQUEEZED_KEYS | KeyMap(
    {
        f"{_OURS}.self_attn": f"{_THEIRS}.attention.self",
        **{f"{_OURS}.self_attn.{ours}": f"{_THEIRS}.attention.self.{name}" for ours, name in _SELF.items()},
        f"{_OURS}.self_attn.bias.p2c": f"{_THEIRS}.attention.self.pos_query_proj",
        f"{_OURS}.self_attn.bias.positions.table": "encoder.encoder.rel_embeddings",
        f"{_OURS}.self_attn.bias.positions.norm": "encoder.encoder.LayerNorm",
        f"{_OURS}.self_attn.bias.norm": "encoder.encoder.LayerNorm",
        f"{_OURS}.self_attn.o_proj": f"{_THEIRS}.attention.output.dense",
        f"{_OURS}.self_attn_layer_norm": f"{_THEIRS}.attention.output.LayerNorm",
        f"{_OURS}.mlp.fc1": f"{_THEIRS}.intermediate.dense",
        f"{_OURS}.mlp.fc2": f"{_THEIRS}.output.dense",
        f"{_OURS}.final_layer_norm": f"{_THEIRS}.output.LayerNorm",
    }
)
HEADS = WaveHeads[Config](build, lambda c: c.waves, lambda c: c.sizes)

FAMILY = (
    Builder("sew-d", read, KEYS, prefix="sew_d")
    .public(
        config="SEWDConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2Processor",
        row="speech to letters, audio classification",
    )
    .begins(squeezed_beginning)
    .base("SEWDModel", build)
    .head("SEWDForCTC", "ctc", HEADS.ctc)
    .head("SEWDForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .done()
)
