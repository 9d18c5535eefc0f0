"""Attention over padded rows: torch's fused kernel, the softmax written out, or a kernel that is asked for by name."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.blocks.kernels import Extras, able
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Mask
from omniform.core.rules import Causal, Full, Rule


def is_written_out(backend: Backend, scores: Scores, *, sinks: bool) -> bool:
    """Whether the softmax is written out, where no kernel is asked for by name that can do it.

    Torch's fused kernel bounds no scores and knows of no sinks.
    """
    return backend == "eager" or scores.cap is not None or sinks


def attend_padded(
    q_BTHD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    mask: Mask,
    *,
    scores: Scores,
    backend: Backend,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Attention of every row to its own keys; see :func:`omniform.blocks.attend.attend` for the arguments.

    Returns:
        Shape: [B, T, H, Dv].
    """
    q_BHTD = q_BTHD.transpose(1, 2)
    extras = Extras(scores, bias, sinks, dropout)
    kernel = None if weights is not None else able(backend, _rule(mask), q_BHTD, k_BHSD, v_BHSD, mask, extras)
    if kernel is not None:
        out_BHTD = kernel.padded(q_BHTD, k_BHSD, v_BHSD, mask, extras)
    elif weights is not None or is_written_out(backend, scores, sinks=sinks is not None):
        out_BHTD = _eager(q_BHTD, k_BHSD, v_BHSD, mask, scores, bias, sinks, dropout, weights)
    else:
        out_BHTD = _sdpa(q_BHTD, k_BHSD, v_BHSD, mask, scores.scale, bias, dropout)
    return out_BHTD.transpose(1, 2)


def _rule(mask: Mask) -> Rule | None:
    """What a mask says; None for one that is no rule."""
    if mask.causal:
        return Causal()
    if mask.seen is not None:
        return mask.seen.rule
    return Full() if mask.allowed is None else None


def _sdpa(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Mask, scale: float, bias: Tensor | None, dropout: float
) -> Tensor:
    heads, queries = q_BHTD.shape[1], q_BHTD.shape[2]
    groups = k_BHSD.shape[1]
    if groups != heads and queries == 1 and bias is None:
        # One new token: the query heads of a group become rows of one attention, and no key is repeated.
        grouped = q_BHTD.reshape(q_BHTD.shape[0], groups, heads // groups, -1)
        out = F.scaled_dot_product_attention(
            grouped, k_BHSD, v_BHSD, attn_mask=mask.allowed, dropout_p=dropout, scale=scale
        )
        return out.reshape(q_BHTD.shape[0], heads, 1, -1)
    k_BHSD, v_BHSD = _repeated(k_BHSD, heads), _repeated(v_BHSD, heads)
    allowed: Tensor | None = mask.allowed
    causal = mask.causal
    if bias is not None:
        allowed, causal = _as_bias(mask, bias.to(q_BHTD.dtype), queries, k_BHSD.shape[2]), False
    return F.scaled_dot_product_attention(
        q_BHTD, k_BHSD, v_BHSD, attn_mask=allowed, dropout_p=dropout, is_causal=causal, scale=scale
    )


def _eager(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    mask: Mask,
    scores: Scores,
    bias: Tensor | None,
    sinks: Tensor | None,
    dropout: float,
    weights: list[Tensor] | None,
) -> Tensor:
    k_BHSD, v_BHSD = _repeated(k_BHSD, q_BHTD.shape[1]), _repeated(v_BHSD, q_BHTD.shape[1])
    compared = scores.bounded(q_BHTD @ k_BHSD.transpose(2, 3) * scores.scale)
    if bias is not None:
        compared = compared + bias
    allowed = mask.materialised(q_BHTD.shape[2], k_BHSD.shape[2], q_BHTD.device)
    if allowed is not None:
        compared = compared.masked_fill(~allowed, torch.finfo(compared.dtype).min)
    if sinks is not None:
        sink = sinks.to(compared.dtype).view(1, -1, 1, 1).expand(compared.shape[0], -1, compared.shape[2], 1)
        compared = torch.cat((compared, sink), dim=-1)
    probabilities = torch.softmax(compared, dim=-1, dtype=torch.float32).to(q_BHTD.dtype)
    if sinks is not None:
        probabilities = probabilities[..., :-1]
    probabilities = F.dropout(probabilities, dropout, training=dropout > 0)
    if weights is not None:
        weights.append(probabilities)
    return probabilities @ v_BHSD


def _as_bias(mask: Mask, bias: Tensor, queries: int, keys: int) -> Tensor:
    allowed = mask.materialised(queries, keys, bias.device)
    return bias if allowed is None else bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)


def _repeated(x_BGSD: Tensor, heads: int) -> Tensor:
    groups = x_BGSD.shape[1]
    return x_BGSD if groups == heads else x_BGSD.repeat_interleave(heads // groups, dim=1)
