"""Texts with sounds among them, for decoders that read Whisper's windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from askers import Inputs
from torch import Tensor
from writers import Feed

from reference import padded

Row = tuple[Tensor, Inputs]
"""The ids of a row, and the inputs of its sounds."""


def together(rows: Sequence[Row], pad: int, side: str = "right") -> Inputs:
    """One batch of several rows, their sounds in reading order."""
    ids, mask = padded([row for row, _ in rows], pad, side)
    given = [own for _, own in rows if own]
    names = given[0] if given else {}
    sounds = {name: torch.cat([own[name] for own in given]) for name in names}
    return {"input_ids": ids, "attention_mask": mask, **sounds}


@dataclass(frozen=True)
class Heard:
    """Rows with sounds, to write on from.

    Attributes:
        make: the rows, the first with sounds that begin and end before its last three tokens.
    """

    make: Callable[[], Sequence[Row]]
    pad: int = 0

    def feed(self, config: object) -> Feed:
        ids, given = self.make()[0]
        return Feed(ids[None], first=given, beginning=ids.shape[0] - 3)

    def together(self) -> Inputs:
        return together(self.make(), self.pad, "left")

    def alone(self) -> list[Inputs]:
        return [{"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], **g} for ids, g in self.make()]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers
