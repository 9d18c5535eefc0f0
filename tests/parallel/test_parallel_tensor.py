"""Models that several processes hold and compute together: scores and tokens are those of one process."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from parallel_families import MAKERS, Made, all_of, made
from torch import Tensor

import omniform

PROMPTS = [[5, 9, 17, 30, 4, 22, 41], [8, 61, 12], [33, 7, 21, 50, 11, 9, 14, 60, 25, 36, 19, 28]]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parallel")


def loaded(one: Made, **given: object) -> omniform.Model:
    return getattr(omniform, one.auto).from_pretrained(str(one.folder), **given)


def answers(one: Made, model: omniform.Model) -> dict[str, object]:
    """Scores of a plain forward, and what is written: greedily, by seeded draws, and by an engine."""
    ids = torch.tensor(PROMPTS[:1])
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if one.kind == "picture":
        inputs["input_ids"] = torch.tensor([[5, 3, 3, 3, 3, *PROMPTS[0]]])
        inputs["pixel_values"] = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    if one.kind == "encoded":
        inputs["decoder_input_ids"] = torch.tensor([[0, 8, 61, 12]])
    with torch.inference_mode():
        found: dict[str, object] = {"logits": model(**inputs).logits}
    if one.kind == "none":
        return found
    found["greedy"] = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    found["beams"] = model.generate(**inputs, max_new_tokens=4, num_beams=2, do_sample=False)
    found["drawn"] = model.generate(**inputs, max_new_tokens=6, do_sample=True, seed=7, temperature=1.3)
    if one.kind == "text":
        engine = omniform.Engine(model, max_tokens_per_step=8)
        found["engine"] = [c.tokens for c in engine.generate_batch(PROMPTS, max_new_tokens=4, do_sample=False)]
        found["unseeded"] = [c.tokens for c in engine.generate_batch(PROMPTS, max_new_tokens=4, do_sample=True)]
    return found


def together(rank: int, world: int, checkpoints: Path, names: list[str]) -> dict[str, dict[str, object]]:
    """What one of several processes finds."""
    found = {}
    for name in names:
        torch.manual_seed(rank)  # what is drawn without a seed is what the first process draws
        one = made(name, checkpoints)
        model = loaded(one, tp_plan="auto")
        found[name] = answers(one, model)
        found[name]["numbers"] = sum(p.numel() for p in model.parameters())
    return found


@pytest.mark.parametrize(("world", "names"), [(2, [*MAKERS]), (4, ["qwen2", "mixtral", "bart"])], ids=["2", "4"])
def test_scores_and_tokens_are_those_of_one_process(checkpoints: Path, world: int, names: list[str]) -> None:
    alone = {}
    for name in names:
        one = made(name, checkpoints)
        torch.manual_seed(0)
        model = loaded(one)
        alone[name] = answers(one, copy.deepcopy(model))
        alone[name]["numbers"] = sum(p.numel() for p in model.parameters())
    wrong = []
    for rank, theirs in enumerate(all_of(together, world, checkpoints / f"of{world}", checkpoints, names)):
        for name in names:
            mine, found = alone[name], theirs[name]
            off = (found["logits"] - mine["logits"]).abs().max().item() / max(1, mine["logits"].abs().max().item())
            if not off < 1e-5:
                wrong.append(f"{name}, rank {rank}: scores are off by {off:.2g}")
            for what in mine.keys() - {"logits", "numbers"}:
                same = mine[what].equal(found[what]) if isinstance(mine[what], Tensor) else mine[what] == found[what]
                if not same:
                    wrong.append(f"{name}, rank {rank}: {what}: {mine[what]} alone, {found[what]} together")
            if not found["numbers"] < mine["numbers"]:
                wrong.append(f"{name}, rank {rank}: holds all {found['numbers']} numbers")
    assert not wrong, "\n".join(wrong)
