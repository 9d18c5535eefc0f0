"""Attention in operations that every runtime knows.

torch's fused kernel gives zeros where a query may see nothing (padding in front of a text); what an exporter makes of
it gives something else there, and the next layers carry that on. So while a model is traced for export, the kernel is
written out here, zeros included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class WrittenOut(TorchFunctionMode):
    """Within, ``scaled_dot_product_attention`` is computed by :func:`attention`, ``embedding_bag`` by :func:`bags`."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if func is F.scaled_dot_product_attention:
            return attention(*args, **(kwargs or {}))  # type: ignore[arg-type] # as the kernel's own arguments are
        given = kwargs or {}
        weights = given.get("per_sample_weights")
        if func is F.embedding_bag and isinstance(weights, Tensor) and given.get("offsets") is None:
            return bags(*args[:2], weights)  # type: ignore[arg-type, call-arg] # as the kernel's own arguments are
        return func(*args, **(kwargs or {}))


def bags(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Sums of rows of a table, weighed.

    Args:
        indices: Shape: [N, K].
        rows: Shape: [R, D].
        weights: Shape: [N, K].

    Returns:
        Shape: [N, D].
    """
    return (weights.unsqueeze(-2) @ F.embedding(indices, rows)).squeeze(-2)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What torch's kernel of this name computes, without dropout (https://arxiv.org/abs/1706.03762).

    Args:
        query: Shape: [B, H, T, D].
        key: Shape: [B, G, S, D]; with ``enable_gqa`` G divides H.
        value: Shape: [B, G, S, Dv].
        attn_mask: True where a query may look, or numbers to add. Shape: [B or 1, H or 1, T or 1, S].

    Returns:
        Shape: [B, H, T, Dv]; zeros for a query that may look nowhere.
    """
    heads, groups = query.shape[-3], key.shape[-3]
    q = query * (1 / sqrt(query.shape[-1]) if scale is None else scale)
    mask = attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    shared = enable_gqa and heads != groups
    if shared:
        # Queries get an axis of their own: keys are shared by broadcasting, and nothing is repeated in memory.
        q = _grouped(q, groups)
        key, value = key.unsqueeze(-3), value.unsqueeze(-3)
        if mask is not None and mask.dim() >= 3:
            mask = mask.unsqueeze(-3) if mask.shape[-3] == 1 else _grouped(mask, groups)
    scores = q @ key.transpose(-1, -2)
    if mask is None:
        weights = scores.softmax(-1)
    elif mask.dtype == torch.bool:
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).masked_fill(~mask.any(-1, keepdim=True), 0.0)
    else:
        scores = scores + mask
        weights = scores.softmax(-1).masked_fill(scores.amax(-1, keepdim=True) == float("-inf"), 0.0)
    found = weights @ value
    return found.flatten(-4, -3) if shared else found


def _grouped(x: Tensor, groups: int) -> Tensor:
    """Heads as groups of heads. Shape: [..., H, T, D] to [..., G, H / G, T, D]."""
    return x.reshape(*x.shape[:-3], groups, x.shape[-3] // groups, *x.shape[-2:])
