"""``omniform run --task ... --image ...``: answers about one picture, or about a folder of them, printed and drawn."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from omniform import __version__
from omniform.cli.journal import Journal, Record
from omniform.cli.table import table
from omniform.cli.written import save_picture
from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.hub.code.copies import hf_home
from omniform.inputs.images.load import ENDINGS, load_image
from omniform.pipelines.seeing import Cell, Seeing

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image

WRITTEN: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""What a drawing may be written as."""

RESULTS: Final = "results.jsonl"
"""Beside the drawings of a folder: what is done."""

FAILED: Final = 1
"""The exit code of a run some of whose pictures could not be answered."""


class Form(StrEnum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Shown(StrEnum):
    """What is drawn."""

    ANSWER = "answer"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What becomes of answers.

    Attributes:
        form: how they are printed.
        save: where they are drawn: a file for one picture, a folder for several; None for nowhere.
        shown: what is drawn.
        recursive: whether folders within folders are looked through.
        again: whether what an earlier run has done is done anew.
    """

    form: Form = Form.TABLE
    save: str | None = None
    shown: Shown = Shown.ANSWER
    recursive: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A picture.

    Attributes:
        name: what it is called in the results.
        path: where it is.
        drawn: the file of its drawing, in the folder for those.
    """

    name: str
    path: str
    drawn: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which pictures are to be answered, and where drawings go, found out before anybody waits.

    Attributes:
        sources: the pictures.
        single: whether one picture was asked about, not a folder or several.
        target: the file or the folder for drawings.
        place: the folder that was asked about, or the pictures' names.
    """

    sources: Sequence[Source]
    single: bool
    target: Path | None
    place: str

    @classmethod
    def of(cls, images: Sequence[str], showing: Showing) -> Plan:
        """The plan for what ``--image`` and ``--save`` say.

        Raises:
            RepoError: a file or folder is not there.
            InputError: a folder without pictures; no kind of picture to save as.
        """
        if not images:
            raise InputError("there is no picture", where="--image", expected="a file or a folder")
        save = None if showing.save is None else Path(os.path.expanduser(showing.save))
        found = [source for image in images for source in _sources(image, showing, save, alone=len(images) == 1)]
        sources = _apart({source.name: source for source in found}.values())
        single = len(images) == 1 and not os.path.isdir(os.path.expanduser(images[0]))
        target = None if save is None else _target(save, sources[0]) if single else _folder(save)
        _check_apart(sources, images, target, single=single)
        return cls(sources, single, target, os.path.abspath(images[0]) if len(images) == 1 else "\n".join(images))


def answer_pictures(
    plan: Plan, pipe: Seeing, settings: Mapping[str, object], showing: Showing, *, model: str, load_seconds: float
) -> int:
    """Answer, print and draw; the exit code.

    Args:
        settings: the task's options.
        model: what the model is called in the results.
        load_seconds: how long loading took.
    """
    pipe.check(settings)
    if plan.target is not None:
        check_shown(pipe, showing.shown)
    if plan.single:
        return _one(plan, pipe, settings, showing, model, load_seconds)
    return _many(plan, pipe, settings, showing, model)


def check_shown(pipe: Seeing, shown: Shown) -> None:
    """Refuse to draw what no picture of this task or model can be.

    Raises:
        InputError: the task's answers are not drawn, or the model gives no attention.
    """
    if shown is Shown.ANSWER:
        pipe.check_drawn()
        return
    from omniform.pipelines.attending import check_attends

    check_attends(pipe)


def _one(
    plan: Plan, pipe: Seeing, settings: Mapping[str, object], showing: Showing, model: str, load_seconds: float
) -> int:
    started = time.perf_counter()
    (source,) = plan.sources
    picture = load_image(source.path)
    answer = pipe(picture, **settings)
    seconds = time.perf_counter() - started
    if plan.target is not None:
        _save(_drawn(pipe, picture, answer, settings, showing.shown), plan.target)
    if showing.form is Form.JSON:
        record: Record = {"task": pipe.task, "model": model, "answer": pipe.plain(answer)}
        if plan.target is not None:
            record["saved"] = str(plan.target)
        print(json.dumps({**record, "timings": {"load_s": round(load_seconds, 4), "answer_s": round(seconds, 4)}},
                         ensure_ascii=False))  # fmt: skip
    elif showing.form is Form.CSV:
        print(_csv_line(pipe.columns))
        for row in pipe.rows(answer):
            print(_csv_line([row[name] for name in pipe.columns]))
    else:
        rows = pipe.rows(answer)
        print("\n".join(table(rows)) if rows else "nothing found")
    return 0


def _many(plan: Plan, pipe: Seeing, settings: Mapping[str, object], showing: Showing, model: str) -> int:
    plain = json.loads(json.dumps(settings, default=str))
    about = {
        "task": pipe.task, "model": model, "omniform": __version__, "dtype": str(pipe.dtype), "settings": plain,
        "shown": showing.shown.value if plan.target is not None else None,
    }  # fmt: skip
    journal = Journal(_results(plan, about), about, again=showing.again)
    printer = _Printer(pipe.columns, showing.form)
    failed = 0
    finished = False
    try:
        waiting = [source for source in plan.sources if not _is_done(journal.done.get(source.name), source, plan)]
        with _bar(len(plan.sources), len(plan.sources) - len(waiting)) as advance:
            left = {source.name for source in waiting}
            for source in plan.sources:
                if source.name in left:
                    journal.add(source.name, _answered(source, plan, pipe, settings, showing))
                    advance()
                record = journal.done[source.name]
                failed += "error" in record
                printer.line(source.name, record)
        finished = True
    finally:
        journal.close(keep=plan.target is not None or not finished)
    printer.end()
    if failed:
        print(f"omniform: {failed} of {len(plan.sources)} pictures could not be answered", file=sys.stderr)
    return FAILED if failed else 0


def _answered(
    source: Source, plan: Plan, pipe: Seeing, settings: Mapping[str, object], showing: Showing
) -> Mapping[str, object]:
    """The record of one picture: its answer, or what went wrong with it."""
    try:
        stamp = _stamp(source.path)
        picture = load_image(source.path)
        answer = pipe(picture, **settings)
        record: Record = {"stamp": stamp, "answer": pipe.plain(answer), "rows": pipe.rows(answer)}
        if plan.target is not None:
            _save(_drawn(pipe, picture, answer, settings, showing.shown), plan.target / source.drawn)
            record["saved"] = source.drawn
    except OmniformError as error:
        return {"error": " ".join(str(error).split())}
    except (OSError, RuntimeError, MemoryError, ValueError) as error:  # out of memory, out of room: the next may fit
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}
    return record


def _is_done(record: Record | None, source: Source, plan: Plan) -> bool:
    """Whether a picture was answered, has not changed since, and its drawing is there."""
    if record is None or "error" in record or record.get("stamp") != _stamp(source.path):
        return False
    return plan.target is None or (plan.target / str(record.get("saved"))).is_file()


def _stamp(path: str) -> str | None:
    """What tells whether a file has changed: its size and when it was written; None of an address."""
    try:
        told = os.stat(os.path.expanduser(path))
    except (OSError, ValueError):
        return None
    return f"{told.st_size}-{told.st_mtime_ns}"


def _drawn(pipe: Seeing, picture: Image, answer: object, settings: Mapping[str, object], shown: Shown) -> Image:
    if shown is Shown.ANSWER:
        return pipe.draw(picture, answer)
    from omniform.pipelines.attending import attention_over
    from omniform.pipelines.drawing import draw_attention

    looked = attention_over(pipe, picture, settings)
    return draw_attention(looked.picture, looked.weights)


def _sources(image: str, showing: Showing, save: Path | None, *, alone: bool) -> Iterator[Source]:
    """The picture that is named, or those of the folder that is."""
    folder = Path(os.path.expanduser(image))
    if "://" in image or image.startswith("data:"):
        yield Source(image if len(image) <= 200 else f"{image[:60]}...", image, "picture")
    elif folder.is_dir():
        files = sorted(_files(folder, showing.recursive, save), key=_counted)
        if not files:
            remedy = None if showing.recursive else "--recursive looks into the folders in it, too."
            expected = " ".join(ENDINGS[:8]) + " ..."
            raise InputError("there are no pictures in this folder", where=image, expected=expected, remedy=remedy)
        for file in files:
            name = file.relative_to(folder).as_posix()
            called = name if alone else f"{image.rstrip('/')}/{name}"
            yield Source(readable(called), str(file), readable(os.path.splitext(name)[0]))
    elif folder.is_file():
        yield Source(readable(image), str(folder), readable(folder.stem))
    else:
        raise RepoError("no such file", where=image)


def _check_apart(sources: Sequence[Source], images: Sequence[str], target: Path | None, *, single: bool) -> None:
    """Refuse drawings that would take their pictures' places, or be taken for pictures of the folder later.

    Raises:
        InputError: they would.
    """
    if target is None:
        return
    read = {os.path.realpath(source.path) for source in sources}
    read |= {os.path.realpath(os.path.expanduser(image)) for image in images}
    written = [target] if single else [target, *(target / source.drawn for source in sources)]
    taken = next((place for place in written if os.path.realpath(place) in read), None)
    if taken is not None:
        raise InputError(
            "drawings would stand among the pictures, or in their place", where="--save", found=str(taken),
            remedy="Name another place.",
        )  # fmt: skip


def _counted(file: Path) -> list[tuple[int, str]]:
    """What files are sorted by: their names, with numbers in them as numbers."""
    parts = re.split(r"(\d+)", file.as_posix())
    return [(int(part[:18]) if part.isdecimal() and part.isascii() else -1, part) for part in parts]


def readable(name: str) -> str:
    """A file's name as text, also where its bytes are none."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _apart(sources: Iterable[Source]) -> list[Source]:
    """The same, drawn into files of names that differ in more than their letters' size."""
    taken: set[str] = {os.path.splitext(RESULTS)[0]}
    found = []
    for source in sources:
        stem, number = source.drawn, 1
        while stem.lower() in taken:
            number += 1
            stem = f"{source.drawn}-{number}"
        taken.add(stem.lower())
        found.append(replace(source, drawn=f"{stem}.png"))
    return found


def _files(folder: Path, recursive: bool, save: Path | None) -> Iterator[Path]:
    """A folder's pictures; not those that are drawn into it."""
    own = None if save is None else os.path.realpath(save)
    for place, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders
            if recursive and not name.startswith(".") and os.path.realpath(os.path.join(place, name)) != own
        ]  # fmt: skip
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in ENDINGS:
                yield Path(place, name)


