"""The engine of a model that guesses for another: stepped by whoever needs guesses, its rows kept between rounds."""

from __future__ import annotations

from typing import Final

from omniform.architectures.model import Model
from omniform.engine.engine import Engine
from omniform.engine.memory import free_memory
from omniform.engine.request import Request, Row

LEAST: Final = 64 * 2**20
"""Bytes: the engine of one call has room for its own rows only, which are others in another tokenizer's tokens."""


class InnerEngine(Engine):
    """An engine whose rows may be taken back.

    Args:
        model: what guesses.
        memory: of the engine that it guesses for, in bytes; it takes as much again, or :data:`LEAST`, and no more than
            a quarter of what is free.
    """

    def __init__(self, model: Model, memory: int) -> None:
        super().__init__(model, memory=max(1, min(max(memory, LEAST), free_memory(model.device) // 4)))

    @property
    def steps(self) -> int:
        """How many steps were computed."""
        return self._counts["steps"]

    def roll_back(self, row: Row, tokens: int) -> None:
        """Forget what was computed of a row after its first ``tokens`` tokens."""
        with self._lock:
            self._scheduler.roll_back(row, tokens)

    def withdraw(self, request: Request) -> None:
        """Give a request up at once."""
        with self._lock:
            request.cancelled = True
            self._receive()
