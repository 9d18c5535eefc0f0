"""``omniform search``: a folder indexed, brought up to date, cut off, and asked by text and by picture."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "scenes"))

from draw import Item, Scene
from wider import draw_wider, picture

from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError
from omniform.search import PictureIndex, Towers
from omniform.search import folder as module

Capture = pytest.CaptureFixture[str]
RED = (230, 20, 30)


@pytest.fixture(scope="module")
def towers() -> Towers:
    return Towers.load()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def red_circle(x: float = 0.5) -> Image.Image:
    item = Item("circle", "red", "large", x, 0.5, 0.2, 0.0, 0.5, RED, None)
    return picture(random.Random(3), Scene((item,), "white", (255, 255, 255), 1.0), (96, 200))


def scene(number: int) -> Image.Image:
    """A scene without anything red."""
    rng = random.Random(f"search {number}")
    made = draw_wider(rng, empty=0.0)
    while any(item.colour == "red" for item in made.items):
        made = draw_wider(rng, empty=0.0)
    return picture(rng, made, (96, 200))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight scenes, one of them with a red circle, in two folders; three files that are no pictures."""
    place = tmp_path / "photos"
    (place / "more").mkdir(parents=True)
    (place / ".hidden").mkdir()
    for number in range(7):
        scene(number).save(place / ("more" if number % 2 else ".") / f"{number}.png")
    red_circle().save(place / "more" / "round.JPG", quality=95)
    red_circle().save(place / ".hidden" / "other.png")
    (place / "cut.png").write_bytes((place / "0.png").read_bytes()[:200])
    (place / "empty.jpg").touch()
    (place / "notes.txt").write_text("a red circle")
    return place


def index(photos: Path, towers: Towers, place: Path) -> PictureIndex:
    return PictureIndex(photos, towers, place)


def test_a_text_and_a_picture_find_theirs(photos: Path, towers: Towers, tmp_path: Path) -> None:
    made = index(photos, towers, tmp_path / "index")
    changes = made.update()
    assert (changes.pictures, changes.new, changes.changed, changes.removed) == (8, 10, 0, 0)
    assert sorted(changes.failed) == ["cut.png", "empty.jpg"]
    found = made.find(text="a red circle", k=3)
    assert found[0].name == "more/round.JPG" and found[0].path == photos / "more" / "round.JPG"
    assert len(found) == 3 and found[0].score > found[1].score >= found[2].score
    found = made.find(image=red_circle(0.48), k=100)
    assert found[0].name == "more/round.JPG" and len(found) == 8
    # Exactly what comparing all pairs gives.
    names = [one.name for one in found]
    vectors = towers.pictures([Image.open(photos / name).convert("RGB") for name in names])
    scores = (towers.pictures([red_circle(0.48)]) @ vectors.T)[0]
    assert np.allclose(scores, [one.score for one in found], atol=1e-4)
    for given in ({}, {"text": "a", "image": red_circle()}, {"text": "a", "k": 0}):
        with pytest.raises(InputError):
            made.find(**given)


def test_changes_in_the_folder_are_noticed(photos: Path, towers: Towers, tmp_path: Path) -> None:
    index(photos, towers, tmp_path / "index").update()
    made = index(photos, towers, tmp_path / "index")
    assert made.find(text="a red circle", k=1)[0].name == "more/round.JPG"
    changes = made.update()
    assert (changes.new, changes.changed, changes.removed, sorted(changes.failed)) == (
        0,
        0,
        0,
        ["cut.png", "empty.jpg"],
    )
    scene(20).save(photos / "more" / "round.JPG")
    red_circle().save(photos / "new.webp")
    (photos / "more" / "3.png").unlink()
    red_circle().save(photos / "cut.png")
    os.utime(photos / "2.png", ns=(1, 1))
    changes = made.update()
    assert (changes.pictures, changes.new, changes.changed, changes.removed) == (9, 1, 3, 1)
    assert list(changes.failed) == ["empty.jpg"]
    found = [one.name for one in made.find(text="a red circle", k=100)]
    assert set(found[:2]) == {"cut.png", "new.webp"} and "more/3.png" not in found
    assert len(set(found)) == len(found) == 9


def test_a_run_that_was_cut_off_goes_on(
    photos: Path, towers: Towers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 3)
    seen: list[int] = []

    def stop(done: int, total: int) -> None:
        seen.append(done)
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index(photos, towers, tmp_path / "index").update(stop)
    made = index(photos, towers, tmp_path / "index")
    assert seen == [3, 6] and 4 <= len(made) <= 6
    # Vectors that were written, and never noted, as where the machine stopped between the two.
    with made.vectors.path.open("ab") as file:
        file.write(bytes(4 * made.width))
    made = index(photos, towers, tmp_path / "index")
    assert made.find(text="a red circle", k=50)
    changes = made.update()
    assert changes.new == 4 and changes.pictures == 8
    whole = index(photos, towers, tmp_path / "whole")
    whole.update()
    expected = [(one.name, round(one.score, 4)) for one in whole.find(text="a star", k=50)]
    assert [(one.name, round(one.score, 4)) for one in made.find(text="a star", k=50)] == expected