def _target(save: Path, source: Source) -> Path:
    """The file for one drawing.

    Raises:
        InputError: its ending is no kind of picture.
        RepoError: its folder is not there.
    """
    if save.is_dir():
        save = save / source.drawn
    if save.suffix.lower() not in WRITTEN:
        raise InputError(
            "no kind of picture to save", where="--save", expected=f"a file {', '.join(WRITTEN)}", found=str(save)
        )
    if not save.parent.is_dir():
        raise RepoError("there is no such folder", where=str(save.parent))
    return save


def _folder(save: Path) -> Path:
    """The folder for the drawings of several pictures, made where it is not there."""
    if save.suffix.lower() in WRITTEN and not save.is_dir():
        raise InputError("several pictures are drawn into a folder", where="--save", found=str(save))
    try:
        save.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError("the folder cannot be made", where=str(save), found=error.strerror) from None
    return save


def _results(plan: Plan, about: Mapping[str, object]) -> Path:
    """Where it is noted what is done: beside the drawings, else in omniform's own folder until all is done."""
    if plan.target is not None:
        return plan.target / RESULTS
    told = json.dumps([plan.place, about], sort_keys=True).encode("utf-8", "surrogatepass")
    folder = hf_home() / "omniform" / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError("the folder cannot be made", where=str(folder), found=error.strerror,
                        remedy="Set HF_HOME to a folder of yours, or pass --save FOLDER.") from None  # fmt: skip
    return folder / f"{hashlib.sha256(told).hexdigest()[:24]}.jsonl"


