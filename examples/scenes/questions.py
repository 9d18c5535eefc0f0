"""Questions about a scene and their exact answers.

Each kind of question is one function ``kind(rng, scene) -> (question, answer)``; None says that this scene allows no
such question. Questions are asked only where a person would be sure of the answer: an object is named by attributes
that single it out, "left of" needs a clear distance, and sizes are small or large with nothing between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import phrases
from draw import BACKGROUNDS, CELLS, COLOURS, MAX_ITEMS, SHAPES, SIZES, Item, Scene
from phrases import LARGER_WORDS, LARGEST_WORDS, NOUNS, PICTURES, PLACES, RELATIONS, SIZE_WORDS

Pair = tuple[str, str]
Kind = Callable[[random.Random, Scene], Pair | None]
Words = dict[str, str]

VALUES: dict[str, tuple[str, ...]] = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES}
# Sets of attributes by which an object can be named.
NAMINGS: tuple[tuple[str, ...], ...] = (
    ("shape",), ("colour",), ("size",), ("colour", "shape"), ("size", "shape"), ("size", "colour"),
    ("size", "colour", "shape"),
)  # fmt: skip
# A difference of two coordinates that everybody sees, as a fraction of the picture.
CLEAR = 0.12


def plural(noun: str) -> str:
    """Plural of a shape or of a general noun."""
    return noun + ("es" if noun.endswith("s") else "s")


def attributes(item: Item, keys: tuple[str, ...]) -> Words:
    """The values of some of an object's attributes."""
    values = {"size": item.size, "colour": item.colour, "shape": item.shape}
    return {key: values[key] for key in keys}


def matching(scene: Scene, words: Words) -> list[Item]:
    """The objects that have all these attributes."""
    return [item for item in scene.items if attributes(item, tuple(words)) == words]


def in_place(item: Item, place: str) -> bool:
    """Whether an object lies in a place: a third of the picture or one of its cells."""
    row, column = divmod(item.cell, 3)
    thirds = {"left": column == 0, "right": column == 2, "top": row == 0, "bottom": row == 2}
    return thirds[place] if place in thirds else CELLS[item.cell] == place


def phrase(item: Item) -> str:
    """The full name of an object, as answers give it."""
    return f"{item.size} {item.colour} {item.shape}"


def description(scene: Scene) -> str:
    """The sentence that describes a scene: every object in reading order, then the background."""
    parts = [f"a {phrase(item)} {PLACES[CELLS[item.cell]][0]}" for item in scene.items]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"{listed}, on a {scene.background} background."


# -- phrases -----------------------------------------------------------------------------------------------------------


def _say(rng: random.Random, words: Words, *, many: bool = False) -> str:
    """A noun phrase for these attributes, such as "big red circle" or "red things"."""
    noun = words.get("shape") or rng.choice(NOUNS)
    parts = [rng.choice(SIZE_WORDS[words["size"]])] if "size" in words else []
    parts += [words["colour"]] if "colour" in words else []
    return " ".join([*parts, plural(noun) if many else noun])


def _one(rng: random.Random, words: Words) -> str:
    name = _say(rng, words)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _fill(rng: random.Random, templates: tuple[str, ...], **words: str) -> str:
    spelling = rng.choice(("color", "colour"))
    return rng.choice(templates).format(pic=rng.choice(PICTURES), color=spelling, noun=rng.choice(NOUNS), **words)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def _place_of(rng: random.Random, scene: Scene, item: Item) -> str | None:
    """A place where this object lies alone."""
    alone = [place for place in PLACES if in_place(item, place) and sum(in_place(i, place) for i in scene.items) == 1]
    return rng.choice(alone) if alone else None


def _name(rng: random.Random, scene: Scene, item: Item, hidden: str) -> str | None:
    """A phrase that fits this object alone and does not tell the ``hidden`` attribute."""
    sets = [attributes(item, keys) for keys in NAMINGS if hidden not in keys]
    sets = [words for words in sets if len(matching(scene, words)) == 1]
    if hidden != "place" and rng.random() < (0.25 if sets else 1.0):
        place = _place_of(rng, scene, item)
        if place:
            keys = ("shape",) if hidden != "shape" and rng.random() < 0.5 else ()
            return f"{_say(rng, attributes(item, keys))} {rng.choice(PLACES[place])}"
    return _say(rng, rng.choice(sets)) if sets else None


def _pick(rng: random.Random, scene: Scene, hidden: str) -> tuple[Item, str] | None:
    item = rng.choice(scene.items)
    name = _name(rng, scene, item, hidden)
    return (item, name) if name else None


def _pick_two(rng: random.Random, scene: Scene, hidden: str) -> tuple[Item, str, Item, str] | None:
    if len(scene.items) < 2:
        return None
    first, second = rng.sample(scene.items, 2)
    one, other = _name(rng, scene, first, hidden), _name(rng, scene, second, hidden)
    return (first, one, second, other) if one and other and one != other else None


