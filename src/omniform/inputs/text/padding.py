"""Padding rows of token ids that exist already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from omniform.core.errors import InputError, brief
from omniform.inputs.text.encoding import BatchEncoding
from omniform.inputs.text.options import Limits

Columns = dict[str, list[list[object]]]


@dataclass(frozen=True, slots=True)
class Filler:
    """What padding is made of.

    Attributes:
        main: the name of the ids, whose lengths count.
        values: the filling of each column that is padded; other columns are left as they are.
        add_mask: whether rows without an attention mask get one.
    """

    main: str
    values: Mapping[str, object]
    add_mask: bool


def pad_rows(
    features: Mapping[str, object] | Sequence[Mapping[str, object]],
    limits: Limits,
    filler: Filler,
    return_tensors: str | None,
) -> BatchEncoding:
    """Bring rows to one length.

    Args:
        features: rows by name, or a list of them, or names to lists of rows; numbers, arrays or tensors.
        limits: to what length, and on which side.
        filler: with what.
        return_tensors: ``"pt"``, ``"np"`` or ``None``; by default tensors where tensors were given.

    Raises:
        InputError: the ids are missing, columns differ in their number of rows, or a row is no list of numbers.
    """
    columns, found = read_columns(features, filler.main)
    kind = found if return_tensors is None else return_tensors
    ids = columns[filler.main]
    if not ids:
        return BatchEncoding({**columns, **({"attention_mask": []} if filler.add_mask else {})}).as_tensors(
            return_tensors
        )
    alone = is_alone(ids)
    rows = as_rows(columns, alone, filler.main)
    if filler.add_mask and "attention_mask" not in rows:
        rows["attention_mask"] = [[1] * len(row) for row in rows[filler.main]]
    target = _target([len(row) for row in rows[filler.main]], limits)
    for name in filler.values:
        if name in rows:
            _check_lengths(name, rows[name], [len(row) for row in rows[filler.main]])
    padded: dict[str, object] = {}
    for name, column in rows.items():
        if name in filler.values and target is not None:
            value = filler.values[name]
            column = [_extend(row, target, value, limits.side) for row in column]
        padded[name] = column[0] if alone else column
    return BatchEncoding(padded).as_tensors(kind)


def read_columns(
    features: Mapping[str, object] | Sequence[Mapping[str, object]], main: str
) -> tuple[dict[str, object], str | None]:
    """Features by name as plain lists, and the kind of tensors that they were given as.

    Raises:
        InputError: the ids are missing, or no list.
    """
    raw = _columns(features)
    if main not in raw:
        raise InputError("there are no ids to pad", where=main, found=f"only {sorted(raw)}")
    columns = {name: _to_lists(value) for name, value in raw.items()}
    if not isinstance(columns[main], (list, tuple)):
        raise InputError("the ids are no list", where=main, found=type(columns[main]).__name__)
    return columns, _kind(raw[main])


def is_alone(ids: object) -> bool:
    """Whether ids are those of a single row."""
    return isinstance(ids, (list, tuple)) and bool(ids) and not isinstance(ids[0], (list, tuple))


def _columns(features: Mapping[str, object] | Sequence[Mapping[str, object]]) -> dict[str, object]:
    if isinstance(features, Mapping):
        return dict(features)
    if not isinstance(features, (list, tuple)) or not all(isinstance(row, Mapping) for row in features):
        raise InputError(
            "features are a mapping, or a list of them", where="encoded_inputs", found=type(features).__name__
        )
    names = list(features[0]) if features else []
    for index, row in enumerate(features):
        if set(row) != set(names):
            raise InputError(
                "rows have different features", where=f"row {index}", expected=sorted(names), found=sorted(row)
            )
    return {name: [row[name] for row in features] for name in names}


def _kind(ids: object) -> str | None:
    import numpy as np

    first = ids[0] if isinstance(ids, (list, tuple)) and ids else ids
    if isinstance(first, torch.Tensor):
        return "pt"
    return "np" if isinstance(first, (np.ndarray, np.generic)) else None


def _to_lists(value: object) -> object:
    import numpy as np

    if isinstance(value, torch.Tensor) and (value.is_meta or value.layout is not torch.strided):
        raise InputError("this tensor does not hold its numbers one by one", found=brief(value))
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        plain: object = value.tolist()
        return plain
    if isinstance(value, (list, tuple)):
        # Rows of plain numbers, which nearly all are, are looked at as a whole.
        return list(value) if _PLAIN.issuperset(map(type, value)) else [_to_lists(item) for item in value]
    return value


_PLAIN = frozenset({int, bool, float, str, type(None)})
_WHOLE = frozenset({int})


def as_rows(columns: Mapping[str, object], alone: bool, main: str) -> Columns:
    """Columns of as many rows each; a single row becomes one of one.

    Raises:
        InputError: columns differ in their number of rows, or a row of ids is no list of whole numbers.
    """
    rows: Columns = {}
    count = None
    for name in [main, *(name for name in columns if name != main)]:
        column = [columns[name]] if alone else columns[name]
        if not isinstance(column, (list, tuple)) or (count is not None and len(column) != count):
            raise InputError(
                "the columns have different numbers of rows",
                where=name,
                expected=f"{count} rows",
                found=len(column) if isinstance(column, (list, tuple)) else type(column).__name__,
            )
        count = len(column)
        rows[name] = list(column)
    for index, row in enumerate(rows[main]):
        if not isinstance(row, (list, tuple)) or not _WHOLE.issuperset(map(type, row)):
            raise InputError(
                "a row of ids is a list of whole numbers", where=f"{main}, row {index}", found=f"{row!r:.60}"
            )
    return {name: rows[name] for name in columns}


def _check_lengths(name: str, column: list[list[object]], lengths: list[int]) -> None:
    for index, (row, length) in enumerate(zip(column, lengths, strict=False)):
        if not isinstance(row, (list, tuple)) or len(row) != length:
            raise InputError(
                "the row is not as long as its ids", where=f"{name}, row {index}", expected=length, found=f"{row!r:.60}"
            )


def _target(lengths: Sequence[int], limits: Limits) -> int | None:
    if limits.padding is None:
        return None
    target = max(lengths) if limits.padding == "longest" else limits.max_length
    if target is not None and limits.multiple:
        target = -(-target // limits.multiple) * limits.multiple
    return target


def _extend(row: list[object], target: int, value: object, side: str) -> list[object]:
    filling = [value] * (target - len(row))
    return list(row) + filling if side == "right" else filling + list(row)
