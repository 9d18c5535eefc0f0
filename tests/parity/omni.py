"""Tiny models that see, hear and speak, and rows with pictures, films and sounds among their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from askers import Inputs, Question
from torch import Tensor
from writers import Feed

SOUND, PICTURE, FILM, SEE, SEEN, HEAR, HEARD = 81, 82, 83, 84, 85, 86, 87
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 1, 1]},
}  # fmt: skip
SPARSE = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2}
BANDS = 8
FRAMES = (130, 60)


@dataclass(frozen=True)
class Sensed:
    """Texts among which pictures, films and sounds stand.

    Attributes:
        spoken: how many tokens a sound of so many frames is.
    """

    spoken: dict[int, int]

    def row(self, parts: Sequence[object]) -> Inputs:
        """A row of tokens, ``("picture", grid)``, ``("film", grid)``, ``("sound", frames)``."""
        ids: list[int] = []
        given: dict[str, list[Tensor]] = {}
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            kind, size = part  # type: ignore[misc]
            if kind == "sound":
                ids += [HEAR, *[SOUND] * self.spoken[size], HEARD]
                features = torch.zeros(1, BANDS, max(FRAMES))
                features[..., :size] = torch.randn(1, BANDS, size)
                given.setdefault("input_features", []).append(features)
                mask = (torch.arange(max(FRAMES)) < size).long()[None]
                given.setdefault("feature_attention_mask", []).append(mask)
                continue
            name, token = ("_videos", FILM) if kind == "film" else ("", PICTURE)
            count = size[0] * size[1] * size[2]
            ids += [SEE, *[token] * (count // 4), SEEN]
            given.setdefault(f"pixel_values{name}", []).append(torch.randn(count, 3 * 2 * 2 * 2))
            given.setdefault("video_grid_thw" if name else "image_grid_thw", []).append(torch.tensor([size]))
            if name:
                given.setdefault("video_second_per_grid", []).append(torch.tensor([0.77]))
        return {"input_ids": torch.tensor([ids]), **{name: torch.cat(own) for name, own in given.items()}}

    def rows(self) -> list[Inputs]:
        torch.manual_seed(7)
        return [
            self.row([5, ("picture", (1, 4, 6)), 9, ("sound", FRAMES[0]), 10, 11]),
            self.row([6, ("film", (3, 4, 2)), 7, ("picture", (1, 2, 2)), ("sound", FRAMES[1]), 14]),
            self.row([15, 16, 17]),
        ]

    def together(self, side: str = "left") -> Inputs:
        rows = self.rows()
        longest = max(row["input_ids"].shape[1] for row in rows)
        ids, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(2))
        for number, row in enumerate(rows):
            count = row["input_ids"].shape[1]
            places = slice(longest - count, longest) if side == "left" else slice(count)
            ids[number, places], mask[number, places] = row["input_ids"][0], 1
        names = dict.fromkeys(name for row in rows for name in row if name != "input_ids")
        given = {name: torch.cat([row[name] for row in rows if name in row]) for name in names}
        return {"input_ids": ids, "attention_mask": mask, **given}

    # -- as an asker ---------------------------------------------------------------------------------------------------

    def read(self, *fields: str) -> list[Question]:
        first = self.alone()[1]
        asked = [Question(first, (*fields, "hidden_states", "attentions"))]
        for side in ("left", "right"):
            batch = self.together(side)
            asked.append(Question(batch, fields, batch["attention_mask"].bool()))
        return asked

    def written_on(self) -> list[Question]:
        batch = self.lesson()
        return [*self.read("logits"), Question(batch, ("loss", "logits"), batch["attention_mask"].bool())]

    def lesson(self) -> Inputs:
        batch = self.together("right")
        return {**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}

    # -- as a writer ---------------------------------------------------------------------------------------------------

    def feed(self, config: object) -> Feed:
        row = self.row([5, ("picture", (1, 4, 6)), 9, ("sound", FRAMES[1]), *range(11, 19)])
        ids = row.pop("input_ids")
        row["attention_mask"] = torch.ones_like(ids)
        return Masked(ids, first=row, beginning=ids.shape[1] - 4)

    def alone(self) -> list[Inputs]:
        return [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in self.rows()]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()  # type: ignore[union-attr]

    def given_back(self, answers: Tensor) -> Tensor:
        return answers


@dataclass(frozen=True, slots=True)
class Masked(Feed):
    """A row in pieces, whose mask grows."""

    def pieces(self, lengths: Sequence[int]) -> list[Inputs]:
        calls, read = Feed.pieces(self, lengths), 0
        for call in calls:
            read += call["input_ids"].shape[1]
            call["attention_mask"] = torch.ones(1, read, dtype=torch.long)
        return calls
