"""Multiple choice: each example is several rows, one for each choice."""

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
from omniform.train.collators.padding import pad_examples, read_row, take_labels


@dataclass
class DataCollatorForMultipleChoice(DataCollatorMixin):
    """Pads all choices of all examples to one length. Shape of each entry: [B, choices, T]; of ``labels``: [B].

    Args:
        tokenizer: what encoded the texts.
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

    def torch_call(self, examples: Sequence[object]) -> dict[str, object]:
        return self._collate(examples, "pt")

    def numpy_call(self, examples: Sequence[object]) -> dict[str, object]:
        return self._collate(examples, "np")

    def _collate(self, examples: Sequence[object], kind: Kind) -> dict[str, object]:
        name, labels, rest = take_labels(examples)
        columns = [cast("dict[str, Sequence[object]]", example) for example in rest]
        choices = len(columns[0]["input_ids"])
        for index, example in enumerate(columns):
            for key, value in example.items():
                if len(value) != choices:
                    raise InputError(
                        "every example needs the same number of choices",
                        where=f"column {key!r}, example {index} of the batch",
                        expected=f"{choices} choices, as example 0",
                        found=f"{len(value)} choices",
                    )
        flat = [{key: value[i] for key, value in example.items()} for example in columns for i in range(choices)]
        padded = pad_examples(
            self.tokenizer,
            flat,
            padding=self.padding,
            max_length=self.max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors=kind,
        )
        shape = (len(columns), choices, -1)
        batch: dict[str, object] = {
            key: cast("Tensor | np.ndarray", value).reshape(shape) for key, value in padded.items()
        }
        if labels is not None:
            plain = [label.item() if isinstance(label, (Tensor, np.ndarray)) else label for label in labels]
            batch["labels"] = as_kind(read_row(plain, f"column {name!r}"), kind)
        return batch
