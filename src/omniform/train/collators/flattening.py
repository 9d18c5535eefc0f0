"""Training without padding: the examples of a batch end to end in one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from omniform.core.errors import InputError
from omniform.train.collators.default import DefaultDataCollator
from omniform.train.collators.mixin import Kind, as_kind, read_examples, read_kind
from omniform.train.collators.padding import read_row


class DataCollatorWithFlattening(DefaultDataCollator):
    """Puts the examples of a batch end to end in one row; positions tell where each begins. Shape: [1, T].

    The labels of each example's first token are ``separator_id``: no example is predicted from the one before. An
    example that is packed already (:func:`omniform.train.packing.pack`: its ``position_ids`` begin anew inside it)
    counts as several.

    Args:
        return_tensors: ``"pt"`` or ``"np"``.
        return_position_ids: give ``position_ids``, which begin anew with each example.
        separator_id: the label between examples.
        return_flash_attn_kwargs: give ``cu_seq_lens_q``, ``cu_seq_lens_k`` (where examples begin, and the end; int32,
            Shape: [N + 1]), ``max_length_q`` and ``max_length_k`` (the longest example).
        return_seq_idx: give ``seq_idx``, the number of the example of each token (int32).
        position_ids_start: what positions begin with; RoBERTa's line counts from ``padding_idx + 1``.
    """

    def __init__(
        self,
        return_tensors: str = "pt",
        *,
        return_position_ids: bool = True,
        separator_id: int = -100,
        return_flash_attn_kwargs: bool = False,
        return_seq_idx: bool = False,
        position_ids_start: int = 0,
    ) -> None:
        super().__init__(return_tensors)
        self.return_position_ids = return_position_ids
        self.separator_id = separator_id
        self.return_flash_attn_kwargs = return_flash_attn_kwargs
        self.return_seq_idx = return_seq_idx
        self.position_ids_start = position_ids_start

    def __call__(
        self, features: Sequence[object], return_tensors: str | None = None, separator_id: int | None = None
    ) -> dict[str, object]:
        """The examples as one row.

        Raises:
            InputError: there are no examples, one has no ids, or as many labels as ids.
        """
        kind = read_kind(self.return_tensors if return_tensors is None else return_tensors)
        separator = self.separator_id if separator_id is None else separator_id
        rows = [part for index, example in enumerate(read_examples(features)) for part in _parts(index, example)]
        ids, labels = [row for row, _ in rows], [label.copy() for _, label in rows]
        for label in labels:
            label[:1] = separator
        lengths = [len(row) for row in ids]
        batch: dict[str, object] = {
            "input_ids": _flat(ids, np.int64, kind),
            "labels": _flat(labels, np.int64, kind),
        }
        if self.return_position_ids:
            places = [np.arange(length) + self.position_ids_start for length in lengths]
            batch["position_ids"] = _flat(places, np.int64, kind)
        if self.return_seq_idx:
            batch["seq_idx"] = _flat([np.repeat(np.arange(len(ids)), lengths)], np.int32, kind)
        if self.return_flash_attn_kwargs:
            for side in ("q", "k"):
                ends = np.cumsum([0, *lengths]).astype(np.int32)
                batch[f"cu_seq_lens_{side}"] = as_kind(ends, kind)
            batch["max_length_q"] = batch["max_length_k"] = max(lengths)
        return batch


def _parts(index: int, example: Mapping[str, object]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The ids and labels of an example; those of each text, where it is a packed row."""
    ids, labels = _row(index, example)
    if example.get("position_ids") is None:
        return [(ids, labels)]
    places = read_row(example["position_ids"], f"column 'position_ids', example {index} of the batch")
    if len(places) != len(ids):
        raise InputError(
            "there must be one position for each token",
            where=f"column 'position_ids', example {index} of the batch",
            expected=f"{len(ids)} positions",
            found=f"{len(places)} positions",
        )
    begins = np.flatnonzero(np.diff(places) != 1) + 1
    return [*zip(np.split(ids, begins), np.split(labels, begins), strict=True)]


def _row(index: int, example: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """The ids and the labels of an example; without labels the ids are what is predicted."""
    if "input_ids" not in example:
        raise InputError(
            "there are no ids to put end to end",
            where=f"example {index} of the batch",
            expected="input_ids",
            found=f"columns {sorted(example)}",
        )
    ids = read_row(example["input_ids"], f"column 'input_ids', example {index} of the batch")
    if example.get("labels") is None:
        return ids, ids
    labels = read_row(example["labels"], f"column 'labels', example {index} of the batch")
    if len(labels) != len(ids):
        raise InputError(
            "there must be one label for each token",
            where=f"column 'labels', example {index} of the batch",
            expected=f"{len(ids)} labels, as many as input_ids",
            found=f"{len(labels)} labels",
        )
    return ids, labels


def _flat(parts: Sequence[np.ndarray], dtype: type[np.integer], kind: Kind) -> object:
    return as_kind(np.concatenate(parts).astype(cast("np.dtype", dtype))[None], kind)