def _sought(rng: random.Random, scene: Scene, keys: tuple[str, ...]) -> Words:
    """Attributes of some object of the scene, or in half of all cases of one that differs from it in one of them.

    A "no" then takes as careful a look as a "yes".
    """
    words = attributes(rng.choice(scene.items), keys)
    if keys and rng.random() < 0.5:
        key = rng.choice(keys)
        words[key] = rng.choice([value for value in VALUES[key] if value != words[key]])
    return words


# -- kinds -------------------------------------------------------------------------------------------------------------


def colour(rng: random.Random, scene: Scene) -> Pair | None:
    """What colour is the ...?"""
    if rng.random() < 0.1:
        words = attributes(rng.choice(scene.items), rng.choice((("shape",), ("size",), ("size", "shape"))))
        seen = {item.colour for item in matching(scene, words)}
        many = _say(rng, words, many=True)
        return (_fill(rng, phrases.COLOUR_MANY, names=many), seen.pop()) if len(seen) == 1 else None
    picked = _pick(rng, scene, "colour")
    return picked and (_fill(rng, phrases.COLOUR, name=picked[1]), picked[0].colour)


def shape(rng: random.Random, scene: Scene) -> Pair | None:
    """What shape is the ...? What shape is at the ...?"""
    if rng.random() < 0.15:
        item = rng.choice(scene.items)
        place = _place_of(rng, scene, item)
        return (_fill(rng, phrases.SHAPE_AT, place=rng.choice(PLACES[place])), item.shape) if place else None
    picked = _pick(rng, scene, "shape")
    return picked and (_fill(rng, phrases.SHAPE, name=picked[1]), picked[0].shape)


def size(rng: random.Random, scene: Scene) -> Pair | None:
    """Is the ... large or small?"""
    picked = _pick(rng, scene, "size")
    return picked and (_fill(rng, phrases.SIZE, name=picked[1]), picked[0].size)


def where(rng: random.Random, scene: Scene) -> Pair | None:
    """Where is the ...? Answered with one of the nine cells."""
    picked = _pick(rng, scene, "place")
    return picked and (_fill(rng, phrases.WHERE, name=picked[1]), CELLS[picked[0].cell])


def what(rng: random.Random, scene: Scene) -> Pair | None:
    """What is at the ...? What is the largest? Answered with the object's full name, or "nothing"."""
    chance = rng.random()
    if chance < 0.15:
        free = [place for place in PLACES if not any(in_place(item, place) for item in scene.items)]
        return (_fill(rng, phrases.WHAT, place=rng.choice(PLACES[rng.choice(free)])), "nothing") if free else None
    if chance < 0.3:
        asked = rng.choice(SIZES)
        found = matching(scene, {"size": asked})
        if len(found) != 1 or len(scene.items) < 2:
            return None
        return _fill(rng, phrases.LARGEST, most=rng.choice(LARGEST_WORDS[asked])), f"a {phrase(found[0])}"
    item = rng.choice(scene.items)
    place = _place_of(rng, scene, item)
    return (_fill(rng, phrases.WHAT, place=rng.choice(PLACES[place])), f"a {phrase(item)}") if place else None


def count(rng: random.Random, scene: Scene) -> Pair | None:
    """How many ... are there? How many ... are on the left?"""
    if rng.random() < 0.12:
        words = attributes(rng.choice(scene.items), rng.choice(((), (), ("shape",), ("colour",))))
        place = rng.choice(("left", "right", "top", "bottom"))
        number = sum(in_place(item, place) for item in matching(scene, words))
        names = _say(rng, words, many=True)
        return _fill(rng, phrases.COUNT_AT, names=names, place=rng.choice(PLACES[place])), str(number)
    keys = rng.choice(((), (), *NAMINGS[:6]))
    words = attributes(rng.choice(scene.items), keys) if rng.random() < 0.7 else _sought(rng, scene, keys)
    return _fill(rng, phrases.COUNT, names=_say(rng, words, many=True)), str(len(matching(scene, words)))


def exist(rng: random.Random, scene: Scene) -> Pair | None:
    """Is there a ...? Is there a ... on the left?"""
    words = _sought(rng, scene, rng.choice(NAMINGS))
    chance = rng.random()
    if chance < 0.12:
        place = rng.choice(tuple(PLACES))
        there = any(in_place(item, place) for item in matching(scene, words))
        return _fill(rng, phrases.EXIST_AT, a=_one(rng, words), place=rng.choice(PLACES[place])), _yes(there)
    there = bool(matching(scene, words))
    if chance < 0.4:
        return _fill(rng, phrases.EXIST_MANY, names=_say(rng, words, many=True)), _yes(there)
    return _fill(rng, phrases.EXIST, a=_one(rng, words)), _yes(there)


