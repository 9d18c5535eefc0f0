"""Where the placeholders of pictures and sounds stand among the ids that a tokenizer made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from omniform.core.batch import Modality, Span
from omniform.core.errors import ConfigError, InputError


@dataclass(frozen=True, slots=True)
class PlacedItem:
    """An item that stands among the tokens of a row.

    Attributes:
        modality: what it is.
        item: its number among the batch's items of this modality.
        token_id: its placeholder.
        length: how many placeholders it has.
        whole: whether they stand side by side, nothing between them.
    """

    modality: Modality
    item: int
    token_id: int
    length: int
    whole: bool = True


def placed_spans(ids: Sequence[Sequence[int]], rows: Sequence[Sequence[PlacedItem]]) -> tuple[Span, ...]:
    """The runs of placeholder tokens of every item, in reading order; padding on either side only moves them.

    Args:
        ids: the rows as the model is to see them, padded or ragged.
        rows: the items of each, in the order in which they stand in it.

    Raises:
        InputError: a row holds more or fewer placeholders than its items have: it was cut.
        ConfigError: the tokenizer put other tokens between placeholders that stood side by side.
    """
    kinds = {item.modality for row in rows for item in row}
    if len(ids) != len(rows):
        raise InputError(
            f"texts with {' and '.join(sorted(kinds)) or 'media'} are not cut into several rows",
            where="return_overflowing_tokens",
            expected=f"{len(rows)} rows",
            found=f"{len(ids)} rows",
        )
    spans: list[Span] = []
    for row, (tokens, items) in enumerate(zip(ids, rows, strict=True)):
        places: dict[int, list[int]] = {item.token_id: [] for item in items}
        for place, token in enumerate(tokens):
            if token in places:
                places[token].append(place)
        for token_id, found in places.items():
            _check_whole(row, len(tokens), len(found), [item for item in items if item.token_id == token_id])
        for item in items:
            own, places[item.token_id] = places[item.token_id][: item.length], places[item.token_id][item.length :]
            runs = _runs(own)
            if item.whole and len(runs) > 1:
                raise ConfigError(f"the tokenizer parts the placeholders of one {item.modality}", where=f"row {row}")
            offset = 0
            for start, length in runs or [(0, 0)]:
                spans.append(Span(item.modality, row, start, length, item.item, offset))
                offset += length
    return tuple(spans)


def _check_whole(row: int, tokens: int, found: int, items: Sequence[PlacedItem]) -> None:
    expected = sum(item.length for item in items)
    if found != expected:
        kind = items[0].modality
        raise InputError(
            f"truncation cuts through the {kind} placeholders",
            where=f"row {row}",
            expected=f"{expected} placeholder tokens for {len(items)} {kind}(s)",
            found=f"{found} within {tokens} tokens",
            remedy="Leave truncation out, or raise max_length.",
        )


def _runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbouring places as their first and how many there are."""
    groups = (list(run) for _, run in groupby(enumerate(places), key=lambda pair: pair[1] - pair[0]))
    return [(run[0][1], len(run)) for run in groups]
