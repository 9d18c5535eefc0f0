"""Mixtures of experts: a router sends every token to a few of many feed-forwards (https://arxiv.org/abs/2101.03961)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniform.blocks.composed import Composed
from omniform.blocks.layers import PreNorm
from omniform.blocks.mlp import activation
from omniform.core.context import StepContext
from omniform.core.host import is_readable, is_traced

_GROUPED = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 10)
"""Whether torch multiplies groups of rows by matrices of their own, on a CPU too."""


class Stacked(nn.Module):
    """The same projection of every expert. ``weight``: Shape: [E, out, in]."""

    def __init__(self, experts: int, dim: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out, dim))

    def forward(self, x_ND: Tensor, expert_N: Tensor, ends_E: Tensor) -> Tensor:
        """Each token through the projection of its expert, without reading on the host which that is.

        Args:
            x_ND: the tokens in the order of their experts.
            expert_N: each token's expert.
            ends_E: where each expert's tokens end.
        """
        aligned = all(n * x_ND.element_size() % 16 == 0 for n in self.weight.shape[1:])  # what the kernel asks for
        known = is_readable(x_ND) or x_ND.is_cuda  # on no memory at all, and traced, torch takes bfloat16 only
        if _GROUPED and aligned and known and x_ND.dtype is not torch.float64 and not is_traced():
            return F.grouped_mm(x_ND, self.weight.transpose(1, 2), offs=ends_E)
        return (self.weight[expert_N] @ x_ND[..., None])[..., 0]

    def extra_repr(self) -> str:
        experts, out, dim = self.weight.shape
        return f"experts={experts}, {dim}, {out}"


class Experts(nn.Module):
    """Gated feed-forwards, of which each token goes through a few.

    Args:
        experts: how many there are.
        dim: width of the residual stream.
        hidden: width within each.
        act: name of the gates' activation.
    """

    def __init__(self, experts: int, dim: int, hidden: int, act: str) -> None:
        super().__init__()
        self.experts = experts
        self.gate_proj, self.up_proj = Stacked(experts, dim, hidden), Stacked(experts, dim, hidden)
        self.down_proj = Stacked(experts, hidden, dim)
        self._act = activation(act)

    def forward(self, x_ND: Tensor, chosen_NK: Tensor, shares_NK: Tensor) -> Tensor:
        """Shape: [N, D] in and out.

        Args:
            chosen_NK: each token's experts.
            shares_NK: how much each of them counts.
        """
        tokens, each = chosen_NK.shape
        order = chosen_NK.flatten().argsort(stable=True)
        expert = chosen_NK.flatten()[order]
        ends = (expert[:, None] == torch.arange(self.experts, device=x_ND.device)).sum(0).cumsum(0).int()
        x = x_ND[order // each]
        x = self._act(self.gate_proj(x, expert, ends)) * self.up_proj(x, expert, ends)
        made = self.down_proj(x, expert, ends) * shares_NK.flatten()[order, None]
        return torch.zeros_like(made).index_copy(0, order, made).view(tokens, each, -1).sum(1)


class SharedMoE(Composed):
    """Experts that a router chooses, and one that every token goes through, behind a gate of its own (Qwen2-MoE).

    Attributes:
        gate: scores every expert. Shape: [..., D] to [..., E].
        top: how many experts a token goes through.
        normed: whether the chosen experts' shares sum to one.
    """

    gate: nn.Linear
    experts: Experts
    shared_expert: nn.Module
    shared_expert_gate: nn.Linear
    top: int
    normed: bool = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        """Shape: [B, T, D] in and out; the router's scores are noted in ``ctx.taps``."""
        x_ND = x_BTD.flatten(0, -2)
        scores = self.gate(x_ND)
        ctx.taps.routers.append(scores)
        shares, chosen = scores.softmax(-1, dtype=torch.float32).topk(self.top, dim=-1)
        if self.normed:
            shares = shares / shares.sum(-1, keepdim=True)
        mixed: Tensor = self.experts(x_ND, chosen, shares.to(x_ND.dtype))
        mixed = mixed + self.shared_expert_gate(x_ND).sigmoid() * self.shared_expert(x_ND)
        return mixed.view_as(x_BTD)


class RoutedPreNorm(PreNorm):
    """A pre-norm layer whose feed-forward is a mixture of experts."""

    ROUTES: ClassVar[bool] = True

    def forward(self, x_BTD: Tensor, ctx: StepContext) -> Tensor:
        x_BTD = self.add(x_BTD, self.self_attn(self.input_layernorm(x_BTD), ctx), ctx)
        return self.add(x_BTD, self.mlp(self.post_attention_layernorm(x_BTD), ctx), ctx)