def _save(drawing: Image, target: Path) -> None:
    """Write a drawing, in a folder that is made where it is not there.

    Raises:
        RepoError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepoError("the drawing cannot be written", where=str(target), found=str(error)) from None
    save_picture(drawing, target)


class _Printer:
    """Prints the answers of several pictures: JSON and CSV as they come, a table when all are there."""

    def __init__(self, columns: Sequence[str], form: Form) -> None:
        self._columns, self._form = ("picture", *columns, "error"), form
        self._rows: list[Mapping[str, object]] = []
        if form is Form.CSV:
            print(_csv_line(self._columns))

    def line(self, name: str, record: Mapping[str, object]) -> None:
        """What became of one picture."""
        if self._form is Form.JSON:
            told = {key: record[key] for key in ("answer", "saved", "error") if key in record}
            print(json.dumps({"picture": name, **told}, ensure_ascii=False), flush=True)
            return
        found = cast("list[Mapping[str, Cell]]", record.get("rows", []))
        rows: list[Mapping[str, object]] = [{"picture": name, **row} for row in found]
        rows = rows or [{"picture": name, "error": record.get("error")}]
        if self._form is Form.CSV:
            for row in rows:
                print(_csv_line([row.get(column) for column in self._columns]), flush=True)
        else:
            self._rows += rows

    def end(self) -> None:
        """All were told."""
        if self._form is Form.TABLE:
            used = [name for name in self._columns if any(row.get(name) is not None for row in self._rows)]
            print("\n".join(table([{name: row.get(name) for name in used} for row in self._rows])))


def _csv_line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


@contextmanager
def _bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal that says how far a run has come, if there is a terminal and rich is installed."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb" or find_spec("rich") is None:
        if done:
            print(f"omniform: {done} of {total} pictures are done already", file=sys.stderr)
        yield _nothing
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    # Lines for people pass above the bar; those for a file or a program are left alone.
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("pictures", total=total, completed=done)
        yield lambda: progress.advance(task)


@contextmanager
def counting() -> Iterator[Callable[[int, int], None]]:
    """The same for what is told from time to time: how many pictures are done, and of how many."""
    bars: list[Callable[[], None]] = []
    with ExitStack() as stack:
        shown = 0

        def told(done: int, total: int) -> None:
            nonlocal shown
            if not bars:
                bars.append(stack.enter_context(_bar(total, 0)))
            for _ in range(done - shown):
                bars[0]()
            shown = done

        yield told


def _nothing() -> None:
    """Where no bar is drawn."""
