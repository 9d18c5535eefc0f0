"""Models that several processes hold and compute together: scores and tokens are those of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
from parallel_families import MAKERS, differences


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


@pytest.mark.parametrize(("world", "names"), [(2, [*MAKERS]), (4, ["qwen2", "mixtral", "bart"])], ids=["2", "4"])
def test_scores_and_tokens_are_those_of_one_process(checkpoints: Path, world: int, names: list[str]) -> None:
    wrong = differences(checkpoints, checkpoints / f"of{world}", world, names, {"tp_plan": "auto"})
    assert not wrong, "\n".join(wrong)
