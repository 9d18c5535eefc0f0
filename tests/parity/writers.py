"""How a family that writes is fed piece by piece, and what it is asked to write on from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from askers import Inputs, noise
from torch import Tensor, nn

from reference import padded, ragged


@dataclass(frozen=True, slots=True)
class Feed:
    """A row handed over in pieces.

    Attributes:
        ids: Shape: [B, T]; what is cut into pieces.
        name: the argument that takes them.
        first: given with the first piece only.
        always: given with every piece.
        beginning: how many tokens the first piece has at least.
    """

    ids: Tensor
    name: str = "input_ids"
    first: Inputs | None = None
    always: Inputs | None = None
    beginning: int = 1

    def pieces(self, lengths: Sequence[int]) -> list[Inputs]:
        """The calls for pieces of these lengths, and then of one token each."""
        lengths = [max(lengths[0], self.beginning), *lengths[1:]]
        while sum(lengths) > self.ids.shape[1]:
            lengths.pop()
        lengths += [1] * (self.ids.shape[1] - sum(lengths))
        calls: list[Inputs] = [{self.name: piece, **(self.always or {})} for piece in self.ids.split(lengths, 1)]
        calls[0] |= self.first or {}
        return calls

    def whole(self) -> Inputs:
        """The one call without a cache."""
        return {self.name: self.ids, **(self.first or {}), **(self.always or {})}


class Writer(Protocol):
    """A generating family's prompts."""

    def feed(self, config: object) -> Feed: ...

    def together(self) -> Inputs:
        """Arguments of one ``generate`` for ragged rows."""
        ...

    def alone(self) -> list[Inputs]:
        """The same rows, each for itself."""
        ...

    def prompt(self, row: Inputs) -> object:
        """What the engine takes for one of them."""
        ...

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        """The new tokens of what the reference gave back."""
        ...

    def given_back(self, answers: Tensor) -> Tensor:
        """What ours gives back, from what the reference's plain ``generate`` does."""
        ...


@dataclass(frozen=True)
class Prompts:
    """Rows of text."""

    lengths: Sequence[int] = (9, 4, 1)
    vocabulary: int = 97
    length: int = 14

    def rows(self) -> list[Tensor]:
        return ragged(self.vocabulary, self.lengths)

    def feed(self, config: object) -> Feed:
        return Feed(torch.stack(ragged(self.vocabulary, [self.length] * 2, seed=5)))

    def together(self) -> Inputs:
        ids, mask = padded(self.rows(), side="left")
        return {"input_ids": ids, "attention_mask": mask}

    def alone(self) -> list[Inputs]:
        return [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in self.rows()]

    def prompt(self, row: Inputs) -> object:
        return row["input_ids"][0].tolist()  # type: ignore[index]

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()  # type: ignore[union-attr]

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


@dataclass(frozen=True)
class Sources:
    """Texts that are answered by texts."""

    vocabulary: int = 97

    def feed(self, config: object) -> Feed:
        ids, mask = padded(ragged(self.vocabulary, [13, 6]))
        answers = torch.stack(ragged(self.vocabulary, [14] * 2, seed=5))
        return Feed(answers, "decoder_input_ids", always={"input_ids": ids, "attention_mask": mask})

    def together(self) -> Inputs:
        ids, mask = padded(ragged(self.vocabulary, [13, 6, 2]), side="right")
        return {"input_ids": ids, "attention_mask": mask}

    def alone(self) -> list[Inputs]:
        rows = ragged(self.vocabulary, [13, 6, 2])
        return [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in rows]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, 1:].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


@dataclass(frozen=True)
class Sounds:
    """Sounds that are answered by texts."""

    bands: int = 10
    frames: int = 30
    vocabulary: int = 97
    start: int = 3

    def sounds(self) -> Tensor:
        return noise(3, self.bands, self.frames)

    def feed(self, config: object) -> Feed:
        answers = torch.stack(ragged(self.vocabulary, [14] * 3, seed=5))
        return Feed(answers, "decoder_input_ids", always={"input_features": self.sounds()})

    def beginnings(self, rows: int) -> Tensor:
        return torch.tensor([[self.start, 7]] * rows)

    def together(self) -> Inputs:
        return {"input_features": self.sounds(), "decoder_input_ids": self.beginnings(3)}

    def alone(self) -> list[Inputs]:
        return [{"input_features": s[None], "decoder_input_ids": self.beginnings(1)} for s in self.sounds()]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, 2:].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers[:, 2:]


@dataclass(frozen=True)
class Waves:
    """Waves of several lengths that are answered by texts; a row alone keeps its padding, which changes what is heard.

    Attributes:
        lengths: in samples.
    """

    lengths: Sequence[int] = (2500, 1290, 1700)
    vocabulary: int = 97

    def sounds(self) -> Inputs:
        rows = [noise(length, seed=i) for i, length in enumerate(self.lengths)]
        waves = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = torch.arange(waves.shape[1]) < torch.tensor(self.lengths)[:, None]
        return {"input_values": waves, "attention_mask": real.long()}

    def feed(self, config: object) -> Feed:
        answers = torch.stack(ragged(self.vocabulary, [14] * len(self.lengths), seed=5))
        return Feed(answers, "decoder_input_ids", always=self.sounds())

    def together(self) -> Inputs:
        return self.sounds()

    def alone(self) -> list[Inputs]:
        return [{name: t[i : i + 1] for name, t in self.sounds().items()} for i in range(len(self.lengths))]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, 1:].tolist()

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


@dataclass(frozen=True)
class Illustrated:
    """Texts with pictures among them.

    Attributes:
        rows: the rows, each its ids and its pictures.
    """

    make: Callable[[], Sequence[tuple[Tensor, Tensor]]]

    def feed(self, config: object) -> Feed:
        ids, pixels = self.make()[0]
        return Feed(ids[None], first={"pixel_values": pixels}, beginning=ids.shape[0] - 3)

    def together(self) -> Inputs:
        rows = self.make()
        ids, mask = padded([row for row, _ in rows], side="left")
        return {"input_ids": ids, "attention_mask": mask, "pixel_values": torch.cat([p for _, p in rows])}

    def alone(self) -> list[Inputs]:
        return [
            {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None], "pixel_values": pixels}
            for ids, pixels in self.make()
        ]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()  # type: ignore[union-attr]

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


def in_pieces(model: nn.Module, feed: Feed, lengths: Sequence[int]) -> Tensor:
    """The logits of a row that is handed over in pieces, the cache handed on."""
    past, found = None, []
    for call in feed.pieces(lengths):
        out = model(**call, past_key_values=past)
        past = out.past_key_values
        found.append(out.logits)
    return torch.cat(found, 1)
