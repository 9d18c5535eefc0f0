"""State that engines ask for and may never write."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from omniform.engine.reserved import LEAST, reserved


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.int8), ids=str)
@pytest.mark.parametrize("nbytes", (0, 64, LEAST - 64, LEAST, 3 * LEAST))
def test_it_is_a_tensor(nbytes: int, dtype: torch.dtype) -> None:
    room = reserved(1, nbytes // 64, 64 // dtype.itemsize, dtype=dtype, device="cpu")
    assert room.dtype == dtype and room.shape == (1, nbytes // 64, 64 // dtype.itemsize)
    assert room.is_contiguous() and room.data_ptr() % 64 == 0
    assert room.fill_(3).eq(3).all()
    part = room[:, -1:].clone()
    kept = room[:, -1:]
    del room
    assert torch.equal(kept, part)  # a view keeps its pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux counts what was asked for")
def test_processes_fork_beside_more_than_the_machine_has() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rooms = [reserved(whole // 5 * 4, dtype=torch.uint8, device="cpu") for _ in range(3)]
    for room in rooms:
        room[:: whole // 5] = 7
    child = os.fork()
    if not child:
        os._exit(sum(int(room[0]) for room in rooms))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 21
