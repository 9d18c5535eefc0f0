"""A reading of data that is broken off goes on, in fresh objects, with the batches and numbers that would have come."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler

from omniform.train.reading import Place, Reading
from omniform.train.safe_files import read_file, write_file


def _noise(own):
    return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item(), own.random()])


class Rows(Dataset):
    def __init__(self, length=23):
        self.length, self.own = length, np.random.default_rng(3)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.cat((torch.tensor([float(index)]), _noise(self.own)))


class Stream(IterableDataset):
    """Shuffles by the global generator at its begin."""

    def __init__(self):
        self.own = random.Random(4)

    def __iter__(self):
        for index in torch.randperm(23).tolist():
            yield torch.cat((torch.tensor([float(index)]), _noise(self.own)))


class Placed(IterableDataset):
    """Knows its place; reading it twice would be seen."""

    def __init__(self):
        self.at, self.reads = 0, 0

    def __iter__(self):
        while self.at < 23:
            self.at += 1
            self.reads += 1
            yield torch.tensor([float(self.at), random.random()])
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


@dataclass
class Mask:
    """A collator that makes its generator when it is first called."""

    generator: object = None

    def __call__(self, rows):
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(5)
        return torch.stack(rows) + torch.rand((), generator=self.generator) + np.random.rand()


class Grouped(Sampler):
    def __len__(self):
        return 23

    def __iter__(self):
        return iter(torch.randperm(23).tolist())


def _loader(kind, workers, persistent=False):
    data = {"stream": Stream, "placed": Placed}.get(kind, Rows)()
    sampler = {"random": RandomSampler, "grouped": lambda _: Grouped(), "replacing": _replacing}.get(kind)
    return DataLoader(
        data, batch_size=3, sampler=sampler and sampler(data), collate_fn=Mask(), num_workers=workers,
        persistent_workers=persistent,
    )  # fmt: skip


def _replacing(data):
    return RandomSampler(data, replacement=True, num_samples=40, generator=torch.Generator().manual_seed(8))


def _prepared(loader):
    from accelerate import Accelerator
    from accelerate.utils import DataLoaderConfiguration

    return Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True)).prepare(loader)


def _run(make, epochs, *, stop=None, place=None):
    """What comes of reading: all batches, each with the numbers that a step draws; at ``stop`` also the place."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    reading, got = Reading(make()), []
    if place is not None:  # another process would be in other states
        random.seed(9)
        np.random.seed(9)
        torch.rand(7)
    first = 0 if place is None else place.epoch
    for epoch in range(first, epochs):
        if place is not None and place.ended:
            reading.go_on(place)
            place = None
            continue
        for batch in reading.read(epoch, place):
            got.append((batch.clone(), torch.rand(2), np.random.rand()))
            if stop == (epoch, reading.handed):
                return got, reading.place(), reading
        place = None
        np.random.rand()  # an evaluation draws too
        reading.end()
        if stop == (epoch, "end"):
            return got, reading.place(), reading
    return got, None, reading


def _alike(a, b):
    return len(a) == len(b) and all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) and x[2] == y[2] for x, y in zip(a, b, strict=True)
    )


STOPS = [(0, 1), (0, 5), (1, 4), (1, 8), (1, "end")]


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared"])
@pytest.mark.parametrize("kind", ["order", "random", "grouped", "replacing", "stream", "placed"])
def test_goes_on_where_it_was(kind, prepared, tmp_path):
    def make():
        return _prepared(_loader(kind, 0)) if prepared else _loader(kind, 0)

    whole, _, _ = _run(make, 3)
    assert not _alike(whole[:3], whole[3:6])
    for stop in STOPS:
        _check(make, whole, stop, tmp_path)


@pytest.mark.parametrize("kind", ["random", "grouped", "stream"])
@pytest.mark.parametrize("persistent", [False, True], ids=["fresh", "persistent"])
def test_goes_on_with_workers(kind, persistent, tmp_path):
    def make():
        return _prepared(_loader(kind, 2, persistent))

    whole, _, _ = _run(make, 2)
    for stop in [(0, 3), (1, 4)]:
        _check(make, whole, stop, tmp_path, epochs=2)


def _check(make, whole, stop, tmp_path, epochs=3):
    before, place, _ = _run(make, epochs, stop=stop)
    assert _alike(before, whole[: len(before)])
    write_file(tmp_path / "place.pth", place.to_save())
    again = Place.from_saved(read_file(tmp_path / "place.pth"))
    after, _, _ = _run(make, epochs, place=again)
    assert _alike(before + after, whole), stop
    # And once more from a place in what was already gone on with.
    if stop == (0, 1):
        more, later, _ = _run(make, epochs, place=again, stop=(1, 2))
        last, _, _ = _run(make, epochs, place=later)
        assert _alike(before + more + last, whole)
