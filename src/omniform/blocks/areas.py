"""Attention of every token to its own area of one long row: as many kernel calls as areas have lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from omniform.blocks.padded import attend_padded
from omniform.blocks.scores import Scores
from omniform.core.areas import Areas
from omniform.core.context import EVERYTHING, Backend


def attend_areas(
    q_NHD: Tensor,
    k_GND: Tensor,
    v_GND: Tensor,
    areas: Areas,
    *,
    scores: Scores,
    backend: Backend,
    dropout: float = 0.0,
    weights: list[Tensor] | None = None,
) -> Tensor:
    """Attention within areas; see :func:`omniform.blocks.attend.attend` for the other arguments.

    Args:
        q_NHD: the queries of the row.
        k_GND: its keys, where G divides H.
        v_GND: its values.
        weights: where to append all weights, those of other areas being zeros. Shape: [1, H, N, N].

    Returns:
        Shape: [N, H, Dv].
    """
    seen: list[Tensor] | None = None if weights is None else []
    outs = []
    for group in areas.groups:
        count, length, heads = group.count, group.length, len(k_GND)
        q_BTHD = q_NHD[group.tokens].reshape(count, length, *q_NHD.shape[1:])
        k, v = (x[:, group.tokens].reshape(heads, count, length, -1).transpose(0, 1) for x in (k_GND, v_GND))
        out = attend_padded(q_BTHD, k, v, EVERYTHING, scores=scores, backend=backend, dropout=dropout, weights=seen)
        outs.append(out.flatten(0, 1))
    if weights is not None and seen is not None:
        weights.append(_spread(areas, seen, len(q_NHD)))
    mixed = outs[0] if len(outs) == 1 else torch.cat(outs)
    return mixed if areas.back is None else mixed[areas.back]


def _spread(areas: Areas, seen: list[Tensor], tokens: int) -> Tensor:
    """The weights of all areas in one table. Shape: [count, H, T, T] of each group, to [1, H, N, N]."""
    whole = seen[0].new_zeros(1, seen[0].shape[1], tokens, tokens)
    for group, weights in zip(areas.groups, seen, strict=True):
        places = torch.arange(tokens, device=whole.device)[group.tokens].view(group.count, group.length)
        for at, own in zip(places, weights, strict=True):
            whole[0, :, at[:, None], at] = own
    return whole
