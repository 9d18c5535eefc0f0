"""The scenes that the bundled checkpoint is trained on: what is drawn, what is asked, and that the answers are true."""

from __future__ import annotations

import dataclasses
import random
import re
import sys
from pathlib import Path

import jinja2
import pytest
import torch

from reference import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scenes"))

import data
import draw
import evaluate
import phrases
import questions
import recipe
import tokenizer

import train

SIZE_OF = {word: size for size, words in phrases.SIZE_WORDS.items() for word in words}
PLACE_OF = {way: place for place, ways in phrases.PLACES.items() for way in ways}
SHAPE_OF = {form: shape for shape in draw.SHAPES for form in (shape, questions.plural(shape))}


def scenes(count: int, name: str = "test") -> list[draw.Scene]:
    rng = random.Random(name)
    return [draw.draw_scene(rng) for _ in range(count)]


def named(scene: draw.Scene, text: str) -> list[draw.Item]:
    """The objects that a noun phrase fits, read word by word and with no code of the generator's."""
    found = list(scene.items)
    for way in sorted(PLACE_OF, key=len, reverse=True):
        if way in text:
            text = text.replace(way, " ")
            found = [item for item in found if lies(item, PLACE_OF[way])]
            break
    for word in re.findall(r"[a-z]+", text):
        if word in SIZE_OF:
            found = [item for item in found if item.size == SIZE_OF[word]]
        elif word in draw.COLOURS:
            found = [item for item in found if item.colour == word]
        elif word in SHAPE_OF:
            found = [item for item in found if item.shape == SHAPE_OF[word]]
    return found


def lies(item: draw.Item, place: str) -> bool:
    across = "left" if item.x < 1 / 3 else "right" if item.x > 2 / 3 else ""
    down = "top" if item.y < 1 / 3 else "bottom" if item.y > 2 / 3 else ""
    if " " in place:
        return place == f"{down} {across}"
    return place in (across, down) if place != "center" else not across and not down


def asked(kind: str, count: int = 400) -> list[tuple[draw.Scene, str, str]]:
    rng = random.Random(f"asked {kind}")
    pairs = ((scene, questions.KINDS[kind](rng, scene)) for scene in scenes(count))
    return [(scene, *pair) for scene, pair in pairs if pair]


# -- scenes and pictures -----------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_scene_picture_and_questions() -> None:
    first, again = evaluate.unseen(7), evaluate.unseen(7)
    assert [(q.kind, q.text, q.answer, q.picture.tobytes()) for q in first] == [
        (q.kind, q.text, q.answer, q.picture.tobytes()) for q in again
    ]
    assert evaluate.unseen(8)[0].picture.tobytes() != first[0].picture.tobytes()


def test_shapes_keep_to_their_cells_and_apart() -> None:
    for scene in scenes(500):
        assert 1 <= len(scene.items) <= draw.MAX_ITEMS
        cells = [item.cell for item in scene.items]
        assert cells == sorted(set(cells))
        wide, high = max(scene.aspect, 1), max(1 / scene.aspect, 1)
        for k, item in enumerate(scene.items):
            assert item.colour != scene.background
            assert (item.radius < 0.1) == (item.size == "small") and not 0.1 <= item.radius < 0.125
            for other in scene.items[:k]:
                apart = ((item.x - other.x) * wide) ** 2 + ((item.y - other.y) * high) ** 2
                assert apart > (item.radius + other.radius) ** 2


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("side", [96, 311])
def test_a_picture_shows_its_scene(side: int, antialias: bool) -> None:
    for scene in scenes(40):
        picture = draw.render(scene, draw.Finish(side, antialias), random.Random(0))
        assert min(picture.size) == side and picture.mode == "RGB"
        for item in scene.items:
            assert picture.getpixel((int(item.x * picture.width), int(item.y * picture.height))) == item.fill
        taken = sum(pixel[0] for pixel in picture.getcolors(1 << 20) if pixel[1] == scene.fill)
        assert 0.3 < taken / (picture.width * picture.height) < 1


def test_grain_shading_and_compression_change_little() -> None:
    for scene in scenes(10):
        clean = draw.render(scene, draw.Finish(128), random.Random(0))
        spoilt = draw.render(scene, draw.Finish(128, noise=8, shade=0.12, quality=35), random.Random(0))
        gap = data.to_pixels(clean, 96) - data.to_pixels(spoilt, 96)
        assert 0 < gap.abs().mean() < 0.2


# -- questions ---------------------------------------------------------------------------------------------------------


def test_every_kind_is_asked_and_all_templates_are_used() -> None:
    for kind in questions.KINDS:
        assert len(asked(kind)) > 100, kind


