"""GPTQ of one matrix (https://arxiv.org/abs/2210.17323): codes that change what it gives for real inputs least.

Inputs are quantized one after another, and what each loses is made up for by those that come after it, as the inverse
of the Hessian says: with ``U`` the upper Cholesky factor of the inverse, quantizing input ``i`` with an error ``e``
adds ``-e / U[i, i] * U[i, j]`` to each later input ``j``. What 128 inputs change of all later ones is one product of
matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.formats.gptq import Gptq, ranges, rounded

BLOCK = 128
"""Inputs whose changes to later ones are added at once."""

RAISED = 10.0
"""How many times as much is added to the diagonal of a Hessian that is not positive definite, until it is."""


@dataclass(frozen=True, slots=True)
class How:
    """How matrices are quantized; the attributes are :class:`GPTQConfig`'s fields.

    Attributes:
        damp: ``damp_percent``.
        desc_act: likewise, as are the others.
        search: whether scales are looked for that lose least, instead of those that reach all weights.
    """

    damp: float
    desc_act: bool
    act_group_aware: bool
    sym: bool
    static_groups: bool
    search: bool = True


@dataclass(frozen=True, slots=True)
class Solved:
    """A quantized matrix.

    Attributes:
        tensors: of the file.
        error: what its outputs are off, as a share of what they are: the squares of both, summed over all tokens.
        least: the least scale.
        most: the greatest.
        notes: what was out of the ordinary.
    """

    tensors: dict[str, Tensor]
    error: float
    least: float
    most: float
    notes: tuple[str, ...]


def solved(weight: Tensor, hessian: Tensor, format: Gptq, how: How) -> Solved:
    """Quantize a matrix.

    Args:
        weight: Shape: [outs, ins].
        hessian: the mean of its inputs' outer products, float32; its scale does not matter. Shape: [ins, ins].

    Raises:
        WeightsError: a weight is no number, or no damping makes the Hessian positive definite.
    """
    w, h = weight.detach().float().clone(), hessian.clone()
    if not bool(torch.isfinite(w).all()):
        raise WeightsError("a weight is infinite or no number", expected="finite numbers")
    ins = w.shape[1]
    size = ins if format.group == -1 else format.group
    notes = _cleaned(h)
    plain, whole = h.clone(), w.clone()
    dead = h.diagonal() == 0
    if bool(dead.any()):
        notes.append(f"{int(dead.sum())} inputs are always nought")
        h.diagonal()[dead] = 1
        w[:, dead] = 0
    order = _order(h.diagonal(), size, how)
    groups = torch.empty(ins, dtype=torch.long)
    at = torch.arange(ins) // size
    groups[order] = at if how.desc_act and not how.static_groups else at[order]
    upper, damped = _upper(h[order][:, order], how.damp)
    # What is lost by an error at an input, when those after it have made up for what they can.
    costs = torch.empty(ins)
    costs[order] = upper.diagonal() ** -2
    fixed = _ranges_of(w, costs, groups, format, how) if how.static_groups else None
    w = w[:, order]
    if damped > how.damp:
        notes.append(f"damped by {damped:g} of the mean instead of {how.damp:g}")
    codes, scales, zeros = _walked(w, upper, groups[order], format, how, fixed)
    back = torch.empty_like(codes)
    back[:, order] = codes
    off = (back - zeros[:, groups]) * scales[:, groups] - whole
    lost, there = float((off @ plain * off).sum()), float((whole @ plain * whole).sum())
    tensors = format.packed(back, scales, zeros, groups)
    return Solved(tensors, lost / max(there, 1e-30), float(scales.min()), float(scales.max()), tuple(notes))


def _cleaned(h: Tensor) -> list[str]:
    """Take out of a Hessian, in place, what is no number; what there is to say of it."""
    bad = ~torch.isfinite(h)
    if not bool(bad.any()):
        return []
    diagonal = h.diagonal()
    good = diagonal[torch.isfinite(diagonal)]
    mean = float(good.mean()) if len(good) else 1.0
    lost = bad.diagonal().clone()
    h[bad] = 0
    h.diagonal()[lost] = mean if mean > 0 else 1.0
    return [f"{int(bad.any(1).sum())} inputs were infinite or no numbers: dampened"]


def _order(diagonal: Tensor, size: int, how: How) -> Tensor:
    """Which input is quantized when. Shape: [ins]."""
    ins = len(diagonal)
    if how.desc_act:
        return diagonal.argsort(descending=True, stable=True)
    if not how.act_group_aware:
        return torch.arange(ins)
    spans = [torch.arange(first, min(first + size, ins)) for first in range(0, ins, size)]
    highest = torch.stack([diagonal[span].max() for span in spans])
    return torch.cat([
        spans[n][diagonal[spans[n]].argsort(descending=True, stable=True)]
        for n in highest.argsort(descending=True, stable=True).tolist()
    ])  # fmt: skip


def _upper(h: Tensor, damp: float) -> tuple[Tensor, float]:
    """The upper Cholesky factor of a damped Hessian's inverse, and how it was damped."""
    mean = h.diagonal().mean()
    while damp < 1e6:
        made = h.clone()
        made.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(made)
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and bool(torch.isfinite(upper).all()):
                return upper, damp
        damp *= RAISED
    raise WeightsError("the Hessian is not positive definite", expected="inputs that are numbers", found="none")


