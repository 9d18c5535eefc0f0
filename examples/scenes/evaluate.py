"""Ask a checkpoint about unseen scenes and write its model card: ``python examples/scenes/evaluate.py DIR``.

Every scene is a picture of its own size, read through the checkpoint's own processor, and gets one question of every
kind that it allows. An answer counts if it is the expected one to the letter.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from draw import draw_finish, draw_scene, render
from PIL import Image
from questions import KINDS, ask

from omniform import AutoModelForImageTextToText, AutoProcessor

SIDES = (96, 640)
TOGETHER = 8


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a picture, and the only answer that counts."""

    kind: str
    picture: Image.Image
    clean: bool
    text: str
    answer: str


def unseen(number: int) -> list[Question]:
    """The questions about unseen scene ``number``: training draws from other seeds."""
    rng = random.Random(f"unseen {number}")
    scene = draw_scene(rng)
    finish = draw_finish(rng, SIDES)
    picture = render(scene, finish, rng)
    clean = not (finish.noise or finish.shade or finish.quality)
    pairs = ((kind, ask(rng, scene, kind)) for kind in KINDS)
    return [Question(kind, picture, clean, *pair) for kind, pair in pairs if pair]


class Answerer:
    """A checkpoint that answers questions about pictures."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder)
        self.processor = AutoProcessor.from_pretrained(folder)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        """The answers, greedily."""
        prompts = [self.processor.apply_chat_template(_message(q.text), add_generation_prompt=True) for q in questions]
        inputs = self.processor(images=[q.picture for q in questions], text=prompts, padding=True, return_tensors="pt")
        output = self.model.generate(**inputs, max_new_tokens=96, do_sample=False)
        answers = output[:, inputs["input_ids"].shape[1] :]
        return [self.processor.decode(row, skip_special_tokens=True) for row in answers]


def _message(text: str) -> list[dict[str, object]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def evaluate(answerer: Answerer, scenes: int) -> Iterator[tuple[Question, str]]:
    """Every question about the first ``scenes`` unseen scenes, and what was answered."""
    for start in range(0, scenes, TOGETHER):
        asked = [q for number in range(start, min(start + TOGETHER, scenes)) for q in unseen(number)]
        # Long answers together, so that short ones need not wait for them.
        for group in ([q for q in asked if q.kind != "describe"], [q for q in asked if q.kind == "describe"]):
            yield from zip(group, answerer(group), strict=True)


def table(results: Sequence[tuple[Question, str]]) -> str:
    """Exact matches per kind of question, as Markdown."""
    asked = Counter(q.kind for q, _ in results)
    right = Counter(q.kind for q, answer in results if answer == q.answer)
    sample = {q.kind: q for q, _ in reversed(results)}
    rows = ["| Kind | Example | Answer | Asked | Right |", "|---|---|---|---:|---:|"]
    for kind in (kind for kind in KINDS if kind in sample):
        q = sample[kind]
        rows.append(f"| {kind} | {q.text} | {q.answer} | {asked[kind]} | {right[kind] / asked[kind]:.1%} |")
    rows.append(f"| **all** | | | **{len(results)}** | **{_share(results):.1%}** |")
    return "\n".join(rows)


def _share(results: Sequence[tuple[Question, str]]) -> float:
    return sum(answer == q.answer for q, answer in results) / max(1, len(results))


CARD = """\
---
license: apache-2.0
library_name: omniform
pipeline_tag: image-text-to-text
tags: [llava, synthetic]
---

# scenes-llava

A very small LLaVA that answers questions about drawn scenes: {parameters:,} parameters, a CLIP vision tower, a
projector and a Llama decoder. It comes with omniform, so that a fresh install has a multimodal model to run, and was
trained from nothing by `examples/scenes/train.py` in about 45 minutes on two CPU cores. It is an ordinary
checkpoint in the Hub's layout, which `transformers` loads as well, with the same answers.

## What it knows

One to six shapes that do not touch, on a plain background.

- Shapes: circle, square, triangle, star, cross, turned by up to 14 degrees, with or without a dark outline.
- Colours: red, orange, yellow, green, blue, purple, black, white, in many shades.
- Sizes: small (12 to 19 % of the shorter side across) and large (25 % and more), nothing between.
- Places: nine cells of equal size, at most one shape in each: top left, top, top right, left, center, right, bottom
  left, bottom, bottom right. In a question "left" means the whole left third, and so on.
- Backgrounds: white, gray, black, light blue, pink; plain, shaded or grainy.
- Pictures of any size from 96 to 640 pixels and of shapes up to 16:9, with JPEG artefacts or without. They are
  squeezed to 96 by 96 pixels.

## How well

Exact matches, greedy decoding, on {scenes:,} scenes that training did not see (one question of every kind that a scene
allows; the sizes, phrasings and damages above):

{table}

Clean pictures: {clean:.1%}; pictures with grain, shading or JPEG artefacts: {damaged:.1%}.

## What it does not know

Everything else. It has never seen a photograph or any other drawing, knows some hundred English words, and answers
questions about anything else with confidence and at random.

## How to make it again

```
python examples/scenes/train.py --out DIR
python examples/scenes/evaluate.py DIR
```

The run is seeded; the weights are stored as float16 and computed in float32.
"""


def main() -> None:
    """Evaluate a checkpoint and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint; its README.md is written anew")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    answerer = Answerer(args.folder)
    results = list(evaluate(answerer, args.scenes))
    text = CARD.format(
        parameters=answerer.model.num_parameters(),
        scenes=args.scenes,
        table=table(results),
        clean=_share([r for r in results if r[0].clean]),
        damaged=_share([r for r in results if not r[0].clean]),
    )
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(table(results))
    for question, answer in [r for r in results if r[0].answer != r[1]][: args.show]:
        print(f"{question.kind}: {question.text} expected {question.answer!r}, got {answer!r}")


if __name__ == "__main__":
    main()