def test_vectors_that_no_picture_has_are_dropped_in_time(
    photos: Path, towers: Towers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 3)
    made = index(photos, towers, tmp_path / "index")
    made.update()
    for number in (0, 1, 2, 3, 4):
        next(photos.rglob(f"{number}.png")).unlink()
    assert made.update().pictures == 3
    assert len(made.vectors) == 3 and len(list((tmp_path / "index").glob("vectors-*.faiss"))) == 1
    again = index(photos, towers, tmp_path / "index")
    assert again.find(text="a red circle", k=1)[0].name == "more/round.JPG" and again.update().new == 0


def test_the_index_of_another_model_is_not_asked(photos: Path, towers: Towers, tmp_path: Path) -> None:
    index(photos, towers, tmp_path / "index").update()
    other = Towers.load()
    other.model.visual_projection.weight.data.mul_(-1)
    with pytest.raises(InputError, match="another model"):
        index(photos, other, tmp_path / "index")
    with pytest.raises(InputError, match="bfloat16"):
        index(photos, Towers.load(dtype="bfloat16"), tmp_path / "index")
    PictureIndex.forget(tmp_path / "index")
    assert index(photos, other, tmp_path / "index").update().new == 10
    with pytest.raises(RepoError, match="no such folder"):
        index(photos / "nowhere", towers, tmp_path / "index")


def test_a_model_without_two_towers_is_refused() -> None:
    with pytest.raises(InputError, match="does not compare"):
        Towers(object(), object(), "something")


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_finds_and_draws(photos: Path, capsys: Capture, home: Path) -> None:
    assert main(["search", str(photos), "a red circle", "-n", "3", "--save", "sheet.png"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].split() == ["score", "picture"] and out.splitlines()[1].endswith("more/round.JPG")
    assert len(out.splitlines()) == 4
    assert "scenes-clip searches" in err and "8 pictures in the index (10 new)" in err
    assert "passed over cut.png:" in err and "passed over empty.jpg:" in err and "notes" not in err
    sheet = Image.open("sheet.png")
    assert sheet.width > 300 and sheet.height > 300
    assert any(abs(r - 230) < 40 and g < 60 and b < 70 for _, (r, g, b) in sheet.convert("RGB").getcolors(1 << 20))
    assert main(["search", str(photos), "--image", str(photos / "2.png"), "-n", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["results"][0]["picture"] == "2.png" and told["results"][0]["score"] > 0.999
    assert told["index"]["new"] == 0 and len(told["index"]["passed_over"]) == 2
    assert Path(told["index"]["place"]).parent == home / "omniform" / "search"
    assert main(["search", str(photos), "a red circle", "--flat", "--json"]) == 0
    assert "more/round.JPG" not in [one["picture"] for one in json.loads(capsys.readouterr().out)["results"]]
    assert main(["search", str(photos), "--index", "here"]) == 0
    assert "8 pictures in here" in capsys.readouterr().out and (Path("here") / "vectors-0.faiss").is_file()
    assert main(["search", str(photos), "a star", "--index", "here", "--again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index"]["new"] == 10


def test_a_contact_sheet_in_the_folder_is_none_of_its_pictures(photos: Path, capsys: Capture) -> None:
    sheet = photos / "sheet.png"
    for _ in range(2):
        assert main(["search", str(photos), "a red circle", "--save", str(sheet), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["index"]["pictures"] == 8 and sheet.is_file()
        assert "sheet.png" not in [one["picture"] for one in told["results"]]
    link = photos / "again.png"
    link.symlink_to(photos / "2.png")
    assert main(["search", str(photos), "a red circle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["index"]["pictures"] == 9


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a", "--image", "q.png"], "one of them"),
        (["a", "-n", "0"], "--top"),
        ([" "], "nothing to look for"),
        (["--json"], "nothing to look for"),
        (["a", "--save", "sheet.txt"], "sheet.txt"),
        (["--image", "nowhere.png"], "nowhere.png"),
    ],
)
def test_mistakes_are_one_line(photos: Path, capsys: Capture, given: list[str], words: str) -> None:
    assert main(["search", str(photos), *given]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


def test_folders_without_pictures_are_refused(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    for place, words in (("nowhere", "no such folder"), ("empty", "no pictures")):
        assert main(["search", place, "a red circle"]) == 2
        assert words in capsys.readouterr().err
