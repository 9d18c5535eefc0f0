"""Processes that load data and die are told of in plain words, and what they raise keeps its words."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import omniform
from omniform.core.errors import InputError, WorkerError
from omniform.train.workers import plain_error, plainly


class Deadly(Dataset):
    """Whose fifth example ends the process that reads it."""

    def __init__(self, how: object) -> None:
        self.how = how

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> object:
        if index == 5:
            self.how()
        return {"x": index}


def exits() -> None:
    os._exit(7)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGSEGV)


def raises() -> None:
    raise ValueError("my own words")


@pytest.mark.parametrize(("how", "words"), [
    (exits, ["exit code 7", "os._exit", "dataloader_num_workers=0"]),
    (killed, ["SIGKILL", "memory", "fewer dataloader_num_workers"]),
    (crashes, ["SIGSEGV", "faulthandler"]),
])  # fmt: skip
def test_the_dead_are_named(how: object, words: list[str]) -> None:
    loader = DataLoader(Deadly(how), batch_size=2, num_workers=1, collate_fn=omniform.default_data_collator)
    with pytest.raises(WorkerError) as caught:
        [*plainly(loader)]
    text = str(caught.value)
    assert "pid" in text and all(word in text for word in words), text
    assert isinstance(caught.value, RuntimeError) and "Traceback" not in text


def test_what_workers_raise() -> None:
    ragged = [{"x": [0] * (1 + (n == 3))} for n in range(4)]
    loader = DataLoader(ragged, batch_size=2, num_workers=1, collate_fn=omniform.default_data_collator)
    with pytest.raises(InputError) as caught:
        [*plainly(loader)]
    text = str(caught.value)
    assert "column 'x', example 1 of the batch" in text and "worker process 0" in text and "Traceback" not in text
    with pytest.raises(ValueError, match="my own words"):
        [*plainly(DataLoader(Deadly(raises), batch_size=2, num_workers=1))]


def test_all_else_is_left_alone() -> None:
    assert [*plainly([1, 2])] == [1, 2]
    assert plain_error(RuntimeError("CUDA out of memory")) is None
    assert plain_error(InputError("words", where="x")) is None
    with pytest.raises(torch.OutOfMemoryError):
        [*plainly(failing(torch.OutOfMemoryError("no memory")))]


def failing(error: Exception):
    yield 1
    raise error
