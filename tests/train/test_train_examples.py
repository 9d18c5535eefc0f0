"""The examples of ``examples/training``: every one runs, prints a number before and after, and is short."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import omniform
from omniform.cli.main import main

EXAMPLES = Path(__file__).parents[2] / "examples" / "training"
SHARED = {"common", "make_data", "pictures"}
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.py") if file.stem not in SHARED)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where an example finds what it shares with the others; nothing of it stays."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    yield
    for name in set(sys.modules) - before:
        if str(EXAMPLES.parent) in str(vars(sys.modules[name]).get("__file__")):
            del sys.modules[name]


def test_every_kind_has_an_example() -> None:
    assert {
        "text_classification", "token_classification", "summarization", "causal_lm", "image_classification",
        "object_detection", "segmentation", "speech_recognition", "clip", "llava",
    } <= set(NAMES)  # fmt: skip
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert len((EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 120, name
        assert f"`{name}.py`" in told, name


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("name", NAMES)
def test_examples(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--steps", "2", "--examples", "40", "--held-out", "6", "--output-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [name, *given])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(r"^\w+: [\d.]+ before, [\d.]+ after$", capsys.readouterr().out, re.M)
    assert (tmp_path / "model.safetensors").exists()
    assert omniform.AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("recipe", sorted(EXAMPLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_recipes(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["data.limit=64", "data.eval_limit=8", "arguments.max_steps=2", f"arguments.output_dir={tmp_path}"]
    assert main(["train", str(recipe), *small]) == 0
    assert re.search(r"^eval_\w+: [\d.]+ before, [\d.]+ after$", capsys.readouterr().out, re.M)
    assert (tmp_path / "model.safetensors").exists()
