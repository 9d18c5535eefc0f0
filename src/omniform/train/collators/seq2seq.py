"""Encoder-decoders: inputs padded by the tokenizer, answers padded beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.text.own.strategies import PaddingStrategy
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.mixin import Kind, as_kind, read_kind
from omniform.train.collators.padding import fill_rows, pad_examples, read_row, take_labels


@dataclass
class DataCollatorForSeq2Seq:
    """Pads inputs, and the answers (``label`` or ``labels``) with a label that losses leave out.

    Args:
        tokenizer: what encoded the texts.
        model: the model that is trained; where it has ``prepare_decoder_input_ids_from_labels``, the batch gets its
            ``decoder_input_ids`` (label smoothing needs them).
        padding: True or ``"longest"``; ``"max_length"``; or False.
        max_length: the length for ``"max_length"``, of answers too.
        pad_to_multiple_of: pad to a multiple of it.
        label_pad_token_id: the label of padding.
        return_tensors: ``"pt"`` or ``"np"``.
    """

    tokenizer: Tokenizer
    model: object | None = None
    padding: bool | str | PaddingStrategy = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = -100
    return_tensors: str = "pt"

    def __call__(self, features: Sequence[object], return_tensors: str | None = None) -> dict[str, object]:
        """A batch of examples; without labels, ``labels`` is None.

        Raises:
            InputError: there are no examples, or they do not make a batch.
        """
        kind = read_kind(self.return_tensors if return_tensors is None else return_tensors)
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
            batch["labels"] = None
            return batch
        batch["labels"] = self._labels(name, labels, kind)
        prepare = _preparer(self.model)
        if prepare is not None:
            given = torch.as_tensor(batch["labels"])
            ids = prepare(labels=given)
            batch["decoder_input_ids"] = ids if kind == "pt" else cast(Tensor, ids).numpy()
        return batch

    def _labels(self, name: str, labels: list[object], kind: Kind) -> object:
        rows = [read_row(label, f"column {name!r}, example {index} of the batch") for index, label in enumerate(labels)]
        lengths = [len(row) for row in rows]
        fixed = self.padding == "max_length" and self.max_length is not None
        target = cast(int, self.max_length) if fixed else max(lengths)
        if self.pad_to_multiple_of is not None and self.padding not in (False, "do_not_pad"):
            target = -(-target // self.pad_to_multiple_of) * self.pad_to_multiple_of
        for index, length in enumerate(lengths):
            if length > target or (self.padding in (False, "do_not_pad") and length != target):
                raise InputError(
                    "the labels do not fit",
                    where=f"column {name!r}, example {index} of the batch",
                    expected=f"at most {target} tokens" if fixed else f"{target} tokens, as others of the batch",
                    found=f"{length} tokens",
                    remedy="Cut answers when they are tokenized (truncation=True, max_length=...), or pad with "
                    "padding=True.",
                )
        return as_kind(fill_rows(rows, target, self.tokenizer.padding_side, self.label_pad_token_id), kind)


def _preparer(model: object) -> Callable[..., object] | None:
    """The model's maker of decoder inputs; wrappers (PEFT) hand the name on to what they wrap."""
    try:
        made: Callable[..., object] = model.prepare_decoder_input_ids_from_labels  # type: ignore[attr-defined]
    except AttributeError:
        return None
    return made
