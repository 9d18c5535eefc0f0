"""Packing: short texts end to end in rows of one length, so that no place in a batch is padding.

Each packed row tells by its ``position_ids``, which begin anew with each text, where texts begin; models that are given
them let no text see another, and :class:`~omniform.train.collators.DataCollatorWithFlattening` hands them on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast, runtime_checkable

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from omniform.core.errors import InputError, UnknownNameError, brief, nearest

__all__ = ["STRATEGIES", "BestFit", "PackedDataset", "PackedStream", "Piece", "Strategy", "Wrapped", "pack"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A text in a packed row, or a part of one.

    Attributes:
        index: of the text.
        start: its first token that is in the row.
        stop: the token after its last one.
    """

    index: int
    start: int
    stop: int


class Strategy(ABC):
    """Which texts share a row."""

    @abstractmethod
    def plan(self, lengths: Sequence[int], max_length: int) -> list[list[Piece]]:
        """The pieces of each row, at most ``max_length`` tokens in all."""


class BestFit(Strategy):
    """The longest texts first, each into the fullest row that it fits into (best-fit decreasing).

    No text is cut, but those that are longer than a row. Source: Johnson 1973, "Near-optimal bin packing algorithms":
    at most 11/9 of as many rows as are needed, and one.
    """

    def plan(self, lengths: Sequence[int], max_length: int) -> list[list[Piece]]:
        pieces = [
            Piece(index, start, min(start + max_length, length))
            for index, length in enumerate(lengths)
            for start in range(0, length, max_length)
        ]
        pieces.sort(key=lambda piece: piece.start - piece.stop)
        rows: list[list[Piece]] = []
        free: list[int] = []  # the room that rows have left, each number once
        having: dict[int, list[int]] = {}  # the rows that have so much
        for piece in pieces:
            size = piece.stop - piece.start
            at = bisect_left(free, size)
            if at == len(free):
                row, room = len(rows), max_length
                rows.append([])
            else:
                room = free[at]
                row = having[room].pop()
                if not having[room]:
                    del free[at]
            rows[row].append(piece)
            left = room - size
            if not having.setdefault(left, []):
                insort(free, left)
            having[left].append(row)
        return rows


class Wrapped(Strategy):
    """In order, one text after the other; what does not fit goes on in the next row. Only the last row is not full."""

    def plan(self, lengths: Sequence[int], max_length: int) -> list[list[Piece]]:
        rows: list[list[Piece]] = []
        room = 0
        for index, length in enumerate(lengths):
            start = 0
            while start < length:
                if room == 0:
                    rows.append([])
                    room = max_length
                stop = min(start + room, length)
                rows[-1].append(Piece(index, start, stop))
                room -= stop - start
                start = stop
        return rows


STRATEGIES: Final[Mapping[str, Callable[[], Strategy]]] = {"bfd": BestFit, "wrapped": Wrapped}
"""Strategies by the ecosystem's names (TRL's ``packing_strategy``)."""


def pack(
    dataset: Sequence[object] | Iterable[object] | Dataset[object],
    max_length: int,
    strategy: str | Strategy = "bfd",
    *,
    window: int = 1000,
) -> PackedDataset | PackedStream:
    """A dataset of rows that hold several texts.

    A row has ``input_ids``, ``labels`` (those of the texts, or the ids; -100 at each text's first token),
    ``position_ids``, which begin anew with each text, and the texts' other columns of one value for each token.

    Args:
        dataset: tokenized texts without padding: mappings with ``input_ids``.
        max_length: tokens in a row, at most.
        strategy: ``"bfd"`` cuts no text that fits into a row, ``"wrapped"`` fills every row; or an object.
        window: of a stream, so many texts are packed together.

    Raises:
        InputError: there are no texts, one is padded or has no ids, or ``max_length`` is no length.
        UnknownNameError: there is no such strategy.
    """
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 2:
        raise InputError("this is no length of rows", where="max_length", expected="at least 2", found=max_length)
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise UnknownNameError(f"no strategy {strategy!r}", where="strategy", remedy=nearest(strategy, STRATEGIES))
        strategy = STRATEGIES[strategy]()
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, _Indexed):
        return PackedStream(cast("Iterable[object]", dataset), max_length, strategy, window)
    return PackedDataset(cast("Sequence[object]", dataset), max_length, strategy)


