"""``omniform run --task ... --image ...``: one picture and folders, printed and drawn, cut off and gone on with."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "pipelines"))

from seen import clip, detr, picture, vit

from omniform import pipeline
from omniform.cli import pictures as command
from omniform.cli.main import main
from omniform.core.errors import InputError
from omniform.hub import bundled
from omniform.pipelines.attending import attention_over

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    """What the reference's packages print when they are imported is no output of a command."""
    vit()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures, one of them cut off and one in a folder of its own, and a file that is none."""
    place = tmp_path / "photos"
    (place / "more").mkdir(parents=True)
    picture(60, 40, 1).save(place / "a.png")
    picture(60, 40, 2).save(place / "a.jpg")
    picture(50, 50, 3).save(place / "more" / "c.PNG")
    (place / "bad.png").write_bytes((place / "a.png").read_bytes()[:300])
    (place / "notes.txt").write_text("no picture")
    return place


def run(task: str, checkpoint: Path, image: Path, *more: str) -> int:
    return main(["run", "--task", task, "-m", str(checkpoint), "--image", str(image), *more])


LOW = ("--set", "threshold=0.05")


def test_one_picture_is_told_and_drawn(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    image = folder / "a.png"
    expected = pipeline("object-detection", detr())(str(image), threshold=0.05)
    capsys.readouterr()
    assert expected and run("object-detection", detr(), image, *LOW) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["label", "score", "xmin", "ymin", "xmax", "ymax"] and len(lines) == 1 + len(expected)
    assert run("object-detection", detr(), image, *LOW, "--json", "--save", "out.png") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == expected and told["saved"] == "out.png" and told["task"] == "object-detection"
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.mode == "RGB" and drawn.width == 540
    assert run("object-detection", detr(), image, *LOW, "--csv") == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [int(row["xmax"]) for row in rows] == [one["box"]["xmax"] for one in expected]
    assert run("object-detection", detr(), image, "--set", "threshold=1.0") == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize("ending", ["jpg", "webp", "bmp", "tiff"])
def test_drawings_are_of_the_kind_that_their_ending_says(folder: Path, ending: str) -> None:
    assert run("image-classification", vit(), folder / "a.png", "--save", f"out.{ending}") == 0
    with Image.open(f"out.{ending}") as drawn:
        assert drawn.format == {"jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tiff": "TIFF"}[ending]


def test_every_task_is_told_and_drawn(folder: Path, capsys: Capture) -> None:
    image = folder / "a.png"
    for task, checkpoint, more, column in (
        ("image-classification", vit(), ["--set", "top_k=2"], "label"),
        ("image-segmentation", detr("ForSegmentation"), ["--set", "subtask=semantic"], "share"),
        ("zero-shot-image-classification", clip(), ["--text", "a cat, a dog"], "score"),
    ):
        capsys.readouterr()
        assert run(task, checkpoint, image, *more, "--save", f"{task}.png") == 0
        assert column in capsys.readouterr().out.splitlines()[0].split()
        assert Image.open(f"{task}.png").width == 540
    assert run("image-segmentation", detr("ForSegmentation"), image, "--json", "--set", "subtask=semantic") == 0
    first = json.loads(capsys.readouterr().out)["answer"][0]
    assert first["mask"]["size"] == [40, 60] and sum(first["mask"]["counts"]) == 2400
    assert run("image-feature-extraction", vit("Model"), image, "--json", "--set", "pool=true") == 0
    assert np.array(json.loads(capsys.readouterr().out)["answer"]).shape == (1, 16)


def test_a_folder_is_a_table_with_its_faults(folder: Path, home: Path, capsys: Capture) -> None:
    assert run("image-classification", vit(), folder, "--json", "--recursive", "--set", "top_k=1") == 1
    said = capsys.readouterr()
    told = [json.loads(line) for line in said.out.splitlines()]
    assert [one["picture"] for one in told] == ["a.jpg", "a.png", "bad.png", "more/c.PNG"]
    assert "damaged" in told[2]["error"] and "answer" not in told[2]
    assert said.err == "omniform: 1 of 4 pictures could not be answered\n"
    expected = pipeline("image-classification", vit(), top_k=1)(str(folder / "a.png"))
    assert told[1]["answer"] == expected and not [*(home / "omniform" / "runs").iterdir()]
    (folder / "bad.png").unlink()
    assert run("image-classification", vit(), folder, "--csv", "--set", "top_k=1") == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [row["picture"] for row in rows] == ["a.jpg", "a.png"] and rows[1]["label"] == expected[0]["label"]
    assert rows[0]["error"] == ""
    assert run("image-classification", vit(), folder, "--set", "top_k=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["picture", "label", "score"] and len(lines) == 3


class Counted:
    """Counts what a pipeline is asked, and breaks off when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.until = 0, 99
        answered = command._answered

        def counted(*given: object) -> object:
            if self.asked == self.until:
                raise KeyboardInterrupt
            self.asked += 1
            return answered(*given)

        monkeypatch.setattr(command, "_answered", counted)


