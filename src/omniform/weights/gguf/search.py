"""Blocks whose scales are searched for: K types, and those of the table IQ4. What is made least is the squared error.

Each group's scale (and minimum) is the best of some that are tried, each followed by the least squares for the codes
that it gives. A block of 256 then keeps its groups' scales as whole numbers of a scale of its own: of those, the ones
beside the nearest are tried as well, and the block's scale is fitted once more to what came out. The search is our own;
llama.cpp tries about as many scales, weighs numbers by their size, and rounds the groups' scales once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from omniform.weights.formats.codes import looked_up
from omniform.weights.gguf.bits import fields_packed, half_bytes, nibbles_packed
from omniform.weights.gguf.dequantize import IQ4

ROUNDS: Final = 2
"""How often a block's own scale is fitted anew."""

BESIDE: Final = (-1, 0, 1)
"""The whole numbers that are tried for a group's scale, counted from the nearest."""

TINY: Final = 1e-30


@dataclass(frozen=True)
class Steps:
    """Codes that are numbers themselves.

    Attributes:
        least: the lowest.
        most: the highest.
    """

    least: int
    most: int

    def nearest(self, x: Tensor) -> Tensor:
        """The nearest of them. Shape: that of ``x``; float32."""
        return x.round().clamp_(self.least, self.most)

    @property
    def ends(self) -> tuple[int, ...]:
        """What the number that is furthest from zero may become."""
        return (self.least,)

    def codes(self, x: Tensor) -> Tensor:
        """The codes, from zero. Shape: likewise; uint8."""
        return (self.nearest(x) - self.least).to(torch.uint8)


class Table(Steps):
    """Codes that stand for the numbers of the table IQ4."""

    def __init__(self) -> None:
        super().__init__(IQ4[0], IQ4[-1])

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.least, self.most)

    def nearest(self, x: Tensor) -> Tensor:
        return looked_up(self.codes(x), IQ4)

    def codes(self, x: Tensor) -> Tensor:
        middles = torch.tensor([(a + b) / 2 for a, b in pairwise(IQ4)])
        return torch.bucketize(x, middles, out_int32=True).to(torch.uint8)


def over(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``, and zero where there is nothing to divide by."""
    return torch.where(y.abs() > TINY, x / torch.where(y.abs() > TINY, y, 1), 0)


def rounded_half(x: Tensor) -> Tensor:
    """What is left of float32 in float16, kept within it."""
    return x.clamp(-65504, 65504).half().float()


# ---- scales alone


def fit_scale(x: Tensor, steps: Steps, tried: Sequence[float]) -> Tensor:
    """The best scale of every group. Shape: [G, n] to [G, 1].

    Args:
        tried: how much further than the last code the furthest number is taken to be.
    """
    furthest = x.gather(1, x.abs().argmax(1, keepdim=True))
    best = torch.zeros_like(furthest)
    most = torch.zeros_like(furthest)
    for end in steps.ends:
        for more in tried:
            q = steps.nearest(x * over(torch.full_like(furthest, end + more), furthest))
            xq, qq = (x * q).sum(1, keepdim=True), (q * q).sum(1, keepdim=True)
            gain = over(xq * xq, qq)  # what is lost is the squares of x, less this
            best = torch.where(gain > most, over(xq, qq), best)
            most = torch.maximum(gain, most)
    return best


def _loss(x: Tensor, scale: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    q = steps.nearest(x * over(torch.ones_like(scale), scale))
    off = x - q * scale
    return (off * off).sum(-1, keepdim=True), q


def fit_levels(x: Tensor, scales: Tensor, steps: Steps, levels: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A block's scale and the whole numbers that groups multiply it by.

    Args:
        x: Shape: [N, groups, n].
        scales: of the groups. Shape: [N, groups, 1].
        levels: the least and the greatest whole number.

    Returns:
        The scale, as float16 can hold it. Shape: [N, 1, 1]. The whole numbers. Shape: [N, groups, 1].
    """
    low, high = levels
    furthest = scales.gather(1, scales.abs().argmax(1, keepdim=True))
    d = rounded_half(furthest / low)
    best_d, best_l, least = d, torch.zeros_like(scales), torch.full_like(d, torch.inf)
    for last in range(ROUNDS + 1):
        usual = over(scales, d).round()
        level, lost, kept = usual.clamp(low, high), torch.full_like(scales, torch.inf), torch.zeros_like(x)
        for beside in BESIDE:
            tried = (usual + beside).clamp(low, high)
            now, q = _loss(x, d * tried, steps)
            better = now < lost
            level, lost, kept = (torch.where(better, a, b) for a, b in ((tried, level), (now, lost), (q, kept)))
        total = lost.sum(1, keepdim=True)
        better = total < least
        best_d, best_l = torch.where(better, d, best_d), torch.where(better, level, best_l)
        least = torch.minimum(total, least)
        if last < ROUNDS:
            y = kept * level
            d = rounded_half(over((x * y).sum((1, 2), keepdim=True), (y * y).sum((1, 2), keepdim=True)))
    return best_d, best_l


def _final(x: Tensor, scale: Tensor, steps: Steps) -> Tensor:
    """The codes for scales that are settled. Shape: that of ``x``; uint8."""
    return steps.codes(x * over(torch.ones_like(scale), scale))


# ---- scales and minima


def fit_both(x: Tensor, most: int, tried: Sequence[float]) -> tuple[Tensor, Tensor]:
    """The best scale and the best minimum, both positive, of ``scale * code - minimum``. Shape: [G, n] to [G, 1] each.

    Args:
        most: the highest code; the lowest is zero.
        tried: how many more steps than ``most`` the group is taken to span.
    """
    n = x.shape[1]
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True)
    span = (high - low).clamp(min=0)
    sx, xx = x.sum(1, keepdim=True), (x * x).sum(1, keepdim=True)
    best_s, best_m = span / most, -low
    least = torch.full_like(span, torch.inf)
    for more in tried:
        q = ((x - low) * over(torch.full_like(span, most + more), span)).round_().clamp_(0, most)
        sq, qq, xq = q.sum(1, keepdim=True), (q * q).sum(1, keepdim=True), (x * q).sum(1, keepdim=True)
        det = n * qq - sq * sq
        scale, minimum = over(n * xq - sx * sq, det), -over(qq * sx - sq * xq, det)
        alone = (minimum < 0) | (scale <= 0) | (det <= TINY)
        scale = torch.where(alone, over(xq, qq).clamp(min=0), scale)
        minimum = torch.where(alone, 0, minimum)
        lost = xx - 2 * (scale * xq - minimum * sx) + scale * scale * qq - 2 * scale * minimum * sq
        lost = lost + n * minimum * minimum
        better = lost < least
        best_s, best_m = torch.where(better, scale, best_s), torch.where(better, minimum, best_m)
        least = torch.minimum(lost, least)
    return best_s, best_m


