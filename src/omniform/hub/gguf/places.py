"""Where a GGUF file's tensors lie in a checkpoint, and how what converters did to them on the way is undone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from omniform.hub.gguf.facts import Facts

Order = Callable[[Facts, int], Tensor]
"""Which of a file's rows is each of the checkpoint's, given how many there are. Shape: [N]; int64."""

Edit = Callable[[Tensor], Tensor]
"""What is done to a tensor's numbers; float32 in and out. It may change the shape, and works on the meta device too."""

Join = Literal["rows", "pairs", "heads"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of a file's tensors lies in a checkpoint.

    Attributes:
        key: the module's path there; ``{i}`` stands for a layer's number, ``{e}`` for one of a stack along the first
            axis, each of which has a key of its own.
        order: how rows are brought back into the checkpoint's order.
        edit: what is done to the numbers.
        turned: whether the checkpoint holds the matrix the other way round.
        join: where several tensors make up one of the checkpoint's: their rows one below the other, a row of each in
            turn, or the rows of a head of each in turn.
        part: which of those this one is.
        bare: whether the checkpoint's key has no ``.weight`` at its end.
    """

    key: str
    order: Order | None = None
    edit: Edit | None = None
    turned: bool = False
    join: Join | None = None
    part: int = 0
    bare: bool = False


def halves(heads: str) -> Order:
    """Rotary pairs, which files have side by side, back into the halves of each head.

    Args:
        heads: the key that says how many heads there are.
    """

    def order(facts: Facts, rows: int) -> Tensor:
        count = facts.integer(heads, facts.integer("attention.head_count"))
        return torch.arange(rows).view(count, -1, 2).transpose(1, 2).flatten()

    return order


def interleaved_heads(facts: Facts, rows: int) -> Tensor:
    """All queries, all keys, all values, back to those of each head together (BLOOM, GPT-NeoX)."""
    return torch.arange(rows).view(3, facts.integer("attention.head_count"), -1).transpose(0, 1).flatten()


def grouped_heads(facts: Facts, rows: int) -> Tensor:
    """All queries, all keys, all values, back to the groups that share a key (Falcon)."""
    heads, shared = facts.integer("attention.head_count"), facts.integer("attention.head_count_kv")
    width = rows // (heads + 2 * shared)
    q, k, v = torch.split(torch.arange(rows).view(-1, width), [heads, shared, shared])
    return torch.cat((q.view(shared, -1, width), k[:, None], v[:, None]), 1).flatten()


def minus_one(x: Tensor) -> Tensor:
    """Norms that count from one, where the checkpoint's count from zero (Gemma)."""
    return x - 1


def row(x: Tensor) -> Tensor:
    """A vector as the only row of a matrix."""
    return x.view(1, -1)


def turned_each(x: Tensor) -> Tensor:
    """Every matrix of a stack the other way round."""
    return x.transpose(-1, -2)


def _plus_one(x: Tensor) -> Tensor:
    return x + 1


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1)


UNDONE: Mapping[Edit, Edit] = {minus_one: _plus_one, row: _flat, turned_each: turned_each}
"""What undoes each edit, for whoever writes."""


def keeps_blocks(place: Place) -> bool:
    """Whether a matrix's rows are whole rows of the file's, so that blocks can go from one to the other as they are."""
    along = "pairs" if place.turned else "rows"  # of outputs; the other way round they would be of inputs
    return place.edit is None and place.join in (None, along)


def blocks_to_file(place: Place, raw: Tensor, facts: Facts) -> Tensor:
    """What :func:`to_file` does, to rows of blocks. Shape: [..., outs, bytes of a row]; uint8.

    Args:
        place: one that :func:`keeps_blocks`.
        raw: the checkpoint's rows; outputs along the axis before the last, whichever way it holds the matrix.
    """
    if place.join == "rows":
        raw = raw.chunk(2, -2)[place.part]
    elif place.join == "pairs":
        raw = raw[..., place.part :: 2, :]
    return raw if place.order is None else raw[torch.argsort(place.order(facts, raw.shape[0]))]


def to_file(place: Place, x: Tensor, facts: Facts, *, bias: bool) -> Tensor:
    """A checkpoint's tensor, or its part of one, as the file has it: what reading does, undone in reverse.

    Args:
        x: the checkpoint's.
        bias: whether it is a bias, which has no other way round.
    """
    if place.join == "rows":
        x = x.chunk(2, -2)[place.part]
    elif place.join == "pairs":
        x = x[..., place.part :: 2]
    if place.turned and x.dim() > 1 and not bias:
        x = x.transpose(-1, -2)
    if place.edit is not None:
        x = UNDONE[place.edit](x.float())
    if place.order is not None:
        x = x[torch.argsort(place.order(facts, x.shape[0]))]
    return x
