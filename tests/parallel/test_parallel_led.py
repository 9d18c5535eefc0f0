"""One process takes requests, the others compute what its engine tells them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from parallel_families import Made, all_of, made

import omniform
from omniform.core.errors import InputError

PROMPTS = [[5, 9, 17, 30, 4, 22, 41], [8, 61, 12], [5, 9, 17, 30, 4, 22, 41, 6, 7, 44, 52, 6, 28, 13, 39, 2, 10]]
FAMILIES = ["gemma3", "qwen3_moe", "deepseek_v3", "t5", "llava"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("led")


def prompts(one: Made) -> list[object]:
    if one.kind == "picture":
        pixels = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        return [{"input_ids": torch.tensor([[5, 3, 3, 3, 3, *row]]), "pixel_values": pixels} for row in PROMPTS]
    if one.kind == "encoded":
        return [{"input_ids": torch.tensor([row]), "decoder_input_ids": torch.tensor([[0, 8]])} for row in PROMPTS]
    return [*PROMPTS]


def asked(engine: omniform.Engine, one: Made) -> tuple[list[object], list[float]]:
    """Greedy rows, several drawn answers, a search, log-probabilities, and one that is given up in between."""
    given = prompts(one)
    handles = [
        engine.submit(given[0], max_new_tokens=6, do_sample=False),
        engine.submit(given[1], max_new_tokens=5, do_sample=True, seed=3, num_return_sequences=2),
        engine.submit(given[2], max_new_tokens=4, num_beams=2, do_sample=False),
        engine.submit(given[2], max_new_tokens=4, do_sample=False, logprobs=1, prompt_logprobs=0),
    ]
    lost = engine.submit(given[0], max_new_tokens=40, do_sample=False)
    lost.cancel()
    again = [handle.result() for handle in handles]
    found: list[object] = [[s.tokens for s in completion.sequences] for completion in again]
    return found, [entry.logprob for entry in again[3].prompt_logprobs or () if entry]


def led(rank: int, world: int, folder: Path, names: list[str], given: dict[str, object]) -> list[object]:
    found = []
    for name in names:
        one = made(name, folder)
        model = getattr(omniform, one.auto).from_pretrained(str(one.folder), **given)
        engine = omniform.Engine(model, max_tokens_per_step=8)
        if rank:
            with pytest.raises(InputError, match="first process leads"):
                engine.lead()
            engine.follow()
            continue
        with pytest.raises(InputError, match="thread"):
            engine.submit([5, 9])
        engine.lead()
        found.append(asked(engine, one))
        with pytest.raises(InputError, match="follow this one's engine"), torch.inference_mode():
            first = prompts(one)[0]
            model(**first) if isinstance(first, dict) else model(torch.tensor([first]))
        engine.close()
    return found


@pytest.mark.parametrize("plan", ["tp", "pp"])
def test_answers_are_those_of_one_process(checkpoints: Path, plan: str) -> None:
    alone = []
    for name in FAMILIES:
        one = made(name, checkpoints)
        model = getattr(omniform, one.auto).from_pretrained(str(one.folder))
        engine = omniform.Engine(model, max_tokens_per_step=8)
        alone.append(asked(engine, one))
        engine.close()
    together = all_of(led, 2, checkpoints / plan, checkpoints, FAMILIES, {f"{plan}_plan": "auto"})[0]
    for name, (mine, likely), (theirs, found) in zip(FAMILIES, alone, together, strict=True):
        assert (name, theirs) == (name, mine)
        assert found == pytest.approx(likely, abs=1e-4), name
