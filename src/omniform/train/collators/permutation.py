"""Permutation language modeling (XLNet, Yang et al. 2019, section 2.2): spans to predict in a random order."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.train.collators.mixin import DataCollatorMixin, as_kind, check_some
from omniform.train.collators.padding import stack_ids


class _Draws(ABC):
    """The draws of one kind of tensors."""

    @abstractmethod
    def number(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""

    @abstractmethod
    def order(self, count: int) -> np.ndarray:
        """The numbers up to ``count`` in a random order."""


class _Torch(_Draws):
    def number(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,)).item())

    def order(self, count: int) -> np.ndarray:
        return torch.randperm(count).numpy()


class _Numpy(_Draws):
    def number(self, low: int, high: int) -> int:
        return random.randint(low, high)

    def order(self, count: int) -> np.ndarray:
        return np.random.permutation(count)


@dataclass
class DataCollatorForPermutationLanguageModeling(DataCollatorMixin):
    """Rows of ids with spans to predict: ``input_ids``, ``perm_mask``, ``target_mapping`` and ``labels``.

    Args:
        tokenizer: what encoded the texts.
        plm_probability: about how many tokens are predicted.
        max_span_length: the longest span.
        return_tensors: ``"pt"`` or ``"np"``.
    """

    tokenizer: Tokenizer
    plm_probability: float = 1 / 6
    max_span_length: int = 5
    return_tensors: str = "pt"

    def torch_call(self, examples: Sequence[object]) -> dict[str, object]:
        ids = cast(Tensor, stack_ids(_ids(examples), self.tokenizer, None, "pt"))
        return dict(zip(_NAMES, self.torch_mask_tokens(ids), strict=True))

    def numpy_call(self, examples: Sequence[object]) -> dict[str, object]:
        ids = cast(np.ndarray, stack_ids(_ids(examples), self.tokenizer, None, "np"))
        return dict(zip(_NAMES, self.numpy_mask_tokens(ids), strict=True))

    def torch_mask_tokens(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw spans to predict, and the order in which. Shape: [B, T], T even.

        Returns:
            the ids with mask tokens, ``[B, T]``; ``perm_mask [B, T, T]``, 1 where a token may not see another;
            ``target_mapping [B, T, T]``, each prediction's token; the labels, ``[B, T]``.

        Raises:
            InputError: T is odd, or the tokenizer has no mask token.
        """
        made = [cast(Tensor, as_kind(array, "pt")) for array in self._masked(inputs.numpy(), _Torch())]
        inputs.copy_(made[0])
        return inputs.long(), made[1], made[2], made[3]

    def numpy_mask_tokens(self, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """:meth:`torch_mask_tokens` of an array."""
        made = self._masked(inputs, _Numpy())
        inputs[:] = made[0]
        return inputs.astype(np.int64), made[1], made[2], made[3]

    def _masked(self, ids: np.ndarray, draws: _Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        rows, length = ids.shape
        self._check(length)
        drawn = np.zeros(ids.shape, dtype=bool)
        for row in drawn:
            self._draw_spans(row, draws)
        special = np.array(
            [self.tokenizer.get_special_tokens_mask(row, already_has_special_tokens=True) for row in ids.tolist()]
        ).astype(bool)
        padding = np.zeros_like(drawn) if self.tokenizer.pad_token is None else ids == self.tokenizer.pad_token_id
        drawn &= ~(special | padding)
        masked, labels = ids.copy(), ids.copy()
        masked[drawn] = self.tokenizer.mask_token_id
        labels[~drawn] = -100
        hidden = np.zeros((rows, length, length), dtype=np.float32)
        for row in range(rows):
            order = _order(length, draws)
            # What is not predicted comes first: all see it, and it sees nothing that is predicted.
            order[~drawn[row] & ~(padding | special)[row]] = -1
            hidden[row] = (order[:, None] <= order[None, :]) & drawn[row]
        targets = np.broadcast_to(np.eye(length, dtype=np.float32), hidden.shape).copy()
        return masked, hidden, targets, labels

    def _draw_spans(self, row: np.ndarray, draws: _Draws) -> None:
        # A span stands anywhere in a context of its own, which is longer by the share that is predicted.
        begin = 0
        while begin < len(row):
            span = draws.number(1, self.max_span_length)
            context = int(span / self.plm_probability)
            start = begin + draws.number(0, context - span)
            row[start : start + span] = True
            begin += context

    def _check(self, length: int) -> None:
        if self.tokenizer.mask_token is None:
            raise InputError(
                "the tokenizer has no token to mask others with", where="tokenizer", remedy="Set tokenizer.mask_token."
            )
        if length % 2:
            raise InputError(
                "rows are permuted in two halves, which must be equally long",
                where="input_ids",
                expected="an even length",
                found=length,
                remedy="Tokenize with padding=True and pad_to_multiple_of=2.",
            )


_NAMES = ("input_ids", "perm_mask", "target_mapping", "labels")


def _order(length: int, draws: _Draws) -> np.ndarray:
    """A random order of tokens, in which either half stays in its place (half a row is memory of the next step)."""
    halves = np.arange(length).reshape(-1, length // 2).T if length else np.zeros((0, 2), dtype=np.int64)
    order: np.ndarray = halves[draws.order(length // 2)].T.flatten()
    return order


def _ids(examples: Sequence[object]) -> list[object]:
    check_some(examples)
    return [example["input_ids"] if isinstance(example, Mapping) else example for example in examples]