def _loss_both(x: Tensor, scale: Tensor, minimum: Tensor, most: int) -> tuple[Tensor, Tensor]:
    q = ((x + minimum) * over(torch.ones_like(scale), scale)).round_().clamp_(0, most)
    off = x + minimum - q * scale
    return (off * off).sum(-1, keepdim=True), q


def fit_levels_both(x: Tensor, scales: Tensor, minima: Tensor, most: int, levels: int) -> tuple[Tensor, ...]:
    """A block's scale and its scale of minima, and the whole numbers that groups multiply them by.

    Args:
        x: Shape: [N, groups, n].
        scales: of the groups. Shape: [N, groups, 1].
        minima: likewise.
        levels: the greatest whole number.

    Returns:
        Both scales. Shape: [N, 1, 1]. Both whole numbers. Shape: [N, groups, 1].
    """
    d, e = (rounded_half(one.amax(1, keepdim=True) / levels) for one in (scales, minima))
    best = [d, e, torch.zeros_like(scales), torch.zeros_like(scales)]
    least = torch.full_like(d, torch.inf)
    for last in range(ROUNDS + 1):
        us, um = over(scales, d).round(), over(minima, e).round()
        ls, lm, lost, kept = us.clamp(0, levels), um.clamp(0, levels), torch.full_like(us, torch.inf), x
        for i in BESIDE:
            for j in BESIDE:
                s, m = (us + i).clamp(0, levels), (um + j).clamp(0, levels)
                now, q = _loss_both(x, d * s, e * m, most)
                better = now < lost
                ls, lm, kept = (torch.where(better, a, b) for a, b in ((s, ls), (m, lm), (q, kept)))
                lost = torch.minimum(now, lost)
        total = lost.sum(1, keepdim=True)
        better = total < least
        best = [torch.where(better, a, b) for a, b in zip((d, e, ls, lm), best, strict=True)]
        least = torch.minimum(total, least)
        if last < ROUNDS:
            d, e = _both_scales(x, kept * ls, lm)
    return tuple(best)


