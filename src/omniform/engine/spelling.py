"""Tokenizers, as far as one reads what another wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.engine.text import Decodes


@runtime_checkable
class Encodes(Decodes, Protocol):
    """A tokenizer, ours or the ecosystem's."""

    def __call__(self, **inputs: object) -> Mapping[str, object]: ...

    def get_vocab(self) -> dict[str, int]: ...


class Spelling:
    """A tokenizer that goes from texts to tokens and back.

    Args:
        tokenizer: a tokenizer, or a processor that has one.
        name: which argument it came in.

    Raises:
        InputError: it is neither.
    """

    def __init__(self, tokenizer: object, name: str) -> None:
        from omniform.inputs.processors.base import Processor

        inner = tokenizer.tokenizer if isinstance(tokenizer, Processor) else tokenizer
        if not isinstance(inner, Encodes):
            raise InputError("this reads no texts", where=name, expected="a tokenizer", found=brief(tokenizer))
        self._tokenizer = inner

    @property
    def vocabulary(self) -> dict[str, int]:
        """Its tokens."""
        return self._tokenizer.get_vocab()

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text; with ``special``, framed as a prompt is."""
        ids = self._tokenizer(text=text, add_special_tokens=special)["input_ids"]
        found = ids.tolist() if isinstance(ids, Tensor) else ids
        assert isinstance(found, list)
        return found[0] if found and isinstance(found[0], list) else found

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)) if tokens else ""
