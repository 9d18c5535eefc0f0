"""The part of decoders with layer norms and plain feed-forwards: GPT's line, whose fields have many names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from torch import nn

from omniform.architectures.decoder import TextDecoder
from omniform.architectures.parts import DecoderText, Heads, read_width
from omniform.blocks.embeddings import Embeddings
from omniform.blocks.layers import Layer
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.core.reader import ConfigReader
from omniform.weights.links import Link, interleaved

L = TypeVar("L", bound=Layer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a family calls the fields of its text; "" for what it has none of."""

    dim: str = "hidden_size"
    hidden: str = "intermediate_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    kv_heads: str = ""
    act: str = "hidden_act"
    eps: str = "layer_norm_eps"
    positions: str = "max_position_embeddings"
    dropout: str = "hidden_dropout"
    embed_dropout: str = ""
    attention_dropout: str = "attention_dropout"

    def also(self, name: str) -> tuple[str, ...]:
        """The usual name of a field, where the family has another that counts more."""
        usual = getattr(USUAL, name)
        return () if getattr(self, name) == usual else (usual,)

    def widened(self, r: ConfigReader, old: str) -> Names:
        """These names, with an old one for the width, if the file has it: there it counts more."""
        r.inert(old)  # known, if the file does not have it
        return self if r.raw.get(old) is None else replace(self, dim=old)


USUAL = Names()

GPT = Names(
    dim="n_embd",
    hidden="n_inner",
    layers="n_layer",
    heads="n_head",
    act="activation_function",
    eps="layer_norm_epsilon",
    positions="n_positions",
    dropout="resid_pdrop",
    embed_dropout="embd_pdrop",
    attention_dropout="attn_pdrop",
)
"""GPT-2's names, and those of who took after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainText(DecoderText):
    """A decoder as GPT's: layer norms, and two projections with an activation between them.

    Attributes:
        dropout: on what each branch adds.
        embed_dropout: on what the first layer reads.
    """

    dropout: float
    embed_dropout: float

    @classmethod
    def read(
        cls,
        r: ConfigReader,
        names: Names = USUAL,
        *,
        vocab_size: int,
        dim: int,
        hidden: int | None = None,
        layers: int,
        heads: int,
        kv_heads: int | None = None,
        act: str = "gelu",
        eps: float = 1e-5,
        max_positions: int = 2048,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        classifier_dropout: float | None = None,
        tie: bool = False,
        bos: int | None,
        eos: int | None,
        pad: int | None = None,
    ) -> Self:
        """The fields under the family's names, and their defaults.

        Args:
            hidden: four times the width, if not said.
            classifier_dropout: if not said, that of the branches where it is called ``hidden_dropout``.
        """
        r.special_tokens(bos_token_id=bos, eos_token_id=eos, pad_token_id=pad)
        width, queries = read_width(
            r, names.dim, dim, names.heads, heads, also=names.also("dim"), heads_also=names.also("heads")
        )
        dropped = r.probability(names.dropout, dropout)
        if classifier_dropout is None:
            shared = names.dropout == "hidden_dropout"
            classifier_dropout = dropped if shared else r.probability("hidden_dropout", 0.1)
        return cls(
            vocab_size=r.integer("vocab_size", vocab_size),
            dim=width,
            hidden=(r.maybe_integer(names.hidden, hidden) if names.hidden else None) or 4 * width,
            layers=r.layers(names.layers, layers, also=names.also("layers")),
            heads=read_groups(r, names, width, queries, kv_heads),
            act=r.choice(names.act, ACTIVATIONS, act) if names.act else act,
            eps=r.number(names.eps, eps) if names.eps else eps,
            max_positions=r.integer(names.positions, max_positions, also=names.also("positions"))
            if names.positions
            else max_positions,
            dropout=dropped,
            embed_dropout=r.probability(names.embed_dropout, dropout) if names.embed_dropout else 0.0,
            attention_dropout=r.probability(names.attention_dropout, attention_dropout),
            classifier_dropout=r.probability("classifier_dropout", classifier_dropout),
            tie=r.flag("tie_word_embeddings", tie),
        )

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.dim, self.eps)

    def mlp(self, *, bias: bool = True) -> MLP:
        """One feed-forward."""
        return MLP(self.dim, self.hidden, self.act, bias=bias)

    def layer(self, kind: type[L], self_attn: nn.Module, mlp: nn.Module | None = None, **more: nn.Module) -> L:
        """One layer of a kind, whose norms are alike; ``more``: its other parts."""
        mlp = self.mlp() if mlp is None else mlp
        return kind.of(self.norm, self_attn=self_attn, mlp=mlp, dropout=self.dropout, **more)

    def decoder(
        self,
        layer: Callable[[int], nn.Module],
        *,
        embeddings: Embeddings | None = None,
        longest: int | None = None,
        embed_tokens: nn.Embedding | None = None,
        norm: nn.Module | None = None,
    ) -> TextDecoder:
        """The decoder without a head; see :meth:`DecoderText.stack`."""
        embeddings = Embeddings(dropout=self.embed_dropout) if embeddings is None else embeddings
        return self.stack(layer, embeddings, longest, embed_tokens, norm)


def read_groups(r: ConfigReader, names: Names, width: int, queries: int, kv_heads: int | None) -> Heads:
    """How the attention is cut into heads, where width and query heads are known."""
    kv = (r.maybe_integer(names.kv_heads, kv_heads) if names.kv_heads else None) or queries
    if queries % kv:
        raise r.fail(names.kv_heads, f"a divisor of {queries} ({names.heads})", kv)
    if names.kv_heads:
        r.values[names.kv_heads] = kv
    return Heads(queries=queries, kv=kv, dim=width // queries)


def by_group(key: str, heads: Heads, ours: str = "layers.{i}.self_attn") -> dict[str, Link]:
    """Rules for an attention whose projections lie in one matrix, by groups of heads: queries, their key, their value.

    With a key head for each query head that is head by head (GPT-NeoX, BLOOM); with one for all, one after another.

    Args:
        key: that matrix.
        ours: the attention.
    """
    widths = {"q": heads.queries // heads.kv * heads.dim, "k": heads.dim, "v": heads.dim}
    return interleaved(key, heads.kv, {f"{ours}.{name}_proj": width for name, width in widths.items()})