@pytest.mark.parametrize("kind", ["colour", "shape", "size", "where"])
def test_attributes_are_those_of_the_one_object_named(kind: str) -> None:
    for scene, question, answer in asked(kind):
        text = re.sub(r"large or small|small or large|big or small|how big|how large", "", question.lower())
        text = re.sub(r"in which part|(shape|form) (does|is|of)|in the (picture|image|scene|photo)", "", text)
        found = named(scene, text)
        assert found, question
        truth = {
            "colour": {item.colour for item in found},
            "shape": {item.shape for item in found},
            "size": {item.size for item in found},
            "where": {draw.CELLS[item.cell] for item in found},
        }[kind]
        assert truth == {answer}, (question, answer, scene)


def test_counts_and_existence_agree_with_the_scene() -> None:
    for scene, question, answer in asked("count"):
        assert str(len(named(scene, question.lower()))) == answer, (question, answer, scene)
    for scene, question, answer in asked("exist"):
        assert ("yes" if named(scene, question.lower()) else "no") == answer, (question, answer, scene)


def test_what_lies_somewhere() -> None:
    for scene, question, answer in asked("what"):
        most = re.search(r"largest|biggest|smallest|tiniest", question)
        if most:
            found = [i for i in scene.items if (i.size == "large") == (most.group() in ("largest", "biggest"))]
        else:
            found = named(scene, question.lower())
        names = [f"a {item.size} {item.colour} {item.shape}" for item in found]
        assert (names or ["nothing"]) == [answer], (question, answer, scene)


def test_relations_agree_with_the_coordinates() -> None:
    ways = {way: word for word, all_ways in phrases.RELATIONS.items() for way in all_ways}
    for scene, question, answer in asked("relation"):
        way = next(way for way in sorted(ways, key=len, reverse=True) if f" {way} the " in question)
        one, other = question.split(f" {way} the ")
        (first,), (second,) = named(scene, one.lower()), named(scene, other.lower())
        truth = {
            "left": first.x < second.x,
            "right": first.x > second.x,
            "above": first.y < second.y,
            "below": first.y > second.y,
        }[ways[way]]
        assert truth == (answer == "yes"), (question, answer, scene)


def test_descriptions_tell_the_whole_scene() -> None:
    for scene, _, answer in asked("describe", 100):
        body, ground = re.fullmatch(r"(.*), on a (.*) background\.", answer).groups()
        parts = re.split(r", | and ", body)
        assert ground == scene.background and len(parts) == len(scene.items)
        for part, item in zip(parts, scene.items, strict=True):
            way = next(way for way in sorted(PLACE_OF, key=len, reverse=True) if part.endswith(way))
            assert part == f"a {item.size} {item.colour} {item.shape} {way}"
            assert PLACE_OF[way] == draw.CELLS[item.cell]


def test_yes_and_no_are_about_as_frequent() -> None:
    for kind in ("exist", "confirm", "relation"):
        answers = [answer for _, _, answer in asked(kind)]
        assert 0.35 < answers.count("yes") / len(answers) < 0.65, kind


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_known_words_are_one_token_and_nothing_is_unreadable() -> None:
    read = tokenizer.build()
    pieces = set(tokenizer.vocabulary()[len(tokenizer.SPECIAL) : len(tokenizer.SPECIAL) + 256]) - set("?!.,:;()-\"'")
    rng = random.Random(0)
    for scene in scenes(100):
        for kind in questions.KINDS:
            for text in questions.ask(rng, scene, kind) or ():
                assert not set(read.encode(text).tokens) & pieces, text
                assert read.decode(read.encode(text).ids) == text.lower()
    for text in ("", "Quartz ÜBER naïve 日本 💥 \x00", "  many \n\n spaces  "):
        assert read.decode(read.encode(text).ids) == " ".join(text.lower().split())


def test_rows_are_what_the_chat_template_writes() -> None:
    layout = data.Layout()
    pack = data.Conversations(layout)
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(tokenizer.TEMPLATE)
    scene = scenes(1)[0]
    talk = [
        {"role": "user", "content": [{"type": "text", "text": "Describe it."}, {"type": "image"}]},
        {"role": "assistant", "content": questions.description(scene)},
        {"role": "user", "content": "How many red circles?"},
        {"role": "assistant", "content": "1"},
    ]
    written = template.render(messages=talk, bos_token=tokenizer.BOS, eos_token=tokenizer.EOS)
    written = written.replace(tokenizer.IMAGE, tokenizer.IMAGE * layout.grid**2)
    first, _ = pack.turn("Describe it.", questions.description(scene))
    second, _ = pack.turn("How many red circles?", "1")
    assert pack.tokenizer.encode(written).ids == [*pack.head, *first, pack.ids[tokenizer.USER], *second]


