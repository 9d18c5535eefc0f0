"""Rows that hold several texts, as a caller hands them to a plain ``forward``: read where they arrive.

Where the numbers are in the host's memory they are looked at here, once; elsewhere the texts are told apart by what
tensors hold, without looking (:func:`numbers_of`), in models that are traced too.
"""

from __future__ import annotations

from typing import Final, TypedDict, cast

import torch
from torch import Tensor

from omniform.core.errors import InputError, check_shape
from omniform.core.host import is_readable
from omniform.core.texts import RowTexts, by_bounds, by_numbers, by_positions


class PackedRows(TypedDict, total=False):
    """What may come with rows that hold several texts end to end, none of which sees another.

    Positions that begin anew say so too (``position_ids``, without a mask and without a state): where the caller says
    ``use_cache=False``, as training does, whatever does not count on by one begins a text, as the ecosystem has it;
    elsewhere only in rows whose texts all begin with the same position.

    Attributes:
        cu_seq_lens_q: where the texts begin in the flattened batch, its end last. Shape: [texts + 1].
        cu_seq_lens_k: the same.
        max_length_q: of the longest text; known from those, and not read.
        max_length_k: the same.
        seq_idx: a number for each token's text. Shape: [B, T].
        row_texts: what is known of them already; found out where a call arrives.
    """

    cu_seq_lens_q: Tensor | None
    cu_seq_lens_k: Tensor | None
    max_length_q: Tensor | int | None
    max_length_k: Tensor | int | None
    seq_idx: Tensor | None
    row_texts: RowTexts | None


TOLD: Final = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")
NAMES: Final = frozenset(PackedRows.__annotations__)


def numbers_of(
    given: PackedRows, positions: Tensor | None, tokens: Tensor, *, bare: bool, any_step: bool
) -> Tensor | None:
    """Which text of its row each token of a call belongs to. Shape: [B or 1, T]; None where every row is one.

    Args:
        positions: the caller's. Shape: [B or 1, T], or of more axes, by which no texts are told.
        tokens: ids or vectors. Shape: [B, T, ...].
        bare: whether positions tell: there is neither a mask nor a state.
        any_step: see :func:`~omniform.core.texts.by_positions`.
    """
    known = given.get("row_texts")
    if known is not None:
        return known.numbers
    bounds, numbers = given.get("cu_seq_lens_q"), given.get("seq_idx")
    if bounds is not None:
        return by_bounds(bounds.to(tokens.device), tokens.shape[0], tokens.shape[1])
    if numbers is not None:
        return by_numbers(numbers.to(tokens.device))
    if positions is None or not bare or positions.dim() > 2 or tokens.shape[1] == 1:
        return None
    return by_positions(positions if positions.dim() == 2 else positions[None], any_step=any_step)


def arrive_packed(inputs: dict[str, object], tokens: Tensor, *, past: int) -> None:
    """Check what a call says of its texts, and note what the host can see of them (``row_texts``).

    Args:
        inputs: of the call, by name; changed in place.
        tokens: ids or vectors. Shape: [B, T, ...].
        past: how many tokens the state holds.

    Raises:
        InputError: bounds that do not cover the tokens, numbers that do not fit them, a state to go on from.
    """
    told = [name for name in TOLD if inputs.get(name) is not None]
    places = inputs.get("position_ids")
    if (not told and places is None) or inputs.get("row_texts") is not None:
        return
    # Whoever says which tokens are padding, or goes on from a state, has rows of one text each.
    bare = inputs.get("attention_mask") is None and inputs.get("past_key_values") is None
    bare = bare and inputs.get("use_cache") is not True
    if told:
        _check(inputs, told, tokens, past)
    elif not bare:
        inputs["row_texts"] = RowTexts()
        return
    source = next((inputs[name] for name in ("cu_seq_lens_q", "seq_idx") if inputs.get(name) is not None), places)
    if not isinstance(source, Tensor) or not is_readable(source):
        return
    asked, here = cast(PackedRows, inputs), torch.empty(tokens.shape[:2], device=source.device)
    any_step = inputs.get("use_cache") is False
    numbers = numbers_of(asked, cast("Tensor | None", places), here, bare=bare, any_step=any_step)
    found = RowTexts() if numbers is None else RowTexts.read(numbers)
    if found.numbers is not None:
        found = RowTexts(found.numbers.to(tokens.device), found.lengths)
    inputs["row_texts"] = found


def refuse_packed(inputs: dict[str, object], name: str) -> None:
    """Raise :class:`InputError` where the rows of a call hold several texts; of a part that cannot keep them apart.

    Args:
        inputs: of the part, after :func:`arrive_packed`.
        name: what the caller calls the part's positions.
    """
    found = inputs.get("row_texts")
    if isinstance(found, RowTexts) and found.numbers is not None:
        raise InputError(
            "an encoder-decoder reads one text in each row",
            where=name,
            expected="positions that count on by one",
            found="positions that begin anew",
            remedy="Give each text a row of its own.",
        )


def _check(inputs: dict[str, object], told: list[str], tokens: Tensor, past: int) -> None:
    rows, new = tokens.shape[:2]
    if past:
        raise InputError(
            "texts of a packed row begin anew, and do not go on from a state",
            where=told[0],
            found=f"{past} tokens kept",
        )
    for name in told:
        value = inputs[name]
        if not isinstance(value, Tensor) or value.is_floating_point() or value.layout is not torch.strided:
            raise InputError("texts are told by a tensor of whole numbers", where=name, found=type(value).__name__)
        if name == "seq_idx":
            check_shape("there is not one text per token", value.shape[-2:], (rows, new), where=name)
            continue
        values = value.tolist() if value.dim() == 1 and is_readable(value) else None
        grows = values is None or (values[:1] == [0] and values[-1] == rows * new and values == sorted(values))
        if value.dim() != 1 or not grows:
            raise InputError(
                "these are not the places where texts begin",
                where=name,
                expected=f"whole numbers that grow from 0 to {rows * new}",
                found=f"shape {list(value.shape)}" if values is None else str(values[:8]),
            )
    first, second = inputs.get("cu_seq_lens_q"), inputs.get("cu_seq_lens_k")
    if first is None and second is not None:
        inputs["cu_seq_lens_q"] = second
    both = [x.tolist() for x in (first, second) if isinstance(x, Tensor) and is_readable(x)]
    if len(both) == 2 and both[0] != both[1]:
        raise InputError(
            "queries and keys are of the same texts here",
            where="cu_seq_lens_k",
            expected="the numbers of cu_seq_lens_q",
            found=str(both[1][:8]),
        )
