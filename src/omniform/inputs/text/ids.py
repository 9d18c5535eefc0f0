"""Reading token ids as users hand them over: numbers, lists, arrays or tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from omniform.core.errors import InputError


def read_ids(ids: object) -> list[int]:
    """One row of ids; a single id is a row of one.

    Raises:
        InputError: one of them is no whole number from 0.
    """
    values = _plain(ids)
    return [
        read_id(value, f"id {index}") for index, value in enumerate([values] if isinstance(values, int) else values)
    ]


def read_id_rows(ids: object) -> tuple[list[list[int]], bool]:
    """Rows of ids, and whether they were given as several.

    Raises:
        InputError: an id is no whole number from 0.
    """
    values = _plain(ids)
    many = not isinstance(values, int) and len(values) > 0 and isinstance(values[0], (Sequence, torch.Tensor))
    if many and not isinstance(values, int):
        return [read_ids(row) for row in values], True
    return [read_ids(values)], False


def read_id(value: object, where: str) -> int:
    """One id.

    Raises:
        InputError: it is no whole number from 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        remedy = "-100 marks labels that do not count: replace it by the pad token's id." if value == -100 else None
        raise InputError(
            "this is no token id", where=where, expected="a whole number from 0", found=f"{value!r:.60}", remedy=remedy
        )
    return value


def _plain(ids: object) -> int | Sequence[object]:
    import numpy as np

    if isinstance(ids, (np.ndarray, np.generic)):
        ids = ids.tolist()
    if isinstance(ids, torch.Tensor):
        ids = ids.tolist()
    if isinstance(ids, int) or (isinstance(ids, Sequence) and not isinstance(ids, (str, bytes))):
        return ids
    raise InputError("these are no token ids", where="token_ids", found=f"{ids!r:.60} ({type(ids).__name__})")
