"""Writes the texts of ``data/``: reviews, sentences with names, match reports with summaries, stories. Seeded.

The examples learn from nothing within two minutes, so their world is small; but no text of an evaluation file stands in
its training file, and names of people and places in the evaluation are new.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

DATA = Path(__file__).parent / "data"
THINGS = ["phone", "camera", "kettle", "novel", "film", "bicycle", "jacket", "hotel", "lamp", "guitar", "soup", "desk"]
PARTS = {
    "phone": ["screen", "battery"],
    "camera": ["lens", "menu"],
    "kettle": ["handle", "lid"],
    "novel": ["plot", "ending"],
    "film": ["cast", "music"],
    "bicycle": ["saddle", "gears"],
    "jacket": ["zip", "lining"],
    "hotel": ["room", "breakfast"],
    "lamp": ["switch", "shade"],
    "guitar": ["sound", "neck"],
    "soup": ["taste", "portion"],
    "desk": ["drawer", "surface"],
}
GOOD = ["great", "lovely", "solid", "excellent", "charming", "superb", "pleasant", "reliable"]
BAD = ["awful", "flimsy", "dull", "terrible", "shabby", "clumsy", "broken", "disappointing"]
SYLLABLES = [
    "ba",
    "ko",
    "lin",
    "mar",
    "te",
    "ru",
    "sol",
    "vi",
    "dan",
    "or",
    "el",
    "qua",
    "fi",
    "gre",
    "hu",
    "jo",
    "pel",
    "zan",
]
TEAMS = ["Rovers", "Harbour", "United", "Castle", "Rangers", "Athletic", "Wanderers", "Borough", "Orient", "Albion"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
ANIMALS = ["fox", "hare", "owl", "bear", "mouse", "crow", "badger", "hen"]
PLACES = ["wood", "river", "meadow", "barn", "hill", "village"]


def said(rng: random.Random, good: bool) -> str:
    """An opinion; a negated word means its opposite, so that words alone do not tell."""
    turned = rng.random() < 0.2
    word = rng.choice(GOOD if good != turned else BAD)
    if turned:
        return rng.choice([f"is not {word}", f"is hardly {word}", f"is never {word}"])
    return rng.choice([f"is {word}", f"is really {word}", f"is so {word}"])


def review(rng: random.Random) -> dict[str, object]:
    """Two opinions on a thing: both good, both bad, or one of each."""
    thing = rng.choice(THINGS)
    label = rng.choice(["negative", "mixed", "positive"])
    first = label == "positive" or (label == "mixed" and rng.random() < 0.5)
    second = first if label != "mixed" else not first
    one, two = rng.sample(PARTS[thing], 2)
    joint = "and" if first == second else "but"
    begin = rng.choice(["", f"I bought this {thing} last week. ", f"My second {thing}. ", "Where to begin? "])
    return {"text": f"{begin}The {one} {said(rng, first)} {joint} the {two} {said(rng, second)}.", "label": label}


def name(rng: random.Random, new: bool) -> str:
    """A made-up name; those of the evaluation have three syllables, those of the training two or four."""
    return "".join(rng.choice(SYLLABLES) for _ in range(3 if new else rng.choice([2, 4]))).capitalize()


def sentence(rng: random.Random, new: bool) -> dict[str, object]:
    """Words and their tags: people, places, companies."""
    person = [(name(rng, new), "B-PER"), *([(name(rng, new), "I-PER")] if rng.random() < 0.5 else [])]
    place = [*([("New", "B-LOC")] if rng.random() < 0.3 else []), (name(rng, new), "B-LOC")]
    place = place if len(place) == 1 else [place[0], (place[1][0], "I-LOC")]
    firm = [(name(rng, new), "B-ORG"), (rng.choice(["Ltd", "Bank", "Motors"]), "I-ORG")]
    day = rng.choice(DAYS)
    forms = [
        [*person, "moved", "to", *place, "on", day, "."],
        ["On", day, ",", *firm, "hired", *person, "."],
        [*firm, "opened", "an", "office", "in", *place, "."],
        ["People", "in", *place, "know", *person, "well", "."],
        [*person, "of", *firm, "was", "seen", "near", *place, "."],
    ]
    pairs = [word if isinstance(word, tuple) else (word, "O") for word in rng.choice(forms)]
    return {"tokens": [word for word, _ in pairs], "ner_tags": [tag for _, tag in pairs]}


def report(rng: random.Random) -> dict[str, object]:
    """A match in some sentences, and in one."""
    home, away = rng.sample(TEAMS, 2)
    goals = rng.sample(range(6), 2)
    won, lost = (home, away) if goals[0] > goals[1] else (away, home)
    score, day = f"{max(goals)} {min(goals)}", rng.choice(DAYS)
    told = [
        f"{home} met {away} on {day} .",
        rng.choice(["It rained all day .", "The sun was out .", "A cold wind blew ."]),
        rng.choice(["The ground was full .", "Few people came .", f"Many had come from {away} ."]),
        f"{home} scored {goals[0]} times .",
        f"{away} scored {goals[1]} times .",
        rng.choice(["Nobody was hurt .", "One player was sent off .", "The referee had little to do ."]),
    ]
    return {"document": " ".join(told), "summary": f"{won} beat {lost} {score} on {day} ."}


def story(rng: random.Random) -> dict[str, object]:
    """Some sentences in which who is where stays true."""
    one, two = rng.sample(ANIMALS, 2)
    here, there = rng.sample(PLACES, 2)
    lost = rng.choice(["key", "hat", "coin", "letter", "bell"])
    lines = [
        f"Once a {one} lived by the {here}.",
        f"One day the {one} lost a {lost}.",
        rng.choice([f"The {one} looked in the {there}.", f"The {one} asked the {two}."]),
        f"The {two} had seen the {lost} near the {there}.",
        f"So the {one} and the {two} went to the {there}.",
        f"There was the {lost}, and the {one} was {rng.choice(['glad', 'happy', 'proud'])}.",
    ]
    return {"text": " ".join(lines)}


def distinct(make: Callable[[], dict[str, object]], taken: set[str]) -> Iterator[dict[str, object]]:
    while True:
        line = json.dumps(made := make())
        if line not in taken:
            taken.add(line)
            yield made


def write(title: str, count: int, held_out: int, make: Callable[[random.Random, bool], dict[str, object]]) -> None:
    rng, taken = random.Random(title), set()
    for part, many in (("train", count), ("eval", held_out)):
        new = part == "eval"
        rows = distinct(lambda new=new: make(rng, new), taken)
        text = "".join(json.dumps(next(rows)) + "\n" for _ in range(many))
        (DATA / f"{title}_{part}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    DATA.mkdir(exist_ok=True)
    write("reviews", 2000, 300, lambda rng, new: review(rng))
    write("names", 1500, 200, sentence)
    write("matches", 2400, 200, lambda rng, new: report(rng))
    write("stories", 1500, 150, lambda rng, new: story(rng))


if __name__ == "__main__":
    main()
