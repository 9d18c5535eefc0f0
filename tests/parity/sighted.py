"""Rows with pictures and films of any sizes among their tokens, as Qwen's vision-language models read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from askers import Inputs, Question
from torch import Tensor
from writers import Feed

from reference import close

PICTURE, FILM, START, END = 90, 91, 92, 93
TEXT = {
    "vocab_size": 97, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SPECIAL = {
    "image_token_id": PICTURE, "video_token_id": FILM, "vision_start_token_id": START, "vision_end_token_id": END,
}  # fmt: skip
SEEN = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts")
NUMBERS = 3 * 2 * 2 * 2


@dataclass(frozen=True)
class Sights:
    """Texts among which pictures and films stand.

    Attributes:
        stamped: whether text stands between the frames of a film.
        timed: whether a film's frames say how far apart they are.
    """

    stamped: bool = False
    timed: bool = False

    def rows(self) -> list[Inputs]:
        """A row with two pictures, one with a film and a picture, one without either."""
        torch.manual_seed(7)
        return [
            self.row([5, (1, 4, 6), 9, 10, (1, 2, 2), 11, 12, 13]),
            self.row([6, (3, 4, 2), 7, (1, 4, 4), 14]),
            self.row([15, 16, 17, 18]),
        ]

    def row(self, parts: Sequence[int | tuple[int, int, int]]) -> Inputs:
        ids: list[int] = []
        given: dict[str, list] = {name: [] for name in SEEN}
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                continue
            time, rows, columns = part
            film, each = time > 1, rows * columns // 4
            name = "_videos" if film else ""
            given[f"pixel_values{name}"].append(torch.randn(time * rows * columns, NUMBERS))
            given[f"{'video' if film else 'image'}_grid_thw"].append(torch.tensor([part]))
            if film and self.timed:
                given["second_per_grid_ts"].append(torch.tensor([0.9]))
            if film and self.stamped:
                for second in range(time):
                    ids += [20 + second, START, *[FILM] * each, END]
            else:
                ids += [START, *[FILM if film else PICTURE] * each * time, END]
        tokens = torch.tensor(ids)
        types = (tokens == PICTURE).long() + 2 * (tokens == FILM).long()
        seen = {name: torch.cat(parts) for name, parts in given.items() if parts}
        return {"input_ids": tokens[None], "mm_token_type_ids": types[None], **seen}

    def together(self, side: str = "left", rows: Sequence[Inputs] | None = None) -> Inputs:
        rows = self.rows() if rows is None else rows
        longest = max(row["input_ids"].shape[1] for row in rows)
        ids, types, mask = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(3))
        for number, row in enumerate(rows):
            count = row["input_ids"].shape[1]
            places = slice(longest - count, longest) if side == "left" else slice(count)
            ids[number, places], types[number, places] = row["input_ids"][0], row["mm_token_type_ids"][0]
            mask[number, places] = 1
        seen = {name: torch.cat(own) for name in SEEN if (own := [row[name] for row in rows if name in row])}
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types, **seen}

    # -- as a writer ---------------------------------------------------------------------------------------------------

    def feed(self, config: object) -> Feed:
        # Enough text after the film: what follows a prompt stands beyond all of it, its film's last frame too.
        row = self.row([5, (1, 4, 6), 9, (3, 4, 2), 11, 12, 13, 14, 15, 16, 17, 18])
        ids = row.pop("input_ids")
        whole = {name: value for name, value in row.items() if name != "mm_token_type_ids"}
        types = row["mm_token_type_ids"]
        return Typed(ids, first=whole, beginning=ids.shape[1] - 4, types=types)

    def alone(self) -> list[Inputs]:
        return [{**row, "attention_mask": torch.ones_like(row["input_ids"])} for row in self.rows()]

    def prompt(self, row: Inputs) -> object:
        return dict(row)

    def written(self, row: Inputs, answer: Tensor) -> list[int]:
        return answer[0, row["input_ids"].shape[1] :].tolist()  # type: ignore[union-attr]

    def given_back(self, answers: Tensor) -> Tensor:
        return answers

    # -- as an asker ---------------------------------------------------------------------------------------------------

    def read(self, *fields: str) -> list[Question]:
        """Rows alone and together, padded on either side."""
        first, second, _ = self.rows()
        asked = [Question(second, (*fields, "hidden_states", "attentions")), Question(first, fields)]
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


@dataclass(frozen=True, slots=True)
class Typed(Feed):
    """A row in pieces; the reference needs to know which tokens of the whole are pictures'."""

    types: Tensor | None = None

    def whole(self) -> Inputs:
        return {self.name: self.ids, **(self.first or {}), "mm_token_type_ids": self.types}


@torch.no_grad()
def goes_on(ours, theirs, row):
    """A chat about what was seen: by a cache that ``generate`` gave back, and by one that a forward did."""
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    first, other = (m.generate(**row, **settings, return_dict_in_generate=True) for m in (ours, theirs))
    assert first.sequences.tolist() == other.sequences.tolist()
    whole = torch.cat([other.sequences, torch.tensor([[40, 41, 42]])], 1)
    on = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    expected = theirs.generate(**on, past_key_values=other.past_key_values, **settings)
    found = ours.generate(**on, past_key_values=first.past_key_values, **settings)
    assert found.tolist() == expected.tolist()
    seen = {name: row[name] for name in SEEN if name in row}
    again = ours.generate(**row, **settings, return_dict_in_generate=True)
    found = ours.generate(**on, **seen, past_key_values=again.past_key_values, **settings)
    assert found.tolist() == expected.tolist()
    step, kept = torch.tensor([[40, 41, 42]]), [m(**row, use_cache=True).past_key_values for m in (ours, theirs)]
    close(*(m(input_ids=step, past_key_values=past).logits for m, past in zip((ours, theirs), kept, strict=True)))


GRIDS = ((1, 4, 6), (3, 2, 8), (1, 8, 8))


def patches(grids=GRIDS, numbers=3 * 2 * 2 * 2, seed=0):
    """Pictures and a film of three frames."""
    torch.manual_seed(seed)
    count = sum(t * h * w for t, h, w in grids)
    return {"hidden_states": torch.randn(count, numbers), "grid_thw": torch.tensor(grids)}


def shown(config):
    numbers = config.in_channels * config.temporal_patch_size * config.patch_size**2
    unit = config.spatial_merge_size
    grids = tuple((t, h * unit, w * unit) for t, h, w in ((1, 2, 3), (3, 1, 4), (1, 4, 4)))
    deep = ("deepstack_features",) if config.to_dict().get("deepstack_visual_indexes") else ()
    fields = ("last_hidden_state", "pooler_output", *deep, "hidden_states")
    yield Question(patches(grids, numbers), fields)
    yield Question(patches(((1, unit, unit),), numbers), fields)
