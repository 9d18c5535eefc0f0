"""Parts of the configs of models that read waves, and what is built of them; how their checkpoints spell it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from omniform.architectures.parts import read_width
from omniform.architectures.waves import StableWaveLayers, WaveEncoder, WaveLayers
from omniform.blocks.attention import Attention
from omniform.blocks.augment import SpecAugment, read_spec_augment
from omniform.blocks.convolutions import SoundConv1d
from omniform.blocks.fused import FusedMLP
from omniform.blocks.layers import Layer, PostNorm, PreNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.waves import (
    AdaptedPreNorm,
    Bottleneck,
    ConvAdapter,
    ConvPositions,
    EvenLinear,
    FeatureProjection,
    GatedStep,
    GroupNormedLayer,
    LayerNormedLayer,
    PlaceConv1d,
    SpecMask,
    StemLayer,
    WaveStem,
)
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap

CODES = (
    "codevector_dim", "contrastive_logits_temperature", "diversity_loss_weight", "feat_quantizer_dropout",
    "num_codevector_groups", "num_codevectors_per_group", "num_negatives", "proj_codevector_dim",
)  # fmt: skip
"""Settings of code vectors, which configs hold of families that have none any more."""

STRAYS = (
    *CODES,
    "hidden_dropout_prob", "feat_extract_dropout", "freeze_feat_extract_train", "no_mask_channel_overlap",
    "no_mask_time_overlap", "mask_channel_length", "mask_channel_min_space", "mask_channel_other", "mask_channel_prob",
    "mask_channel_selection", "mask_time_min_space", "mask_time_other", "mask_time_selection",
    "replace_prob", "num_ctc_classes",
)  # fmt: skip
"""Settings of training that published configs hold, and that most families do not read."""


Shape = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Channels, kernels and strides of convolutions, one after another."""

