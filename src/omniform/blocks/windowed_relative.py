"""Attention with vectors for near distances, added to keys and to values (https://arxiv.org/abs/1803.02155)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.joint import outputs_of
from omniform.core.context import StepContext
from omniform.core.rules import Full


class DistanceAttention(nn.Module):
    """Self-attention both ways; keys and values up to a few steps away have a vector more.

    Args:
        dim: width of the residual stream.
        heads: number of heads.
        window: how many steps away the last such vector is.
        bias: whether the projections have biases.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, dim: int, heads: int, *, window: int, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_dim, self.window, self.dropout = heads, dim // heads, window, dropout
        self.q_proj = nn.Linear(dim, dim, bias=bias)
        self.k_proj = nn.Linear(dim, dim, bias=bias)
        self.v_proj = nn.Linear(dim, dim, bias=bias)
        self.o_proj = nn.Linear(dim, dim, bias=bias)
        self.emb_rel_k = nn.Parameter(torch.empty(1, 2 * window + 1, self.head_dim))
        self.emb_rel_v = nn.Parameter(torch.empty(1, 2 * window + 1, self.head_dim))

    def reset(self, std: float) -> None:
        """Vectors begin with lengths of about one."""
        for table in (self.emb_rel_k, self.emb_rel_v):
            nn.init.normal_(table, std=self.head_dim**-0.5)

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out."""
        q, k, v = (
            one.view(*one.shape[:2], self.heads, self.head_dim).transpose(1, 2)
            for one in outputs_of(x_BTD, self.q_proj, self.k_proj, self.v_proj)
        )
        q, length = q * self.head_dim**-0.5, x_BTD.shape[1]
        places = torch.arange(length, device=x_BTD.device)
        offset = places - places[:, None] + self.window
        near = offset.clamp(-1, 2 * self.window + 1) + 1
        scores = q @ k.transpose(2, 3)
        # One column more on either side, for all that is farther away.
        bias = F.pad(q @ self.emb_rel_k.transpose(1, 2), (1, 1))
        scores = scores + bias.gather(-1, near.expand(scores.shape))
        allowed = ctx.mask(Full(), length, x_BTD.device).allowed
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
        if ctx.taps.wants_attentions:
            ctx.taps.attentions.append(weights)
        weights = F.dropout(weights, self.dropout, self.training)
        # The weights by distance: of each query's key ``window`` steps before it, and so on.
        key = places[:, None] + torch.arange(-self.window, self.window + 1, device=x_BTD.device)
        there = (key >= 0) & (key < length)
        by_distance = weights.gather(-1, key.clamp(0, length - 1).expand(*weights.shape[:3], -1)) * there
        mixed = weights @ v + by_distance @ self.emb_rel_v
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out
