"""The part of encoders of pictures, and of those of two kinds that meet in one space."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention
from omniform.blocks.fused import FusedMLP
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import ACTIVATIONS
from omniform.core.reader import ConfigReader
from omniform.core.rules import Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """An encoder of pictures, or one of two that meet in one space: pre-norm layers, a plain feed-forward."""

    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    attention_dropout: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        *,
        dim: int,
        hidden: int,
        heads: int,
        act: str,
        eps: float,
        layers: int = 12,
        dropout_key: str = "attention_dropout",
    ) -> Tower:
        """The fields under their usual names; the arguments are their defaults, and the name of one that has two."""
        width, count = read_width(r, "hidden_size", dim, "num_attention_heads", heads)
        return cls(
            dim=width,
            hidden=r.integer("intermediate_size", hidden),
            layers=r.layers("num_hidden_layers", layers),
            heads=count,
            act=r.choice("hidden_act", ACTIVATIONS, act),
            eps=r.number("layer_norm_eps", eps),
            attention_dropout=r.probability(dropout_key),
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def into(self, width: int) -> nn.Linear:
        """A projection of the tower's vectors."""
        return nn.Linear(self.dim, width, bias=False)

    def mlp(self) -> FusedMLP:
        """One feed-forward."""
        return FusedMLP(self.dim, self.hidden, self.act)

    def stack(
        self, rule: Rule, *, biases: str = "qkvo", dropout: float = 0.0, head_dim: int | None = None
    ) -> nn.ModuleList:
        """The tower's layers.

        Args:
            biases: which projections of an attention have a bias.
            dropout: on the output of each branch, in training.
            head_dim: width of an attention's head, if not its share of the tower's.
        """
        made = (
            self.layer(PreNorm, rule, biases=biases, dropout=dropout, head_dim=head_dim) for _ in range(self.layers)
        )
        return nn.ModuleList(made)

    def layer(
        self,
        kind: type[PreNorm],
        rule: Rule,
        *,
        biases: str = "qkvo",
        dropout: float = 0.0,
        head_dim: int | None = None,
        **parts: object,
    ) -> PreNorm:
        """One layer; see :meth:`stack`.

        Args:
            parts: what this kind has beside attention, feed-forward and norms.
        """
        return kind.of(
            self.norm,
            self_attn=Attention(
                self.dim, self.heads, rule=rule, head_dim=head_dim, biases=biases, dropout=self.attention_dropout
            ),
            mlp=self.mlp(),
            dropout=dropout,
            **parts,
        )
