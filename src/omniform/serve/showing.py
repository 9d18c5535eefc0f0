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
        special = special_of(reader)
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


def special_of(reader: Reader) -> dict[str, int]:
    """Ids of the tokens that a reader leaves out of texts, by what is written for them."""
    tokenizer = tokenizer_of(reader)
    if tokenizer is None:
        return {}
    return {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
