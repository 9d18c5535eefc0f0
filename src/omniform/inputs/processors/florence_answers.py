"""What a Florence-2 writes, read: locations among words become boxes, corners and outlines in a picture's pixels.

A location is one of 1,000 equal parts of an edge, ``<loc_0>`` to ``<loc_999>``; the middle of that part is meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

import torch

Size = tuple[float, float]
"""A picture's width and height in pixels."""

BINS = 1000
LOCATION = re.compile(r"<loc_(\d+)>")
_BOX = re.compile(r"<loc_(\d+)>" * 4)
_LABEL = re.compile(r"^\s*(.*?)(?=<od>|</od>|<box>|</box>|<bbox>|</bbox>|<loc_)")
_OUTLINED = re.compile(r"^\s*(.*?)(?=<od>|</od>|<box>|</box>|<bbox>|</bbox>|<loc_|<poly>)")
_OUTLINE = re.compile(r"((?:<loc_\d+>)+)(?:<sep>|$)")
CORNERS = r"(.+?)" + r"<loc_(\d+)>" * 8
"""A text and the four corners that it stands between; checkpoints may have another."""


class Boxed(TypedDict):
    """A label and one box: left, top, right, bottom."""

    bbox: list[int]
    cat_name: str


class Grounded(TypedDict):
    """A phrase and the boxes of what it speaks of."""

    bbox: list[list[int]]
    cat_name: str


class Outlined(TypedDict):
    """A label and outlines, each as x, y, x, y..."""

    polygons: list[list[int]]
    cat_name: str


class Lettered(TypedDict):
    """A text and the corners that it stands between: x, y, x, y..."""

    quad_box: list[int]
    text: str


def pixels(locations: Sequence[int], size: Size) -> list[int]:
    """Locations on both axes by turns, as pixels."""
    places = torch.tensor(locations, device="cpu").view(-1, 2) + 0.5
    across, down = places[:, 0] * (size[0] / BINS), places[:, 1] * (size[1] / BINS)
    found: list[int] = torch.stack((across, down), 1).flatten().int().tolist()
    return found


def lettered(text: str, size: Size, pattern: str = CORNERS, least: float = 0.0) -> list[Lettered]:
    """Texts and their corners.

    Args:
        pattern: eight numbers behind a text, each a group.
        least: share of the picture below which a quadrilateral is left out.
    """
    found: list[Lettered] = []
    for content, *corners in re.findall(pattern, _bare(text)):
        quad = pixels([int(one) for one in corners], size)
        x, y = quad[0::2], quad[1::2]
        # As the ecosystem: the side from the last corner back to the first is not counted.
        area = 0.5 * abs(sum(x[i] * y[i + 1] - x[i + 1] * y[i] for i in range(3)))
        if least <= 0 or area >= size[0] * size[1] * least:
            found.append(Lettered(quad_box=quad, text=content.strip()))
    return found


def grounded(text: str, size: Size, banned: Sequence[str] = ()) -> list[Grounded]:
    """Phrases of a caption and what they speak of; ``banned`` ones, which speak of nothing, are left out."""
    found: list[Grounded] = []
    for part in _stretches(text, r"[^<]+(?:<loc_\d+>){4,}"):
        label, boxes = _label(part, _LABEL), list(_boxes(part, size))
        if label is not None and label not in banned and boxes:
            found.append(Grounded(bbox=boxes, cat_name=_plain(label)))
    return found


def boxed(text: str, size: Size, *, labelled: bool = True) -> list[Boxed]:
    """Labels and their boxes, one entry for each box; without labels where none are asked for."""
    found: list[Boxed] = []
    for part in _stretches(text, r"[^<]+(?:<loc_\d+>){4,}" if labelled else r"(?:<loc_\d+>){4,}"):
        label = _label(part, _LABEL)
        if label is not None:
            found += [Boxed(bbox=box, cat_name=_plain(label)) for box in _boxes(part, size)]
    return found


