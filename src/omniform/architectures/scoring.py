"""What scores hidden states after one more projection: tokens of the vocabulary, or classes."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation


class ScoringHead(Composed):
    """A projection, an activation, a norm where there is one, and the scores (ModernBERT, DistilBERT, ELECTRA, ESM).

    Attributes:
        dense: the projection.
        act: name of the activation.
        layer_norm: after it.
        dropout: before the scores, in training.
        decoder: makes the scores; of the vocabulary, it may share its matrix with the table of tokens.
    """

    dense: nn.Linear
    act: str
    layer_norm: nn.Module | None = None
    dropout: float = 0.0
    decoder: nn.Linear

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    @classmethod
    def of_tokens(cls, table: nn.Embedding, act: str, eps: float, *, tie: bool, dim: int | None = None) -> Self:
        """One that scores every token.

        Args:
            table: the table of token vectors.
            eps: of the norm.
            tie: whether the scores' matrix is the table itself.
            dim: width of the hidden states; the table's by default.
        """
        vocabulary, width = table.num_embeddings, table.embedding_dim
        decoder = nn.Linear(width, vocabulary)
        if tie:
            decoder.weight = table.weight
        dense = nn.Linear(width if dim is None else dim, width)
        return cls(dense=dense, act=act, layer_norm=nn.LayerNorm(width, eps), decoder=decoder)

    @property
    def out_features(self) -> int:
        """How many scores there are."""
        return self.decoder.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., scores]."""
        x = self._act(self.dense(x))
        x = F.dropout(x if self.layer_norm is None else self.layer_norm(x), self.dropout, self.training)
        scores: Tensor = self.decoder(x)
        return scores

    def extra_repr(self) -> str:
        return f"act={self.act}"


class VocabularyHead(ScoringHead):
    """One whose checkpoints hold the last bias beside the projection too (BERT, RoBERTa).

    Where the projection is the table, that is its bias; where it is not, nothing reads it.
    """

    bias: nn.Parameter | None = None

    @classmethod
    def of_tokens(cls, table: nn.Embedding, act: str, eps: float, *, tie: bool, dim: int | None = None) -> Self:
        head = super().of_tokens(table, act, eps, tie=tie, dim=dim)
        head.bias = head.decoder.bias if tie else nn.Parameter(torch.zeros(table.num_embeddings))
        return head