@pytest.mark.parametrize("save", [(), ("--save", "drawn")], ids=["told", "drawn"])
def test_a_run_goes_on_where_it_was_cut_off(
    folder: Path, home: Path, save: tuple[str, ...], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "bad.png").unlink()
    counted = Counted(monkeypatch)
    call = ("--recursive", "--json", "--set", "top_k=1", *save)
    counted.until = 2
    assert run("image-classification", vit(), folder, *call) == 130
    begun = capsys.readouterr().out
    assert len(begun.splitlines()) == 2
    (journal,) = [*Path("drawn").glob("*.jsonl")] if save else [*(home / "omniform" / "runs").iterdir()]
    with journal.open("ab") as file:
        file.write(b'{"name": "more/c.PNG", "ans')  # cut off in the midst of a line
    counted.until = 99
    assert run("image-classification", vit(), folder, *call) == 0
    said = capsys.readouterr()
    assert counted.asked == 3 and said.out.startswith(begun) and len(said.out.splitlines()) == 3
    assert said.err == "omniform: 2 of 3 pictures are done already\n"
    # All is done: what was drawn stays done, until a picture changes, a drawing goes, or all is asked for anew.
    run("image-classification", vit(), folder, *call)
    assert counted.asked == (3 if save else 6)
    if save:
        assert sorted(p.relative_to("drawn").as_posix() for p in Path("drawn").rglob("*.png")) == [
            "a-2.png", "a.png", "more/c.png"]  # fmt: skip
        picture(60, 40, 9).save(folder / "a.png")
        Path("drawn/more/c.png").unlink()
        run("image-classification", vit(), folder, *call)
        assert counted.asked == 5
        run("image-classification", vit(), folder, *call, "--again")
        assert counted.asked == 8 and len(journal.read_text().splitlines()) == 4


def test_results_that_were_made_otherwise_are_not_gone_on_with(folder: Path, capsys: Capture) -> None:
    assert run("image-classification", vit(), folder, "--save", "drawn") == 1
    capsys.readouterr()
    assert run("image-classification", vit(), folder, "--save", "drawn", "--set", "top_k=1") == 2
    assert "--again" in capsys.readouterr().err
    Path("drawn/results.jsonl").write_text("not a run\n")
    assert run("image-classification", vit(), folder, "--save", "drawn") == 2
    assert "holds no results" in capsys.readouterr().err


def test_numbers_in_names_count(tmp_path: Path) -> None:
    for name in ("b2.png", "b10.png", "a.png", "b1.png"):
        picture(8, 8).save(tmp_path / name)
    plan = command.Plan.of([str(tmp_path)], command.Showing())
    assert [one.name for one in plan.sources] == ["a.png", "b1.png", "b2.png", "b10.png"]


def test_several_files_and_drawings_within_the_folder(folder: Path, capsys: Capture) -> None:
    more = str(folder / "more" / "c.PNG")
    assert run("image-classification", vit(), folder / "a.png", "--image", more, "--json", "--save", "drawn") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["picture"] for one in told] == [str(folder / "a.png"), more]
    assert [one["saved"] for one in told] == ["a.png", "c.png"]
    (folder / "bad.png").unlink()
    inside = ("--save", str(folder / "drawn"), "--recursive", "--json")
    for _ in range(2):  # what is drawn is no picture of the folder
        assert run("image-classification", vit(), folder, *inside) == 0
        assert len(capsys.readouterr().out.splitlines()) == 3


def test_no_drawing_takes_a_pictures_place(folder: Path, capsys: Capture) -> None:
    (folder / "bad.png").unlink()
    before = (folder / "a.png").read_bytes()
    image = folder / "a.png"
    for call in (
        (image, "--save", str(image)), (image, "--save", str(folder)), (folder, "--save", str(folder)),
        (image, "--image", str(folder / "more" / "c.PNG"), "--save", str(folder)),
    ):  # fmt: skip
        assert run("image-classification", vit(), *call) == 2
        assert "in their place" in capsys.readouterr().err
    assert (folder / "a.png").read_bytes() == before
    os.symlink(folder, "again")
    assert run("image-classification", vit(), folder, "--save", "again") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names as text")
