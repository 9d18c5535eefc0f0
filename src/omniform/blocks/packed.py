"""Attention over packed rows whose keys lie in paged state.

A row's keys are ranges of slots in one long tensor, and a range is a view: nothing is gathered. A query that sees
several ranges (a shared prefix, then its own tokens) attends to each of them, and the results are blended by their
softmax denominators (https://arxiv.org/abs/2205.14135, section 3.1), so that a prefix that rows share is read once for
all. On a GPU one kernel reads all rows' keys where they lie (:mod:`omniform.blocks.reached`). On other accelerators,
where a call costs more than copying, the single tokens of all rows are one call over gathered keys, and prompts go
range by range.

Query heads that share a key head are never given copies of it: G is the number of key heads, R of query heads to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from omniform.blocks.kernels import Extras, able
from omniform.blocks.padded import attend_padded
from omniform.blocks.reached import attend_gathered, attend_reached, can_reach
from omniform.blocks.scores import Scores
from omniform.core.context import Backend, Bias, Mask
from omniform.core.packed import Decodes, KernelCall, KernelCalls, PackedMask, RowKeys, SlotRange
from omniform.core.reached import DecodeMask, Reached

QUERIES = {"cpu": 256}
"""Causal queries that the kernel is given at once, heads counted: fewer cost calls, more compute what is hidden anyway.
Elsewhere 4096, for the scores that are held at once.
The CPU kernel's own causal way takes small blocks and expanded heads, and half as long again for a prompt of 512."""

RANGE_BY_RANGE = frozenset({"cpu"})
"""Kinds of devices where a kernel call per range of keys costs less than gathering the keys of all rows."""


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
    dropout: float = 0.0,
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
        dropout: probability of dropping an attention weight (training).

    Returns:
        Shape: [N, H, Dv].
    """
    if q_NHD.dtype != k_1GSD.dtype or v_1GSD.dtype != k_1GSD.dtype:  # under autocast, and no kernel mixes
        widest = torch.promote_types(k_1GSD.dtype, v_1GSD.dtype)
        q_NHD, k_1GSD, v_1GSD = q_NHD.to(widest), k_1GSD.to(widest), v_1GSD.to(widest)
    if isinstance(mask, DecodeMask):
        return _decoded(q_NHD, k_1GSD, v_1GSD, mask, scores, bias, sinks)
    if backend == "eager" or bias is not None:
        rows, biases = mask.rows, bias if isinstance(bias, tuple) else (None,) * len(mask.rows)
        return torch.cat(
            [
                _row(q_NHD, k_1GSD, v_1GSD, row, scores, backend, b, sinks, dropout)
                for row, b in zip(rows, biases, strict=True)
            ]
        )
    extras = Extras(scores, None, sinks, dropout)
    kernel = able(backend, mask.rule, q_NHD, k_1GSD, v_1GSD, mask, extras)
    if kernel is not None:
        return kernel.packed(q_NHD, k_1GSD, v_1GSD, mask, extras)
    learned = torch.is_grad_enabled() and any(x.requires_grad for x in (q_NHD, k_1GSD, v_1GSD))
    if learned or dropout:
        return _row_by_row(q_NHD, k_1GSD, v_1GSD, mask, scores, sinks, dropout)
    if can_reach(q_NHD, k_1GSD, v_1GSD) and (reached := Reached.of(mask)) is not None:
        return attend_reached(q_NHD, k_1GSD, v_1GSD, reached, scores=scores, sinks=sinks)
    decodes = None if q_NHD.device.type in RANGE_BY_RANGE else mask.decodes
    if decodes is None:
        return _by_range(q_NHD, k_1GSD, v_1GSD, mask.calls, scores, sinks)
    if decodes.others is None:
        return _decode_batch(q_NHD, k_1GSD, v_1GSD, decodes, scores, sinks)
    tokens, seen = decodes.others
    mixed = q_NHD.new_empty(*q_NHD.shape[:2], v_1GSD.shape[-1])
    mixed[decodes.tokens] = _decode_batch(q_NHD[decodes.tokens], k_1GSD, v_1GSD, decodes, scores, sinks)
    mixed[tokens] = _by_range(q_NHD[tokens], k_1GSD, v_1GSD, seen.calls, scores, sinks)
    return mixed


def _decoded(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    mask: DecodeMask,
    scores: Scores,
    bias: Bias | None,
    sinks: Tensor | None,
) -> Tensor:
    """One token of each row, of which the host knows nothing. Shape: [N, H, D] to [N, H, Dv]."""
    assert not isinstance(bias, tuple), "such a step has one bias"
    added = None if bias is None else bias[0]
    if can_reach(q_NHD, k_1GSD, v_1GSD) and (reached := Reached.of(mask)) is not None:
        return attend_reached(q_NHD, k_1GSD, v_1GSD, reached, scores=scores, sinks=sinks, bias=added)
    return attend_gathered(q_NHD, k_1GSD, v_1GSD, mask, scores=scores, sinks=sinks, bias=added)


def _row_by_row(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    mask: PackedMask,
    scores: Scores,
    sinks: Tensor | None,
    dropout: float,
) -> Tensor:
    """Every row by kernels that know their gradients. Shape: [N, H, D] to [N, H, Dv]."""
    if mask.calls.extra:
        return torch.cat([_row(q_NHD, k_1GSD, v_1GSD, row, scores, "sdpa", None, sinks, dropout) for row in mask.rows])
    outs = []
    for call in mask.calls.own:
        if isinstance(call, RowKeys):
            outs.append(_row(q_NHD, k_1GSD, v_1GSD, call, scores, "sdpa", None, sinks, dropout))
            continue
        k, v = _of_range(k_1GSD, call.slots), _of_range(v_1GSD, call.slots)
        rule, q = Mask(causal=call.causal), q_NHD[None, call.queries]
        outs.append(attend_padded(q, k, v, rule, scores=scores, backend="sdpa", sinks=sinks, dropout=dropout)[0])
    return torch.cat(outs)


def _decode_batch(
    q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, decodes: Decodes, scores: Scores, sinks: Tensor | None
) -> Tensor:
    """One token of each row at once, the rows' keys gathered. Shape: [N, H, D] to [N, H, Dv]."""
    slots, mask = decodes.slots, Mask(decodes.there[:, None, None])
    k_NGSD, v_NGSD = (
        x[0].index_select(1, slots.flatten()).unflatten(1, slots.shape).transpose(0, 1)  # type: ignore[no-untyped-call]
        for x in (k_1GSD, v_1GSD)
    )
    return attend_padded(q_NHD[:, None], k_NGSD, v_NGSD, mask, scores=scores, backend="sdpa", sinks=sinks)[:, 0]


