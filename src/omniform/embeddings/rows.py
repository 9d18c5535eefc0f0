"""Texts of mixed length as batches that waste little: sorted by their tokens, padded to their own longest row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from omniform.core.errors import InputError, brief
from omniform.embeddings.features import MASK, Features

Text = str | tuple[str, str]
"""What becomes a row: a text, or two of them."""

Side = Literal["left", "right"]

WINDOW: Final = 2048
"""So many texts, at most, are tokenized at once."""

WINDOW_CHARACTERS: Final = 2**20
"""So many characters, at most, unless one text has more: a tokenizer needs a hundred bytes for each token."""

SLACK: Final = 0.06
"""This part of a batch, at most, may be padding: on a CPU that costs what real tokens cost."""

SLACK_ELSEWHERE: Final = 0.3
"""The same on an accelerator, which would rather have fewer steps."""

TOKENS_AT_ONCE: Final = 4096
"""Places of one batch on a CPU, at most, unless one row has more: what lies between layers stays in its caches."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of ids, none of them padded.

    Attributes:
        columns: ``input_ids``, and ``token_type_ids`` of models that read them.
        fill: what each column is padded with.
    """

    columns: Mapping[str, Sequence[Sequence[int]]]
    fill: Mapping[str, int]

    def lengths(self) -> list[int]:
        """How many tokens each row has."""
        return [len(row) for row in self.columns["input_ids"]]

    def batch(self, places: Sequence[int], side: Side) -> Features:
        """Some of the rows as tensors ``[B, T]``, with their mask."""
        rows = [self.columns["input_ids"][place] for place in places]
        longest = max(1, *map(len, rows)) if rows else 0
        made: Features = {
            name: _padded([column[place] for place in places], longest, self.fill[name], side)
            for name, column in self.columns.items()
        }
        made[MASK] = _padded([[1] * len(row) for row in rows], longest, 0, side)
        return made


def _padded(rows: Sequence[Sequence[int]], longest: int, fill: int, side: Side) -> Tensor:
    if side == "left":
        return torch.tensor([[*[fill] * (longest - len(row)), *row] for row in rows], dtype=torch.long)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)


def windows(texts: Sequence[Text]) -> Iterator[list[int]]:
    """The places of texts, longest texts first, a few at a time."""
    sizes = [size_of(text) for text in texts]
    window: list[int] = []
    held = 0
    for place in sorted(range(len(texts)), key=lambda place: -sizes[place]):
        if window and (len(window) == WINDOW or held + sizes[place] > WINDOW_CHARACTERS):
            yield window
            window, held = [], 0
        window.append(place)
        held += sizes[place]
    if window:
        yield window


def size_of(text: Text) -> int:
    """Characters."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def batches(lengths: Sequence[int], most: int, device: torch.device) -> Iterator[list[int]]:
    """The places of rows, cut into batches of ``most`` rows of about the same length, longest first."""
    on_cpu = device.type == "cpu"
    slack = SLACK if on_cpu else SLACK_ELSEWHERE
    batch: list[int] = []
    longest = real = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        if batch:
            whole = longest * (len(batch) + 1)
            full = len(batch) == most or (on_cpu and whole > TOKENS_AT_ONCE)
            if full or whole - real - length > whole * slack:
                yield batch
                batch, real = [], 0
        if not batch:
            longest = length
        batch.append(place)
        real += length
    if batch:
        yield batch


HALF: Final = re.compile("[\ud800-\udfff]")


def check_text(value: object, where: str) -> str:
    """A text.

    Raises:
        InputError: it is anything else, bytes among them: nobody knows their encoding; it holds half a character.
    """
    if isinstance(value, str):
        if not value.isascii() and (half := HALF.search(value)):
            raise InputError(
                "the text holds half of a surrogate pair, which is no character",
                where=f"{where}, character {half.start()}",
                remedy="Decode its bytes with errors='replace'.",
            )
        return value
    remedy = "Decode them: data.decode('utf-8')." if isinstance(value, (bytes, bytearray)) else None
    raise InputError("this is no text", where=where, expected="a string", found=brief(value), remedy=remedy)
