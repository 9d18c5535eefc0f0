"""One vector per row from the hidden states of all its tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.attend import attend
from omniform.blocks.composed import Composed
from omniform.blocks.mlp import activation
from omniform.blocks.scores import Scores
from omniform.core.context import EVERYTHING, Mask
from omniform.core.outputs import BaseModelOutput


class OptionalPart(nn.Module):
    """Base of the parts that some of a family's checkpoints lack; they are then made anew, or left out."""


class ComputedPart(OptionalPart):
    """Base of those that follow from the config, by ``reset``: where a checkpoint lacks one, it is not written back."""

    def forget(self) -> None:
        """What is in here is not saved from now on."""
        for name, parameter in list(self._parameters.items()):
            if parameter is not None:
                del self._parameters[name]
                self.register_buffer(name, parameter.data, persistent=False)
        self._non_persistent_buffers_set.update(self._buffers)


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


SUMMARIES = ("first", "last", "mean", "cls_index")
"""What may stand for a row; ``cls_index``, where nobody names a token, is the last one."""


class SummaryPooler(nn.Module):
    """One vector of the row, projected and passed through an activation; a part of the head (ELECTRA, XLM).

    Args:
        dim: width of the hidden states.
        kind: one of :data:`SUMMARIES`.
        act: name of the activation; None for none.
        dropout: on what comes out, in training.
        project: whether there is a projection.
    """

    def __init__(self, dim: int, kind: str, act: str | None, dropout: float, *, project: bool) -> None:
        super().__init__()
        self.kind = kind
        self.act = act
        self.dropout = dropout
        self.summary = nn.Linear(dim, dim) if project else nn.Identity()
        self._act = nn.Identity() if act is None else activation(act)

    def forward(self, out: BaseModelOutput, input_ids: Tensor | None = None) -> Tensor:
        """A base model's output to one vector per row. Shape: [B, D]."""
        hidden = out.last_hidden_state
        if self.kind == "mean":
            vector = hidden.mean(dim=1)
        else:
            vector = hidden[:, 0 if self.kind == "first" else -1]
        return F.dropout(self._act(self.summary(vector)), self.dropout, self.training)

    def extra_repr(self) -> str:
        return f"kind={self.kind}, act={self.act}, dropout={self.dropout}"


class NormPooler(Composed):
    """The first token, normalised (CLIP's pictures)."""

    norm: nn.Module

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        pooled: Tensor = self.norm(hidden_BTD[:, 0])
        return pooled


class FirstPooler(nn.Module):
    """The first token as it is (DINOv2)."""

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, D]."""
        return hidden_BTD[:, 0]


class ProbePooler(nn.Module):
    """A learned query looks at all hidden states, and a feed-forward follows (SigLIP's pictures).

    Args:
        dim: width of the hidden states.
        heads: of the attention.
        norm: before the feed-forward.
        mlp: the feed-forward.
    """

    def __init__(self, dim: int, heads: int, *, norm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, dim))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = norm
        self.mlp = mlp
        self.heads = heads
        self.compare = Scores((dim // heads) ** -0.5)

    def reset(self, std: float) -> None:
        """A fresh query."""
        nn.init.xavier_uniform_(self.probe)

    def forward(self, hidden_BTD: Tensor, input_ids: Tensor | None = None, *, real_BT: Tensor | None = None) -> Tensor:
        """Shape: [B, T, D] to [B, D]; ``real_BT``: which of them are no padding, None for all."""
        q, k, v = self.q_proj(self.probe), self.k_proj(hidden_BTD), self.v_proj(hidden_BTD)
        q_BTHD = q.expand(hidden_BTD.shape[0], -1, -1).unflatten(-1, (self.heads, -1))
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v))
        mask = EVERYTHING if real_BT is None else Mask(real_BT[:, None, None, :])
        seen = self.o_proj(attend(q_BTHD, k, v, mask, scores=self.compare, backend="sdpa"))
        pooled: Tensor = seen + self.mlp(self.norm(seen))
        return pooled[:, 0]

    def extra_repr(self) -> str:
        return f"heads={self.heads}"