def outlined(text: str, size: Size, *, labelled: bool = True) -> list[Outlined]:
    """Labels and the outlines of each thing that they name."""
    marks = r"(?:<loc_\d+>|<sep>|<poly>|</poly>){4,}"
    found: list[Outlined] = []
    for part in _stretches(text, f"[^<]+{marks}" if labelled else marks, ornaments=()):
        label = _label(re.sub(r"^<loc_\d+>", "", part, count=1), _OUTLINED)
        if label is None:
            continue
        whole = "<poly>" in part and "</poly>" in part
        for thing in re.findall(r"<poly>(.*?)</poly>", part) if whole else [part]:
            outlines = [_even(LOCATION.findall(m.group(1))) for m in _OUTLINE.finditer(thing)]
            if outlines:
                found.append(Outlined(cat_name=label, polygons=[pixels(one, size) for one in outlines]))
    return found


def _bare(text: str) -> str:
    return text.replace("<s>", "").replace("</s>", "").replace("<pad>", "")


def _stretches(text: str, pattern: str, ornaments: Sequence[str] = ("<ground>", "<obj>")) -> Iterator[str]:
    """Stretches of a text that hold locations, without what is written around them."""
    for match in re.finditer(pattern, _bare(text)):
        part = match.group()
        for one in ornaments:
            part = part.replace(one, "", 1)
        yield part


def _label(part: str, pattern: re.Pattern[str]) -> str | None:
    match = pattern.search(part)
    return None if match is None else match.group().strip()


def _boxes(part: str, size: Size) -> Iterator[list[int]]:
    for match in _BOX.finditer(part):
        yield pixels([int(one) for one in match.groups()], size)


def _even(locations: Sequence[str]) -> list[int]:
    return [int(one) for one in locations[: len(locations) // 2 * 2]]


def _plain(label: str) -> str:
    return label.encode("ascii", "ignore").decode("ascii")


def answer_of(kind: str, text: str, size: Size, config: Mapping[str, Mapping[str, object]]) -> object:
    """What a text says, as ``post_process_generation`` gives it.

    Args:
        kind: of answer, in the words of checkpoints: ``"pure_text"``, ``"ocr"``, ``"polygons"``...
        config: what a checkpoint changes of it, by kind.
    """
    own = config.get(kind) or {}
    if kind == "pure_text":
        return text.replace("<s>", "").replace("</s>", "").strip()
    if kind == "ocr":
        pattern, least = own.get("PATTERN"), own.get("AREA_THRESHOLD", 0.0)
        letters = lettered(text, size, CORNERS if pattern is None else str(pattern), float(str(least)))
        return {"quad_boxes": [one["quad_box"] for one in letters], "labels": [one["text"] for one in letters]}
    if kind == "phrase_grounding":
        banned = own.get("banned_grounding_tokens", ())
        phrases = grounded(text, size, banned if isinstance(banned, (list, tuple)) else ())
        pairs = [(box, one["cat_name"]) for one in phrases for box in one["bbox"]]
        return {"bboxes": [box for box, _ in pairs], "labels": [label for _, label in pairs]}
    if kind == "polygons":
        return _outlines(outlined(text, size, labelled=False), "polygons", "labels")
    if kind == "description_with_bboxes_or_polygons":
        things = outlined(text, size) if "<poly>" in text else []
        boxes = [] if "<poly>" in text else boxed(text, size)
        return {**_boxed(boxes, "bboxes_labels"), **_outlines(things, "polygons", "polygons_labels")}
    return _boxed(boxed(text, size, labelled=kind != "bboxes"), "labels")


def _boxed(found: Sequence[Boxed], labels: str) -> dict[str, object]:
    return {"bboxes": [one["bbox"] for one in found], labels: [one["cat_name"] for one in found]}


def _outlines(found: Sequence[Outlined], name: str, labels: str) -> dict[str, object]:
    return {name: [one["polygons"] for one in found], labels: [one["cat_name"] for one in found]}
