"""Prompts of any shape, ragged or padded on either side, as one batch aligned at its right edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief


@dataclass(frozen=True, slots=True)
class Prompts:
    """Rows of tokens, padded on the left so that every row's next token goes into the same column.

    Attributes:
        ids: Shape: [B, T].
        real: Shape: [B, T], True for tokens that are no padding; None where all are.
    """

    ids: Tensor
    real: Tensor | None

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return self.ids.shape[1]

    def positions(self) -> Tensor:
        """Position ids, counted in each row from its first real token. Shape: [B or 1, T]."""
        if self.real is None:
            return torch.arange(self.longest, device=self.ids.device)[None]
        return (self.real.cumsum(-1) - 1).clamp(min=0)


def as_prompts(ids: object, mask: Tensor | None, pad: int, device: torch.device, *, holes: bool = False) -> Prompts:
    """Read prompts from a tensor with or without a mask, or from a list of rows of any lengths.

    Args:
        ids: Shape: [B, T] or [T]; or a list of lists or tensors.
        mask: Shape: [B, T], 1 for real tokens; padding may be on the left, on the right, or on both sides.
        pad: fills the left of short rows.
        holes: whether padding may also stand between real tokens: turns of rows that ended before others.

    Raises:
        InputError: no rows, an empty row, a mask of another shape or with holes.
    """
    if isinstance(ids, Tensor) and mask is None and ids.dim() == 2 and ids.numel():
        return Prompts(ids.to(device), None)
    rows = _rows(ids, mask, holes)
    for number, row in enumerate(rows):
        if row.numel() == 0:
            raise InputError("a prompt is empty", where=f"input_ids, row {number}", expected="at least one token")
    if not rows:
        raise InputError("there is no prompt", where="input_ids", expected="at least one row of tokens")
    longest = max(len(row) for row in rows)
    batch = torch.full((len(rows), longest), pad, dtype=torch.long)
    real = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        batch[number, longest - len(row) :] = row
        real[number, longest - len(row) :] = True
    return Prompts(batch.to(device), None if bool(real.all()) else real.to(device))


def columns_of(ids: object, mask: Tensor | None, rows: int) -> list[Tensor | None]:
    """Which columns of a caller's batch each row's tokens stand in, Shape: [n]; None for the last ones.

    Args:
        ids: as for :func:`as_prompts`.
        mask: likewise.
        rows: how many there are.
    """
    if mask is None or not isinstance(ids, Tensor) or ids.dim() != 2:
        return [None] * rows
    real, width = mask.bool().cpu(), ids.shape[1]
    found = [row.nonzero()[:, 0] for row in real]
    return [None if len(own) and int(own[0]) == width - len(own) else own for own in found]


def _rows(ids: object, mask: Tensor | None, holes: bool) -> list[Tensor]:
    if isinstance(ids, Tensor):
        ids = ids[None] if ids.dim() == 1 else ids
        if ids.is_floating_point() or ids.dim() != 2:
            raise InputError(
                "prompts must be rows of token ids",
                where="input_ids",
                expected="integers of shape [batch, tokens]",
                found=f"{ids.dtype} of shape {list(ids.shape)}",
            )
        if mask is None:
            return list(ids.cpu())
        if mask.shape != ids.shape:
            raise InputError(
                "the mask does not cover the tokens",
                where="attention_mask",
                expected=f"shape {list(ids.shape)}",
                found=f"shape {list(mask.shape)}",
            )
        pairs = zip(ids.cpu(), mask.bool().cpu(), strict=True)
        return [row[real] if holes else _unpadded(row, real, n) for n, (row, real) in enumerate(pairs)]
    if not isinstance(ids, Sequence) or isinstance(ids, (str, bytes)):
        raise InputError(
            "prompts must be token ids",
            where="input_ids",
            expected="a tensor or a list",
            found=type(ids).__name__,
            remedy=_remedy(ids),
        )
    if mask is not None:
        raise InputError(
            "a list of rows needs no mask",
            where="attention_mask",
            remedy='Leave it out, or tokenize with return_tensors="pt".',
        )
    rows: Sequence[object] = [ids] if ids and all(isinstance(i, int) for i in ids) else ids
    return [_tensor(row, number) for number, row in enumerate(rows)]


def _unpadded(row: Tensor, real: Tensor, number: int) -> Tensor:
    places = real.nonzero()[:, 0]
    if len(places) and int(places[-1] - places[0]) + 1 != len(places):
        raise InputError(
            "the mask has a hole: padding stands between real tokens",
            where=f"attention_mask, row {number}",
            expected="padding on the left or the right only",
        )
    return row[real]


def _tensor(row: object, number: int) -> Tensor:
    try:
        tensor = torch.as_tensor(row)
    except (TypeError, ValueError, RuntimeError):
        tensor = torch.empty(0, 0)
    if tensor.dim() != 1 or (tensor.numel() and tensor.is_floating_point()):
        raise InputError(
            "a prompt must be a row of token ids",
            where=f"input_ids, row {number}",
            found=brief(row),
            remedy=_remedy(row),
        )
    return tensor.long().cpu()


def _remedy(given: object) -> str | None:
    """How what is no token ids becomes some, where that can be told."""
    if isinstance(given, Mapping):
        if "role" in given:
            return "Make token ids of it first: tokenizer.apply_chat_template(chat, return_dict=True, ...)."
        return "Hand a tokenizer's answer on by name: generate(**inputs)."
    if isinstance(given, str):
        return 'Encode it first: generate(**tokenizer(text, return_tensors="pt")).'
    return None
