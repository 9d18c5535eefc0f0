"""The Batch: what every processor returns and every model takes.

Inputs of all modalities travel in one mapping of names to tensors, together with the :class:`Span` s that say which
features belong at which tokens. A Batch is a ``dict``, so ``model(**batch)`` works, and its entries read as attributes
too (``batch.input_ids``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, OmniformError, nearest

Modality = Literal["image", "audio", "video"]

Facts = tuple[int, ...]
"""What is known of an item on the host: sizes, grids, lengths. What they mean is between its medium's methods."""


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one row that one picture, sound or film takes the place of; a run of them, where it has several.

    Attributes:
        modality: what kind of item it is.
        row: the row of the batch.
        start: index of the first placeholder token, in the row as it stands in ``input_ids``.
        length: how many placeholder tokens there are; the item's encoder yields as many feature vectors for each run.
        item: the item's index among all items of this modality in the batch, in reading order.
        offset: the first of the item's vectors that the run takes, where other tokens (ends of rows, tiles' names)
            part an item's placeholders into several runs.
    """

    modality: Modality
    row: int
    start: int
    length: int
    item: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One picture or sound of a row: what its encoder reads.

    Attributes:
        modality: what kind of item it is.
        inputs: the encoder's inputs, each a batch of one.
        facts: what is known of it on the host.
    """

    modality: Modality
    inputs: Mapping[str, Tensor]
    facts: Facts = ()


class Batch(dict[str, object]):
    """A mapping of input names to tensors (or, before tensors were asked for, to lists), with the spans beside it.

    Args:
        data: the entries.
        tensor_type: what lists of numbers become; see :meth:`as_tensors`.
        skip_tensor_conversion: entries that stay as they are.
        spans: which tokens stand for which items.
    """

    def __init__(
        self,
        data: Mapping[str, object] | None = None,
        tensor_type: str | None = None,
        skip_tensor_conversion: Collection[str] | None = None,
        *,
        spans: Sequence[Span] = (),
    ) -> None:
        super().__init__(data or {})
        self.spans: tuple[Span, ...] = tuple(spans)
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type, skip_tensor_conversion)

    @property
    def data(self) -> Self:
        """The entries: this mapping."""
        return self

    def convert_to_tensors(
        self, tensor_type: str | None = None, skip_tensor_conversion: Collection[str] | None = None
    ) -> Self:
        """Turn what is made of numbers into arrays; see :meth:`as_tensors`. Texts and mappings stay as they are."""
        skipped = {name for name, value in self.items() if not _is_numbers(value)} | {*(skip_tensor_conversion or ())}
        kept = {name: self.pop(name) for name in [*self] if name in skipped}
        order = [*kept, *self]
        self.as_tensors(tensor_type)
        for name in order:
            if name in kept:
                self[name] = kept[name]
        return self

    def __getattr__(self, name: str) -> object:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this batch has no entry {name!r}. {nearest(name, self)}") from None

    def to(self, target: torch.device | str | torch.dtype, dtype: torch.dtype | None = None) -> Self:
        """Move every tensor to a device and every floating-point tensor to a dtype; changes and returns this batch.

        Tensors inside lists and mappings (a detector's ``labels``) move too.

        Args:
            target: a device or a dtype.
            dtype: the dtype, when ``target`` is a device.
        """
        device: torch.device | str | None
        if isinstance(target, torch.dtype):
            device, dtype = None, target
        else:
            device = target
        for name, value in self.items():
            self[name] = _moved(value, device, dtype)
        return self

    def tensor(self, name: str) -> Tensor:
        """The entry ``name``, which must be a tensor.

        Raises:
            InputError: there is no such entry, or it is not a tensor.
        """
        value = self.get(name)
        if not isinstance(value, Tensor):
            raise InputError(
                "the batch holds no such tensor", where=name, expected="a tensor", found=type(value).__name__
            )
        return value

    def as_tensors(self, kind: str | None) -> Self:
        """Turn lists of numbers into arrays: ``"pt"`` torch tensors, ``"np"`` numpy arrays, ``None`` as they are.

        Raises:
            InputError: rows differ in length, or the kind is unknown.
        """
        if kind is None:
            return self
        if not isinstance(kind, str) or kind not in ("pt", "np"):
            found = repr(kind) if isinstance(kind, str) else type(kind).__name__
            raise InputError(
                "unknown kind of tensor", where="return_tensors", expected="'pt', 'np' or None", found=found
            )
        for name, value in self.items():
            if isinstance(value, Tensor):
                tensor = value
            elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
                tensor = _stack(name, value)
            elif isinstance(value, (str, bytes)):
                continue
            else:
                tensor = _tensor(name, value)
            self[name] = tensor.numpy() if kind == "np" else tensor
        return self


BatchFeature = Batch
"""The ecosystem's name of it."""


def _is_numbers(value: object) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (int, float, np.ndarray, np.generic, Tensor))


def _moved(value: object, device: torch.device | str | None, dtype: torch.dtype | None) -> object:
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        for key, inner in value.items():
            value[key] = _moved(inner, device, dtype)
    elif isinstance(value, (list, tuple)):
        return type(value)(_moved(inner, device, dtype) for inner in value)
    return value


def _stack(name: str, rows: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) > 1:
        raise _ragged(name, f"shapes {sorted(shapes)}")
    return torch.stack(list(rows))


def _tensor(name: str, value: object) -> Tensor:
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(one, np.ndarray) for one in value):
            value = np.array(value)  # in one go, where torch would take number by number
        return torch.as_tensor(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _ragged(name, str(error)) from error


def _ragged(name: str, found: str) -> OmniformError:
    return InputError(
        "rows of different lengths do not make one tensor",
        where=name,
        found=found,
        remedy="Ask for padding=True (and truncation=True), or leave return_tensors out.",
    )