def test_names_that_are_no_text(folder: Path, capsys: Capture) -> None:
    os.rename(os.fsencode(folder / "a.png"), os.fsencode(folder) + b"/\xff.png")
    (folder / "bad.png").unlink()
    assert run("image-classification", vit(), folder, "--json", "--save", "drawn") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["picture"] for one in told] == ["a.jpg", "\\xff.png"] and Path("drawn", "\\xff.png").is_file()


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    image = str(folder / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    classify = ["--task", "image-classification", "-m", str(vit())]
    for call, words in (
        ([*classify], "there is no picture"),
        ([*classify, "--image", "nowhere.png"], "no such file"),
        ([*classify, "--image", "empty"], "no pictures in this folder"),
        ([*classify, "--image", image, "--json", "--csv"], "exclude each other"),
        ([*classify, "--image", image, "--save", "out.txt"], "no kind of picture"),
        ([*classify, "--image", image, "--save", "nowhere/out.png"], "no such folder"),
        ([*classify, "--image", image, "--show", "attention"], "--save"),
        ([*classify, "--image", str(folder), "--save", "out.png"], "into a folder"),
        ([*classify, "--image", str(folder), "--save", "file/out"], "cannot be made"),
        ([*classify, "--image", str(folder), "--set", "topk=1"], "top_k"),
        ([*classify, "--image", str(folder / "bad.png")], "damaged"),
        (["--task", "depth-estimation", "--image", image], "which model"),
        (["--task", "text-classification", "--save", "out.png", "-t", "a"], "pictures"),
        (["--task", "zero-shot-image-classification", "-m", str(clip()), "--image", image], "no labels"),
        (["--image", image, "--csv", "-t", "a"], "--task"),
        ([*classify, "--image", image, "--text", "a cat"], "reads no text"),
        (["--task", "image-feature-extraction", "-m", str(vit()), "--image", image, "--save", "o.png"], "not drawn"),
        (["--task", "image-feature-extraction", "-m", str(vit()), "--image", str(folder), "--save", "o"], "not drawn"),
    ):
        assert main(["run", *call]) == 2, call
        said = capsys.readouterr()
        assert words in said.err and said.err.count("\n") == 1 and said.out == "", (call, said)


def test_where_a_model_looks(folder: Path, capsys: Capture) -> None:
    image = Image.open(folder / "a.png").convert("RGB")
    for task, checkpoint, grid, given in (
        ("image-classification", vit(), (3, 3), {}),
        ("object-detection", detr(), (2, 3), {}),
        ("zero-shot-image-classification", clip(), (4, 4), {"candidate_labels": ["a", "b"]}),
    ):
        pipe = pipeline(task, checkpoint)
        looked = attention_over(pipe, image, given)
        assert looked.weights.shape == grid and (looked.weights >= 0).all() and 0 < looked.weights.sum() <= 1.0001
    assert looked.picture.size == (32, 32)  # what CLIP's processor cut out
    model = pipeline("image-classification", vit())
    inputs = model.image_processor(images=[image], return_tensors="pt")
    last = model.model(**inputs, output_attentions=True).attentions[-1]
    expected = last[0].mean(0)[0, 1:].reshape(3, 3).detach().numpy()
    assert np.allclose(attention_over(model, image, {}).weights, expected, atol=1e-6)
    assert run("image-classification", vit(), folder / "a.png", "--show", "attention", "--save", "look.png") == 0
    assert Image.open("look.png").height > 360


def test_a_checkpoint_that_comes_with_the_package_is_the_default(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets = tmp_path / "assets"
    assets.mkdir()
    os.symlink(detr(), assets / "scenes-detr")
    os.symlink(bundled.bundled_checkpoint(), assets / "scenes-llava")
    monkeypatch.setattr(bundled, "ASSETS", assets)
    assert [one.name for one in bundled.bundled_checkpoints()] == ["scenes-llava", "scenes-detr"]
    assert main(["run", "--task", "object-detection", "--image", str(folder / "a.png"), *LOW]) == 0
    said = capsys.readouterr()
    assert said.err == "omniform: no --model: scenes-detr answers, which comes with omniform\n"
    with pytest.raises(InputError, match="which model"):
        pipeline("depth-estimation")
