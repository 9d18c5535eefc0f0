"""Calls of which only the loss is wanted, as a step of training makes them: they need not compute what no loss reads.

``model(..., loss_only=True)`` says so. Padding is then left out where a mask in the host's memory tells of it: the real
tokens of all rows are one packed step (:mod:`~omniform.architectures.unpadded`). And heads over a vocabulary score the
places that have a label, some of them at a time, so that the scores of all tokens never exist at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from omniform.architectures.labels import IGNORED
from omniform.architectures.losses import Items, divided, token_loss
from omniform.core.host import is_readable

SCORES = 1 << 23
"""How many scores are held at once: 32 MB in float32, which stay near the processor longer than all of them would."""

Adjust = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class LossOnly:
    """That only the loss of a call is wanted.

    Attributes:
        places: the places of the flattened batch that have a label; None where nobody may look.
    """

    places: Tensor | None = None


def places_of(labels: object, shift: int) -> Tensor | None:
    """Which places of the flattened batch have a label to be scored at; None where the host cannot look.

    Args:
        labels: Shape: [B, T].
        shift: how many places to the right of its score a label stands.
    """
    if not isinstance(labels, Tensor) or labels.dim() != 2 or not is_readable(labels):
        return None
    beside = F.pad(labels, (0, shift), value=IGNORED)[:, shift:]
    return (beside.flatten() != IGNORED).nonzero()[:, 0]


def loss_at(
    hidden_BTD: Tensor,
    labels_BT: Tensor,
    places: Tensor | None,
    head: nn.Module,
    adjust: Adjust | None,
    items: Items,
) -> Tensor:
    """Cross-entropy of the labelled places alone.

    Args:
        hidden_BTD: what the head reads.
        labels_BT: labels beside the places that they are scored at.
        places: which of them have labels (:func:`places_of`); None to look at all.
        head: hidden states to scores; where it is a plain matrix, some at a time.
        adjust: what is done to the projection's scores.
        items: what the sum is divided by, if not the number of labels.
    """
    hidden, labels = hidden_BTD.flatten(0, 1), labels_BT.flatten().to(hidden_BTD.device)
    if places is not None:
        places = places.to(hidden.device)
        hidden, labels = hidden[places], labels[places]
    learned = isinstance(adjust, nn.Module) and any(p.requires_grad for p in adjust.parameters())
    if learned or not is_plain(head) or not len(labels):
        scores = head(hidden)
        return token_loss(scores if adjust is None else adjust(scores), labels, items)
    matrix = cast(nn.Linear, head)
    total = cast(Tensor, _SummedLoss.apply(hidden, matrix.weight, matrix.bias, labels, adjust))  # type: ignore[no-untyped-call]
    return total / (labels != IGNORED).sum() if items is None else divided(total, items)


def is_plain(head: nn.Module) -> bool:
    """Whether a projection is its matrix and nothing else: no adapter, no hook, no share of a matrix."""
    if type(head) is not nn.Linear or type(head.weight) is not nn.Parameter:
        return False
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(vars(head)[kind] for kind in hooks) and "forward" not in vars(head)


class _Kept(FunctionCtx):
    """What the backward of :class:`_SummedLoss` needs."""

    saved_tensors: tuple[Tensor, ...]
    grads: list[Tensor | None]


class _SummedLoss(torch.autograd.Function):
    """A projection and the sum of its cross-entropies, whose gradients are made beside it, some tokens at a time."""

    @staticmethod
    def forward(
        ctx: _Kept, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, adjust: Adjust | None
    ) -> Tensor:
        """Shape: [N, D], [V, D], [V], [N] to []."""
        needs = ctx.needs_input_grad  # type: ignore[attr-defined]
        of_hidden = torch.empty_like(hidden) if needs[0] else None
        of_weight = torch.zeros_like(weight) if needs[1] else None
        of_bias = None if bias is None or not needs[2] else torch.zeros_like(bias)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        some = max(SCORES // weight.shape[0], 1)
        for first in range(0, len(hidden), some):
            part = hidden[first : first + some]
            loss, change = _graded(F.linear(part, weight, bias), labels[first : first + some], adjust)
            total += loss
            if of_hidden is not None:
                of_hidden[first : first + some] = change @ weight.to(change.dtype)
            if of_weight is not None:
                of_weight.addmm_(change.t().to(weight.dtype), part.to(weight.dtype))
            if of_bias is not None:
                of_bias += change.sum(0)
        ctx.grads = [of_hidden, of_weight, of_bias]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, by: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else grad.mul_(by) for grad in ctx.grads]
        ctx.grads = []
        return *grads, None, None


def _graded(scores_NV: Tensor, labels_N: Tensor, adjust: Adjust | None) -> tuple[Tensor, Tensor]:
    """The sum of cross-entropies of some scores, and their gradients, in the scores' dtype."""
    if adjust is not None:
        with torch.enable_grad():
            raw = scores_NV.detach().requires_grad_()
            loss = F.cross_entropy(adjust(raw).float(), labels_N, ignore_index=IGNORED, reduction="sum")
            (change,) = torch.autograd.grad(loss, raw)
        return loss.detach(), change
    wide = scores_NV.float()
    scored = labels_N != IGNORED
    wanted = labels_N.clamp(min=0)[:, None]
    most = wide.logsumexp(-1)
    loss = ((most - wide.gather(1, wanted)[:, 0]) * scored).sum()
    change = (wide - most[:, None]).exp_()
    change.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=change.dtype))
    return loss, change.mul_(scored[:, None]).to(scores_NV.dtype)
