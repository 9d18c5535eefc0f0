"""``omniform embed``: vectors on standard output or in a file, whole or not at all; mistakes in one line."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import folders
import numpy as np
import pytest
from folders import models

from omniform.cli import embed as command
from omniform.cli.main import main
from reference import omniform


@pytest.fixture(scope="module")
def folder(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    folders.built(folder, plain("bert"), models.Dense(16, 8), prompts={"query": "query : "})
    return str(folder)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "one.txt").write_text("the cat\n\na dog , very long text\r\n", encoding="utf-8")
    (tmp_path / "two.txt").write_text("\ufeffwhat is the rain ?", encoding="utf-8")
    (tmp_path / "broken.txt").write_bytes(b"caf\xe9")
    return tmp_path


def omni(capfdbinary, *arguments):
    code = main(["embed", *map(str, arguments)])
    out, err = capfdbinary.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err.decode()


def test_files_and_lines(folder, files, capfdbinary):
    model = omniform.Embedder(folder, device="cpu")
    code, found, err = omni(capfdbinary, files / "one.txt", files / "two.txt", "-m", folder)
    assert (code, err) == (0, "") and [item["file"] for item in found] == [
        str(files / f"{n}.txt") for n in ("one", "two")
    ]
    texts = ["the cat\n\na dog , very long text\r\n", "what is the rain ?"]
    assert np.array_equal(np.array([item["embedding"] for item in found], dtype=np.float32), model.encode(texts))
    options = ("--lines", "--prompt-name", "query", "--dim", 3, "--normalize", "--batch-size", 1)
    code, found, err = omni(capfdbinary, files / "one.txt", "--model", folder, *options)
    assert code == 0 and [item["line"] for item in found] == [1, 3]
    expected = model.encode(["the cat", "a dog , very long text"], prompt_name="query", truncate_dim=3,
                            normalize_embeddings=True)  # fmt: skip
    assert np.abs(np.array([item["embedding"] for item in found]) - expected).max() < 1e-6


def test_standard_input(folder, capfdbinary, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the cat\na dog\n"), isatty=lambda: False))
    code, found, _ = omni(capfdbinary, "--lines", "-m", folder)
    assert code == 0 and [(item["file"], item["line"]) for item in found] == [("-", 1), ("-", 2)]


@pytest.mark.parametrize("at_once", [1, 4096])
def test_into_a_file(at_once, folder, files, capfdbinary, monkeypatch):
    monkeypatch.setattr(command, "AT_ONCE", at_once)
    expected = omniform.Embedder(folder, device="cpu").encode(
        ["the cat", "a dog , very long text", "what is the rain ?"]
    )
    for name in ("v.npy", "v.jsonl"):
        (files / name).write_text("old")
        code, found, err = omni(
            capfdbinary, files / "one.txt", files / "two.txt", "--lines", "-m", folder, "-o", files / name
        )
        assert (code, found, err) == (0, [], "")
    assert np.abs(np.load(files / "v.npy") - expected).max() < 1e-6 and np.load(files / "v.npy").dtype == np.float32
    lines = [json.loads(line) for line in (files / "v.jsonl").read_text().splitlines()]
    assert np.abs(np.array([line["embedding"] for line in lines]) - expected).max() < 1e-6
    assert oct((files / "v.npy").stat().st_mode & 0o777) == oct((files / "one.txt").stat().st_mode & 0o777)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("missing.txt",), "missing.txt: the file cannot be read"),
        (("broken.txt",), "not UTF-8 text"),
        (("one.txt", "broken.txt"), "not UTF-8 text"),
        (("one.txt", "--prompt-name", "quary"), "no such prompt"),
        (("one.txt", "--dim", "0"), "truncate_dim"),
        (("one.txt", "--batch-size", "0"), "batch_size"),
        (("one.txt", "-o", "x.csv"), "no kind of file for vectors"),
        (("one.txt", "-o", "nowhere/x.npy"), "no such folder"),
        (("one.txt", "-o", "there.npy"), "this is a folder"),
        (("one.txt", "--dtype", "float3"), "no such dtype"),
        (("one.txt", "--normalise",), "Did you mean --normalize"),
        (("empty.txt", "--lines"), "nothing to embed"),
        (("one.txt", "-m", "no/such-model"), "no/such-model"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_mistakes_are_one_line_and_write_nothing(arguments, words, folder, files, capfdbinary, monkeypatch):
    monkeypatch.chdir(files)
    (files / "there.npy").mkdir()
    (files / "empty.txt").write_text(" \n\n")
    before = sorted(files.iterdir())
    model = () if "-m" in arguments else ("-m", folder)
    code, found, err = omni(capfdbinary, *arguments, *model)
    assert code == 2 and not found and err.count("\n") == 1 and words in err
    assert sorted(files.iterdir()) == before


def test_a_model_is_needed(files, capfdbinary):
    code, _, err = omni(capfdbinary, files / "one.txt")
    assert code == 2 and "--model" in err and err.count("\n") == 1


def test_a_file_that_breaks_off_leaves_the_old_one(folder, files, capfdbinary, monkeypatch):
    (files / "v.npy").write_text("old")

    def breaks(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "_write_array", breaks)
    code, _, err = omni(capfdbinary, files / "one.txt", "-m", folder, "-o", files / "v.npy")
    assert code == 2 and "No space left" in err and (files / "v.npy").read_text() == "old"
    assert not [path for path in files.iterdir() if path.name.startswith(".")]
