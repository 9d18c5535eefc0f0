"""Training batches: pictures with several questions each, packed into one row, and what lies under every patch."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
from draw import BACKGROUNDS, COLOURS, MAX_ITEMS, SHAPES, SIZES, Scene, draw_finish, draw_scene, render
from PIL import Image
from questions import ask
from tokenizer import ASSISTANT, BOS, EOS, IMAGE, PAD, USER, build
from torch import Tensor
from torch.utils.data import Dataset

IGNORED = -100
# How often each kind is asked: kinds that need several looks more often. Descriptions have their own rate.
WEIGHTS = {
    "colour": 1.0, "shape": 1.0, "size": 1.0, "where": 1.5, "what": 1.5, "count": 2.5, "exist": 1.5, "confirm": 1.0,
    "background": 0.6, "relation": 2.0, "compare": 2.0,
}  # fmt: skip
DESCRIBED = 0.7
FOLLOWING = 0.12
SIDES = (80, 208)
# Columns and rows in which patches place a shape's centre: finer than the cells that questions know.
FINE = 12


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes that the model and its batches share: picture side and patch side in pixels, tokens of text per row."""

    side: int = 96
    patch: int = 16
    text: int = 128

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side // self.patch


@dataclass(frozen=True, slots=True)
class Batch:
    """B pictures, each with a row of T tokens (T is 0 where there are no questions).

    Attributes:
        pixel_values: Shape: [B, 3, side, side].
        patches: per patch the indices of background, cover (0 nothing, 1 a shape, 2 its centre), and of the shape's
            name, colour, size, cell, column and row; -100 where there is none. Shape: [B, P, 8].
        input_ids: Shape: [B, T].
        labels: ids of answers, -100 elsewhere. Shape: [B, T].
        segments: 0 for the picture, n for the n-th conversation about it. Shape: [B, T].
        positions: every conversation goes on from the picture. Shape: [B, T].
    """

    pixel_values: Tensor
    patches: Tensor
    input_ids: Tensor
    labels: Tensor
    segments: Tensor
    positions: Tensor

    @property
    def mask(self) -> Tensor:
        """A token sees the picture and the earlier tokens of its own conversation. Shape: [B, 1, T, T], boolean."""
        keys, queries = self.segments[:, None, None, :], self.segments[:, None, :, None]
        return ((keys == 0) | (keys == queries)) & torch.ones(keys.shape[-1], keys.shape[-1], dtype=torch.bool).tril()


def to_pixels(image: Image.Image, side: int) -> Tensor:
    """A picture as the checkpoint's image processor gives it: squeezed to a square, -1 to 1. Shape: [3, side, side]."""
    small = np.array(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(small).permute(2, 0, 1) / 127.5 - 1


def patch_labels(scene: Scene, grid: int) -> list[list[int]]:
    """What every patch shows, in reading order; see :class:`Batch`."""
    ground = tuple(BACKGROUNDS).index(scene.background)
    wide, high = max(scene.aspect, 1.0), max(1 / scene.aspect, 1.0)
    labels = [[ground, 0, *[IGNORED] * 6] for _ in range(grid * grid)]
    for item in scene.items:
        names = [SHAPES.index(item.shape), tuple(COLOURS).index(item.colour), SIZES.index(item.size)]
        names += [item.cell, int(item.x * FINE), int(item.y * FINE)]
        for patch, label in enumerate(labels):
            row, column = divmod(patch, grid)
            across, down = ((column + 0.5) / grid - item.x) * wide, ((row + 0.5) / grid - item.y) * high
            if label[1] == 0 and math.hypot(across, down) < 0.95 * item.radius:
                label[1:] = [1, *names]
        centre = min(int(item.y * grid), grid - 1) * grid + min(int(item.x * grid), grid - 1)
        labels[centre][1:] = [2, *names]
    return labels


@dataclass(slots=True)
class Row:
    """One row of a batch as it grows; the fields are those of :class:`Batch`."""

    input_ids: list[int]
    labels: list[int]
    segments: list[int]
    positions: list[int]

    def add(self, tokens: list[int], labels: list[int], segment: int, start: int) -> None:
        """Append tokens of one conversation whose first has position ``start``."""
        self.input_ids += tokens
        self.labels += labels
        self.segments += [segment] * len(tokens)
        self.positions += range(start, start + len(tokens))


class Conversations:
    """Packs conversations about a scene into one row of fixed length, each written as the chat template writes it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.tokenizer = build()
        self.ids = {token: self.tokenizer.token_to_id(token) for token in (PAD, BOS, EOS, IMAGE, USER, ASSISTANT)}
        self.head = [self.ids[BOS], self.ids[USER], *[self.ids[IMAGE]] * layout.grid**2]

    def turn(self, question: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens and labels of one question with its answer."""
        asked = [*self.tokenizer.encode(question).ids, self.ids[ASSISTANT]]
        told = [*self.tokenizer.encode(answer).ids, self.ids[EOS]]
        return asked + told, [IGNORED] * len(asked) + told

    def pack(self, rng: random.Random, scene: Scene) -> Row:
        """As many questions about the scene as fit."""
        start = len(self.head)
        length = start + self.layout.text
        row = Row(list(self.head), [IGNORED] * start, [0] * start, list(range(start)))
        kinds = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()), k=16)
        segment = 0
        for kind in (["describe"] if rng.random() < DESCRIBED else []) + kinds:
            pair = ask(rng, scene, kind)
            if not pair:
                continue
            tokens, labels = self.turn(*pair)
            if len(row.input_ids) + 1 + len(tokens) > length:
                continue
            if segment and rng.random() < FOLLOWING:
                row.add([self.ids[USER], *tokens], [IGNORED, *labels], segment, row.positions[-1] + 1)
            else:
                segment += 1
                row.add(tokens, labels, segment, start)
        rest = length - len(row.input_ids)
        row.add([self.ids[PAD]] * rest, [IGNORED] * rest, segment + 1, start)
        return row


class Scenes(Dataset[Batch]):
    """Batch number i of a training run: the same for the same seed, whoever draws it and in whatever order.

    Args:
        looks: how many batches at the start are pictures without questions.
        steps: how many batches with questions follow.
        first: the batch to start from (to resume).
    """

    def __init__(self, layout: Layout, seed: int, *, looks: int, steps: int, batch: int, first: int = 0) -> None:
        self.layout, self.seed, self.batch = layout, seed, batch
        self.looks, self.steps, self.first = looks, steps, first
        self.conversations = Conversations(layout)

    def __len__(self) -> int:
        return self.looks + self.steps - self.first

    def __getitem__(self, index: int) -> Batch:
        number = index + self.first
        rng = random.Random(f"train {self.seed} {number}")
        asked = number - self.looks
        # Few shapes at first: names are learnt sooner than counting.
        most = MAX_ITEMS if asked < 0 else min(MAX_ITEMS, 3 + 4 * asked // max(1, self.steps // 8))
        pixels, patches, rows = [], [], []
        for _ in range(self.batch):
            scene = draw_scene(rng, most)
            pixels.append(to_pixels(render(scene, draw_finish(rng, SIDES), rng), self.layout.side))
            patches.append(patch_labels(scene, self.layout.grid))
            rows.append(self.conversations.pack(rng, scene) if asked >= 0 else Row([], [], [], []))
        return Batch(
            torch.stack(pixels),
            torch.tensor(patches),
            torch.tensor([row.input_ids for row in rows]),
            torch.tensor([row.labels for row in rows]),
            torch.tensor([row.segments for row in rows]),
            torch.tensor([row.positions for row in rows]),
        )
