"""Packed matrices in several processes: one after another in any format, bit by bit; divided, or refused by name."""

from __future__ import annotations

from pathlib import Path

import every_format
import pytest
import torch
from parallel_families import all_of

from omniform.core.errors import InputError

SOME = ("int8", "bnb 8bit", "bnb nf4", "gptq 4 act", "awq gemm", "ct packed 4", "fp8 blocks", "gguf Q4_0")
CASES = [*((name, "llama") for name in SOME), ("mxfp4", "gpt_oss")]


def scores(case: tuple[str, str], folder: Path, **given: object) -> torch.Tensor:
    path = every_format.made(case, folder)
    return every_format.scores(every_format.loaded(path, dtype=torch.float32, **given))


def told(rank: int, world: int, folder: Path) -> list[torch.Tensor]:
    found = []
    for case in CASES:
        found.append(scores(case, folder, pp_plan="auto"))
        with pytest.raises(InputError, match=r"tp_plan: model.layers.0.*pp_plan='auto' instead"):
            scores(case, folder, tp_plan="auto")
    return found


def test_every_format(tmp_path: Path) -> None:
    alone = [scores(case, tmp_path) for case in CASES]
    for found in all_of(told, 2, tmp_path / "run", tmp_path):
        for case, mine, theirs in zip(CASES, alone, found, strict=True):
            assert torch.equal(theirs, mine), case
