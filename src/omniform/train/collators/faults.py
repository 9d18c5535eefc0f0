"""The errors of columns that do not make a tensor: which column, which example, what was there, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, brief

_RAGGED_LABELS = (
    "Pad labels with DataCollatorForTokenClassification (one label for each token) or DataCollatorForSeq2Seq (answers)."
)
_RAGGED = (
    "Pad the rows: DataCollatorWithPadding(tokenizer) does for a tokenizer's own columns; or tokenize with padding and "
    "truncation."
)
_TEXT = (
    "Turn texts into numbers first (a tokenizer, ClassLabel, a dict of labels), or drop the column: "
    "dataset.remove_columns({name!r})."
)
_NOTHING = "Give every example a value, or drop the column: dataset.remove_columns({name!r})."
_MEDIA = "Let an image processor or feature extractor make tensors of it first, or use DataCollatorForMultimodal."
_OTHER = "Turn it into numbers, or drop the column: dataset.remove_columns({name!r})."

_LABELS = ("label", "labels", "label_ids")


def column_fault(name: str, values: Sequence[object], reason: str = "") -> InputError:
    """The error of a column that does not make one tensor.

    Args:
        name: of the column.
        values: one for each example of the batch.
        reason: what was said by whoever tried; shown where nothing better is found.
    """
    first = _shape(values[0]) if values else None
    for index, value in enumerate(values):
        where = f"column {name!r}, example {index} of the batch"
        for leaf in _leaves(value):
            remedy = _remedy(leaf)
            if remedy is not None:
                found = brief(leaf) if isinstance(leaf, (str, bytes)) or leaf is None else _typed(leaf)
                return InputError(
                    "this value cannot be part of a tensor",
                    where=where,
                    expected="numbers",
                    found=found,
                    remedy=remedy.replace("{name!r}", repr(name)),
                )
        shape = _shape(value)
        if shape != first or shape is None:
            return InputError(
                "rows of different lengths do not make one tensor",
                where=where,
                expected="rows that are equally long" if first is None else f"shape {list(first)}, as example 0",
                found="lists of different lengths" if shape is None else f"shape {list(shape)}",
                remedy=_RAGGED_LABELS if name in _LABELS else _RAGGED,
            )
    return InputError("this column does not make a tensor", where=f"column {name!r}", found=reason or None)


def missing_fault(name: str, index: int, found: Mapping[str, object]) -> InputError:
    """The error of an example without a column that the first one has."""
    return InputError(
        f"an example has no {name!r}, which the first one has",
        where=f"column {name!r}, example {index} of the batch",
        found=f"columns {sorted(found)}",
        remedy="Give every example of a batch the same columns.",
    )


def column(name: str, examples: Sequence[Mapping[str, object]]) -> list[object]:
    """The values of a column that the first example has.

    Raises:
        InputError: another one has it not.
    """
    values = []
    for index, example in enumerate(examples):
        if name not in example:
            raise missing_fault(name, index, example)
        values.append(example[name])
    return values


def diagnose(examples: Sequence[object], error: InputError, padded: Sequence[str]) -> InputError:
    """A better error than a tokenizer's, where padding failed: the column that is to blame, or the error itself.

    Args:
        examples: what was padded.
        error: what the tokenizer said.
        padded: the columns that it pads, which may be of different lengths.
    """
    rows = [example for example in examples if isinstance(example, Mapping)]
    for name in rows[0] if rows else ():
        try:
            values = column(name, rows)
        except InputError as missing:
            return missing
        bad = any(_remedy(leaf) is not None for value in values for leaf in _leaves(value))
        shapes = [_shape(value) for value in values]
        if bad or (name not in padded and (None in shapes or len(set(shapes)) > 1)):
            return column_fault(name, values)
    return error


def _remedy(leaf: object) -> str | None:
    """What to do about a value that is no number; None for a number."""
    if isinstance(leaf, (bool, int, float, complex, np.number, np.bool_, Tensor, np.ndarray)):
        return _TEXT if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "US" else None
    if leaf is None:
        return _NOTHING
    if isinstance(leaf, (str, bytes)):
        return _TEXT
    return _MEDIA if type(leaf).__module__.partition(".")[0] in ("PIL", "torchcodec") else _OTHER


def _typed(leaf: object) -> str:
    kind = type(leaf)
    return f"{brief(leaf)} ({kind.__module__}.{kind.__qualname__})"


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, np.ndarray) and value.dtype == object:
        for item in value.flat:
            yield from _leaves(item)
    else:
        yield value


def _shape(value: object) -> tuple[int, ...] | None:
    """The shape of nested lists; None where they are not equally long."""
    if isinstance(value, (Tensor, np.ndarray)):
        return tuple(value.shape)
    if not isinstance(value, (list, tuple)):
        return ()
    inner = {_shape(item) for item in value}
    if len(inner) > 1 or None in inner:
        return None
    rest = inner.pop() if inner else ()
    assert rest is not None
    return (len(value), *rest)
