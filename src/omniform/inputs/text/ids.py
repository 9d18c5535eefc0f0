"""Reading token ids as users hand them over: numbers, lists, arrays or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard, TypeVar

import torch

from omniform.core.errors import InputError

Item = TypeVar("Item")


def read_ids(ids: object) -> list[int]:
    """One row of ids; a single id is a row of one.

    Raises:
        InputError: one of them is no whole number from 0.
    """
    if _is_read(ids):
        return list(ids)
    values = _plain(ids)
    listed = values if isinstance(values, Sequence) else [values]
    return [read_id(value, f"id {index}") for index, value in enumerate(listed)]


def read_id_rows(ids: object) -> tuple[list[list[int]], bool]:
    """Rows of ids, and whether they were given as several; of an encoded batch its ``input_ids``.

    Raises:
        InputError: an id is no whole number from 0.
    """
    if _is_read(ids):
        return [list(ids)], False
    if isinstance(ids, Mapping) and "input_ids" in ids:
        ids = ids["input_ids"]
    values = _plain(ids)
    if isinstance(values, Sequence) and len(values) > 0 and is_row(values[0]):
        return [read_ids(row) for row in values], True
    return [read_ids(values)], False


def _is_read(ids: object) -> TypeGuard[list[int]]:
    """Whether it is a list of ids and nothing else, as an engine hands over with every token that it shows."""
    return type(ids) is list and set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < 1 << 32


def read_id(value: object, where: str) -> int:
    """One id.

    Raises:
        InputError: it is no whole number from 0.
    """
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 32:
        ignored = isinstance(value, int) and value == -100
        remedy = "-100 marks labels that do not count: replace it by the pad token's id." if ignored else None
        raise InputError(
            "this is no token id", where=where, expected="a whole number from 0", found=shown(value), remedy=remedy
        )
    return value


def as_number(value: object) -> object:
    """A number of numpy's, or a tensor of one, as Python's own; anything else as it is."""
    import numpy as np

    if isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_meta:
        plain: object = value.item()
        return plain
    return value.item() if isinstance(value, np.generic) else value


def read_index(value: object, where: str) -> int:
    """A place in a row, a text or a batch; negative ones count from the end.

    Raises:
        InputError: it is no whole number.
    """
    value = as_number(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 1 << 63:
        raise InputError("this is no index", where=where, expected="a whole number", found=shown(value))
    return value


def is_row(value: object) -> bool:
    """Whether it is a list, an array or a tensor of several, and no single number or text."""
    import numpy as np

    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def listed(value: Iterable[Item], where: str) -> list[Item]:
    """What is given one after another, as a list.

    Raises:
        InputError: it is no list, nor anything like one.
    """
    if isinstance(value, (str, bytes, bytearray, Mapping, torch.Tensor)) or not isinstance(value, Iterable):
        raise InputError("this is no list", where=where, found=shown(value))
    try:
        return list(value)
    except TypeError as error:  # an array of no dimension
        raise InputError("this is no list", where=where, found=shown(value)) from error


def shown(value: object, most: int = 60) -> str:
    """A value and its type for a message, however large or odd it is."""
    try:
        text = f"{value.__class__.__name__}" if isinstance(value, torch.Tensor) and value.is_meta else repr(value)
    except Exception:  # a foreign object may refuse to be shown
        text = object.__repr__(value)
    return f"{text if len(text) <= most else text[:most] + '...'} ({type(value).__name__})"


def _plain(ids: object) -> object:
    import numpy as np

    ids = as_number(ids)
    if isinstance(ids, torch.Tensor) and (ids.is_meta or ids.layout != torch.strided):
        raise InputError("these are no token ids", where="token_ids", found=f"a tensor on {ids.device}, {ids.layout}")
    if isinstance(ids, (np.ndarray, torch.Tensor)):
        ids = ids.tolist()
    if isinstance(ids, int) or is_row(ids):
        return ids
    raise InputError("these are no token ids", where="token_ids", found=shown(ids))
