"""``omniform run --task``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import bert

from checkpoints import text_checkpoint
from omniform import pipeline
from omniform.cli.main import main
from omniform.cli.task import readable


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert(tmp_path_factory.mktemp("classifier"), "SequenceClassification", id2label={0: "no", 1: "yes"})


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_checkpoint(tmp_path_factory.mktemp("writer"), chat=True)


def test_classes(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["run", "--task", "text-classification", "-m", str(classifier), "-t", "the cat sat", "--set", "top_k=2"]
    assert main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["label", "score"] and {line.split()[0] for line in lines[1:]} == {"no", "yes"}
    assert main([*call, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == pipeline("text-classification", classifier)("the cat sat", top_k=2)
    assert told["task"] == "text-classification" and told["timings"]["load_s"] > 0


def test_texts(writer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["run", "--task", "text-generation", "-m", str(writer), "--max-new-tokens", "4", "--set", "do_sample=False"]
    pipe = pipeline("text-generation", writer, do_sample=False, max_new_tokens=4)
    assert main([*call, "-t", "The cat", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == pipe("The cat")
    chat = [{"role": "user", "content": "hi"}]
    assert main([*call, "-t", json.dumps(chat)]) == 0
    assert capsys.readouterr().out == readable(pipe(chat)) + "\n"
    assert readable(pipe(chat)) == pipe(chat)[0]["generated_text"][-1]["content"]


def test_mistakes(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for call, words in (
        (["--task", "no-task", "-m", str(classifier), "-t", "a"], "no such task"),
        (["--task", "text-classification", "-m", str(classifier), "-t", "a", "--set", "top_j=2"], "top_k"),
        (["--task", "summarization", "-t", "a"], "which model"),
    ):
        assert main(["run", *call]) == 2
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_tables() -> None:
    told = readable({"sequence": "a text", "labels": ["one", "three"], "scores": [0.75, 0.25]})
    assert told.splitlines() == ["sequence  labels  scores", "a text    one     0.7500", "          three   0.2500"]
    assert readable([{"summary_text": "short"}]) == "short"
    assert readable({"answer": None, "score": 0.5}).splitlines()[1].strip() == "0.5000"
    assert readable([[1.0, 2.0]]) == "[[1.0, 2.0]]" and "shape [1, 2]" in readable(torch.zeros(1, 2))
