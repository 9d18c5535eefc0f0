"""The lines of results: one for each record, answered or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from omniform.core.errors import OmniformError, brief
from omniform.serve.mapping.job import Record

Told = Callable[[int], None]
"""Called when a record is answered, with the tokens that were written."""


class Answerer(Protocol):
    """What answers records."""

    def answer(self, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
        """A line for each, in their order; one with an ``error`` could not be answered."""
        ...


def answers(answerer: Answerer, records: Sequence[Record], told: Told) -> list[dict[str, object]]:
    """A line for every record, those that are none among them, in order."""
    sound = [record for record in records if record.fault is None]
    lines = {line["index"]: line for line in answerer.answer(sound, told)} if sound else {}
    for record in records:
        if record.fault is not None:
            lines[record.index] = failed(record, f"no record: {record.fault}", kind="malformed")
    return [lines[record.index] for record in records]


def failed(record: Record, why: BaseException | str, *, kind: str | None = None) -> dict[str, object]:
    """What is told of a record that could not be answered."""
    if isinstance(why, BaseException):
        kind = type(why).__name__ if kind is None else kind
        why = str(why) if isinstance(why, OmniformError) else f"{type(why).__name__}: {brief(str(why))}"
    error = {"type": kind or "error", "message": why}
    return {**record.named(), "line": record.line, "error": error}