def _by_range(
    q_NHD: Tensor, k_1GSD: Tensor, v_1GSD: Tensor, calls: KernelCalls, scores: Scores, sinks: Tensor | None
) -> Tensor:
    """A kernel call for every range of keys, its results blended. Shape: [N, H, D] to [N, H, Dv]."""
    groups, each = k_1GSD.shape[1], q_NHD.shape[1] // k_1GSD.shape[1]
    q_NGRD = q_NHD.view(q_NHD.shape[0], groups, each, -1)
    weighed = bool(calls.extra) or sinks is not None
    outs: list[Tensor] = []
    weights: list[Tensor] = []
    split = torch.split(_folded(q_NGRD), [each * size for size in calls.sizes], dim=2)
    for call, q_1GMD in zip(calls.own, split, strict=True):
        if isinstance(call, RowKeys):
            out = _row(q_NHD, k_1GSD, v_1GSD, call, scores, "sdpa", None, sinks, 0.0)
            outs.append(out.view(len(out), groups, each, -1))
            if weighed:  # nothing more concerns it: it has seen all of its keys, and its sink
                weights.append(q_NHD.new_full((len(out), groups, each), float("inf"), dtype=torch.float32))
            continue
        k, v = _of_range(k_1GSD, call.slots), _of_range(v_1GSD, call.slots)
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


def _of_range(x_1GSD: Tensor, slots: SlotRange) -> Tensor:
    return x_1GSD.narrow(2, slots[0], slots[1] - slots[0])


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
    """A range's own tokens, some at a time, to its keys up to the last of them; each as :func:`_kernel` gives it."""
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
    extra: Sequence[KernelCall],
    scores: Scores,
    *,
    last: bool,
) -> Tensor:
    """Add what earlier ranges have to say to what the queries' own ranges said. Shape: [N, G, R, Dv].

    The logarithms of the denominators, ``total_NGR``, are kept up to date; ``last``: nobody reads them afterwards.
    """
    if not extra:
        return own_NGRD
    each = q_NGRD.shape[2]
    # One row's next range, or one prefix for all: only the queries it concerns are touched.
    mixed = own_NGRD if len(extra) == 1 else own_NGRD.float()
    for call in extra:
        k, v = _of_range(k_1GSD, call.slots), _of_range(v_1GSD, call.slots)
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
    dropout: float,
) -> Tensor:
    """One row, all its keys at once. Shape: [n, H, Dv]."""
    mask = Mask(None if row.allowed is None else row.allowed[None, None])
    part = None if bias is None else bias[..., row.first :]
    k, v = _gathered(k_1GSD, row), _gathered(v_1GSD, row)
    q = q_NHD[None, row.queries]
    return attend_padded(q, k, v, mask, scores=scores, backend=backend, bias=part, sinks=sinks, dropout=dropout)[0]


def _gathered(x_1GSD: Tensor, row: RowKeys) -> Tensor:
    """A row's keys or values. Shape: [1, G, S, D]; a view where they lie together."""
    ranges = [x_1GSD[:, :, first:stop] for first, stop in row.ranges]
    return ranges[0] if len(ranges) == 1 else torch.cat(ranges, dim=2)
