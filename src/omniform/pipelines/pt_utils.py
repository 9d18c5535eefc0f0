"""Views of datasets that pipelines read, under the ecosystem's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch.utils.data import Dataset


class Rows(Protocol):
    """What holds rows by index, each a mapping of columns: a list of dicts, or a dataset of the ecosystem's."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, object]: ...


class KeyDataset(Dataset[object]):
    """One column of a dataset.

    Args:
        dataset: its rows.
        key: the column's name.
    """

    def __init__(self, dataset: Rows, key: str) -> None:
        self.dataset = dataset
        self.key = key

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> object:
        return self.dataset[i][self.key]


class KeyPairDataset(Dataset[object]):
    """Two columns of a dataset, as the pairs of texts that a classifier reads.

    Args:
        dataset: its rows.
        key1: the column of first texts.
        key2: the column of second texts.
    """

    def __init__(self, dataset: Rows, key1: str, key2: str) -> None:
        self.dataset = dataset
        self.key1 = key1
        self.key2 = key2

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> dict[str, object]:
        row = self.dataset[i]
        return {"text": row[self.key1], "text_pair": row[self.key2]}