def confirm(rng: random.Random, scene: Scene) -> Pair | None:
    """Is the circle red? Is the red object a circle? Is the circle large?"""
    key = rng.choice(tuple(VALUES))
    picked = _pick(rng, scene, key)
    if not picked:
        return None
    item, name = picked
    truth = attributes(item, (key,))[key]
    said = truth if rng.random() < 0.5 else rng.choice([value for value in VALUES[key] if value != truth])
    trait = {"shape": f"a {said}", "colour": said, "size": rng.choice(SIZE_WORDS.get(said, (said,)))}[key]
    return _fill(rng, phrases.IS, name=name, trait=trait), _yes(said == truth)


def background(rng: random.Random, scene: Scene) -> Pair | None:
    """What colour is the background? Is the background ...?"""
    if rng.random() < 0.75:
        return _fill(rng, phrases.BACKGROUND), scene.background
    asked = scene.background if rng.random() < 0.5 else rng.choice(tuple(BACKGROUNDS))
    return _fill(rng, phrases.BACKGROUND_IS, ground=asked), _yes(asked == scene.background)


def relation(rng: random.Random, scene: Scene) -> Pair | None:
    """Is the ... left of the ...? Asked where the two lie clearly apart in that direction."""
    two = _pick_two(rng, scene, "place")
    if not two:
        return None
    first, one, second, other = two
    word = rng.choice(tuple(RELATIONS))
    gap = first.x - second.x if word in ("left", "right") else first.y - second.y
    if abs(gap) < CLEAR:
        return None
    truth = gap < 0 if word in ("left", "above") else gap > 0
    return _fill(rng, phrases.RELATION, one=one, other=other, relation=rng.choice(RELATIONS[word])), _yes(truth)


def compare(rng: random.Random, scene: Scene) -> Pair | None:
    """Which is larger? Are they the same size? Are there more circles than squares?"""
    if rng.random() < 0.3:
        return _more(rng, scene)
    two = _pick_two(rng, scene, "size")
    if not two:
        return None
    first, one, second, other = two
    if first.size == second.size or rng.random() < 0.25:
        return _fill(rng, phrases.SAME_SIZE, one=one, other=other), _yes(first.size == second.size)
    word = rng.choice(tuple(LARGER_WORDS))
    said = rng.choice(LARGER_WORDS[word])
    truth = (first.size == "large") == (word == "larger")
    if rng.random() < 0.5:
        return _fill(rng, phrases.WHICH_LARGER, one=one, other=other, larger=said), f"the {one if truth else other}"
    return _fill(rng, phrases.IS_LARGER, one=one, other=other, larger=said), _yes(truth)


def _more(rng: random.Random, scene: Scene) -> Pair | None:
    key = rng.choice(tuple(VALUES))
    seen = sorted({attributes(item, (key,))[key] for item in scene.items})
    one, other = rng.choice(seen), rng.choice(seen if len(seen) > 1 else VALUES[key])
    if one == other:
        return None
    if rng.random() < 0.5:
        one, other = other, one
    truth = len(matching(scene, {key: one})) > len(matching(scene, {key: other}))
    one, other = (_say(rng, {key: value}, many=True) for value in (one, other))
    return _fill(rng, phrases.MORE, one=one, other=other), _yes(truth)


def describe(rng: random.Random, scene: Scene) -> Pair | None:
    """Describe the picture."""
    return _fill(rng, phrases.DESCRIBE), description(scene)


KINDS: dict[str, Kind] = {
    "colour": colour,
    "shape": shape,
    "size": size,
    "where": where,
    "what": what,
    "count": count,
    "exist": exist,
    "confirm": confirm,
    "background": background,
    "relation": relation,
    "compare": compare,
    "describe": describe,
}


def ask(rng: random.Random, scene: Scene, kind: str) -> Pair | None:
    """A question of this kind with the small liberties that people take: no question mark, a polite word."""
    pair = KINDS[kind](rng, scene)
    if not pair:
        return None
    question, answer = pair
    if rng.random() < 0.2:
        question = question.rstrip("?.")
    chance = rng.random()
    if chance < 0.08:
        question = rng.choice(phrases.OPENINGS).format(pic=rng.choice(PICTURES)) + question
    elif chance < 0.14:
        question += rng.choice(phrases.CLOSINGS)
    return question, answer


def texts() -> Iterator[str]:
    """Every text from which questions and answers are made, templates with their open places: the tokenizer's words."""
    yield from phrases.TEMPLATES
    for table in (SIZE_WORDS, LARGER_WORDS, LARGEST_WORDS, PLACES, RELATIONS):
        for ways in table.values():
            yield from ways
    singular = (*NOUNS, *PICTURES, *SHAPES)
    yield from (*singular, *map(plural, singular), *COLOURS, *BACKGROUNDS, *CELLS, *map(str, range(MAX_ITEMS + 1)))
    yield "color colour gray grey a an the yes no nothing and, on a background."
