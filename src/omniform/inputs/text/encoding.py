"""What a tokenizer returns: a :class:`Batch` that also knows where each token came from in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from tokenizers import Encoding

from omniform.core.batch import Batch
from omniform.core.errors import InputError
from omniform.inputs.text.ids import read_index


class CharSpan(NamedTuple):
    """Characters ``start`` up to, not including, ``end`` of the original text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``start`` up to, not including, ``end`` of a row."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Edit:
    """A stretch of a text that was replaced before it was encoded: the marker of a picture, a sound or a video.

    Attributes:
        start, stop: the stretch, in characters.
        length: of what stands there now.
    """

    start: int
    stop: int
    length: int


def widened(at: int, edits: Sequence[Edit]) -> int:
    """Where a place of a text lies once stretches of it were replaced."""
    return at + sum(edit.length - (edit.stop - edit.start) for edit in edits if edit.stop <= at)


class BatchEncoding(Batch):
    """Token ids and masks by name, with the alignment between text, words and tokens beside them.

    The methods that take ``(row, index)`` also take the index alone, which then means row 0.

    Args:
        data: names to lists of numbers, one list per row (or bare, for one text without tensors).
        encodings: what the tokenizer found for each row; absent when the ids came from elsewhere.

    Attributes:
        edits: of each row, what was replaced in its text before the tokenizer saw it; empty for nothing.
    """

    def __init__(self, data: Mapping[str, object] | None = None, encodings: Sequence[Encoding] = ()) -> None:
        super().__init__(data)
        self._encodings = list(encodings)
        self.edits: tuple[tuple[Edit, ...], ...] = ()

    @property
    def encodings(self) -> list[Encoding]:
        """One ``tokenizers.Encoding`` per row."""
        return self._encodings

    @property
    def n_sequences(self) -> int | None:
        """How many texts each row was made of: 1, or 2 for pairs."""
        return self._encodings[0].n_sequences if self._encodings else None

    def _row(self, index: int) -> Encoding:
        if not self._encodings:
            raise InputError(
                "this batch holds ids only; it was not made from text",
                remedy="Ask the batch that the tokenizer returned, before pad().",
            )
        index = read_index(index, "row")
        if not -len(self._encodings) <= index < len(self._encodings):
            raise InputError("no such row", where=f"row {index}", expected=f"under {len(self._encodings)}")
        return self._encodings[index]

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row, as strings."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row the index of its word; ``None`` for special tokens."""
        return self._row(batch_index).word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token of a row 0 or 1, the text it is from; ``None`` for special tokens."""
        return self._row(batch_index).sequence_ids

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token stands for; ``None`` for a special token."""
        row, index = _split(batch_or_token_index, token_index)
        span = self._row(row).token_to_chars(index)
        return None if span is None else CharSpan(*span)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that holds a character of the text; ``None`` where no token does."""
        row, index = _split(batch_or_char_index, char_index)
        return self._row(row).char_to_token(index, _sequence(sequence_index))

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The index of a token's word; ``None`` for a special token."""
        row, index = _split(batch_or_token_index, token_index)
        return self._row(row).token_to_word(index)

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text, 0 or 1, that a token is from; ``None`` for a special token."""
        row, index = _split(batch_or_token_index, token_index)
        return self._row(row).token_to_sequence(index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The tokens of a word; ``None`` where it has none."""
        row, index = _split(batch_or_word_index, word_index)
        span = self._row(row).word_to_tokens(index, _sequence(sequence_index))
        return None if span is None else TokenSpan(*span)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The characters of a word; ``None`` where there is no such word."""
        row, index = _split(batch_or_word_index, word_index)
        span = self._row(row).word_to_chars(index, _sequence(sequence_index))
        return None if span is None else CharSpan(*span)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The index of the word that holds a character; ``None`` for a space between words."""
        row, index = _split(batch_or_char_index, char_index)
        return self._row(row).char_to_word(index, _sequence(sequence_index))

    def as_tensors(self, kind: str | None) -> Self:
        """Turn the lists into tensors, as :meth:`Batch.as_tensors` does; texts without tokens stay integers.

        Raises:
            InputError: rows differ in length, or the kind is unknown.
        """
        if kind is not None:
            for name, value in self.items():
                shape = _empty_shape(value)
                if shape is not None:
                    self[name] = torch.zeros(shape, dtype=torch.int64)
        return super().as_tensors(kind)


def _split(row_or_index: int, index: int | None) -> tuple[int, int]:
    row, place = (0, row_or_index) if index is None else (row_or_index, index)
    place = read_index(place, "index")
    if place < 0:
        raise InputError("this is no index", where="index", expected="a whole number from 0", found=place)
    return row, place


def _sequence(value: int) -> int:
    number = read_index(value, "sequence")
    if number not in (0, 1):
        raise InputError("a row is made of one text or two", where="sequence", expected="0 or 1", found=number)
    return number


def _empty_shape(value: object) -> tuple[int, ...] | None:
    """The shape of a list of empty rows, which torch would otherwise make floating-point; ``None`` for all else."""
    if not isinstance(value, list):
        return None
    if not value:
        return (0,)
    if all(isinstance(row, list) and not row for row in value):
        return (len(value), 0)
    return None


Ids = list[int] | list[list[int]] | torch.Tensor
"""Token ids of one text or of several, as lists or, where asked for, as a tensor."""


def input_ids(encoded: BatchEncoding) -> Ids:
    """The ids of what a tokenizer encoded."""
    return encoded["input_ids"]  # type: ignore[return-value]  # what a tokenizer put there
