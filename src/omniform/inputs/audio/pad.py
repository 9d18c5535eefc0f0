"""Waves of different lengths become one tensor: cut, pad, mask, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief, nearest

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.floating]]
    Mask: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.int32]]

PaddingRule = Literal["longest", "max_length", "do_not_pad"]
Padding = bool | PaddingRule
Side = Literal["left", "right"]

_RULES: tuple[PaddingRule, ...] = ("longest", "max_length", "do_not_pad")


@dataclass(frozen=True, slots=True)
class Padded:
    """Waves of one length.

    Attributes:
        values: the samples. Shape: ``[batch, samples]``.
        counts: how many samples of each were given.
        side: where padding is.
    """

    values: Tensor
    counts: tuple[int, ...]
    side: Side

    @property
    def mask(self) -> Tensor:
        """1 where a sample was given, 0 where it is padding. Shape: ``[batch, samples]``, int32."""
        mask = torch.zeros(self.values.shape, dtype=torch.int32)
        for row, count in zip(mask, self.counts, strict=True):
            row[:count] = 1
        return mask if self.side == "right" else mask.flip(-1)


def padding_rule(padding: object) -> PaddingRule:
    """What a ``padding`` argument asks for: True means ``"longest"`` and False ``"do_not_pad"``.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(padding, bool):
        return "longest" if padding else "do_not_pad"
    if isinstance(padding, str):
        for rule in _RULES:
            if padding == rule:  # an enumeration of strings equals them, and hashes otherwise
                return rule
    raise InputError(
        "unknown way to pad",
        where="padding",
        expected="True, False, 'longest', 'max_length' or 'do_not_pad'",
        found=brief(padding),
        remedy=nearest(padding[:40], _RULES) if isinstance(padding, str) else None,
    )


def pad(
    waves: Sequence[Tensor],
    *,
    rule: PaddingRule,
    max_length: int | None,
    truncate: bool,
    multiple: int | None = None,
    value: float = 0.0,
    side: Side = "right",
) -> Padded:
    """Cut and pad waves to one length.

    Args:
        waves: one or more waves. Shape of each: ``[samples]``.
        rule: pad to the longest wave, to ``max_length``, or not at all.
        max_length: samples to cut to, and with rule ``"max_length"`` to pad to.
        truncate: cut waves that are longer than ``max_length``; without it they stay as they are.
        multiple: round every target length up to a multiple of this.
        value: what padding holds.
        side: where padding goes.

    Raises:
        InputError: no ``max_length`` where one is needed, or waves that still differ in length.
    """
    if max_length is None and (truncate or rule == "max_length"):
        raise InputError(
            "a length to cut or pad to is needed", where="max_length", remedy="Pass max_length, or padding='longest'."
        )
    limit = None if max_length is None else round_up(max_length, multiple)
    if truncate:
        waves = [wave[:limit] for wave in waves]
    longest = max(wave.shape[0] for wave in waves)
    target = 0
    if rule == "longest":
        target = round_up(longest, multiple)
    elif rule == "max_length" and limit is not None:
        target = limit
    lengths = [max(target, wave.shape[0]) for wave in waves]
    if len(set(lengths)) > 1:
        raise InputError(
            "sounds of different lengths do not make one tensor",
            where="audio",
            found=f"{', '.join(map(str, lengths[:8]))} samples",
            remedy="Ask for padding='longest' (and truncation=True).",
        )
    counts = tuple(wave.shape[0] for wave in waves)
    if len(waves) == 1 and counts[0] == lengths[0]:
        return Padded(waves[0][None], counts, side)  # nobody writes into it, and it may be hours
    values = waves[0].new_full((len(waves), lengths[0]), value)
    for row, wave in enumerate(waves):
        start = 0 if side == "right" else lengths[0] - wave.shape[0]
        values[row, start : start + wave.shape[0]] = wave
    return Padded(values, counts, side)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How a call cuts and pads rows of different lengths.

    Attributes:
        rule: pad to the longest row, to ``longest``, or not at all.
        longest: time steps to cut to, and with rule ``"max_length"`` to pad to.
        truncate: cut rows that are longer.
        multiple: round every target length up to a multiple of this.
        value: what padding holds.
        side: where padding goes.

    Raises:
        InputError: there is no length where one is needed.
    """

    rule: PaddingRule
    longest: int | None
    truncate: bool
    multiple: int | None
    value: float
    side: Side

    def __post_init__(self) -> None:
        if self.longest is None and (self.truncate or self.rule == "max_length"):
            raise InputError(
                "a length to cut or pad to is needed",
                where="max_length",
                remedy="Pass max_length, or padding='longest'.",
            )

    def apply(self, rows: Sequence[Array]) -> tuple[list[Array], list[Mask]]:
        """The rows, cut and padded along their first dimension, and a mask of each: 1 where a step was given, int32.

        Rows that are not padded keep their lengths.
        """
        import numpy as np

        limit = None if self.longest is None else round_up(self.longest, self.multiple)
        cut = [row[:limit] for row in rows] if self.truncate else list(rows)
        target = 0
        if self.rule == "longest":
            target = round_up(max(len(row) for row in cut), self.multiple)
        elif self.rule == "max_length" and limit is not None:
            target = limit
        padded: list[Array] = []
        masks: list[Mask] = []
        for row in cut:
            missing = max(target - len(row), 0)
            ends = (0, missing) if self.side == "right" else (missing, 0)
            padded.append(
                np.pad(row, [ends, *[(0, 0)] * (row.ndim - 1)], constant_values=self.value) if missing else row
            )
            masks.append(np.pad(np.ones(len(row), dtype=np.int32), ends))
        return padded, masks


def unit_variance(row: Array, count: int | None, value: float) -> Array:
    """A wave with zero mean and unit variance, ``(x - mean) / sqrt(variance + 1e-7)``; see :func:`normalize`.

    Args:
        row: Shape: ``[samples]``, float32.
        count: how many samples were given: mean and variance are those of the first so many, and what follows them is
            set to ``value``; None for all.
        value: what padding holds.
    """
    import numpy as np

    given = row[:count]
    out: Array = (row - given.mean()) / np.sqrt(given.var() + 1e-7)
    if count is not None:
        out[count:] = value
    return out


def normalize(padded: Padded, *, value: float) -> Padded:
    """Give each row zero mean and unit variance: ``(x - mean) / sqrt(variance + 1e-7)``.

    Mean and variance are those of the first ``n`` samples, ``n`` being the number of samples given; what follows them
    is set to ``value``. They are summed by numpy, as in the reference: a constant sound leaves nothing but rounding,
    and its logarithm shows every difference in the order of summation.

    Args:
        padded: the waves; not changed.
        value: what padding holds afterwards.
    """
    import numpy as np

    rows = [unit_variance(row, n, value) for row, n in zip(padded.values.numpy(), padded.counts, strict=True)]
    return Padded(torch.from_numpy(np.stack(rows)), padded.counts, padded.side)


def round_up(length: int, multiple: int | None) -> int:
    """The least multiple that is not below ``length``."""
    return length if multiple is None else -(-length // multiple) * multiple
