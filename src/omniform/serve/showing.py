"""A reader of answers that leaves out special tokens, but for those that an answer is split by."""

from __future__ import annotations

from collections.abc import Collection

from omniform.engine.calls import Reader
from omniform.inputs.processors.base import Processor
from omniform.inputs.text.tokenizer import Tokenizer


class Showing:
    """Decodes as a model's reader does; some special tokens stay.

    Args:
        reader: the model's.
        marks: texts of tokens that stay where others of their kind are left out.
    """

    def __init__(self, reader: Reader, marks: Collection[str]) -> None:
        self._reader = reader
        tokenizer = tokenizer_of(reader)
        special = set() if tokenizer is None else set(tokenizer.all_special_ids)
        shown = set() if tokenizer is None else {tokenizer.convert_tokens_to_ids(mark) for mark in marks}
        self._hidden = special - shown
        self._plain = not special & shown

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


def special_ids(reader: Reader, marks: Collection[str]) -> dict[str, int]:
    """Which of some texts are special tokens, and their ids."""
    tokenizer = tokenizer_of(reader)
    if tokenizer is None:
        return {}
    special = set(tokenizer.all_special_ids)
    found = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    return {mark: token for mark, token in found.items() if isinstance(token, int) and token in special}
