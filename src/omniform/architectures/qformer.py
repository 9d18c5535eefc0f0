"""Q-Former: a few learned queries that look at a picture, with or without an instruction in mind, and a text tower.

Sources: BLIP-2 (https://arxiv.org/abs/2301.12597) and InstructBLIP (https://arxiv.org/abs/2305.06500).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.architectures.decoder import memory_from
from omniform.architectures.model import Model, arrive_masked
from omniform.architectures.parts import read_width
from omniform.blocks.attention import Attention, CrossAttention
from omniform.blocks.embeddings import PositionTable, check_ids, check_positions, table_rows
from omniform.blocks.layers import run
from omniform.blocks.mlp import ACTIVATIONS, MLP
from omniform.blocks.querying import QueriedContext, QueryLayer
from omniform.core.context import Tapped
from omniform.core.errors import InputError
from omniform.core.outputs import BaseModelOutput
from omniform.core.reader import ConfigReader
from omniform.core.rules import Full
from omniform.weights.keymap import KeyMap


class QueryText(nn.Module):
    """Tokens of a text as vectors with positions, which begin behind the queries from 0.

    Args:
        vocabulary: how many tokens there are.
        positions: how many positions.
        dim: width of the vectors.
        padding: the token whose vector stays as it is in training; None for none.
    """

    def __init__(self, vocabulary: int, positions: int, dim: int, padding: int | None = None) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, dim, padding_idx=padding)
        self.position_embeddings = PositionTable(positions, dim)

    def check(self, input_ids: Tensor, where: str = "input_ids") -> None:
        """Raise :class:`InputError` unless all ids and places have their vectors."""
        check_ids(input_ids, table_rows(self.word_embeddings), where)
        check_positions(input_ids.shape[1], self.position_embeddings.positions, where)

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T] to [B, T, D]."""
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        vectors: Tensor = self.word_embeddings(input_ids) + self.position_embeddings(position_ids)
        return vectors


