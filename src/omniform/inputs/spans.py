"""Where the placeholders of pictures and sounds stand among the ids that a tokenizer made."""

from __future__ import annotations

from collections.abc import Sequence

from omniform.core.batch import Modality, Span
from omniform.core.errors import ConfigError, InputError


def placeholder_spans(
    ids: Sequence[Sequence[int]], token_id: int, lengths: Sequence[Sequence[int]], modality: Modality
) -> tuple[Span, ...]:
    """The run of placeholder tokens of every item, in reading order; padding on either side only moves them.

    Args:
        ids: the rows as the model is to see them, padded or ragged.
        token_id: the placeholder.
        lengths: for each row the placeholder tokens of each of its items.
        modality: what the items are.

    Raises:
        InputError: a row holds more or fewer placeholders than its items have: it was cut.
        ConfigError: the tokenizer put other tokens between an item's placeholders.
    """
    if len(ids) != len(lengths):
        raise InputError(
            f"texts with {modality}s are not cut into several rows",
            where="return_overflowing_tokens",
            expected=f"{len(lengths)} rows",
            found=f"{len(ids)} rows",
        )
    spans: list[Span] = []
    for row, (tokens, items) in enumerate(zip(ids, lengths, strict=True)):
        places = [place for place, token in enumerate(tokens) if token == token_id]
        if len(places) != sum(items):
            raise InputError(
                f"truncation cuts through the {modality} placeholders",
                where=f"row {row}",
                expected=f"{sum(items)} placeholder tokens for {len(items)} {modality}(s)",
                found=f"{len(places)} within {len(tokens)} tokens",
                remedy="Leave truncation out, or raise max_length.",
            )
        for length in items:
            run, places = places[:length], places[length:]
            if run and run[-1] - run[0] + 1 != length:
                raise ConfigError(f"the tokenizer parts the placeholders of one {modality}", where=f"row {row}")
            spans.append(Span(modality, row, run[0] if run else 0, length, len(spans)))
    return tuple(spans)
