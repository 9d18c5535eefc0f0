"""What models of conformer layers share: their part of a config, and where their weights live."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention
from omniform.blocks.augment import SpecAugment, read_spec_augment
from omniform.blocks.conformer import ClippedDistances, ConformerLayer, DistantAttention, GatedConv, TurnedFirst
from omniform.blocks.frequencies import Frequencies
from omniform.blocks.fused import FusedMLP
from omniform.blocks.mlp import ACTIVATIONS
from omniform.blocks.rotary import Rotary, StoredRotary
from omniform.blocks.waves import SpecMask
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap, Rule

Reach = tuple[int, int]
"""From how far before and after a query on all keys are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conformer:
    """A stack of conformer layers.

    Attributes:
        places: how they are told: ``"relative"``, ``"relative_key"``, ``"rotary"``, or not at all.
        reach: of the distances that are told apart, for ``"relative_key"``.
        theta: the base of the frequencies, for ``"rotary"``.
        hides: whether there is a vector that stands for hidden frames.
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    kernel: int
    places: str | None
    reach: Reach
    theta: float
    dropout: float
    attention_dropout: float
    activation_dropout: float
    projection_dropout: float
    conv_dropout: float
    layerdrop: float
    augment: SpecAugment | None
    hides: bool

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        dim: int,
        hidden: int,
        layers: int,
        heads: int,
        act: str,
        dropout: float,
        places: str,
        known: Collection[str],
        reach: Reach,
    ) -> Conformer:
        """The fields under their usual names; the arguments are their defaults.

        Args:
            known: which ways of telling places the family has.
        """
        dim, heads = read_width(r, "hidden_size", dim, "num_attention_heads", heads)
        kernel = r.integer("conv_depthwise_kernel_size", 31)
        if kernel % 2 == 0:
            raise r.fail("conv_depthwise_kernel_size", "an odd number", kernel)
        told = r.maybe_text("position_embeddings_type", places)
        if told is not None:
            r.choice("position_embeddings_type", known, places)
        if told == "rotary" and dim // heads % 2:
            raise r.fail("num_attention_heads", "heads of an even width, half of which turns", heads)
        r.inert("max_source_positions")  # the sines of distances are made for as many as there are
        return cls(
            dim=dim,
            hidden=r.integer("intermediate_size", hidden),
            layers=r.layers("num_hidden_layers", layers),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, act),
            eps=r.number("layer_norm_eps", 1e-5),
            kernel=kernel,
            places=told,
            reach=reach,
            theta=r.number("rotary_embedding_base", 10000),
            dropout=r.probability("hidden_dropout", dropout),
            attention_dropout=r.probability("attention_dropout", dropout),
            activation_dropout=r.probability("activation_dropout", dropout),
            projection_dropout=r.probability("feat_proj_dropout"),
            conv_dropout=r.probability("conformer_conv_dropout", 0.1),
            layerdrop=r.probability("layerdrop", 0.1),
            augment=read_spec_augment(r, True),
            hides=r.probability("mask_time_prob", 0.05) > 0 or r.probability("mask_feature_prob") > 0,
        )

    @property
    def frequencies(self) -> Frequencies:
        """How fast frames turn by their places."""
        return Frequencies(dim=self.dim // self.heads, theta=self.theta)

    def norm(self) -> nn.LayerNorm:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def mlp(self, act: str, width: int | None = None) -> FusedMLP:
        """One feed-forward, of the layers' width if no other is said."""
        return FusedMLP(self.dim if width is None else width, self.hidden, act, dropout=self.activation_dropout)

    def masking(self) -> SpecMask | None:
        """What hides frames."""
        return SpecMask(self.dim, self.augment) if self.hides else None

    def attention(self, turning: Rotary | StoredRotary | None) -> Attention:
        """One attention; ``turning``: what turns frames, where their places are told so."""
        dim, heads, dropout = self.dim, self.heads, self.attention_dropout
        if self.places == "relative":
            return DistantAttention(dim, heads, dropout=dropout)
        if turning is not None:
            return TurnedFirst(dim, heads, positions=turning, dropout=dropout)
        bias = ClippedDistances(*self.reach, dim // heads) if self.places == "relative_key" else None
        return Attention(dim, heads, rule=Full(), bias=bias, dropout=dropout)

    def stack(
        self, conv: Callable[[], GatedConv], norm: Callable[[], nn.Module], turning: Rotary | StoredRotary | None = None
    ) -> nn.ModuleList:
        """The layers.

        Args:
            conv: makes the convolution of one of them.
            norm: makes one of their norms.
            turning: turns frames, where their places are told so; by default what follows from the config.
        """
        turns = Rotary(self.frequencies) if turning is None and self.places == "rotary" else turning
        return nn.ModuleList(
            ConformerLayer.of(
                norm,
                ffn1=self.mlp(self.act),
                self_attn=self.attention(turns),
                conv_module=conv(),
                ffn2=self.mlp(self.act),
                dropout=self.dropout,
                attention_dropout=self.attention_dropout,
            )
            for _ in range(self.layers)
        )


def attention_rules(ours: str, theirs: str) -> dict[str, Rule]:
    """Where the parts of an attention live."""
    names = {"q_proj": "linear_q", "k_proj": "linear_k", "v_proj": "linear_v", "o_proj": "linear_out"}
    return {f"{ours}.bias": theirs, **{f"{ours}.{mine}": f"{theirs}.{name}" for mine, name in names.items()}}


def feedforward_rules(ours: str) -> dict[str, Rule]:
    """Where the parts of a feed-forward live."""
    return {f"{ours}.fc1": f"{ours}.intermediate_dense", f"{ours}.fc2": f"{ours}.output_dense"}


_LAYER = "encoder.layers.{i}"
CONFORMER_KEYS = KeyMap(
    {
        "masking.embed": "masked_spec_embed",
        **attention_rules(f"{_LAYER}.self_attn", f"{_LAYER}.self_attn"),
        **feedforward_rules(f"{_LAYER}.ffn1"),
        **feedforward_rules(f"{_LAYER}.ffn2"),
    }
)
"""Where conformer layers keep their weights."""
