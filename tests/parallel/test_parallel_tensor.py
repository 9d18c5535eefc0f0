"""Models that several processes hold and compute together: scores and tokens are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from parallel_families import differences

SOME = [
    "llama", "llama tied", "gemma3", "phi3", "gpt2", "bloom", "olmo2", "qwen2_moe", "deepseek_v3", "gpt_oss", "t5",
    "llava", "bert",
]  # fmt: skip
"""Every kind of block once; all families are in tests/exhaustive."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.mark.parametrize(("world", "names"), [(2, SOME), (4, ["qwen2", "mixtral"])], ids=["2", "4"])
def test_scores_and_tokens_are_those_of_one_process(checkpoints: Path, world: int, names: list[str]) -> None:
    wrong = differences(checkpoints, checkpoints / f"of{world}", world, names, {"tp_plan": "auto"})
    assert not wrong, "\n".join(wrong)
