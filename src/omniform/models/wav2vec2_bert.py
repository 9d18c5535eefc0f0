"""w2v-BERT 2.0 (https://arxiv.org/abs/2312.05187): conformer layers over filter banks, two frames at a time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.conformer_family import (
    CONFORMER_KEYS,
    Conformer,
    attention_rules,
    feedforward_rules,
)
from omniform.architectures.family import Builder
from omniform.architectures.featured import FeatureEncoder, FrameLayers, Shortening, ShorteningLayer
from omniform.architectures.wave_family import CODES
from omniform.architectures.wave_heads import MIXED, HeadSizes, WaveHeads
from omniform.blocks.attention import Attention
from omniform.blocks.conformer import CausalConv
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.waves import EvenLinear, FeatureProjection
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapting:
    """What makes fewer frames behind the layers."""

    layers: int
    kernel: int
    stride: int
    act: str
    width: int

    def build(self, conformer: Conformer) -> Shortening:
        """The modules, behind these layers."""
        dim, width, eps = conformer.dim, self.width, conformer.eps

        def conv() -> nn.Conv1d:
            return SoundConv1d(width, 2 * width, self.kernel, stride=self.stride, padding=self.stride // 2)

        def layer() -> ShorteningLayer:
            return ShorteningLayer(
                residual_layer_norm=nn.LayerNorm(width, eps),
                residual_conv=conv(),
                self_attn_layer_norm=nn.LayerNorm(width, eps),
                self_attn_conv=conv(),
                self_attn=Attention(width, conformer.heads, rule=Full(), dropout=conformer.attention_dropout),
                ffn_layer_norm=nn.LayerNorm(width, eps),
                ffn=conformer.mlp(self.act, width),
                attention_dropout=conformer.conv_dropout,
                dropout=conformer.dropout,
            )

        return Shortening(
            proj=None if width == dim else nn.Linear(dim, width),
            proj_layer_norm=None if width == dim else nn.LayerNorm(width, eps),
            layers=nn.ModuleList(layer() for _ in range(self.layers)),
            layerdrop=conformer.layerdrop,
            kernel=self.kernel,
            stride=self.stride,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a w2v-BERT computes."""

    conformer: Conformer
    features: int
    adapting: Adapting | None
    between: bool
    sizes: HeadSizes

    @property
    def dim(self) -> int:
        """Width of the layers."""
        return self.conformer.dim

    @property
    def width(self) -> int:
        """Of what comes out."""
        return self.dim if self.adapting is None else self.adapting.width

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return self.conformer.layers


def read(r: ConfigReader) -> Config:
    """Read a config; every key is used, declared inert or refused."""
    r.inert(*CODES)
    reach = (
        r.integer("left_max_position_embeddings", 64, least=0),
        r.integer("right_max_position_embeddings", 8, least=0),
    )
    conformer = Conformer.read(
        r, dim=1024, hidden=4096, layers=24, heads=16, act="swish", dropout=0.0, places="relative_key",
        known=("relative_key", "relative", "rotary"), reach=reach,
    )  # fmt: skip
    adapting, features = read_adapting(r, conformer), r.integer("feature_projection_input_dim", 160)
    between = r.flag("use_intermediate_ffn_before_adapter", False)
    if between and adapting is None:
        raise r.fail("use_intermediate_ffn_before_adapter", "false where add_adapter is false", True)
    r.special_tokens(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    r.values["inputs_to_logits_ratio"] = 2 * features * (adapting.stride**adapting.layers if adapting else 1)
    return Config(
        conformer=conformer,
        features=features,
        adapting=adapting,
        between=between,
        sizes=HeadSizes.read(r, letters=None, classifier=768),
    )


def read_adapting(r: ConfigReader, conformer: Conformer) -> Adapting | None:
    """What makes fewer frames; None where the config says ``add_adapter: false``."""
    width = r.maybe_integer("output_hidden_size", conformer.dim) or conformer.dim
    r.values["output_hidden_size"] = width
    adapting = Adapting(
        layers=r.layers("num_adapter_layers", 1),
        kernel=r.integer("adapter_kernel_size", 3),
        stride=r.integer("adapter_stride", 2),
        act=r.choice("adapter_act", ACTIVATIONS, "relu"),
        width=width,
    )
    if not r.flag("add_adapter", False):
        return None
    if width % conformer.heads:
        raise r.fail("output_hidden_size", f"a multiple of {conformer.heads} (num_attention_heads)", width)
    return adapting


def build(c: Config) -> FeatureEncoder:
    """The encoder."""
    conformer = c.conformer

    def conv() -> CausalConv:
        norm, after = conformer.norm(), conformer.norm()
        return CausalConv(conformer.dim, conformer.kernel, conformer.act, norm, after, conformer.conv_dropout)

    layers = conformer.stack(conv, conformer.norm)
    return FeatureEncoder(
        features=c.features,
        feature_projection=FeatureProjection(
            layer_norm=nn.LayerNorm(c.features, conformer.eps),
            projection=EvenLinear(c.features, conformer.dim),
            dropout=conformer.projection_dropout,
        ),
        masking=conformer.masking(),
        encoder=FrameLayers(layers=layers, dropout=conformer.dropout, layerdrop=conformer.layerdrop),
        intermediate_ffn=conformer.mlp("relu") if c.between else None,
        adapter=None if c.adapting is None else c.adapting.build(conformer),
    )


_LAYER = "adapter.layers.{i}"
KEYS = CONFORMER_KEYS | KeyMap(
    {
        **attention_rules(f"{_LAYER}.self_attn", f"{_LAYER}.self_attn"),
        **feedforward_rules(f"{_LAYER}.ffn"),
        **feedforward_rules("intermediate_ffn"),
    }
)
HEADS = WaveHeads[Config](build, lambda c: c, lambda c: c.sizes)

FAMILY = (
    Builder("wav2vec2-bert", read, KEYS, prefix="wav2vec2_bert")
    .public(
        config="Wav2Vec2BertConfig",
        tokenizer="Wav2Vec2CTCTokenizer",
        feature_extractor="Wav2Vec2FeatureExtractor",
        processor="Wav2Vec2BertProcessor",
        row="speech to letters, audio classification, voices",
        usual={"max_source_positions": 5000},
    )
    .base("Wav2Vec2BertModel", build)
    .head("Wav2Vec2BertForCTC", "ctc", HEADS.ctc)
    .head("Wav2Vec2BertForSequenceClassification", "audio-classification", HEADS.classifier, MIXED)
    .head("Wav2Vec2BertForAudioFrameClassification", "audio-frame-classification", HEADS.frame_classifier, MIXED)
    .head("Wav2Vec2BertForXVector", "audio-xvector", HEADS.voice_teller, MIXED)
    .done()
)
