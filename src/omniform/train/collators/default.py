"""The plainest collator: each column becomes one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.train.collators.faults import column, column_fault
from omniform.train.collators.mixin import DataCollatorMixin, Kind, as_kind, read_examples, read_kind


def default_data_collator(features: Sequence[object], return_tensors: str = "pt") -> dict[str, object]:
    """A batch of examples, each column of them one tensor.

    ``label`` (a number) and ``label_ids`` (a list) become ``labels``. Columns whose first value is a text or None are
    left out, as the ecosystem does.

    Args:
        features: mappings, or objects whose attributes are columns.
        return_tensors: ``"pt"`` or ``"np"``.

    Raises:
        InputError: there are no examples, or a column does not make a tensor; it is named, and the example too.
    """
    return (
        torch_default_data_collator(features)
        if read_kind(return_tensors) == "pt"
        else (numpy_default_data_collator(features))
    )


@dataclass
class DefaultDataCollator(DataCollatorMixin):
    """:func:`default_data_collator` as an object, for which the kind of tensors is chosen once.

    Args:
        return_tensors: ``"pt"`` or ``"np"``.
    """

    return_tensors: str = "pt"

    def __call__(self, features: Sequence[object], return_tensors: str | None = None) -> dict[str, object]:
        return default_data_collator(features, self.return_tensors if return_tensors is None else return_tensors)


def torch_default_data_collator(features: Sequence[object]) -> dict[str, object]:
    """:func:`default_data_collator` with torch's tensors."""
    return _collate(features, "pt")


def numpy_default_data_collator(features: Sequence[object]) -> dict[str, object]:
    """:func:`default_data_collator` with numpy's arrays."""
    return _collate(features, "np")


def _collate(features: Sequence[object], kind: Kind) -> dict[str, object]:
    examples = read_examples(features)
    first = examples[0]
    batch: dict[str, object] = {}
    if first.get("label") is not None:
        batch["labels"] = _made("label", column("label", examples), lambda values: _labels(values, kind))
    elif first.get("label_ids") is not None:
        batch["labels"] = _made("label_ids", column("label_ids", examples), lambda values: _label_rows(values, kind))
    for name, value in first.items():
        if name not in ("label", "label_ids") and value is not None and not isinstance(value, str):
            batch[name] = _made(name, column(name, examples), lambda values: _stacked(values, kind))
    return batch


def _made(name: str, values: list[object], make: Callable[[list[object]], object]) -> object:
    try:
        return make(values)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise column_fault(name, values, str(error)) from error


def _labels(values: list[object], kind: Kind) -> object:
    """One label for each example: whole numbers are classes, all else are targets."""
    first = values[0]
    first = first.item() if isinstance(first, (Tensor, np.ndarray)) and first.ndim == 0 else first
    classes = isinstance(first, (int, np.integer))
    if classes:
        _check_whole(values)
    if kind == "pt":
        rows = [value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value for value in values]
        return torch.tensor(rows, dtype=torch.long if classes else torch.float)
    return np.array(values, dtype=np.int64 if classes else np.float32)


def _check_whole(values: list[object]) -> None:
    # The first label tells the dtype; what would lose its fraction by that is no class.
    for index, value in enumerate(values):
        if isinstance(value, (float, np.floating)) and not float(value).is_integer():
            raise InputError(
                "labels are classes (whole numbers) or targets (fractions), not both",
                where=f"column 'label', example {index} of the batch",
                expected="a whole number, as example 0",
                found=brief(value),
                remedy="Make all labels floats for regression, or all ints for classes.",
            )


def _label_rows(values: list[object], kind: Kind) -> object:
    first = cast("Sequence[object]", values[0])
    if isinstance(first, Tensor if kind == "pt" else np.ndarray):
        return _stacked(values, kind)
    classes = len(first) == 0 or isinstance(first[0], (int, np.integer))
    array = np.array(values)
    return as_kind(array.astype(np.int64 if classes else np.float32), kind)


def _stacked(values: list[object], kind: Kind) -> object:
    first = values[0]
    if kind == "np":
        return _checked(np.stack(cast("list[np.ndarray]", values)) if isinstance(first, np.ndarray) else _array(values))
    if isinstance(first, Tensor):
        return torch.stack(cast("list[Tensor]", values))
    if isinstance(first, np.ndarray):
        return torch.from_numpy(_checked(np.stack(cast("list[np.ndarray]", values))))
    return torch.tensor(values)


def _array(values: list[object]) -> np.ndarray:
    return np.array([value.numpy() if isinstance(value, Tensor) else value for value in values])


def _checked(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "OUSM":  # objects, texts, dates: numpy takes them, no model does
        raise TypeError(f"an array of {array.dtype}")
    return array
