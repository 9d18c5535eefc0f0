"""What a model's stream consists of, as far as lower floors know: the engine makes it."""

from __future__ import annotations

from typing import Protocol


class Streamed(Protocol):
    """One token of an answer as it comes; see :class:`omniform.engine.request.Piece`."""

    @property
    def token(self) -> int:
        """The token."""
        ...

    @property
    def text(self) -> str:
        """The text that is new, in whole characters; "" without a tokenizer."""
        ...

    @property
    def sequence(self) -> int:
        """Which row of what ``generate`` returns it belongs to."""
        ...