def _both_scales(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The least squares of ``x = d * y - e * z``, as float16 can hold them; both at least zero. Shape: [N, 1, 1]."""

    def total(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2), keepdim=True)

    z = z.expand_as(x)
    yy, zz, yz, xy, xz = total(y, y), total(z, z), total(y, z), total(x, y), total(x, z)
    det = yy * zz - yz * yz
    d, e = over(xy * zz - xz * yz, det), over(xy * yz - xz * yy, det)
    alone = (det <= TINY) | (e <= 0) | (d <= 0)
    return rounded_half(torch.where(alone, over(xy, yy), d)), rounded_half(torch.where(alone, 0, e))


# ---- blocks

_MORE: Final = tuple(i / 10 for i in range(-9, 10))
_WIDER: Final = tuple(i / 10 for i in range(-10, 11))
_IQ4: Final = Table()
_MORE_IQ4: Final = tuple(3.0 * i for i in range(-8, 9))


def _even(x: Tensor, groups: int, steps: Steps, levels: tuple[int, int], tried: Sequence[float]) -> tuple[Tensor, ...]:
    """A block's scale, its groups' whole numbers, and codes. Shape: [N, 1], [N, groups], [N, groups, n]."""
    grouped = x.view(len(x), groups, -1)
    scales = fit_scale(grouped.flatten(0, 1), steps, tried).view(len(x), groups, 1)
    d, level = fit_levels(grouped, scales, steps, levels)
    return d[:, 0], level[:, :, 0], _final(grouped, d * level, steps)


def _uneven(x: Tensor, groups: int, most: int, levels: int, tried: Sequence[float]) -> tuple[Tensor, ...]:
    """Both of a block's scales, both of its groups' whole numbers, and codes; uint8."""
    grouped = x.view(len(x), groups, -1)
    scales, minima = (one.view(len(x), groups, 1) for one in fit_both(grouped.flatten(0, 1), most, tried))
    d, e, ls, lm = fit_levels_both(grouped, scales, minima, most, levels)
    _, q = _loss_both(grouped, d * ls, e * lm, most)
    return d[:, 0], e[:, 0], ls[:, :, 0].to(torch.uint8), lm[:, :, 0].to(torch.uint8), q.to(torch.uint8)


def _q2_k(x: Tensor) -> Tensor:
    d, e, ls, lm, q = _uneven(x, 16, 3, 15, _WIDER)
    codes = fields_packed(q.view(-1, 2, 4, 32), 2).flatten(1)
    return torch.cat((ls | (lm << 4), codes, half_bytes(d), half_bytes(e)), 1)


def _q3_k(x: Tensor) -> Tensor:
    d, level, q = _even(x, 16, Steps(-4, 3), (-32, 31), _MORE)
    flat, scale = q.view(-1, 256), (level + 32).to(torch.uint8)
    third = fields_packed((flat >> 2).view(-1, 1, 8, 32), 1)[:, 0]
    low = fields_packed((flat & 3).view(-1, 2, 4, 32), 2).flatten(1)
    high = fields_packed((scale >> 4).view(-1, 1, 4, 4), 2)[:, 0]
    return torch.cat((third, low, nibbles_packed(scale[:, None])[:, 0], high, half_bytes(d)), 1)


def _k_scales_packed(ls: Tensor, lm: Tensor) -> Tensor:
    """Eight scales and eight minima of six bits in twelve bytes."""
    tops = [(one[:, 4:] >> 4) << 6 for one in (ls, lm)]
    return torch.cat((ls[:, :4] | tops[0], lm[:, :4] | tops[1], (ls[:, 4:] & 15) | ((lm[:, 4:] & 15) << 4)), 1)


def _q4_k(x: Tensor) -> Tensor:
    d, e, ls, lm, q = _uneven(x, 8, 15, 63, _WIDER)
    codes = nibbles_packed(q.view(-1, 4, 64)).flatten(1)
    return torch.cat((half_bytes(d), half_bytes(e), _k_scales_packed(ls, lm), codes), 1)


def _q5_k(x: Tensor) -> Tensor:
    d, e, ls, lm, q = _uneven(x, 8, 31, 63, _WIDER)
    fifth = fields_packed((q >> 4).view(-1, 1, 8, 32), 1)[:, 0]
    codes = nibbles_packed((q & 15).view(-1, 4, 64)).flatten(1)
    return torch.cat((half_bytes(d), half_bytes(e), _k_scales_packed(ls, lm), fifth, codes), 1)


def _q6_k(x: Tensor) -> Tensor:
    d, level, q = _even(x, 16, Steps(-32, 31), (-128, 127), _MORE)
    low = nibbles_packed((q.view(-1, 256) & 15).view(-1, 2, 128)).flatten(1)
    high = fields_packed((q.view(-1, 256) >> 4).view(-1, 2, 4, 32), 2).flatten(1)
    return torch.cat((low, high, level.to(torch.int8).view(torch.uint8), half_bytes(d)), 1)


def _iq4_nl(x: Tensor) -> Tensor:
    d = rounded_half(fit_scale(x, _IQ4, _MORE_IQ4))
    return torch.cat((half_bytes(d), nibbles_packed(_final(x, d, _IQ4)[:, None])[:, 0]), 1)


def _iq4_xs(x: Tensor) -> Tensor:
    d, level, q = _even(x, 8, _IQ4, (-32, 31), _MORE_IQ4)
    scale = (level + 32).to(torch.uint8)
    low = fields_packed((scale & 15).view(-1, 4, 2, 1), 4)[:, :, 0]
    high = fields_packed((scale >> 4).view(-1, 2, 4, 1), 2)[:, :, 0]
    return torch.cat((half_bytes(d), high, low, nibbles_packed(q.view(-1, 8, 32)).flatten(1)), 1)


BY_NAME: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k, "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip
"""From float32, Shape: [N, numbers of a block], to bytes, Shape: [N, bytes of a block]."""
