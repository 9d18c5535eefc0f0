"""A reader of answers that leaves out special tokens, but for those that an answer is split by."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property

from omniform.engine.calls import Reader
from omniform.engine.stop import Pieces
from omniform.inputs.processors.base import Processor
from omniform.inputs.text.tokenizer import Tokenizer


class Spelling:
    """What a model's tokens are to those who read its answers; found out once, not with every request.

    Args:
        reader: the model's.
        marks: texts of special tokens that answers are split by.
    """

    def __init__(self, reader: Reader, marks: Collection[str] = ()) -> None:
        self._reader, self._marks = reader, marks

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of the tokens that a reader leaves out of texts, by what is written for them."""
        return special_of(tokenizer_of(self._reader))

    @cached_property
    def pieces(self) -> Pieces:
        """The bytes of each token."""
        return Pieces(self._reader)

    @cached_property
    def showing(self) -> Showing:
        """What decodes answers, such that they can be split."""
        return Showing(self._reader, self.special, self._marks)


class Showing:
    """Decodes as a model's reader does; some special tokens stay.

    Args:
        reader: the model's.
        special: ids of its special tokens, by what is written for them.
        marks: texts of tokens that stay where others of their kind are left out.
    """

    def __init__(self, reader: Reader, special: Mapping[str, int], marks: Collection[str]) -> None:
        self._reader = reader
        self._hidden = {token for text, token in special.items() if text not in marks}
        self._plain = len(self._hidden) == len(special)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False) -> str:
        """The text of tokens."""
        if self._plain or not skip_special_tokens:
            return str(self._reader.decode(token_ids, skip_special_tokens=skip_special_tokens))
        kept = [token for token in token_ids if token not in self._hidden]
        return str(self._reader.decode(kept, skip_special_tokens=False))


def tokenizer_of(reader: Reader) -> Tokenizer | None:
    """The tokenizer of a processor, or the reader where it is one itself."""
    if isinstance(reader, Processor):
        reader = reader.tokenizer
    return reader if isinstance(reader, Tokenizer) else None


def special_of(tokenizer: Tokenizer | None) -> dict[str, int]:
    """Ids of the tokens that a tokenizer leaves out of texts, by what is written for them."""
    if tokenizer is None:
        return {}
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {**dict(named), **added}
