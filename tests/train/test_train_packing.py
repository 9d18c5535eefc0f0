"""Packing: every token is in one row, no text sees another, rows are nearly full; the flattening collator agrees."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

import omniform
from omniform.core.errors import InputError, UnknownNameError
from omniform.train.packing import BestFit, Piece, Wrapped, pack


def texts(count: int, seed: int = 0, longest: int = 30) -> list[dict]:
    chance = random.Random(seed)
    rows = [[chance.randrange(5, 99) for _ in range(chance.randint(0, longest))] for _ in range(count)]
    return [{"input_ids": ids, "attention_mask": [1] * len(ids), "kind": [i % 7] * len(ids), "name": "x"}
            for i, ids in enumerate(rows)]  # fmt: skip


class Stream(IterableDataset):
    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


@pytest.mark.parametrize("length", [16, 40, 1000])
@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
@pytest.mark.parametrize("stream", [False, True])
def test_every_token_has_its_place(length: int, strategy: str, stream: bool) -> None:
    rows = texts(200)
    packed = [*pack(Stream(rows) if stream else rows, length, strategy, window=64)]
    found: dict[tuple[int, ...], int] = {}
    for row in packed:
        ids, places, labels = row["input_ids"], row["position_ids"], row["labels"]
        assert 0 < len(ids) <= length and len(places) == len(labels) == len(ids) == len(row["kind"])
        assert {*row} == {"input_ids", "labels", "position_ids", "kind"}
        begins = [i for i, place in enumerate(places) if place == 0]
        for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            assert places[begin:end] == [*range(end - begin)]
            assert labels[begin:end] == [-100, *ids[begin + 1 : end]]
            assert len({*row["kind"][begin:end]}) == 1
            key = tuple(ids[begin:end])
            found[key] = found.get(key, 0) + 1
    tokens = lambda many: sorted(token for key, n in many.items() for token in key * n)
    assert tokens(found) == sorted(token for row in rows for token in row["input_ids"])
    if strategy == "bfd" and length >= 30:  # no text was cut
        assert {*found} == {tuple(row["input_ids"]) for row in rows if row["input_ids"]}
    if strategy == "wrapped" and not stream:
        assert all(len(row["input_ids"]) == length for row in packed[:-1])
    if not stream and length < 1000:
        assert len(packed) <= -(-sum(len(row["input_ids"]) for row in rows) // length) * 1.05 + 1


def test_plans() -> None:
    assert BestFit().plan([3, 9, 2, 5, 0, 4], 5) == [
        [Piece(1, 0, 5)], [Piece(3, 0, 5)], [Piece(1, 5, 9)], [Piece(5, 0, 4)], [Piece(0, 0, 3), Piece(2, 0, 2)]
    ]  # fmt: skip
    assert Wrapped().plan([3, 0, 4, 1], 4) == [[Piece(0, 0, 3), Piece(2, 0, 1)], [Piece(2, 1, 4), Piece(3, 0, 1)]]
    chance = random.Random(1)
    many = [chance.randint(1, 512) for _ in range(20_000)]
    assert len(BestFit().plan(many, 2048)) * 2048 < sum(many) * 1.01 + 2048


def test_flattening_knows_packed_rows() -> None:
    rows = texts(9, 3)
    packed = pack(rows, 64)
    every = {"return_flash_attn_kwargs": True, "return_seq_idx": True, "position_ids_start": 2}
    flat = omniform.DataCollatorWithFlattening(**every)
    pieces = [{"input_ids": rows[piece.index]["input_ids"]} for row in packed.rows for piece in row]
    found, expected = flat([*packed]), flat(pieces)
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
    loader = DataLoader(packed, batch_size=2, collate_fn=flat)
    assert sum(batch["input_ids"].numel() for batch in loader) == sum(len(row["input_ids"]) for row in rows)
    with pytest.raises(InputError, match="one position"):
        flat([{"input_ids": [1, 2], "position_ids": [0]}])


def test_labels_of_their_own_are_kept() -> None:
    rows = [{"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([-100, 6, 7])}, {"input_ids": [8, 9]}]
    assert pack(rows, 8)[0] == {
        "input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, 7, -100, 9], "position_ids": [0, 1, 2, 0, 1]
    }  # fmt: skip


def test_what_cannot_be_packed() -> None:
    padded = {"input_ids": [1, 2, 0], "attention_mask": [1, 1, 0]}
    for rows, words in (
        ([padded], "example 0.*zeros"), ([{"text": "a"}], "example 0.*Tokenize"), ([3], "example 0"), ([], "no texts"),
        ([{"input_ids": []}], "no texts"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            pack(rows, 8)
    with pytest.raises(InputError, match="max_length"):
        pack(texts(2), 1)
    with pytest.raises(UnknownNameError, match="wrapped"):
        pack(texts(2), 8, "wraped")
    with pytest.raises(InputError, match=r"example 0.*3 labels"):
        pack([{"input_ids": [1, 2], "labels": [1, 2, 3]}], 8)[0]
