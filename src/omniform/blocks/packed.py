"""Attention over packed rows whose keys lie in paged state.

A row's keys are runs of slots in one long tensor, and a run is a view: nothing is gathered. A query that sees several
runs (a shared prefix, then its own tokens) attends to each of them, and the results are blended by their softmax
denominators (https://arxiv.org/abs/2205.14135, section 3.1), so that a prefix that rows share is read once for all.

Query heads that share a key head are never given copies of it: G is the number of key heads, R of query heads to each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from omniform.blocks.padded import attend_padded
from omniform.core.context import Backend, Bias, Mask
from omniform.core.packed import Call, PackedMask, RowKeys

QUERIES = 256
"""Queries that the CPU's kernel is given at once, heads counted: fewer cost calls, more compute what causality hides.
Its own causal way takes small blocks and expanded heads: for a prompt of 512 it needs half as long again."""


def attend_packed(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    mask: PackedMask,
    *,
    scale: float,
    backend: Backend,
    bias: Bias | None = None,
) -> Tensor:
    """Attention of every row of a packed step to its own keys.

    Args:
        q_NHD: the queries of all rows, end to end.
        k_1GSD: the keys of every slot there is, where G divides H.
        v_1GSD: the values likewise.
        mask: which queries see which slots.
        bias: per row, Shape: [1, H, T, S], added to the scaled scores.

    Returns:
        Shape: [N, H, Dv].
    """
    if backend == "eager" or bias is not None:
        rows, biases = mask.rows, bias if isinstance(bias, tuple) else (None,) * len(mask.rows)
        parts = [_row(q_NHD, k_1GSD, v_1GSD, row, scale, backend, b) for row, b in zip(rows, biases, strict=True)]
        return torch.cat(parts)
    groups = k_1GSD.shape[1]
    q_NGRD = q_NHD.view(q_NHD.shape[0], groups, -1, q_NHD.shape[2])
    calls = mask.calls
    outs: list[Tensor] = []
    weights: list[Tensor] = []
    for call in calls.own:
        if isinstance(call, RowKeys):
            out, weight = _row(q_NHD, k_1GSD, v_1GSD, call, scale, backend, None), q_NHD.new_zeros(0)
            out = out.view(out.shape[0], groups, -1, out.shape[2])
        else:
            out, weight = _part(q_NGRD[call.queries], k_1GSD, v_1GSD, call, scale)
        outs.append(out)
        weights.append(weight)
    mixed = outs[0] if len(outs) == 1 else torch.cat(outs)
    if calls.extra:
        mixed = _blend(q_NGRD, k_1GSD, v_1GSD, mixed, weights, calls.own, calls.extra, scale)
    return mixed.flatten(1, 2)


def _part(q_nGRD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, call: Call, scale: float) -> tuple[Tensor, Tensor]:
    """Attention to one run, and the logarithm of its softmax denominator. Shape: [n, G, R, Dv] and [n, G, R]."""
    first, stop = call.run
    k, v = k_1GSD.narrow(2, first, stop - first), v_1GSD.narrow(2, first, stop - first)
    count, each = len(q_nGRD), q_nGRD.shape[2]
    size = max(QUERIES // each, 16)
    if call.causal and count > size and q_nGRD.device.type == "cpu":
        return _steps(q_nGRD, k, v, size, scale)
    if call.causal:
        # Groups are the kernel's batch, and the heads of a group see one expanded key head.
        q = q_nGRD.permute(1, 2, 0, 3)
        k, v = (x[0, :, None].expand(-1, each, -1, -1) for x in (k, v))
        out, weight = _kernel(q, k, v, True, scale)
        return out.permute(2, 0, 1, 3), weight.permute(2, 0, 1)
    if count == 1:
        # The heads of a group are so many queries, all of which see all keys.
        return _kernel(q_nGRD, k, v, False, scale)
    return _folded(q_nGRD, k, v, None, scale)


def _steps(q_nGRD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, size: int, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention, ``size`` queries at a time, to the keys up to the last of them; shapes as of :func:`_part`."""
    count, each = len(q_nGRD), q_nGRD.shape[2]
    stairs = _stairs(size, each, 1 << (count - 1).bit_length(), q_nGRD.dtype)
    parts = []
    for first in range(0, count, size):
        stop = min(first + size, count)
        mask = stairs[: (stop - first) * each, stairs.shape[1] - size - first :][:, :stop]
        parts.append(_folded(q_nGRD[first:stop], k_1GSD[:, :, :stop], v_1GSD[:, :, :stop], mask, scale))
    return torch.cat([out for out, _ in parts]), torch.cat([weight for _, weight in parts])