@runtime_checkable
class _Indexed(Protocol):
    def __getitem__(self, index: int) -> object: ...


class PackedDataset(Dataset[dict[str, object]]):
    """A dataset whose rows are put together when they are asked for; see :func:`pack`.

    Attributes:
        rows: the pieces of each row.
    """

    def __init__(self, dataset: Sequence[object], max_length: int, strategy: Strategy) -> None:
        self.dataset = dataset
        self.max_length = max_length
        lengths = [len(_ids(dataset[index], index)) for index in range(len(dataset))]
        self.rows = strategy.plan(lengths, max_length)
        if not self.rows:
            raise InputError("there are no texts to pack", where="dataset", expected="at least one token")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        # An index that is none must end a loop over the rows: the list says so.
        pieces = self.rows[index]
        return joined([(_example(self.dataset[piece.index], piece.index), piece) for piece in pieces])


class PackedStream(IterableDataset[dict[str, object]]):
    """A stream of packed rows, made of so many texts at a time; see :func:`pack`."""

    def __init__(self, dataset: Iterable[object], max_length: int, strategy: Strategy, window: int = 1000) -> None:
        self.dataset = dataset
        self.max_length = max_length
        self.strategy = strategy
        self.window = window

    def __iter__(self) -> Iterator[dict[str, object]]:
        texts: list[Mapping[str, object]] = []
        for index, text in enumerate(self.dataset):
            texts.append(_example(text, index))
            if len(texts) == self.window:
                yield from self._rows(texts)
                texts = []
        yield from self._rows(texts)

    def _rows(self, texts: list[Mapping[str, object]]) -> Iterator[dict[str, object]]:
        lengths = [len(_ids(text, index)) for index, text in enumerate(texts)]
        for pieces in self.strategy.plan(lengths, self.max_length):
            yield joined([(texts[piece.index], piece) for piece in pieces])


def joined(pieces: Sequence[tuple[Mapping[str, object], Piece]]) -> dict[str, object]:
    """A packed row of pieces of texts."""
    columns: dict[str, list[object]] = {}
    labels: list[object] = []
    places: list[int] = []
    for example, piece in pieces:
        ids = _ids(example, piece.index)
        for name, value in example.items():
            row = _list(value)
            if name not in ("labels", "position_ids", "attention_mask") and row is not None and len(row) == len(ids):
                columns.setdefault(name, []).extend(row[piece.start : piece.stop])
        own = _list(example.get("labels"))
        if own is not None and len(own) != len(ids):
            raise InputError(
                "there must be one label for each token",
                where=f"column 'labels', example {piece.index} of the dataset",
                expected=f"{len(ids)} labels",
                found=f"{len(own)} labels",
            )
        # What comes before a piece's first token is not in the row.
        labels += [-100, *(ids if own is None else own)[piece.start + 1 : piece.stop]]
        places += range(piece.stop - piece.start)
    whole = {name: row for name, row in columns.items() if len(row) == len(places)}
    return {**whole, "labels": labels, "position_ids": places}


def _example(example: object, index: int) -> Mapping[str, object]:
    if isinstance(example, Mapping):
        return example
    raise InputError(
        "a text is a mapping of columns", where=f"example {index} of the dataset", found=brief(example),
        remedy="Tokenize the texts first.",
    )  # fmt: skip


def _ids(example: object, index: int) -> list[object]:
    row = _example(example, index)
    ids, mask = _list(row.get("input_ids")), _list(row.get("attention_mask"))
    where = f"example {index} of the dataset"
    if ids is None:
        raise InputError(
            "there are no ids to pack", where=where, expected="a list input_ids", found=f"columns {sorted(row)}",
            remedy="Tokenize the texts first.",
        )  # fmt: skip
    if mask is not None and 0 in mask:
        raise InputError(
            "padding is not packed", where=f"column 'attention_mask', {where}", found=f"{mask.count(0)} zeros",
            remedy="Tokenize without padding.",
        )  # fmt: skip
    return ids


def _list(value: object) -> list[object] | None:
    """A column's value as a list; None where it holds no value for each token."""
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist() if value.ndim else None
    return list(value) if isinstance(value, (list, tuple)) else None