def test_conversations_of_one_row_do_not_see_each_other() -> None:
    batch = data.Scenes(data.Layout(), 3, looks=1, steps=1, batch=4)[1]
    mask, segments = batch.mask[:, 0], batch.segments
    head = int((segments[0] == 0).sum())
    assert segments.max() > 3
    for row in range(4):
        for query in range(0, segments.shape[1], 7):
            seen = [
                key <= query and segments[row, key].item() in (0, segments[row, query].item())
                for key in range(segments.shape[1])
            ]
            assert mask[row, query].tolist() == seen
        starts = [k for k in range(1, segments.shape[1]) if segments[row, k] != segments[row, k - 1]]
        assert {batch.positions[row, k].item() for k in starts} == {head}
    answers = batch.labels != data.IGNORED
    assert torch.equal(batch.labels[answers], batch.input_ids[answers])


def test_patches_name_what_lies_under_them() -> None:
    for scene in scenes(50):
        labels = data.patch_labels(scene, 6)
        centres = {k for k, label in enumerate(labels) if label[1] == 2}
        assert centres == {int(item.y * 6) * 6 + int(item.x * 6) for item in scene.items}
        for item in scene.items:
            _, _, shape, colour, size, cell, *_ = labels[int(item.y * 6) * 6 + int(item.x * 6)]
            assert lies(item, draw.CELLS[cell])
            assert (draw.SHAPES[shape], list(draw.COLOURS)[colour], draw.SIZES[size]) == (
                item.shape, item.colour, item.size,
            )  # fmt: skip


# -- training ----------------------------------------------------------------------------------------------------------


def test_no_scene_is_both_learnt_and_asked() -> None:
    learnt = data.Scenes(data.Layout(), 0, looks=2, steps=2, batch=32)
    known = {picture.numpy().tobytes() for k in range(4) for picture in learnt[k].pixel_values}
    fresh = {data.to_pixels(evaluate.unseen(k)[0].picture, 96).numpy().tobytes() for k in range(100)}
    assert len(known) == 128 and len(fresh) == 100 and not known & fresh


def test_a_run_that_was_interrupted_ends_the_same(tmp_path: Path) -> None:
    small = recipe.Recipe(width=32, hidden=32, depth=1, looks=2, steps=2, batch=3, warmup=1, sample=40)
    whole = train.Run(small, threads=1)
    losses = [whole.learn(batch) for batch in whole.batches(workers=0)]
    assert len(losses) == 4 and losses[0][0] == 0 and losses[3][0] > 0

    begun = train.Run(small, threads=1)
    for batch in begun.batches(workers=0):
        begun.learn(batch)
        if begun.step == 3:
            break
    begun.save(tmp_path / "run.state")
    resumed = train.Run(small, threads=1)
    assert resumed.resume(tmp_path / "run.state")
    assert [resumed.learn(batch) for batch in resumed.batches(workers=0)] == losses[3:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    other = train.Run(dataclasses.replace(small, seed=1), threads=1)
    assert not other.resume(tmp_path / "run.state")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the training script writes it, untrained."""
    folder = tmp_path_factory.mktemp("scenes") / "checkpoint"
    small = recipe.Recipe(width=32, hidden=32, depth=1, looks=1, steps=1, batch=2, sample=40)
    train.export(train.Run(small, threads=1), folder)
    return folder


def test_training_sees_the_pixels_that_the_processor_gives(checkpoint: Path) -> None:
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    for number in range(6):
        picture = evaluate.unseen(number)[0].picture
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        ours = data.to_pixels(picture, 96)
        # Both round to whole levels after the resize: one level is 2 / 255.
        assert theirs.shape == ours.shape and (theirs - ours).abs().max() < 2.1 / 255


def test_the_reference_reads_the_checkpoint_and_answers_alike(checkpoint: Path) -> None:
    ours = evaluate.Answerer(checkpoint)
    theirs = evaluate.Answerer(checkpoint)
    theirs.model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint)
    theirs.processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    assert theirs.model.dtype == ours.model.dtype == torch.float32
    asked = [q for q in evaluate.unseen(0) if q.kind != "describe"]
    assert ours(asked) == theirs(asked)


def test_a_checkpoint_is_written_and_answers(checkpoint: Path) -> None:
    assert sum(file.stat().st_size for file in checkpoint.iterdir()) < 8_000_000
    results = list(evaluate.evaluate(evaluate.Answerer(checkpoint), 1))
    assert {q.kind for q, _ in results} <= set(questions.KINDS) and results
    assert "| **all** |" in evaluate.table([*results])