@lru_cache(maxsize=4)
def _stairs(size: int, each: int, longest: int, dtype: torch.dtype) -> Tensor:
    """What ``size`` queries of ``each`` heads add to the scores of the keys before and of their own.

    Shape: [size * each, longest + size].
    """
    own = torch.full((size, size), float("-inf"), dtype=dtype).triu(1)
    return torch.cat([own.new_zeros(size, longest), own], dim=1).repeat_interleave(each, dim=0)


def _folded(q_nGRD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Attention with the heads of a group as so many queries: shapes as of :func:`_part`; the mask's, [n * R, S]."""
    count, groups, each, _ = q_nGRD.shape
    q = q_nGRD.transpose(0, 1).reshape(1, groups, count * each, -1)
    out, weight = _kernel(q, k_1GSD, v_1GSD, False, scale, mask)
    out, weight = out.view(groups, count, each, -1), weight.view(groups, count, each)
    return out.transpose(0, 1), weight.transpose(0, 1)


def _kernel(
    q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, causal: bool, scale: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attention, Shape: [B, H, T, Dv], and the logarithm of its softmax denominator, [B, H, T] in float32.

    Args:
        mask: added to the scores. Shape: [T, S].
    """
    if q_BHTD.device.type == "cpu" and k_BHSD.shape[-1] == v_BHSD.shape[-1]:
        added = None if mask is None else mask[None, None]
        return torch._scaled_dot_product_flash_attention_for_cpu(
            q_BHTD, k_BHSD, v_BHSD, 0.0, causal, attn_mask=added, scale=scale
        )
    scores = (q_BHTD @ k_BHSD.transpose(-2, -1)).float() * scale
    if mask is not None:
        scores = scores + mask
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    weight = scores.logsumexp(-1, keepdim=True)
    return (scores - weight).exp().to(v_BHSD.dtype) @ v_BHSD, weight[..., 0]


def _blend(
    q_NGRD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    own_NGRD: Tensor,
    weights: list[Tensor],
    own: Sequence[Call | RowKeys],
    extra: Sequence[Call],
    scale: float,
) -> Tensor:
    """Add what earlier runs have to say to what the queries' own runs said. Shape: [N, G, R, Dv]."""
    for i, call in enumerate(own):
        if isinstance(call, RowKeys):  # it has seen all of its keys
            weights[i] = q_NGRD.new_zeros(q_NGRD[call.queries].shape[:3], dtype=torch.float32)
    total = torch.cat(weights)
    if len(extra) == 1:
        # One row's next piece, or one prefix for all: only the queries it concerns are touched.
        queries = extra[0].queries
        part, weight = _part(q_NGRD[queries], k_1GSD, v_1GSD, extra[0], scale)
        share = (weight - torch.logaddexp(total[queries], weight)).exp()[..., None]
        blended = torch.lerp(own_NGRD[queries].float(), part.float(), share).to(own_NGRD.dtype)
        own_NGRD[queries] = blended
        return own_NGRD
    mixed = own_NGRD.float()
    for call in extra:
        part, weight = _part(q_NGRD[call.queries], k_1GSD, v_1GSD, call, scale)
        before = total[call.queries]
        both = torch.logaddexp(before, weight)
        mixed[call.queries] = torch.lerp(mixed[call.queries], part.float(), (weight - both).exp()[..., None])
        total[call.queries] = both
    return mixed.to(own_NGRD.dtype)


def _row(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    row: RowKeys,
    scale: float,
    backend: Backend,
    bias: Tensor | None,
) -> Tensor:
    """One row, all its keys at once. Shape: [n, H, Dv]."""
    mask = Mask(None if row.allowed is None else row.allowed[None, None])
    part = None if bias is None else bias[..., row.first :]
    k, v = _gathered(k_1GSD, row), _gathered(v_1GSD, row)
    return attend_padded(q_NHD[None, row.queries], k, v, mask, scale=scale, backend=backend, bias=part)[0]


def _gathered(x_1GSD: Tensor, row: RowKeys) -> Tensor:
    """A row's keys or values. Shape: [1, G, S, D]; a view where they lie together."""
    runs = [x_1GSD[:, :, first:stop] for first, stop in row.runs]
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=2)
