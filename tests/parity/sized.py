"""Texts with pictures of any sizes among them, as the parity tables of Pixtral's line ask about them."""

from __future__ import annotations

import torch
from askers import Question
from test_llava import IMAGE, TEXT
from writers import Feed, Illustrated

TOWER = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 4,
}  # fmt: skip
ROWS = [[(12, 20), (8, 16)], [(16, 12)], [(16, 8)]]
BREAK, END = 93, 94
__all__ = ["IMAGE", "TEXT", "TOWER"]


def squares(size, config):
    """Rows and columns of a picture's vectors."""
    step = config.vision_config.patch_size * getattr(config, "spatial_merge_size", 1)
    return size[0] // step, size[1] // step


def standing(size, config):
    """The tokens of a picture: rows of placeholders with other tokens between them."""
    rows, columns = squares(size, config)
    return [*([*[IMAGE] * columns, BREAK] * rows)[:-1], END]


def pictures(sizes):
    """Pictures of these sizes, padded with what nobody may look at. Shape: [N, 3, H, W]."""
    height, width = (max(axis) for axis in zip(*sizes, strict=True))
    pixels = torch.full((len(sizes), 3, height, width), 9.0)
    for number, (tall, wide) in enumerate(sizes):
        generator = torch.Generator().manual_seed(tall * 100 + wide)
        pixels[number, :, :tall, :wide] = torch.randn(3, tall, wide, generator=generator)
    return {"pixel_values": pixels, "image_sizes": torch.tensor(sizes)}


def batch(rows, config, side="right"):
    """Texts with pictures of these sizes among them, padded."""
    texts = [[1, *[t for size in row for t in (7, *standing(size, config))], 11, 12, 13, 14] for row in rows]
    longest = max(map(len, texts))
    fill = [[0] * (longest - len(row)) for row in texts]
    right = side == "right"
    ids = torch.tensor([[*row, *f] if right else [*f, *row] for row, f in zip(texts, fill, strict=True)])
    one = [[[1] * len(row), f] for row, f in zip(texts, fill, strict=True)]
    mask = torch.tensor([[*o, *f] if right else [*f, *o] for o, f in one])
    return {"input_ids": ids, "attention_mask": mask, **pictures([size for row in rows for size in row])}


def read(*fields):
    """A row without padding, hidden states and attentions included."""
    return lambda config: [Question(batch(ROWS[:1], config), (*fields, "hidden_states", "attentions"))]


def written_on(config):
    given = batch(ROWS, config)
    real = given["attention_mask"].bool()
    labels = given["input_ids"].masked_fill(~real, -100)
    fields = ("loss", "logits", "image_hidden_states")
    return [*read("logits", "image_hidden_states")(config), Question({**given, "labels": labels}, fields, real)]


def lesson(config):
    given = batch(ROWS, config)
    return {**given, "labels": given["input_ids"]}


class Sized(Illustrated):
    """Rows with pictures of several sizes; ``make`` gives the config of each."""

    def alone(self):
        return [batch([row], self.make()) for row in ROWS]

    def feed(self, config):
        one = self.alone()[0]
        ids = one["input_ids"]
        return Feed(ids, first={n: one[n] for n in ("pixel_values", "image_sizes")}, beginning=ids.shape[1] - 3)

    def together(self):
        return batch(ROWS, self.make(), side="left")
