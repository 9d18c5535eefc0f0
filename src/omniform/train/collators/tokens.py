"""Token classification: one label for each token, padded beside the ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.text.own.strategies import PaddingStrategy
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.mixin import DataCollatorMixin, Kind, as_kind
from omniform.train.collators.padding import fill_rows, pad_examples, read_row, take_labels


@dataclass
class DataCollatorForTokenClassification(DataCollatorMixin):
    """Pads a tokenizer's columns, and the labels of each token (``label`` or ``labels``) on the same side.

    Args:
        tokenizer: what encoded the texts.
        padding: True or ``"longest"``; ``"max_length"``; or False.
        max_length: the length for ``"max_length"``.
        pad_to_multiple_of: pad to a multiple of it.
        label_pad_token_id: the label of padding, which losses leave out.
        return_tensors: ``"pt"`` or ``"np"``.
    """

    tokenizer: Tokenizer
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "pt"

    def torch_call(self, features: Sequence[object]) -> dict[str, object]:
        return self._collate(features, "pt")

    def numpy_call(self, features: Sequence[object]) -> dict[str, object]:
        return self._collate(features, "np")

    def _collate(self, features: Sequence[object], kind: Kind) -> dict[str, object]:
        name, labels, rest = take_labels(features)
        batch = pad_examples(
            self.tokenizer,
            rest,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=kind,
        )
        if labels is None:
            return batch
        length = cast("Tensor | np.ndarray", batch["input_ids"]).shape[1]
        rows = []
        for index, (label, example) in enumerate(zip(labels, rest, strict=True)):
            where = f"column {name!r}, example {index} of the batch"
            row = read_row(label, where)
            own = len(cast("Sequence[int]", example["input_ids"]))
            if len(row) != own:
                raise InputError(
                    "there must be one label for each token",
                    where=where,
                    expected=f"{own} labels, as many as input_ids",
                    found=f"{len(row)} labels",
                    remedy="Give special tokens and further pieces of a word a label too (-100): see word_ids() of "
                    "what the tokenizer returns. Cut labels where texts are cut.",
                )
            rows.append(row)
        batch[name] = as_kind(fill_rows(rows, length, self.tokenizer.padding_side, self.label_pad_token_id), kind)
        return batch
