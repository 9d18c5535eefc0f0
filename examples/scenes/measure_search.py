"""Measure the bundled search checkpoint on scenes that training did not see, and write its card.

``python examples/scenes/measure_search.py DIR``. A pair is right only where nothing else is as good as it: ties count
as wrong. No two of the captions are the same; a scene whose caption there is already is drawn again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from captions import Query, Thing, caption, plain_caption, query
from draw import SHAPES, Scene
from PIL import Image
from torch import Tensor
from wider import FILLS, draw_other, draw_wider, picture

from omniform.search import Towers

PAIRS = 1000
SIDES = (96, 640)
OTHERS = 50
ASKED = 1000


@dataclass(frozen=True, slots=True)
class Pairs:
    """Scenes, their pictures, and a caption of each; no two captions are the same."""

    scenes: list[Scene]
    pictures: list[Image.Image]
    captions: list[str]


def unseen(count: int, seed: str = "unseen search", strong: float = 0.0) -> Pairs:
    """Pairs that no training draws, of 96 to 640 pixels at the shorter side; half of the pictures are damaged.

    Args:
        strong: see :func:`~wider.draw_wider`.
    """
    pairs = Pairs([], [], [])
    taken: set[str] = set()
    number = 0
    while len(pairs.scenes) < count:
        rng = random.Random(f"{seed} {number}")
        number += 1
        scene = draw_wider(rng, empty=0.0, strong=strong)
        text = plain_caption(scene)
        if text in taken:
            continue
        taken.add(text)
        pairs.scenes.append(scene)
        pairs.pictures.append(picture(rng, scene, SIDES))
        pairs.captions.append(text)
    return pairs


def recalls(similarities: Tensor) -> dict[str, float]:
    """How often the right one is the best, or among the best five, both ways. What is as good as it counts as better.

    Args:
        similarities: Shape: [pictures, texts]; those on the diagonal belong together.
    """
    own = similarities.diagonal()
    told = {}
    for name, dim in (("text", 1), ("image", 0)):
        better = (similarities >= own.unsqueeze(dim)).sum(dim) - 1
        told |= {f"{name}@{k}": (better < k).float().mean().item() for k in (1, 5)}
    return told


@dataclass(frozen=True, slots=True)
class Answers:
    """How queries of a kind were answered: how many, whether the best fits, and how many of as many as fit do."""

    asked: int
    first: float
    share: float


def answers(towers: Towers, image_NE: Tensor, scenes: Sequence[Scene], queries: Sequence[Query]) -> Answers:
    """Ask, and compare with what is true of the scenes; pictures behind those of the scenes never fit."""
    text_TE = torch.from_numpy(towers.texts([one.text for one in queries]))
    first, shares = [], []
    for scores, asked in zip(text_TE @ image_NE.T, queries, strict=True):
        fits = [asked.fits(scene) for scene in scenes]
        truth = torch.tensor([one is True for one in fits] + [False] * (len(scores) - len(fits)))
        doubtful = torch.tensor([one is None for one in fits] + [False] * (len(scores) - len(fits)))
        order = scores.masked_fill(doubtful, -2).argsort(descending=True)
        first.append(truth[order[0]].item())
        shares.append(truth[order[: int(truth.sum())]].float().mean().item())
    return Answers(len(queries), sum(first) / len(first), sum(shares) / len(shares))


def simple_queries(scenes: Sequence[Scene]) -> list[Query]:
    """Every colour with every shape that a scene has: "a red circle"."""
    found = []
    for colour in FILLS:
        for shape in SHAPES:
            name = f"{colour} {shape}"
            asked = Query(f"{'an' if name[0] in 'aeiou' else 'a'} {name}", (Thing(None, colour, shape),))
            if any(asked.fits(scene) for scene in scenes):
                found.append(asked)
    return found


def kinds(scenes: Sequence[Scene]) -> dict[str, list[Query]]:
    """Queries of every kind, as people may word them, each true of a scene."""
    rng = random.Random("unseen queries")
    asked = [query(rng, rng.choice(scenes)) for _ in range(ASKED)]
    found: dict[str, list[Query]] = {}
    for one in asked:
        kind = (
            "counted, such as \"two red stars\"" if one.count is not None
            else "alone, such as \"only a red circle\"" if one.alone
            else "with a background" if one.background is not None
            else "two shapes" if len(one.things) > 1
            else "with a place" if one.things[0].place is not None
            else "one shape, in words of many kinds"
        )  # fmt: skip
        found.setdefault(kind, []).append(one)
    return dict(sorted(found.items()))


CARD = """---
license: apache-2.0
library_name: omniform
pipeline_tag: zero-shot-image-classification
tags: [clip, synthetic]
---

# {name}

A very small CLIP that finds drawn scenes by words: {parameters:,} parameters, a vision tower and a text tower that meet
in a space of {shared} numbers. It comes with omniform, so that `omniform search` works out of the box, and was trained
by `examples/scenes/train_search.py` in about {minutes} minutes of one core's time; its vision tower began as the one of
`scenes-llava`, the model beside it. It is an ordinary checkpoint in the Hub's layout, which `transformers` loads as
well, with the same answers.

## What it knows

Up to six shapes that do not touch, on a plain background.

