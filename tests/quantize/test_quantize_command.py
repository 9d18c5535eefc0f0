"""``omniform quantize``: what it writes loads, and what it tells is so."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F

from checkpoints import tokenizer
from omniform.cli.main import main
from omniform.export.quality import quality, windows
from omniform.export.quantizing import TARGETS
from reference import omniform

TEXTS = "the quick brown fox jumps over the lazy dog\n\nand then it sleeps, until the dog is gone again.\n"
SMALL = {
    "vocab_size": 260, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "model"
    torch.manual_seed(0)
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **SMALL))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.2 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    path.with_suffix(".txt").write_text(TEXTS)
    return path


def told(capsys, *words):
    code = main(["quantize", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_folder_and_what_it_costs(folder, tmp_path, capsys):
    place = tmp_path / "int4"
    code, out, _ = told(
        capsys, folder, "--to", "int4", "--save", place, "--data", folder.with_suffix(".txt"), "--group-size", "64",
        "--json",
    )  # fmt: skip
    assert code == 0
    report = json.loads(out)
    made, plain = (omniform.AutoModelForCausalLM.from_pretrained(path) for path in (place, folder))
    assert made.config.quantization_config.group_size == 64
    reader = omniform.AutoTokenizer.from_pretrained(place)
    loss, divergence, same, count = 0.0, 0.0, 0, 0
    for text in TEXTS.strip().split("\n\n"):
        ids = torch.tensor([reader.encode(text)])
        with torch.no_grad():
            was, now = (F.log_softmax(model(ids).logits[0, :-1].double(), -1) for model in (plain, made))
        loss -= float(now.gather(-1, ids[0, 1:, None]).sum())
        divergence += float(F.kl_div(now, was, log_target=True, reduction="sum"))
        same += int((was.argmax(-1) == now.argmax(-1)).sum())
        count += ids.shape[1] - 1
    found = report["after"]["quality"]
    assert found["tokens"] == count
    assert found["perplexity"] == pytest.approx(math.exp(loss / count), rel=1e-3)
    assert found["divergence"] == pytest.approx(divergence / count, rel=2e-2)
    assert found["agreement"] == pytest.approx(same / count)
    assert report["after"]["nbytes"] == (place / "model.safetensors").stat().st_size
    assert report["before"]["nbytes"] == (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("to", [*TARGETS, "gguf:Q8_0"])
def test_every_target_is_made_and_read(to, folder, tmp_path, capsys):
    place = tmp_path / "made.gguf"
    code, out, err = told(capsys, folder, "--to", to, "--save", place, "--data", folder.with_suffix(".txt"), "--json")
    assert code == 0, err
    report = json.loads(out)
    assert 0 < report["after"]["nbytes"] < report["before"]["nbytes"]
    assert report["after"]["quality"]["divergence"] < {"gptq-2": 3.0, "hqq-2": 3.0, "hqq-3": 1.0}.get(to, 0.5)
    assert omniform.AutoModelForCausalLM.from_pretrained(place).generate([[5, 6]], max_new_tokens=2).shape[1] == 4


def test_the_page(folder, tmp_path, capsys):
    code, out, _ = told(capsys, folder, "--to", "int8", "--save", tmp_path / "int8")
    assert code == 0
    head, *rows, smaller, hint = out.splitlines()
    assert head.split() == ["model", "size", "tokens/s"]
    assert [row.split()[0] for row in rows] == [str(folder), "int8"]
    assert "times smaller" in smaller
    assert "--data" in hint


@pytest.mark.parametrize(
    ("words", "said"),
    (
        (("--to", "int5"), "no such target"),
        (("--to", "gptq-4"), "learns from texts"),
        (("--to", "int8", "--group-size", "7"), "no such groups"),
        (("--to", "llm-int8", "--group-size", "32"), "groups of its own"),
        (("--to", "int8", "--data", "nowhere.txt"), "cannot be read"),
    ),
)
def test_what_cannot_be(folder, tmp_path, capsys, words, said):
    place = tmp_path / "made"
    code, out, err = told(capsys, folder, *words, "--save", place)
    assert code == 2 and not out
    assert said in err and "Traceback" not in err
    assert not place.exists() and not list(tmp_path.iterdir())


def test_what_is_there_stays(folder, tmp_path, capsys):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "mine.txt").write_text("mine")
    code, _, err = told(capsys, folder, "--to", "int8", "--save", tmp_path / "made")
    assert code == 2 and "--overwrite" in err
    assert (tmp_path / "made" / "mine.txt").read_text() == "mine"
    assert told(capsys, folder, "--to", "int8", "--save", tmp_path / "made", "--overwrite")[0] == 0
    assert not (tmp_path / "made" / "mine.txt").exists() and (tmp_path / "made" / "config.json").exists()


def test_quality_of_known_scores():
    def even(ids):
        return torch.zeros(1, ids.shape[1], 8)

    def sure(ids):  # of the next number
        return F.one_hot((ids + 1) % 8, 8).float() * 10

    pieces = list(windows([[0, 1, 2, 3, 4, 5]], size=3))
    assert [piece.tolist() for piece in pieces] == [[[0, 1, 2]], [[3, 4, 5]]]
    assert quality(pieces, even).perplexity == pytest.approx(8)
    found = quality(pieces, sure, even)
    assert found.tokens == 4 and found.perplexity == pytest.approx(1 + 7 * math.exp(-10))
    expected = -sum(math.log(8 * p) / 8 for p in [math.exp(10) / (math.exp(10) + 7)] + [1 / (math.exp(10) + 7)] * 7)
    assert found.divergence == pytest.approx(expected, rel=1e-5)
