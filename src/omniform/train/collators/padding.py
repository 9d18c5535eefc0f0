"""Padding examples to one length: by the tokenizer, and for bare rows of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.inputs.text.own.strategies import PaddingStrategy
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.faults import diagnose
from omniform.train.collators.mixin import Kind, as_kind, check_some

PADDED = ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask")
"""The columns that tokenizers pad."""


def pad_examples(tokenizer: Tokenizer, examples: Sequence[object], **options: object) -> dict[str, object]:
    """What ``tokenizer.pad`` makes of examples.

    Args:
        options: ``padding``, ``max_length``, ``pad_to_multiple_of``, ``return_tensors``.

    Raises:
        InputError: a column does not make a tensor; it is named, and the example too.
    """
    check_some(examples)
    try:
        return tokenizer.pad(examples, **options)  # type: ignore[arg-type]
    except InputError as error:
        if error.where in ("padding", "max_length", "pad_to_multiple_of", "return_tensors"):
            raise
        raise diagnose(examples, error, PADDED) from error


def pad_without_fast_tokenizer_warning(tokenizer: Tokenizer, *pad_args: object, **pad_kwargs: object) -> object:
    """``tokenizer.pad(...)``; omniform's tokenizers warn of nothing there."""
    return tokenizer.pad(*pad_args, **pad_kwargs)  # type: ignore[arg-type]


@dataclass
class DataCollatorWithPadding:
    """Pads a tokenizer's columns to the longest example of the batch; ``label`` and ``label_ids`` become ``labels``.

    Args:
        tokenizer: what encoded the texts; a feature extractor does as well.
        padding: True or ``"longest"``; ``"max_length"``; or False.
        max_length: the length for ``"max_length"``.
        pad_to_multiple_of: pad to a multiple of it.
        return_tensors: ``"pt"`` or ``"np"``.
    """

    tokenizer: Tokenizer
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[object]) -> dict[str, object]:
        """A batch of examples.

        Raises:
            InputError: there are none, they do not make a batch, or the tokenizer has no token to pad with.
        """
        batch = pad_examples(
            self.tokenizer,
            features,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=self.return_tensors,
        )
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


def stack_ids(examples: Sequence[object], tokenizer: Tokenizer, multiple: int | None, kind: Kind) -> object:
    """Bare rows of ids (lists, tensors, arrays) as one batch, padded where they differ in length. Shape: [B, T].

    Raises:
        InputError: a row is none of ids, or rows must be padded and the tokenizer has no token for it.
    """
    rows = [read_row(example, f"example {index} of the batch") for index, example in enumerate(examples)]
    longest = max(len(row) for row in rows)
    if multiple is not None:
        longest = -(-longest // multiple) * multiple
    if all(len(row) == longest for row in rows):
        return as_kind(np.stack(rows), kind)
    pad = tokenizer.pad_token_id
    if tokenizer.pad_token is None or pad is None:
        raise InputError(
            "the tokenizer has no token to pad with",
            where="padding",
            remedy="Set one, for instance tokenizer.pad_token = tokenizer.eos_token.",
        )
    return as_kind(fill_rows(rows, longest, tokenizer.padding_side, pad), kind)


def read_row(value: object, where: str) -> np.ndarray:
    """A row of whole numbers as an array of int64. Shape: [T].

    Raises:
        InputError: it is none.
    """
    given = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    try:
        row = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise _no_row(value, where) from error
    if row.ndim == 1 and row.size == 0:
        return row.astype(np.int64)
    if row.ndim != 1 or row.dtype.kind not in "iub":
        raise _no_row(value, where)
    return row.astype(np.int64)


def _no_row(value: object, where: str) -> InputError:
    return InputError("this is no row of whole numbers", where=where, found=brief(value))


def fill_rows(rows: Sequence[np.ndarray], length: int, side: str, value: int) -> np.ndarray:
    """Rows brought to a length. Shape: [B, length]."""
    filled = np.full((len(rows), length), value, dtype=np.int64)
    for out, row in zip(filled, rows, strict=True):
        if side == "right":
            out[: len(row)] = row
        elif len(row):
            out[-len(row) :] = row
    return filled


def take_labels(examples: Sequence[object]) -> tuple[str, list[object] | None, list[dict[str, object]]]:
    """The name of the labels' column, the labels (None without any), and the examples without them.

    Raises:
        InputError: some examples have labels and others have not.
    """
    check_some(examples)
    rows = [cast("dict[str, object]", example) for example in examples]
    name = "label" if "label" in rows[0] else "labels"
    rest = [{key: value for key, value in row.items() if key != name} for row in rows]
    labels = [row.get(name) for row in rows]
    if all(label is None for label in labels):
        return name, None, rest
    for index, label in enumerate(labels):
        if label is None:
            raise InputError(
                "this example has no labels, and others have",
                where=f"column {name!r}, example {index} of the batch",
                remedy="Give every example labels; -100 leaves a token out of the loss.",
            )
    return name, labels, rest