- Shapes: circle, square, triangle, star, cross, turned by up to 14 degrees, with or without a dark outline.
- Colours: red, orange, yellow, green, blue, purple, black, white, pink, gray, brown, in many shades.
- Sizes: small (11 to 20 % of the shorter side across) and large (25 % and more); what lies between is called neither.
- Places: nine cells of equal size, at most one shape in each.
- Backgrounds: white, gray, black, light blue, pink, and less often red, orange, yellow, green, blue, purple, brown,
  light green and light yellow; plain, shaded or grainy.
- Pictures of any size from 72 pixels on and of shapes up to 16:9. They are squeezed to 96 by 96 pixels.

Texts are captions that name every shape with size, colour and place, and the background; and short queries ("a red
circle", "two stars", "something blue at the top"). It has seen pictures without shapes, and puts them last.

## How well

Recall on 1,000 pairs that training did not see (other seeds, 96 to 640 pixels at the shorter side, half of the pictures
with grain, shading or JPEG artefacts). A caption is the scene in fixed words, such as

> {example}

No two of the 1,000 captions are the same: a scene whose caption there was already was drawn again. What is as good as
the right one counts as better than it.

| | recall@1 | recall@5 |
|---|---:|---:|
| text of a picture | {text1:.3f} | {text5:.3f} |
| picture of a text | {image1:.3f} | {image5:.3f} |

With captions in words of many kinds (synonyms, any order, equal shapes together; one in seven leaves out sizes, one in
seven the background): {text1_many:.3f} and {text5_many:.3f}, {image1_many:.3f} and {image5_many:.3f}.
With scenes on backgrounds of every colour, or with one shape as large as the picture, in fixed words:
{text1_strong:.3f} and {text5_strong:.3f}, {image1_strong:.3f} and {image5_strong:.3f}.

Short queries, on the same pictures and {others} without shapes. *First*: the best picture fits the query. *Share*: of
as many of the best pictures as fit in truth, so many do.

| Query | Asked | First | Share |
|---|---:|---:|---:|
{queries}

## What it does not know

Everything else. It has never seen a photograph or any other drawing. It tells which shapes there are better than how
many, and a query of two shapes finds pictures that have one of them, too.

## How to make it again

```
{commands}
python examples/scenes/measure_search.py DIR
```

The runs are seeded; the weights are stored as bfloat16 and computed in float32.
"""

COMMANDS = """\
python examples/scenes/train_search.py --out FIRST --steps 2600 --stop 750
python examples/scenes/train_search.py --out SECOND --begin FIRST --steps 1100 --seed 1 --queries 2 --cells 0.25 \\
    --asked 2 --few 6 --matrix-rate 0.012 --rate 0.001
python examples/scenes/train_search.py --out DIR --begin SECOND --steps 900 --seed 2 --queries 2 --cells 0.25 \\
    --asked 2 --few 6 --matrix-rate 0.008 --rate 0.0007 --strong 0.3"""


def vectors_of(towers: Towers, pairs: Pairs) -> Tensor:
    """The pictures' vectors. Shape: [pairs, E]."""
    some = [towers.pictures(pairs.pictures[at : at + 50]) for at in range(0, len(pairs.pictures), 50)]
    return torch.cat([torch.from_numpy(one) for one in some])


def measured(towers: Towers, pairs: Pairs) -> dict[str, object]:
    """The numbers of the card."""
    rng = random.Random("without shapes")
    image_NE, strong = vectors_of(towers, pairs), unseen(PAIRS, "unseen strong", strong=1.0)
    numbers: dict[str, object] = {}
    many = [caption(random.Random(f"words {at}"), scene).text for at, scene in enumerate(pairs.scenes)]
    compared = {"": (image_NE, pairs.captions), "_many": (image_NE, many)}
    compared["_strong"] = (vectors_of(towers, strong), strong.captions)
    for end, (images, texts) in compared.items():
        found = recalls(images @ torch.from_numpy(towers.texts(texts)).T)
        numbers |= {f"{name.replace('@', '')}{end}": value for name, value in found.items()}
    others = torch.from_numpy(towers.pictures([draw_other(rng, 128) for _ in range(OTHERS)]))
    asked = {'a colour and a shape, such as "a red circle"': simple_queries(pairs.scenes), **kinds(pairs.scenes)}
    rows = []
    for kind, queries in asked.items():
        told = answers(towers, torch.cat([image_NE, others]), pairs.scenes, queries)
        rows.append(f"| {kind} | {told.asked} | {told.first:.3f} | {told.share:.3f} |")
    return {**numbers, "queries": "\n".join(rows)}


def main() -> None:
    """Measure, print, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=int, default=30, help="how long training took")
    parser.add_argument("--name", default="scenes-clip")
    args = parser.parse_args()
    torch.set_num_threads(1)
    towers = Towers.load(str(args.folder), dtype="float32")
    pairs = unseen(PAIRS)
    numbers = measured(towers, pairs)
    model = towers.model
    assert isinstance(model, torch.nn.Module)
    card = CARD.format(
        name=args.name,
        parameters=sum(p.numel() for p in model.parameters()),
        shared=towers.print.shape[1],
        minutes=args.minutes,
        example=next(text for text in pairs.captions if text.count(",") == 3),
        others=OTHERS,
        commands=COMMANDS,
        **numbers,
    )
    (args.folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