SHRUNK = tuple(1.0 - 0.03 * n for n in range(1, 16))
"""What the range of a group's weights is tried to be shrunk to."""


def _ranges(x: Tensor, costs: Tensor, format: Gptq, how: How) -> tuple[Tensor, Tensor]:
    """Scales and zeros of a group's weights: those that lose least, of the whole range and of shrunken ones.

    Args:
        x: Shape: [outs, n].
        costs: of errors at each input. Shape: [n].
    """

    def made(share: float) -> tuple[Tensor, Tensor, Tensor]:
        scales, zeros = ranges(x * share, format.bits, sym=how.sym, least=int(format.version == 1))
        codes = rounded(x, scales[:, None], zeros[:, None], format.bits)
        return scales, zeros, ((codes - zeros[:, None]) * scales[:, None] - x).square() @ costs

    scales, zeros, lost = made(1.0)
    for share in SHRUNK if how.search else ():
        other, middle, less = made(share)
        better = less < lost
        scales, zeros = torch.where(better, other, scales), torch.where(better, middle, zeros)
        lost = torch.where(better, less, lost)
    return scales, zeros


def _ranges_of(w: Tensor, costs: Tensor, groups: Tensor, format: Gptq, how: How) -> tuple[Tensor, Tensor]:
    """Scales and zeros of all groups as the weights are. Shape: [outs, groups] each."""
    found = [groups == n for n in range(int(groups.max()) + 1)]
    made = [_ranges(w[:, own], costs[own], format, how) for own in found]
    return torch.stack([one for one, _ in made], 1), torch.stack([one for _, one in made], 1)


def _walked(
    w: Tensor, upper: Tensor, groups: Tensor, format: Gptq, how: How, fixed: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes of inputs in the order in which they come, and scales and zeros by group; changes ``w``."""
    outs = len(w)
    count = int(groups.max()) + 1
    codes = torch.empty_like(w)
    scales, zeros = fixed or (torch.empty(outs, count), torch.empty(outs, count))
    costs = upper.diagonal() ** -2
    for first, stop in _blocks(groups, static=fixed is not None):
        part, factors = w[:, first:stop].clone(), upper[first:stop, first:stop]
        errors = torch.empty_like(part)
        for i in range(stop - first):
            group = int(groups[first + i])
            if fixed is None and (first + i == 0 or int(groups[first + i - 1]) != group):
                end = first + i + int((groups == group).sum())
                own = torch.cat((part[:, i : end - first], w[:, max(stop, first + i) : end]), 1)
                scales[:, group], zeros[:, group] = _ranges(own, costs[first + i : end], format, how)
            scale, zero = scales[:, group], zeros[:, group]
            codes[:, first + i] = rounded(part[:, i], scale, zero, format.bits)
            errors[:, i] = (part[:, i] - scale * (codes[:, first + i] - zero)) / factors[i, i]
            part[:, i:] -= errors[:, i : i + 1] * factors[i, i:]
        w[:, stop:] -= errors @ upper[first:stop, stop:]
    return codes, scales, zeros


def _blocks(groups: Tensor, *, static: bool) -> list[tuple[int, int]]:
    """At most 128 inputs at a time, such that a group's scales are never made of numbers that are to be changed yet."""
    ins = len(groups)
    if static:
        return [(first, min(first + BLOCK, ins)) for first in range(0, ins, BLOCK)]
    ends = [*((groups[1:] != groups[:-1]).nonzero()[:, 0] + 1).tolist(), ins]
    found: list[tuple[int, int]] = []
    first = 0
    for n, end in enumerate(ends):
        following = ends[n + 1] if n + 1 < len(ends) else None
        if end - first >= BLOCK or following is None or following - first > BLOCK:
            found += [(at, min(at + BLOCK, end)) for at in range(first, end, BLOCK)]
            first = end
    return found
