"""What scores hidden states after one more projection: tokens of the vocabulary, or classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation


class ScoringHead(Composed):
    """A projection, an activation, a norm where there is one, and the scores (ModernBERT, DistilBERT).

    Attributes:
        dense: the projection.
        act: name of the activation.
        norm: after it.
        dropout: before the scores, in training.
        decoder: makes the scores; of the vocabulary, it may share its matrix with the table of tokens.
    """

    dense: nn.Linear
    act: str
    norm: nn.Module | None = None
    dropout: float = 0.0
    decoder: nn.Linear

    def __post_init__(self) -> None:
        self._act = activation(self.act)

    @property
    def out_features(self) -> int:
        """How many scores there are."""
        return self.decoder.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Shape: [..., D] to [..., scores]."""
        x = self._act(self.dense(x))
        x = F.dropout(x if self.norm is None else self.norm(x), self.dropout, self.training)
        scores: Tensor = self.decoder(x)
        return scores

    def extra_repr(self) -> str:
        return f"act={self.act}"
