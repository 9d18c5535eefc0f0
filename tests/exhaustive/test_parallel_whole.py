"""Models in several processes: every family of which the suite asks some."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "parallel"))
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from parallel_families import DEEP, MAKERS, differences
from test_serve_copies import config, ends_in_order

from omniform.serve.config import ServeConfig

__all__ = ["config"]

BOTH = {"tp_plan": "auto", "pp_plan": "auto", "tp_size": 2}


@pytest.mark.parametrize(
    ("world", "names", "given"),
    [
        (2, [*MAKERS], {"tp_plan": "auto"}),
        (4, ["qwen2", "mixtral", "bart"], {"tp_plan": "auto"}),
        (2, [name for name in MAKERS if name != "bert"], {"pp_plan": "auto"}),
        (4, [*DEEP], {"pp_plan": "auto"}),
        (4, ["llama tied", "gemma3 deep", "qwen3_moe deep", "llava"], BOTH),
    ],
    ids=["tp2", "tp4", "pp2", "pp4", "2x2"],
)
def test_scores_and_tokens_are_those_of_one_process(
    tmp_path: Path, world: int, names: list[str], given: dict[str, object]
) -> None:
    wrong = differences(tmp_path, tmp_path / "run", world, names, given)
    assert not wrong, "\n".join(wrong)


def test_a_door_to_groups_of_processes_ends_in_order(config: ServeConfig) -> None:
    ends_in_order(config, 4, "--pipeline-parallel", "2")
