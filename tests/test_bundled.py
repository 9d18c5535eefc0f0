"""The checkpoint that comes with the package: small, right, and an ordinary folder of the Hub."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from omniform.cli.main import main
from reference import omniform, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scenes"))

import evaluate

ROOT = Path(__file__).parent.parent
FOLDER = omniform.bundled_checkpoint()


def test_it_is_small():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 8_000_000


def test_its_card_tells_how_right_it_is():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    asked, right = re.search(r"\| \*\*all\*\* \| \| \| \*\*(\d+)\*\* \| \*\*([\d.]+)%\*\* \|", card).groups()
    assert "on 1,000 scenes" in card and int(asked) >= 1000 and float(right) >= 95.0


@pytest.mark.slow
def test_it_is_right_about_scenes_it_has_not_seen():
    # The card's number is over 1,000 scenes; the first 40 of them keep it honest.
    results = list(evaluate.evaluate(evaluate.Answerer(FOLDER), 40))
    right = sum(answer == question.answer for question, answer in results)
    assert len(results) > 300 and right / len(results) >= 0.95


@pytest.mark.slow
def test_the_reference_gives_the_same_answers():
    ours, theirs = evaluate.Answerer(FOLDER), evaluate.Answerer(FOLDER)
    theirs.model = transformers.AutoModelForImageTextToText.from_pretrained(FOLDER)
    theirs.processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    for number in range(5000, 5006):
        asked = evaluate.unseen(number)
        assert ours(asked) == theirs(asked)


def test_the_same_answers_in_bfloat16_mostly_and_eager_exactly():
    asked = [q for number in range(6000, 6006) for q in evaluate.unseen(number)]
    plain = evaluate.Answerer(FOLDER)
    expected = plain(asked)
    plain.model.set_attn_implementation("eager")
    assert plain(asked) == expected
    plain.model.to(torch.bfloat16)
    agreed = sum(a == b for a, b in zip(plain(asked), expected, strict=True))
    assert agreed / len(asked) >= 0.9


def test_saved_again_it_is_the_same(tmp_path):
    from safetensors.torch import load_file

    model = omniform.AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float16)
    model.save_pretrained(tmp_path)
    before, after = load_file(FOLDER / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("size", [(96, 96), (640, 360), (200, 300)])
def test_the_command_line_answers(capsys, tmp_path, size):
    picture = tmp_path / "square.png"
    scene = Image.new("RGB", size, (250, 250, 250))
    side = min(size) // 3
    scene.paste(
        (225, 25, 25),
        (size[0] // 2 - side // 2, size[1] // 2 - side // 2, size[0] // 2 + side // 2, size[1] // 2 + side // 2),
    )
    scene.save(picture)
    assert main(["run", "--image", str(picture), "--text", "What colour is the square?"]) == 0
    assert capsys.readouterr().out.strip() == "red"


def test_several_pictures_and_json(capsys):
    picture = str(ROOT / "examples" / "pictures" / "scene.png")
    assert main(["run", "--image", picture, "--text", "How many shapes are there?", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["answer"] and record["tokens"]["answer"] >= 1
    assert record["timings"]["load_s"] > 0 and record["architecture"] == "LlavaForConditionalGeneration"
    assert main(["run", "-i", picture, "-i", picture, "-t", "What do you see?", "--max-new-tokens", "5"]) == 0


def test_placeholders_that_are_typed_are_text(capsys):
    scene = str(ROOT / "examples/pictures/scene.png")
    assert main(["run", "--text", "<image><image> hi", "--image", scene, "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.strip()
