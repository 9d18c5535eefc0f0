"""Attention over packed rows whose keys lie in paged state.

A row's keys are runs of slots in one long tensor, and a run is a view: nothing is gathered. A query that sees several
runs (a shared prefix, then its own tokens) attends to each of them, and the results are blended by their softmax
denominators (https://arxiv.org/abs/2205.14135, section 3.1), so that a prefix that rows share is read once for all.

Query heads that share a key head are never given copies of it: G is the number of key heads, R of query heads to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from omniform.blocks.padded import attend_padded
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Bias, Mask
from omniform.core.packed import Call, PackedMask, RowKeys, Run

QUERIES = {"cpu": 256}
"""Causal queries that the kernel is given at once, heads counted: fewer cost calls, more compute what is hidden anyway.
Elsewhere 4096, for the scores that are held at once.
The CPU kernel's own causal way takes small blocks and expanded heads, and half as long again for a prompt of 512."""


def attend_packed(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    mask: PackedMask,
    *,
    scores: Scores,
    backend: Backend,
    bias: Bias | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Attention of every row of a packed step to its own keys.

    Args:
        q_NHD: the queries of all rows, end to end.
        k_1GSD: the keys of every slot there is, where G divides H.
        v_1GSD: the values likewise.
        mask: which queries see which slots.
        scores: how queries and keys are compared.
        bias: per row, Shape: [1, H, T, S], added to the scores.
        sinks: Shape: [H].

    Returns:
        Shape: [N, H, Dv].
    """
    if backend == "eager" or bias is not None:
        rows, biases = mask.rows, bias if isinstance(bias, tuple) else (None,) * len(mask.rows)
        return torch.cat(
            [_row(q_NHD, k_1GSD, v_1GSD, row, scores, backend, b, sinks) for row, b in zip(rows, biases, strict=True)]
        )
    groups, each = k_1GSD.shape[1], q_NHD.shape[1] // k_1GSD.shape[1]
    q_NGRD = q_NHD.view(q_NHD.shape[0], groups, each, -1)
    if q_NHD.device.type != "cpu" and sinks is None and scores.cap is None and mask.together is not None:
        return attend_together(q_NGRD, k_1GSD, v_1GSD, *mask.together, scores)
    calls = mask.calls
    weighed = bool(calls.extra) or sinks is not None
    outs: list[Tensor] = []
    weights: list[Tensor] = []
    pieces = torch.split(_folded(q_NGRD), [each * size for size in calls.sizes], dim=2)
    for call, q_1GMD in zip(calls.own, pieces, strict=True):
        if isinstance(call, RowKeys):
            out = _row(q_NHD, k_1GSD, v_1GSD, call, scores, backend, None, sinks)
            outs.append(out.view(len(out), groups, each, -1))
            if weighed:  # nothing more concerns it: it has seen all of its keys, and its sink
                weights.append(q_NHD.new_full((len(out), groups, each), float("inf"), dtype=torch.float32))
            continue
        k, v = _of_run(k_1GSD, call.run), _of_run(v_1GSD, call.run)
        for out, weight in (
            _causal(q_1GMD, k, v, each, scores) if call.causal else [_kernel(q_1GMD, k, v, None, scores)]
        ):
            outs.append(_unfolded(out, each))
            if weighed:
                weights.append(_unfolded(weight, each))
    mixed = outs[0] if len(outs) == 1 else torch.cat(outs)
    if weighed:
        total_NGR = torch.cat(weights)
        mixed = _blend(q_NGRD, k_1GSD, v_1GSD, mixed, total_NGR, calls.extra, scores, last=sinks is None)
        if sinks is not None:  # one more key in the denominator
            share = torch.sigmoid(total_NGR - sinks.float().view(groups, each))
            mixed = (mixed * share[..., None]).to(mixed.dtype)
    return mixed.flatten(1, 2)


def attend_together(
    q_NGRD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, slots_NS: Tensor, there_NS: Tensor, scores: Scores
) -> Tensor:
    """One token of each row at once, the rows' keys gathered: on an accelerator a call per row costs more than copying.

    Args:
        slots_NS: where each row's keys lie.
        there_NS: which of them are keys, and no padding.

    Returns:
        Shape: [N, H, Dv].
    """
    k_NGSD, v_NGSD = (x[0].index_select(1, slots_NS.flatten()) for x in (k_1GSD, v_1GSD))
    k_NGSD = k_NGSD.unflatten(1, slots_NS.shape).transpose(0, 1)  # type: ignore[no-untyped-call]
    v_NGSD = v_NGSD.unflatten(1, slots_NS.shape).transpose(0, 1)  # type: ignore[no-untyped-call]
    mask = there_NS[:, None, None]
    out = F.scaled_dot_product_attention(q_NGRD, k_NGSD, v_NGSD, attn_mask=mask, scale=scores.scale)
    return out.flatten(1, 2)


def _of_run(x_1GSD: Tensor, run: Run) -> Tensor:
    return x_1GSD.narrow(2, run[0], run[1] - run[0])


def _folded(q_nGRD: Tensor) -> Tensor:
    """The heads of a group as so many queries, a token's side by side. Shape: [1, G, M, D], where M is n * R."""
    return q_nGRD.transpose(0, 1).flatten(1, 2)[None]


def _unfolded(x_1GM: Tensor, each: int) -> Tensor:
    """Shape: [1, G, M, ...] to [n, G, R, ...]."""
    _, groups, queries, *width = x_1GM.shape
    if queries == each:
        return x_1GM  # a single token
    return x_1GM.view(groups, queries // each, each, *width).transpose(0, 1)


def _causal(
    q_1GMD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, each: int, scores: Scores
) -> Iterator[tuple[Tensor, Tensor]]:
    """A run's own tokens, some at a time, to its keys up to the last of them; each as :func:`_kernel` gives it."""
    size, count = max(QUERIES.get(q_1GMD.device.type, 4096) // each, 16), q_1GMD.shape[2] // each
    longest = max(1 << count.bit_length(), 512)  # so that few stairs are made
    stairs = _stairs(size, each, longest, q_1GMD.dtype, q_1GMD.device)
    for first in range(0, count, size):
        stop = min(first + size, count)
        mask = stairs[: (stop - first) * each, longest - first : longest - first + stop]
        q = q_1GMD[:, :, first * each : stop * each]
        yield _kernel(q, k_1GSD[:, :, :stop], v_1GSD[:, :, :stop], mask, scores)


@lru_cache(maxsize=4)
def _stairs(size: int, each: int, longest: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What ``size`` tokens' queries of ``each`` heads add to the scores of the keys before and of their own.

    Shape: [size * each, longest + size].
    """
    own = torch.full((size, size), float("-inf"), dtype=dtype, device=device).triu(1)
    return torch.cat([own.new_zeros(size, longest), own], dim=1).repeat_interleave(each, dim=0)


def _kernel(
    q_1GMD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, mask: Tensor | None, scores: Scores
) -> tuple[Tensor, Tensor]:
    """Attention, Shape: [1, G, M, Dv], and the logarithm of its softmax denominator, [1, G, M] in float32.

    Args:
        mask: added to the scores. Shape: [M, S].
    """
    if scores.cap is None and q_1GMD.device.type == "cpu" and k_1GSD.shape[-1] == v_1GSD.shape[-1]:
        added = None if mask is None else mask[None, None]
        return torch._scaled_dot_product_flash_attention_for_cpu(
            q_1GMD, k_1GSD, v_1GSD, attn_mask=added, scale=scores.scale
        )
    compared = scores.bounded((q_1GMD @ k_1GSD.transpose(-2, -1)).float() * scores.scale)
    if mask is not None:
        compared = compared + mask
    weight = compared.logsumexp(-1, keepdim=True)
    return (compared - weight).exp().to(v_1GSD.dtype) @ v_1GSD, weight[..., 0]


def _blend(
    q_NGRD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    own_NGRD: Tensor,
    total_NGR: Tensor,
    extra: Sequence[Call],
    scores: Scores,
    *,
    last: bool,
) -> Tensor:
    """Add what earlier runs have to say to what the queries' own runs said. Shape: [N, G, R, Dv].

    The logarithms of the denominators, ``total_NGR``, are kept up to date; ``last``: nobody reads them afterwards.
    """
    if not extra:
        return own_NGRD
    each = q_NGRD.shape[2]
    # One row's next piece, or one prefix for all: only the queries it concerns are touched.
    mixed = own_NGRD if len(extra) == 1 else own_NGRD.float()
    for call in extra:
        k, v = _of_run(k_1GSD, call.run), _of_run(v_1GSD, call.run)
        out, weight = _kernel(_folded(q_NGRD[call.queries]), k, v, None, scores)
        out, weight = _unfolded(out, each), _unfolded(weight, each)
        before = total_NGR[call.queries]
        share = torch.sigmoid(weight - before)[..., None]  # of the two denominators' sum
        mixed[call.queries] = torch.lerp(mixed[call.queries].float(), out.float(), share).to(mixed.dtype)
        if not last or call is not extra[-1]:
            total_NGR[call.queries] = torch.logaddexp(before, weight)
    return mixed.to(own_NGRD.dtype)


def _row(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    row: RowKeys,
    scores: Scores,
    backend: Backend,
    bias: Tensor | None,
    sinks: Tensor | None,
) -> Tensor:
    """One row, all its keys at once. Shape: [n, H, Dv]."""
    mask = Mask(None if row.allowed is None else row.allowed[None, None])
    part = None if bias is None else bias[..., row.first :]
    k, v = _gathered(k_1GSD, row), _gathered(v_1GSD, row)
    return attend_padded(q_NHD[None, row.queries], k, v, mask, scores=scores, backend=backend, bias=part, sinks=sinks)[
        0
    ]


def _gathered(x_1GSD: Tensor, row: RowKeys) -> Tensor:
    """A row's keys or values. Shape: [1, G, S, D]; a view where they lie together."""
    runs = [x_1GSD[:, :, first:stop] for first, stop in row.runs]
    return runs[0] if len(runs) == 1 else torch.cat(runs, dim=2)
