"""Which tokens stand for which picture or sound: found in the ids, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch.nn.functional as F
from torch import Tensor

from omniform.core.batch import Modality, Span
from omniform.core.errors import InputError


def numbered(marked_BT: Tensor) -> Tensor:
    """The stretches of marked tokens in each row, numbered from 1, and 0 elsewhere; nothing is read on the host.

    Args:
        marked_BT: True for the tokens of stretches. Shape: [B, T].

    Returns:
        Shape: [B, T], as :attr:`~omniform.core.context.StepContext.bidirectional` takes it.
    """
    begins = marked_BT & ~F.pad(marked_BT, (1, 0))[:, :-1]
    return begins.cumsum(1) * marked_BT


def runs_of(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The stretches of one number that is not 0, each as its first place and one past its last."""
    found, at = list[tuple[int, int]](), 0
    for number, own in groupby(numbers):
        stop = at + len(list(own))
        found += [(at, stop)] if number else []
        at = stop
    return tuple(found)


def find_spans(input_ids: Tensor, token_id: int, lengths: Sequence[int], modality: Modality) -> list[Span]:
    """The runs of placeholder tokens of each item, in reading order: one, where no other token stands among them.

    Args:
        input_ids: Shape: [B, T].
        token_id: the placeholder.
        lengths: how many features each item has.

    Raises:
        InputError: a row holds placeholders for no whole number of items, or the batch for more or fewer items than
            there are; the message names the row and both numbers.
    """
    spans: list[Span] = []
    item = 0
    marked = (input_ids == token_id).cpu().numpy()
    for row, ids in enumerate(marked):
        places = ids.nonzero()[0].tolist()
        at = 0
        while at < len(places):
            if item == len(lengths):
                raise _mismatch(input_ids, token_id, lengths, modality, row)
            run = places[at : at + lengths[item]]
            if len(run) < lengths[item]:
                raise _mismatch(input_ids, token_id, lengths, modality, row)
            spans += (Span(modality, row, start, length, item, offset) for start, length, offset in _runs(run))
            at += lengths[item]
            item += 1
    if item < len(lengths):
        raise _mismatch(input_ids, token_id, lengths, modality, None)
    return spans


def _runs(places: Sequence[int]) -> list[tuple[int, int, int]]:
    """Places in stretches that follow one another: the first, how many, and how many came before."""
    begins = [i for i, place in enumerate(places) if not i or place != places[i - 1] + 1]
    return [(places[i], stop - i, i) for i, stop in zip(begins, [*begins[1:], len(places)], strict=True)]


def _mismatch(
    input_ids: Tensor, token_id: int, lengths: Sequence[int], modality: Modality, row: int | None
) -> InputError:
    held = (input_ids == token_id).sum(-1).tolist()
    worst = f"row {row}" if row is not None else f"rows 0 to {len(held) - 1}" if len(held) > 1 else "row 0"
    return InputError(
        f"the {modality} placeholders do not match the {modality}s",
        where=f"input_ids, {worst}",
        expected=f"{sum(lengths)} placeholder tokens for {len(lengths)} {modality}(s)",
        found=f"{sum(held)} placeholder tokens (by row: {held})",
        remedy="Let the checkpoint's own processor prepare text and pictures together.",
    )