class QFormer(Model):
    """Queries that look at what an encoder gave; or a text alone, read both ways.

    Args:
        norm: applied to what comes in.
        layers: each called as ``layer(hidden, ctx)``.
        memory_dim: width of what is looked at.
        dropout: behind the norm, in training.
    """

    main_input = "query_embeds"

    norm: nn.Module
    layers: nn.ModuleList
    memory_dim: int
    dropout: float

    def arrive(self, inputs: dict[str, object]) -> None:
        vectors = inputs.get("query_embeds")
        if not isinstance(vectors, Tensor) or vectors.dim() != 3:
            raise InputError("there are no queries", where="query_embeds", expected="shape [batch, queries, width]")
        arrive_masked(inputs, rows=vectors.shape[0], new=vectors.shape[1])

    def read(
        self,
        vectors_BTD: Tensor,
        queries: int,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        asked: Tapped | None = None,
    ) -> BaseModelOutput:
        """Hidden states of rows that begin with so many queries; see :meth:`forward`."""
        x_BTD = F.dropout(self.norm(vectors_BTD), self.dropout, self.training)
        ctx = self.step(x_BTD, asked, attention_mask=attention_mask)
        states = encoder_hidden_states
        memory = memory_from(states, encoder_attention_mask, dim=self.memory_dim, readable=True)
        counted = QueriedContext.of(ctx.with_(memory=memory), queries)
        hidden = run(self.layers, x_BTD, counted)
        looked = ctx.taps.cross_or_none if memory is not None and queries else None
        return BaseModelOutput(
            last_hidden_state=hidden,
            pooler_output=hidden[:, 0],
            **ctx.taps.noted(),
            cross_attentions=looked,
        )

    def forward(
        self,
        query_embeds: Tensor | None = None,
        query_length: int | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of queries, and of a text behind them.

        Args:
            query_embeds: vectors of queries and text. Shape: [B, T, D].
            query_length: how many of them are queries; all by default.
            attention_mask: Shape: [B, T], 1 for real ones.
            encoder_hidden_states: what queries look at. Shape: [B, S, E].
            encoder_attention_mask: Shape: [B, S], 1 for what is real of it.
            given: see :class:`~omniform.core.context.Tapped`.
        """
        assert query_embeds is not None, "calls are checked when they arrive"
        count = query_embeds.shape[1] if query_length is None else query_length
        vectors = query_embeds.to(next(self.norm.parameters()).dtype)
        states, mask = encoder_hidden_states, encoder_attention_mask
        return self.read(vectors, count, attention_mask, states, mask, given)


class InstructedQFormer(QFormer):
    """One that reads a text by itself.

    Args:
        embeddings: of its tokens.
    """

    embeddings: QueryText

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def arrive(self, inputs: dict[str, object]) -> None:
        ids, vectors = inputs.get("input_ids"), inputs.get("query_embeds")
        given = [one for one in (vectors, ids) if isinstance(one, Tensor)]
        if not given:
            raise InputError("there are neither queries nor a text", where="query_embeds", found="None")
        if isinstance(ids, Tensor):
            self.embeddings.check(ids)
        arrive_masked(inputs, rows=given[0].shape[0], new=sum(one.shape[1] for one in given))

    def forward(  # type: ignore[override] # as the ecosystem's
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        query_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        **given: Unpack[Tapped],
    ) -> BaseModelOutput:
        """Hidden states of queries and of the text behind them.

        Args:
            input_ids: the text. Shape: [B, T]; None for queries alone.
            attention_mask: of queries and text together. Shape: [B, Q + T], 1 for real ones.
            position_ids: of the text. Shape: [B, T]; 0, 1, 2... by default.
            query_embeds: Shape: [B, Q, D]; None for a text alone.
            encoder_hidden_states, encoder_attention_mask, given: see :meth:`QFormer.forward`.
        """
        parts = [] if query_embeds is None else [query_embeds]
        if input_ids is not None:
            parts.append(self.embeddings(input_ids, position_ids))
        count = 0 if query_embeds is None else query_embeds.shape[1]
        vectors = torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1)
        return self.read(vectors, count, attention_mask, encoder_hidden_states, encoder_attention_mask, given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Querying:
    """What a Q-Former computes.

    Attributes:
        every: each so many layers look at the memory, the first of them among these.
        memory: width of what they look at.
        reads_text: whether layers have a feed-forward for text.
    """

    vocab_size: int
    dim: int
    hidden: int
    layers: int
    heads: int
    act: str
    eps: float
    dropout: float
    attention_dropout: float
    max_positions: int
    every: int
    memory: int
    reads_text: bool
    padding: int | None

    @classmethod
    def read(cls, r: ConfigReader) -> Self:
        """BLIP-2's fields, with its defaults."""
        made = cls.read_reading(r, reads_text=False)
        return cls(**{**_fields(made), "reads_text": r.flag("use_qformer_text_input", False)})  # type: ignore[arg-type]

    @classmethod
    def read_reading(cls, r: ConfigReader, *, reads_text: bool = True) -> Self:
        """InstructBLIP's fields, whose queries always read text."""
        dim, heads = read_width(r, "hidden_size", 768, "num_attention_heads", 12)
        r.inert("position_embedding_type", "classifier_dropout", "use_cache")
        vocabulary, padding = r.integer("vocab_size", 30522), r.token("pad_token_id", 0)
        return cls(
            vocab_size=vocabulary,
            padding=padding if padding is not None and padding < vocabulary else None,
            dim=dim,
            hidden=r.integer("intermediate_size", 3072),
            layers=r.layers("num_hidden_layers", 12),
            heads=heads,
            act=r.choice("hidden_act", ACTIVATIONS, "gelu"),
            eps=r.number("layer_norm_eps", 1e-12),
            dropout=r.probability("hidden_dropout_prob", 0.1),
            attention_dropout=r.probability("attention_probs_dropout_prob", 0.1),
            max_positions=r.integer("max_position_embeddings", 512),
            every=r.integer("cross_attention_frequency", 2),
            memory=r.integer("encoder_hidden_size", 1408),
            reads_text=reads_text,
        )

    def norm(self) -> nn.Module:
        """One norm."""
        return nn.LayerNorm(self.dim, self.eps)

    def layer(self, number: int) -> QueryLayer:
        """One layer."""
        looks = number % self.every == 0
        dim, heads, dropout = self.dim, self.heads, self.attention_dropout
        return QueryLayer.of(
            self.norm,
            self_attn=Attention(dim, heads, rule=Full(), dropout=dropout),
            encoder_attn=CrossAttention(dim, heads, memory_dim=self.memory, dropout=dropout) if looks else None,
            encoder_attn_layer_norm=self.norm() if looks else None,
            query_mlp=MLP(dim, self.hidden, self.act),
            mlp=MLP(dim, self.hidden, self.act) if self.reads_text else None,
            final_layer_norm=self.norm() if self.reads_text else None,
            dropout=self.dropout,
        )

    def text(self) -> QueryText:
        """Where the tokens of a text become vectors."""
        return QueryText(self.vocab_size, self.max_positions, self.dim, self.padding)

    def _parts(self) -> dict[str, object]:
        layers = nn.ModuleList(self.layer(number) for number in range(self.layers))
        return {"norm": self.norm(), "layers": layers, "memory_dim": self.memory, "dropout": self.dropout}

    def model(self) -> QFormer:
        """The Q-Former that is given vectors."""
        return QFormer(**self._parts())  # type: ignore[arg-type]

    def reading(self) -> InstructedQFormer:
        """The Q-Former that reads text by itself."""
        return InstructedQFormer(**self._parts(), embeddings=self.text())  # type: ignore[arg-type]


def _fields(made: Querying) -> dict[str, object]:
    return {name: getattr(made, name) for name in Querying.__dataclass_fields__}


def _attention(ours: str, theirs: str) -> dict[str, str]:
    ours, theirs = f"layers.{{i}}.{ours}", f"encoder.layer.{{i}}.{theirs}"
    names = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
    inner = {f"{ours}.{mine}": f"{theirs}.attention.{other}" for mine, other in names.items()}
    return inner | {
        f"{ours}.o_proj": f"{theirs}.output.dense",
        f"{ours}_layer_norm": f"{theirs}.output.LayerNorm",
    }


def _feed_forward(mlp: str, norm: str, end: str) -> dict[str, str]:
    return {
        f"layers.{{i}}.{mlp}.fc1": f"encoder.layer.{{i}}.intermediate{end}.dense",
        f"layers.{{i}}.{mlp}.fc2": f"encoder.layer.{{i}}.output{end}.dense",
        f"layers.{{i}}.{norm}": f"encoder.layer.{{i}}.output{end}.LayerNorm",
    }


_LAYERS: Mapping[str, str] = {
    **_attention("self_attn", "attention"),
    **_attention("encoder_attn", "crossattention"),
    **_feed_forward("query_mlp", "query_layer_norm", "_query"),
    **_feed_forward("mlp", "final_layer_norm", ""),
}
STRAY = (r"(^|\.)embeddings\.position_ids$",)
QFORMER_KEYS = KeyMap({"norm": "layernorm", **_LAYERS}, ignored=STRAY)
"""Where BLIP-2 keeps a Q-Former's weights."""

READING_KEYS = KeyMap({"norm": "embeddings.layernorm", **_LAYERS}, ignored=STRAY)
"""Where InstructBLIP does."""
