"""Attention over packed rows whose keys lie in paged state.

A row's keys are runs of slots in one long tensor, and a run is a view: nothing is gathered. A query that sees several
runs (a shared prefix, then its own tokens) attends to each of them, and the results are blended by their softmax
denominators (https://arxiv.org/abs/2205.14135, section 3.1), so that a prefix that rows share is read once for all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.blocks.padded import attend_padded
from omniform.core.context import Backend, Bias, Mask
from omniform.core.packed import Call, PackedMask, RowKeys


def attend_packed(
    q_NHD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    mask: PackedMask,
    *,
    scale: float,
    backend: Backend,
    bias: Bias | None = None,
) -> Tensor:
    """Attention of every row of a packed step to its own keys.

    Args:
        q_NHD: the queries of all rows, end to end.
        k_SGD: the keys of every slot there is, where G divides H.
        v_SGD: the values likewise.
        mask: which queries see which slots.
        bias: per row, Shape: [1, H, T, S], added to the scaled scores.

    Returns:
        Shape: [N, H, Dv].
    """
    if backend == "eager" or bias is not None:
        biases = bias if isinstance(bias, tuple) else (None,) * len(mask.rows)
        parts = [_row(q_NHD, k_SGD, v_SGD, row, scale, backend, b) for row, b in zip(mask.rows, biases, strict=True)]
        return torch.cat(parts)
    calls = mask.calls
    if len(calls.own) == 1 and not calls.extra and not calls.masked:
        return _whole(q_NHD, k_SGD, v_SGD, calls.own[0], scale)
    out = q_NHD.new_empty((*q_NHD.shape[:2], v_SGD.shape[-1]))
    if not calls.extra:
        for call in calls.own:
            out[call.queries] = _whole(q_NHD, k_SGD, v_SGD, call, scale)
    else:
        _blend(q_NHD, k_SGD, v_SGD, calls.own, calls.extra, scale, out)
    for row in calls.masked:
        out[row.queries] = _row(q_NHD, k_SGD, v_SGD, row, scale, backend, None)
    return out


def _whole(q_NHD: Tensor, k_SGD: Tensor, v_SGD: Tensor, call: Call, scale: float) -> Tensor:
    """Queries that see one run and nothing else. Shape: [n, H, Dv]."""
    q, k, v = _laid_out(q_NHD[call.queries], k_SGD, v_SGD, call)
    return _back(F.scaled_dot_product_attention(q, k, v, is_causal=call.causal, scale=scale), call)


def _blend(
    q_NHD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    own: tuple[Call, ...],
    extra: tuple[Call, ...],
    scale: float,
    out_NHD: Tensor,
) -> None:
    mixed = out_NHD.new_empty(out_NHD.shape, dtype=torch.float32)
    total_NH = out_NHD.new_empty(out_NHD.shape[:2], dtype=torch.float32)
    covered = []
    for call in own:
        mixed[call.queries], total_NH[call.queries] = _partial(q_NHD, k_SGD, v_SGD, call, scale)
        covered.append(call.queries)
    for call in extra:
        part, weight = _partial(q_NHD, k_SGD, v_SGD, call, scale)
        before = total_NH[call.queries]
        both = torch.logaddexp(before, weight)
        old, new = (before - both).exp()[..., None], (weight - both).exp()[..., None]
        mixed[call.queries] = mixed[call.queries] * old + part * new
        total_NH[call.queries] = both
    for queries in covered:
        out_NHD[queries] = mixed[queries].to(out_NHD.dtype)


def _partial(q_NHD: Tensor, k_SGD: Tensor, v_SGD: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
    """Attention to one run, and the logarithm of its softmax denominator. Shape: [n, H, Dv] and [n, H], float32."""
    q, k, v = _laid_out(q_NHD[call.queries], k_SGD, v_SGD, call)
    if q.device.type == "cpu" and k.shape[-1] == v.shape[-1]:
        out, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, call.causal, scale=scale)
        return _back(out, call).float(), _back(weight[..., None], call)[..., 0]
    scores = (q @ k.transpose(-2, -1)).float() * scale
    if call.causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), float("-inf"))
    weight = scores.logsumexp(-1, keepdim=True)
    return _back((scores - weight).exp() @ v.float(), call), _back(weight, call)[..., 0]


def _laid_out(q_nHD: Tensor, k_SGD: Tensor, v_SGD: Tensor, call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Views for the kernel in which no key is repeated for the query heads that share it."""
    first, stop = call.run
    k, v = k_SGD[first:stop].transpose(0, 1), v_SGD[first:stop].transpose(0, 1)
    count, heads, width = q_nHD.shape
    groups = k.shape[0]
    if call.causal:
        # Groups are the kernel's batch, and the heads of a group see one expanded key head.
        q = q_nHD.view(count, groups, heads // groups, width).permute(1, 2, 0, 3)
        return q, k[:, None].expand(-1, heads // groups, -1, -1), v[:, None].expand(-1, heads // groups, -1, -1)
    # All queries see all keys: the heads of a group are so many more queries.
    q = q_nHD.view(count, groups, heads // groups, width).transpose(0, 1).reshape(1, groups, -1, width)
    return q, k[None], v[None]


def _back(x: Tensor, call: Call) -> Tensor:
    """From the kernel's layout to [n, H, D]."""
    if call.causal:
        return x.permute(2, 0, 1, 3).flatten(1, 2)
    groups, width = x.shape[1], x.shape[-1]
    n = _count(call)
    if n == 1:
        return x.reshape(1, -1, width)
    return x.reshape(groups, n, -1, width).transpose(0, 1).flatten(1, 2)


def _count(call: Call) -> int:
    queries = call.queries
    return queries.stop - queries.start if isinstance(queries, slice) else queries.shape[0]


def _row(
    q_NHD: Tensor,
    k_SGD: Tensor,
    v_SGD: Tensor,
    row: RowKeys,
    scale: float,
    backend: Backend,
    bias: Tensor | None,
) -> Tensor:
    k, v = _gathered(k_SGD, row), _gathered(v_SGD, row)
    part = None if bias is None else bias[..., row.first :]
    mask = Mask(None if row.allowed is None else row.allowed[None, None])
    return attend_padded(q_NHD[None, row.queries], k, v, mask, scale=scale, backend=backend, bias=part)[0]


def _gathered(x_SGD: Tensor, row: RowKeys) -> Tensor:
    """A row's keys or values. Shape: [1, G, S, D]; a view where they lie together."""
    runs = [x_SGD[first:stop] for first, stop in row.runs]
    whole = runs[0] if len(runs) == 1 else torch.cat(runs)
    return whole.transpose(0, 1)[None]
