"""One vector per row from the hidden states of all its tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation
from omniform.core.outputs import BaseModelOutput


class OptionalPart(nn.Module):
    """Base of the parts that some of a family's checkpoints lack; they are then made anew, or left out."""


def optional_parts(model: nn.Module) -> list[str]:
    """The paths of a model's parts that its checkpoint may lack."""
    return [path for path, module in model.named_modules() if isinstance(module, OptionalPart)]


class DensePooler(OptionalPart):
    """The first token, projected and passed through an activation (BERT, ViT).

    Args:
        dim: width of the hidden states.
        out: width of the vector.
        act: name of the activation.
    """

    def __init__(self, dim: int, out: int, act: str = "tanh") -> None:
        super().__init__()
        self.dense = nn.Linear(dim, out)
        self.act = act
        self._act = activation(act)

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, out]."""
        return self._act(self.dense(hidden_BTD[:, 0]))

    def extra_repr(self) -> str:
        return f"act={self.act}"


class ContextPooler(nn.Module):
    """The first token with dropout, projected and passed through an activation; a part of the head (DeBERTa)."""

    def __init__(self, dim: int, act: str, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.act = act
        self.dropout = dropout
        self._act = activation(act)

    def forward(self, out: BaseModelOutput, input_ids: Tensor | None = None) -> Tensor:
        """A base model's output to one vector per row. Shape: [B, D]."""
        return self._act(self.dense(F.dropout(out.last_hidden_state[:, 0], self.dropout, self.training)))

    def extra_repr(self) -> str:
        return f"act={self.act}, dropout={self.dropout}"


class NormPooler(Composed):
    """The first token, normalised (CLIP's pictures)."""

    norm: nn.Module

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        pooled: Tensor = self.norm(hidden_BTD[:, 0])
        return pooled
