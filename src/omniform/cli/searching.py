"""What ``omniform search`` does: load, index, ask, print, draw."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.cli.loading import progress
from omniform.cli.pictures import WRITTEN, counting, readable
from omniform.cli.table import table
from omniform.cli.written import save_picture, target_of
from omniform.core.errors import InputError, OmniformError, RepoError
from omniform.hub.code.copies import hf_home
from omniform.inputs.images.load import load_image
from omniform.search.folder import Changes, Found, PictureIndex
from omniform.search.towers import Towers

if TYPE_CHECKING:
    from PIL.Image import Image

TOLD: Final = 20
"""So many pictures that cannot be read are named, one a line; of the rest it is told how many."""


def search_command(given: argparse.Namespace) -> int:
    """Bring the index up to date, then answer; mistakes are told before anybody waits."""
    started = time.perf_counter()
    image = _checked(given)
    target = None if given.save is None else target_of(given.save, WRITTEN, where="--save", what="a contact sheet")
    with progress(f"loading {given.model or 'the bundled model'}"):
        towers = Towers.load(given.model, dtype=given.dtype)
    if given.model is None:
        print(f"omniform: no --model: {towers.name} searches, which comes with omniform", file=sys.stderr, flush=True)
    place = _place(given, towers)
    if given.again:
        PictureIndex.forget(place)
    index = PictureIndex(given.folder, towers, place, deep=0 if given.flat else None, near=given.near)
    if target is not None:
        index.leave_out(target)  # it may lie in the folder, and is no picture of it
    loaded = time.perf_counter()
    changes = _updated(index)
    indexed = time.perf_counter()
    if not changes.pictures:
        raise InputError("there are no pictures in this folder", where=given.folder)
    if given.text is None and image is None:
        print(f"{changes.pictures} pictures in {place}")
        return 0
    found = index.find(text=given.text, image=image, k=given.top)
    answered = time.perf_counter()
    if target is not None:
        save_picture(_sheet(given.text or f"like {given.image}", found), target)
    if given.json:
        timings = {"load_s": loaded - started, "index_s": indexed - loaded, "answer_s": answered - indexed}
        print(json.dumps(_record(given, towers, place, changes, found, timings), ensure_ascii=False))
    else:
        rows = [{"score": one.score, "picture": readable(one.name)} for one in found]
        print("\n".join(table(rows)))
    return 0


def _checked(given: argparse.Namespace) -> Image | None:
    """The picture that is looked for; None for a text.

    Raises:
        InputError: text and picture are given; nothing is looked for, and a sheet of it; no number.
    """
    if given.text is not None and given.image is not None:
        raise InputError("a text and a picture are given", where="search", expected="one of them")
    if given.text is not None and not given.text.strip():
        raise InputError("there is nothing to look for", where="TEXT", expected="a text such as 'a red circle'")
    if given.text is None and given.image is None and (given.save is not None or given.json):
        raise InputError("there is nothing to look for", where="search", remedy="Add a text, or --image FILE.")
    if given.top < 1:
        raise InputError("nothing is wanted", where="--top", expected="at least 1", found=given.top)
    if not os.path.isdir(os.path.expanduser(given.folder)):
        raise RepoError("there is no such folder", where=given.folder)
    return None if given.image is None else load_image(given.image)


def _place(given: argparse.Namespace, towers: Towers) -> Path:
    """Where the index is: one for each folder, model and dtype."""
    if given.index is not None:
        return Path(given.index).expanduser()
    told = [os.path.realpath(os.path.expanduser(given.folder)), towers.name, towers.dtype, given.flat]
    if given.model is not None and os.path.isdir(os.path.expanduser(given.model)):
        told[1] = os.path.realpath(os.path.expanduser(given.model))
    name = hashlib.sha256(json.dumps(told).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return hf_home() / "omniform" / "search" / name


def _updated(index: PictureIndex) -> Changes:
    """Index what is new; say what changed, and name what cannot be read."""
    with counting() as told:
        changes = index.update(told)
    parts = [(changes.new, "new"), (changes.changed, "changed"), (changes.removed, "removed")]
    news = ", ".join(f"{count} {what}" for count, what in parts if count)
    if news:
        print(f"omniform: {changes.pictures} pictures in the index ({news})", file=sys.stderr)
    for name, error in list(changes.failed.items())[:TOLD]:
        print(f"omniform: passed over {readable(name)}: {error}", file=sys.stderr)
    if len(changes.failed) > TOLD:
        print(f"omniform: passed over {len(changes.failed) - TOLD} more", file=sys.stderr)
    return changes


def _record(
    given: argparse.Namespace,
    towers: Towers,
    place: Path,
    changes: Changes,
    found: Sequence[Found],
    timings: dict[str, float],
) -> dict[str, object]:
    asked = {"text": given.text} if given.text is not None else {"image": given.image}
    return {
        **asked,
        "model": towers.name,
        "results": [{"picture": readable(one.name), "score": round(one.score, 6)} for one in found],
        "index": {
            "place": str(place), "pictures": changes.pictures, "new": changes.new, "changed": changes.changed,
            "removed": changes.removed,
            "passed_over": [{"picture": readable(name), "error": error} for name, error in changes.failed.items()],
        },
        "timings": {name: round(seconds, 4) for name, seconds in timings.items()},
    }  # fmt: skip


def _sheet(title: str, found: Sequence[Found]) -> Image:
    from omniform.pipelines.drawing.sheet import Print, draw_sheet

    def shown(one: Found) -> Image | None:
        try:
            return load_image(one.path)
        except OmniformError:  # it was there a moment ago
            return None

    prints = (Print(shown(one), readable(one.name), f"{rank}. {one.score:.3f}") for rank, one in enumerate(found, 1))
    return draw_sheet(title, prints)
