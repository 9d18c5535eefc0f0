"""Questions for heads that give every place of a picture a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from askers import Inputs, Question, noise


def classes_of_pixels(rows: int, size: tuple[int, int], classes: int, ignored: int = 255) -> torch.Tensor:
    """Labels; some pixels are left out."""
    labels = torch.randint(0, classes, (rows, *size), generator=torch.Generator().manual_seed(5))
    labels[0, : size[0] // 3] = ignored
    return labels


@dataclass(frozen=True)
class Segments:
    """Pictures of a size, with and without labels.

    Attributes:
        changes: what the config is to say for this head.
        taps: what is compared beside the scores.
    """

    size: tuple[int, int]
    changes: Mapping[str, object] = field(default_factory=dict)
    classes: int = 5
    ignored: int = 255
    taps: tuple[str, ...] = ("hidden_states", "attentions")

    @property
    def config(self) -> Mapping[str, object]:
        return {"num_labels": self.classes, **self.changes}

    def questions(self, config: object) -> Iterator[Question]:
        pixels = {"pixel_values": noise(2, 3, *self.size)}
        yield Question(pixels, ("logits", *self.taps))
        yield Question(self.lesson(config), ("loss", "logits"))

    def lesson(self, config: object) -> Inputs:
        labels = classes_of_pixels(2, self.size, self.classes, self.ignored)
        return {"pixel_values": noise(2, 3, *self.size), "labels": labels}
