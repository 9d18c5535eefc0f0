"""The highest of many scores, found by looking at the maxima of short stretches first.

On a CPU torch finds maxima of stretches four to ten times as fast as it finds *where* a row's maximum is, or the first
few of a whole vocabulary. What comes out is the same to the last bit: where scores tie, so that the order would be
torch's own affair, torch is asked.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from omniform.native.sampling import first_highest

STRETCH: Final = 256
"""Scores in a stretch."""

SHORT: Final = 64
"""The same where many of each row's scores are looked for."""

MANY: Final = 4096
"""A vocabulary is worth cutting up from here on."""

FEW: Final = 64
"""On a GPU it is worth it up to so many rows: more keep it busy as they are."""

MUCH: Final = 1 << 16
"""A single maximum is worth it from so many scores on."""


def highest(scores_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's highest score and the first place where it stands; NaN where there is one. Shape: [R] each."""
    rows, vocabulary = scores_RV.shape
    first = first_highest(scores_RV)
    if first is not None:
        return scores_RV.gather(1, first[:, None])[:, 0], first
    there = scores_RV.device.type != "cpu"
    if vocabulary < MANY or (scores_RV.numel() < MUCH and not there) or (there and rows > FEW):
        best = scores_RV.max(-1)
        return best.values, best.indices
    whole = vocabulary - vocabulary % STRETCH
    stretches = scores_RV[:, :whole].unflatten(1, (-1, STRETCH))  # type: ignore[no-untyped-call]
    maxima = stretches.amax(-1)
    values, which = maxima.max(-1)
    every = torch.arange(rows, device=scores_RV.device)
    places = which * STRETCH + stretches[every, which].max(-1).indices
    if whole < vocabulary:
        last = scores_RV[:, whole:].max(-1)
        later = (last.values > values) | (last.values.isnan() & ~values.isnan())
        values, places = torch.where(later, last.values, values), torch.where(later, last.indices + whole, places)
    return values, places


def likeliest(scores_KV: Tensor, before_K: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of ``(scores + before[:, None]).flatten()`` and where they stand, best first: its ``topk(count)``.

    Args:
        scores_KV: scores of what each row goes on with.
        before_K: what each row has scored so far.
        count: how many are asked for.
    """
    found = _of_stretches(scores_KV, before_K, count)
    if found is None:
        best = (scores_KV + before_K[:, None]).flatten().topk(count)
        return best.values, best.indices
    return found


def _of_stretches(scores_KV: Tensor, before_K: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """See :func:`likeliest`; None where that does not pay, or where scores tie."""
    rows, vocabulary = scores_KV.shape
    each = vocabulary // STRETCH
    if scores_KV.device.type != "cpu" or vocabulary < MANY or count >= rows * each or count * STRETCH > vocabulary:
        return None
    whole = each * STRETCH
    stretches = scores_KV[:, :whole].unflatten(1, (each, STRETCH))  # type: ignore[no-untyped-call]
    # Adding rounds, and never changes the order: the highest sum of a stretch is that of its highest score.
    maxima = (stretches.amax(-1) + before_K[:, None]).flatten().topk(count + 1)
    row, which = maxima.indices[:count] // each, maxima.indices[:count] % each
    sums = (stretches[row, which] + before_K[row][:, None]).flatten()
    rest = (scores_KV[:, whole:] + before_K[:, None]).flatten()
    best = torch.cat((sums, rest)).topk(count + 1)
    values = best.values[:count]
    # One after the other, all distinct, and above whatever was not looked at.
    if not bool((best.values[:-1] > best.values[1:]).all() & (values[-1] > maxima.values[-1])):
        return None
    at = best.indices[:count]
    stretch = (at // STRETCH).clamp(max=count - 1)
    inside = row[stretch] * vocabulary + which[stretch] * STRETCH + at % STRETCH
    width = max(vocabulary - whole, 1)
    behind = at - len(sums)
    beyond = (behind // width) * vocabulary + whole + behind % width
    return values, torch.where(behind < 0, inside, beyond)


def kth_highest(scores_RV: Tensor, k: int) -> Tensor:
    """The k-th highest of each row's scores; NaN is the highest of all. Shape: [R, V] to [R, 1]."""
    if k == 1:
        return scores_RV.amax(-1, keepdim=True)
    vocabulary, each = scores_RV.shape[-1], scores_RV.shape[-1] // SHORT
    if scores_RV.device.type != "cpu" or vocabulary < 4 * MANY or 4 * k > each:
        return scores_RV.topk(k, dim=-1).values[:, -1:]
    stretches = scores_RV[:, : each * SHORT].unflatten(1, (each, SHORT))  # type: ignore[no-untyped-call]
    # The k stretches with the highest maxima hold k scores that no other's is above.
    which = stretches.amax(-1).topk(k, dim=-1).indices
    held = stretches.gather(1, which[..., None].expand(-1, -1, SHORT)).flatten(1)
    return torch.cat((held, scores_RV[:, each * SHORT :]), dim=1).topk(k, dim=-1).values[:, -1:]