USUAL: Shape = ((512,) * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """The convolutions from samples to frames."""

    channels: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    bias: bool
    act: str
    norm: str

    @classmethod
    def read(cls, r: ConfigReader, *, norm: str | None = None, usual: Shape = USUAL) -> Stem:
        """The fields under their usual names.

        Args:
            norm: where a family has one kind only.
            usual: the channels, kernels and strides of a config that does not say.

        Raises:
            ConfigError: the lists are not of one length.
        """
        channels = r.integers("conv_dim", usual[0], least=1)
        kernels = r.integers("conv_kernel", usual[1], least=1)
        strides = r.integers("conv_stride", usual[2], least=1)
        if not channels:
            raise r.fail("conv_dim", "at least one convolution", [])
        for name, values in (("conv_kernel", kernels), ("conv_stride", strides)):
            if len(values) != len(channels):
                raise r.fail(name, f"{len(channels)} numbers, as in conv_dim", len(values))
        r.inert("num_feat_extract_layers", "inputs_to_logits_ratio", *STRAYS)
        r.values |= {"num_feat_extract_layers": len(channels), "inputs_to_logits_ratio": math.prod(strides)}
        return cls(
            channels=channels,
            kernels=kernels,
            strides=strides,
            bias=r.flag("conv_bias", False),
            act=r.choice("feat_extract_activation", ACTIVATIONS, "gelu"),
            norm=r.choice("feat_extract_norm", ("group", "layer"), "group") if norm is None else norm,
        )

    def build(self) -> WaveStem:
        """The modules."""
        return WaveStem([self._layer(number) for number in range(len(self.channels))])

    def _layer(self, number: int) -> StemLayer:
        inside, outside = (1, *self.channels)[number], self.channels[number]
        conv = SoundConv1d(inside, outside, self.kernels[number], stride=self.strides[number], bias=self.bias)
        if self.norm == "layer":
            return LayerNormedLayer(conv=conv, act=self.act, layer_norm=nn.LayerNorm(outside))
        if number == 0:
            return GroupNormedLayer(conv=conv, act=self.act, layer_norm=nn.GroupNorm(outside, outside))
        return StemLayer(conv=conv, act=self.act)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapting:
    """What makes fewer frames behind the layers."""

    layers: int
    kernel: int
    stride: int
    width: int
    layerdrop: float

    @classmethod
    def read(cls, r: ConfigReader, dim: int, layerdrop: float) -> Adapting | None:
        """The fields under their usual names; None where the config says ``add_adapter: false``."""
        width = r.maybe_integer("output_hidden_size")
        r.values["output_hidden_size"] = dim if width is None else width
        adapting = cls(
            layers=r.layers("num_adapter_layers", 3),
            kernel=r.integer("adapter_kernel_size", 3),
            stride=r.integer("adapter_stride", 2),
            width=dim if width is None else width,
            layerdrop=layerdrop,
        )
        return adapting if r.flag("add_adapter", False) else None

    def build(self, dim: int) -> ConvAdapter:
        """The modules, behind layers of a width."""
        width = self.width
        convs = (SoundConv1d(width, 2 * width, self.kernel, stride=self.stride, padding=1) for _ in range(self.layers))
        return ConvAdapter(
            proj=None if width == dim else nn.Linear(dim, width),
            proj_layer_norm=None if width == dim else nn.LayerNorm(width),
            layers=nn.ModuleList(GatedStep(conv=conv) for conv in convs),
            layerdrop=self.layerdrop,
            stride=self.stride,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Waves:
    """An encoder of waves without what only some families have.

    Attributes:
        stable: whether layers norm what they read, and not what they give.
        hides: whether there is a vector that stands for hidden frames.
        bottleneck: width of the adapters of languages, in stable layers; None for none.
    """

    stem: Stem
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    dropout: float
    attention_dropout: float
    activation_dropout: float
    projection_dropout: float
    layerdrop: float
    stable: bool
    kernel: int
    groups: int
    augment: SpecAugment | None
    hides: bool
    adapting: Adapting | None = None
    bottleneck: int | None = None

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        stem: Stem,
        stable: bool,
        positions: str = "num_conv_pos_embeddings",
        kernel: int = 128,
        adapts: bool = True,
        bottleneck: int | None = None,
    ) -> Waves:
        """The fields under their usual names.

        Args:
            positions: the key of the kernel that tells places, and ``kernel``, its default.
            adapts: whether the family has adapters behind its layers.
        """
        dim, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
        groups = r.integer("num_conv_pos_embedding_groups", 16)
        if dim % groups:
            raise r.fail("num_conv_pos_embedding_groups", f"a divisor of {dim} (hidden_size)", groups)
        r.special_tokens(pad_token_id=0, bos_token_id=1, eos_token_id=2)
        augment, layerdrop = read_spec_augment(r, True), r.probability("layerdrop", 0.1)
        return cls(
            stem=stem,
            dim=dim,
            hidden=r.integer("intermediate_size", 3072),
            layers=r.layers("num_hidden_layers", 12),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-5),
            dropout=r.probability("hidden_dropout", 0.1),
            attention_dropout=r.probability("attention_dropout", 0.1),
            activation_dropout=r.probability("activation_dropout", 0.1),
            projection_dropout=r.probability("feat_proj_dropout", 0.0),
            layerdrop=layerdrop,
            stable=stable,
            kernel=r.integer(positions, kernel),
            groups=groups,
            augment=augment,
            hides=r.probability("mask_time_prob", 0.05) > 0 or r.probability("mask_feature_prob", 0.0) > 0,
            adapting=Adapting.read(r, dim, layerdrop) if adapts else None,
            bottleneck=bottleneck,
        )

    @property
    def width(self) -> int:
        """Of what comes out."""
        return self.dim if self.adapting is None else self.adapting.width

    def norm(self) -> nn.LayerNorm:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def attention(self) -> Attention:
        """The attention of one layer."""
        return Attention(self.dim, self.heads, rule=Full(), dropout=self.attention_dropout)

    def layer(self, attention: Attention) -> Layer:
        """One layer."""
        mlp = FusedMLP(self.dim, self.hidden, self.act, dropout=self.activation_dropout)
        parts: dict[str, object] = {"self_attn": attention, "mlp": mlp, "dropout": self.dropout}
        if not self.stable:
            return PostNorm.of(self.norm, **parts)
        if self.bottleneck is None:
            return PreNorm.of(self.norm, **parts)
        return AdaptedPreNorm.of(self.norm, **parts, adapter_layer=Bottleneck.of(self.dim, self.bottleneck))

    def positions(self) -> ConvPositions:
        """What tells where frames stand."""
        conv = PlaceConv1d(self.dim, self.dim, self.kernel, padding=self.kernel // 2, groups=self.groups, along=2)
        return ConvPositions(conv=conv, act=self.stem.act)

    def stack(
        self, positions: nn.Module, attentions: Sequence[Attention] | None = None, *, spared: int = 0
    ) -> WaveLayers:
        """The layers.

        Args:
            positions: what tells where frames stand.
            attentions: one for each layer, if not the usual ones.
            spared: how many of the first layers training never leaves out.
        """
        kind = StableWaveLayers if self.stable else WaveLayers
        used = [self.attention() for _ in range(self.layers)] if attentions is None else attentions
        return kind(
            pos_conv_embed=positions,
            layer_norm=self.norm(),
            layers=nn.ModuleList(self.layer(attention) for attention in used),
            dropout=self.dropout,
            layerdrop=self.layerdrop,
            spared=spared,
        )

    def projection(self) -> FeatureProjection:
        """Frames to the layers' width."""
        frame = self.stem.channels[-1]
        return FeatureProjection(
            layer_norm=nn.LayerNorm(frame, self.eps),
            projection=EvenLinear(frame, self.dim),
            dropout=self.projection_dropout,
        )

    def masking(self) -> SpecMask | None:
        """What hides frames."""
        return SpecMask(self.dim, self.augment) if self.hides else None

    def build(self, encoder: WaveLayers | None = None) -> WaveEncoder:
        """The encoder; ``encoder``: its layers, if not the usual ones."""
        return WaveEncoder(
            feature_extractor=self.stem.build(),
            feature_projection=self.projection(),
            masking=self.masking(),
            encoder=self.stack(self.positions()) if encoder is None else encoder,
            adapter=None if self.adapting is None else self.adapting.build(self.dim),
        )


_LAYER = "encoder.layers.{i}"
WAVE_KEYS = KeyMap(
    {
        "masking.embed": "masked_spec_embed",
        f"{_LAYER}.self_attn": f"{_LAYER}.attention",
        f"{_LAYER}.self_attn.o_proj": f"{_LAYER}.attention.out_proj",
        f"{_LAYER}.self_attn_layer_norm": f"{_LAYER}.layer_norm",
        f"{_LAYER}.mlp.fc1": f"{_LAYER}.feed_forward.intermediate_dense",
        f"{_LAYER}.mlp.fc2": f"{_LAYER}.feed_forward.output_dense",
        f"{_LAYER}.input_layernorm": f"{_LAYER}.layer_norm",
        f"{_LAYER}.post_attention_layernorm": f"{_LAYER}.final_layer_norm",
    },
    ignored=[r"(^|\.)masked_spec_embed$"],
)
"""Where the modules of an encoder of waves live, wherever its norms stand. Where a config hides no frames, what stands
for them is left out."""
