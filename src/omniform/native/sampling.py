"""Large vocabularies by the library: in order, cut where a filter cuts them, and drawn from."""

from __future__ import annotations

import ctypes
import enum

import torch
from torch import Tensor

from omniform.native.library import Library, library
from omniform.native.matrix import rows_of

STATE = 5056
"""Bytes of the state of torch's generator on the CPU."""

WORTH = 4096
"""Numbers of a row from which on the library is asked."""


class Filter(enum.IntEnum):
    """What leaves tokens out of a draw: the library's own numbers."""

    TOP_P = 0
    TYPICAL = 1
    MIN_P = 2
    EPSILON = 3
    ETA = 4


def _asked(x: Tensor) -> Library | None:
    """The library, if these are rows for it."""
    plain = type(x) is Tensor and x.dtype is torch.float32 and x.device.type == "cpu" and x.dim() == 2
    if (
        not plain
        or x.shape[1] < WORTH
        or torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and x.requires_grad)
    ):
        return None
    return library()


def ascending(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(dim=-1, stable=True)``: to the last bit, ties and NaN included; in a quarter of its time.

    Shape: [..., V] to [..., V] each.
    """
    by = _asked(x)
    if by is None:
        found = x.sort(dim=-1, stable=True)
        return found.values, found.indices
    rows = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(x.shape, dtype=torch.float32, device="cpu")
    places = torch.empty(x.shape, dtype=torch.int64, device="cpu")
    by.call("of_sort", ctypes.byref(rows_of(rows)), ctypes.byref(rows_of(values)), places.data_ptr())
    return values, places


def cut(scores_RV: Tensor, by: Filter, amount: float) -> Tensor | None:
    """Where a filter of draws cuts each row's scores; None where the library does not know it.

    Args:
        scores_RV: the scores.
        by: which filter.
        amount: its share or its limit, above zero.

    Returns:
        Four bounds of each row, ascending, [R, 4]: scores from the second to the third are left for sure, those below
        the first or above the fourth are not; of those between, rounding decides, or in which order equal ones come.
    """
    asked = _asked(scores_RV)
    if asked is None or amount <= 0:
        return None
    rows = scores_RV if scores_RV.stride(1) == 1 else scores_RV.contiguous()
    bounds = torch.empty((len(rows), 4), dtype=torch.float32, device="cpu")
    asked.call("of_cut", ctypes.byref(rows_of(rows)), by, amount, bounds.data_ptr())
    return None if bool(bounds[:, 0].isnan().any()) else bounds


def within(scores_RV: Tensor, bounds_R4: Tensor, most: int) -> tuple[Tensor, Tensor] | None:
    """Scores from the first to the fourth of :func:`cut`'s bounds, and where they stood, a row's in their order.

    Shape: [R, C] each, minus infinity and 0 behind a row's last one; what is no number is among them. None if a row has
    more than ``most``, or the library is not asked.
    """
    asked = _asked(scores_RV)
    if asked is None:
        return None
    rows = scores_RV if scores_RV.stride(1) == 1 else scores_RV.contiguous()
    counts = torch.empty(len(rows), dtype=torch.int64, device="cpu")
    asked.call("of_count_within", ctypes.byref(rows_of(rows)), bounds_R4.data_ptr(), counts.data_ptr())
    longest = int(counts.max())
    if longest > most:
        return None
    found = torch.empty((len(rows), max(longest, 1)), dtype=torch.float32, device="cpu")
    places = torch.empty(found.shape, dtype=torch.int64, device="cpu")
    to = ctypes.byref(rows_of(found))
    asked.call("of_take_within", ctypes.byref(rows_of(rows)), bounds_R4.data_ptr(), to, places.data_ptr())
    return found, places


def winner(odds_C: Tensor, tokens_C: Tensor | None, uniform_V: Tensor) -> int | None:
    """The place of the largest ``odds / -log(1 - u)``, the first of equal ones; None without the library.

    Args:
        odds_C: probabilities.
        tokens_C: which token's number is whose; None for all of them in their order.
        uniform_V: numbers from 0 to below 1, float64.
    """
    asked = _races(odds_C)
    if asked is None:
        return None
    tokens = None if tokens_C is None else tokens_C.contiguous()
    assert uniform_V.dtype is torch.float64 and uniform_V.is_contiguous()
    row = ctypes.byref(rows_of(odds_C.contiguous()[None]))
    return int(asked.c.of_draw(row, None if tokens is None else tokens.data_ptr(), uniform_V.data_ptr()))


def next_winner(odds_C: Tensor | None, tokens_C: Tensor | None, vocabulary: int, state: Tensor) -> int | None:
    """Likewise, with the numbers that ``uniform_`` would give a whole vocabulary next.

    Args:
        odds_C: see :func:`winner`; None to let the numbers pass.
        tokens_C: see :func:`winner`.
        vocabulary: how many numbers are made.
        state: of torch's generator, as ``get_state`` gives it; goes on. Untouched where the answer is None.
    """
    asked = library() if odds_C is None else _races(odds_C)
    if asked is None or state.numel() != STATE:
        return None
    odds, tokens = None, None
    if odds_C is not None:
        odds = ctypes.byref(rows_of(odds_C.contiguous()[None]))
        tokens = None if tokens_C is None else tokens_C.contiguous()
    at = None if tokens is None else tokens.data_ptr()
    found = int(asked.c.of_draw_on(odds, at, vocabulary, state.data_ptr()))
    return found if found >= 0 else None


def _races(odds_C: Tensor) -> Library | None:
    return library() if odds_C.dtype is torch.float32 and odds_C.device.type == "cpu" else None


def first_highest(x: Tensor) -> Tensor | None:
    """Where the first of each row's highest scores stands, NaN above all; None where the library is not asked.

    Shape: [R, V] to [R].
    """
    plain = type(x) is Tensor and x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu" and x.dim() == 2
    by = library() if plain and x.shape[1] >= WORTH and not torch.compiler.is_compiling() else None
    if by is None:
        return None
    rows = x.detach()
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    places = torch.empty(len(rows), dtype=torch.int64, device="cpu")
    by.call("of_highest", ctypes.byref(rows_of(rows)), places.data_ptr())
    return places
