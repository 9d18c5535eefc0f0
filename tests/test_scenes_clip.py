"""The CLIP that comes with the package: small, right about scenes it has not seen, and the same in the reference."""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from omniform.search import Towers
from reference import close, omniform, transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scenes"))

import measure_search
import train_search
from captions import Query, Thing

FOLDER = omniform.bundled_checkpoint("search")
SAMPLE = 100


@cache
def towers() -> Towers:
    return Towers.load()


@cache
def pairs() -> measure_search.Pairs:
    return measure_search.unseen(SAMPLE)


@cache
def vectors() -> torch.Tensor:
    return torch.from_numpy(towers().pictures(pairs().pictures))


def test_it_is_small_and_stored_as_bfloat16():
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6_000_000
    head = (FOLDER / "model.safetensors").read_bytes()
    told = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])
    assert {entry["dtype"] for name, entry in told.items() if name != "__metadata__"} == {"BF16"}
    assert towers().dtype == "float32"


def test_its_card_tells_how_right_it_is():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "on 1,000 pairs" in card and "No two of the 1,000 captions are the same" in card
    for way in ("text of a picture", "picture of a text"):
        first, five = map(float, re.search(rf"\| {way} \| ([\d.]+) \| ([\d.]+) \|", card).groups())
        assert first >= 0.9 and five >= 0.98


def test_captions_tell_scenes_apart():
    assert len(set(pairs().captions)) == SAMPLE


def test_it_is_right_about_pairs_it_has_not_seen():
    # The card's numbers are over 1,000 pairs; the first 100 of them keep them honest.
    text = torch.from_numpy(towers().texts(pairs().captions))
    found = measure_search.recalls(vectors() @ text.T)
    assert min(found["text@1"], found["image@1"]) >= 0.97 and min(found["text@5"], found["image@5"]) >= 0.99


def test_ties_count_as_wrong():
    assert measure_search.recalls(torch.ones(8, 8)) == {"text@1": 0, "text@5": 0, "image@1": 0, "image@5": 0}


def test_simple_queries_find_what_they_name():
    asked = measure_search.simple_queries(pairs().scenes)
    told = measure_search.answers(towers(), vectors(), pairs().scenes, asked)
    assert told.asked > 40 and told.first >= 0.9 and told.share >= 0.85


def test_the_reference_agrees():
    model = transformers.CLIPModel.from_pretrained(FOLDER, dtype="float32")
    processor = transformers.AutoProcessor.from_pretrained(FOLDER)
    texts = [*pairs().captions[:8], "a red circle", "Two stars?! Überall: a CROSS"]
    theirs = processor(text=texts, images=pairs().pictures[:8], padding=True, return_tensors="pt")
    ours = omniform.AutoProcessor.from_pretrained(FOLDER)(
        text=texts, images=pairs().pictures[:8], padding=True, return_tensors="pt"
    )
    assert type(processor).__name__ == "CLIPProcessor" and torch.equal(ours["input_ids"], theirs["input_ids"])
    close(ours["pixel_values"], theirs["pixel_values"], tolerance=0.02)  # torchvision and Pillow round differently
    with torch.no_grad():
        found, expected = omniform.AutoModel.from_pretrained(FOLDER)(**ours), model(**ours)
        close(found.logits_per_image, expected.logits_per_image, tolerance=1e-3)
        assert torch.equal(found.logits_per_image.argmax(1), model(**theirs).logits_per_image.argmax(1))


def test_zero_shot_classification_works_out_of_the_box():
    pipe = omniform.pipeline("zero-shot-image-classification", str(FOLDER), hypothesis_template="{}")
    answers = pipe(pairs().pictures[:20], candidate_labels=[one.replace(",", "") for one in pairs().captions[:20]])
    assert (
        sum(one[0]["label"] == told.replace(",", "") for one, told in zip(answers, pairs().captions, strict=False))
        >= 18
    )


@pytest.mark.parametrize(
    ("asked", "truth"),
    [
        (Query("", (Thing(None, "red", "circle"),)), True),
        (Query("", (Thing("small", None, "circle"),)), None),
        (Query("", (Thing(None, None, "circle"),), count=2), False),
        (Query("", (Thing(None, None, "circle"),), count=1), True),
        (Query("", (Thing(None, "red", "circle"), Thing(None, "blue", "star"))), True),
        (Query("", (Thing(None, "red", "circle"),), alone=True), False),
        (Query("", (Thing(None, "red", None, "left"),)), True),
        (Query("", (Thing(None, "red", None, "right"),)), False),
        (Query("", (), background="white"), True),
    ],
)
def test_what_is_true_of_a_scene(asked, truth):
    from draw import Item, Scene

    def item(shape, colour, size, x):
        return Item(shape, colour, size, x, 0.5, 0.1, 0.0, 0.5, (0, 0, 0), None)

    scene = Scene((item("circle", "red", "medium", 0.1), item("star", "blue", "small", 0.9)), "white", (0, 0, 0), 1.0)
    assert asked.fits(scene) is truth


def test_a_batch_of_the_training_is_the_same_whoever_draws_it():
    recipe = train_search.Recipe(batch=6, others=2, steps=10, asked=2, strong=0.5)
    one, other = train_search.Pairs(recipe)[7], train_search.Pairs(recipe, first=4)[3]
    for name in ("pixel_values", "captions", "queries", "fits", "cells", "grounds"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert one.pixel_values.shape == (8, 3, 96, 96) and one.fits.shape == (12, 8)
    assert (one.fits[:6, :6].diagonal() == 1).all() and not one.fits[:, 6:].any()
