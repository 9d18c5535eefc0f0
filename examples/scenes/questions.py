"""Questions about a scene and their exact answers.

Every kind of question is one function `kind(rng, scene) -> (question, answer) | None`; None says that this scene allows no such
question. Questions are asked only where a person would be sure of the answer: an object is named by attributes that single it
out, "left of" needs a clear distance, and sizes are small or large with nothing between.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from draw import BACKGROUNDS, CELLS, COLOURS, MAX_ITEMS, SHAPES, SIZES, Item, Scene

Pair = tuple[str, str]
Kind = Callable[[random.Random, Scene], Pair | None]

NOUNS = ("object", "shape", "thing", "item")
PICTURES = ("picture", "image", "scene", "photo")
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
# Ways to say a place in a question; "left" is the whole left third of the picture, "top left" one cell of nine.
PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "center": ("in the center", "in the middle", "at the center", "in the centre"),
    "top left": ("at the top left", "in the top left corner", "in the upper left corner", "in the top left"),
    "top right": ("at the top right", "in the top right corner", "in the upper right corner", "in the top right"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left corner", "in the bottom left"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right corner", "in the bottom right"),
}
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under"),
}
# A difference of two coordinates that everybody sees, as a fraction of the picture.
CLEAR = 0.12


def plural(noun: str) -> str:
    """Plural of a shape or a general noun."""
    return noun + ("es" if noun.endswith("s") else "s")


def in_place(item: Item, place: str) -> bool:
    """Whether an object lies in a place: a third of the picture or one of its cells."""
    row, column = divmod(item.cell, 3)
    thirds = {"left": column == 0, "right": column == 2, "top": row == 0, "bottom": row == 2}
    return thirds[place] if place in thirds else CELLS[item.cell] == place


def phrase(item: Item) -> str:
    """The full name of an object, as answers give it."""
    return f"{item.size} {item.colour} {item.shape}"


def _matches(item: Item, words: dict[str, str]) -> bool:
    return all(value == {"size": item.size, "colour": item.colour, "shape": item.shape}[key] for key, value in words.items())


def _say(rng: random.Random, words: dict[str, str], many: bool = False) -> str:
    """A noun phrase for these attributes, such as "big red circle" or "red things"."""
    noun = words.get("shape") or rng.choice(NOUNS)
    parts = [rng.choice(SIZE_WORDS[words["size"]])] if "size" in words else []
    parts += [words["colour"]] if "colour" in words else []
    return " ".join([*parts, plural(noun) if many else noun])


def _attributes(item: Item, keys: tuple[str, ...]) -> dict[str, str]:
    values = {"size": item.size, "colour": item.colour, "shape": item.shape}
    return {key: values[key] for key in keys}


_NAMINGS: tuple[tuple[str, ...], ...] = (
    ("shape",), ("colour",), ("size",), ("colour", "shape"), ("size", "shape"), ("size", "colour"), ("size", "colour", "shape"),
)  # fmt: skip


def _name(rng: random.Random, scene: Scene, item: Item, hidden: str = "") -> str | None:
    """A phrase that fits this object alone and does not tell the `hidden` attribute, or None."""
    good = []
    for keys in _NAMINGS:
        words = _attributes(item, keys)
        if hidden not in keys and sum(_matches(other, words) for other in scene.items) == 1:
            good.append(words)
    if hidden != "place" and rng.random() < (0.25 if good else 1.0):
        place = _only_place(rng, scene, item)
        if place:
            keys = [key for key in ("shape",) if key != hidden and rng.random() < 0.6]
            return f"{_say(rng, _attributes(item, tuple(keys)))} {rng.choice(PLACES[place])}"
    return _say(rng, rng.choice(good)) if good else None


def _only_place(rng: random.Random, scene: Scene, item: Item) -> str | None:
    places = [place for place in PLACES if in_place(item, place)]
    alone = [place for place in places if sum(in_place(other, place) for other in scene.items) == 1]
    return rng.choice(alone) if alone else None


def _pick(rng: random.Random, scene: Scene, hidden: str) -> tuple[Item, str] | None:
    item = rng.choice(scene.items)
    name = _name(rng, scene, item, hidden)
    return (item, name) if name else None


def _fill(rng: random.Random, templates: tuple[str, ...], **words: str) -> str:
    picture = rng.choice(PICTURES)
    return rng.choice(templates).format(pic=picture, color=rng.choice(("color", "colour")), **words)


def colour(rng: random.Random, scene: Scene) -> Pair | None:
    """What colour is the ...?"""
    picked = _pick(rng, scene, "colour")
    return picked and (_fill(rng, COLOUR, name=picked[1]), picked[0].colour)


def shape(rng: random.Random, scene: Scene) -> Pair | None:
    """What shape is the ...?"""
    picked = _pick(rng, scene, "shape")
    return picked and (_fill(rng, SHAPE, name=picked[1]), picked[0].shape)


def size(rng: random.Random, scene: Scene) -> Pair | None:
    """Is the ... large or small?"""
    picked = _pick(rng, scene, "size")
    return picked and (_fill(rng, SIZE, name=picked[1]), picked[0].size)


def where(rng: random.Random, scene: Scene) -> Pair | None:
    """Where is the ...? Answered with one of the nine cells."""
    picked = _pick(rng, scene, "place")
    return picked and (_fill(rng, WHERE, name=picked[1]), CELLS[picked[0].cell])


def what(rng: random.Random, scene: Scene) -> Pair | None:
    """What is at the top left? Answered with the object's full name, or "nothing"."""
    if rng.random() < 0.2:
        free = [place for place in PLACES if not any(in_place(item, place) for item in scene.items)]
        return (_fill(rng, WHAT, place=rng.choice(PLACES[rng.choice(free)])), "nothing") if free else None
    item = rng.choice(scene.items)
    place = _only_place(rng, scene, item)
    return (_fill(rng, WHAT, place=rng.choice(PLACES[place])), f"a {phrase(item)}") if place else None


def count(rng: random.Random, scene: Scene) -> Pair | None:
    """How many ... are there?"""
    keys = rng.choice(((), (), *_NAMINGS[:6]))
    if rng.random() < 0.75:
        words = _attributes(rng.choice(scene.items), keys)
    else:
        words = _attributes(_imagined(rng), keys)
    number = sum(_matches(item, words) for item in scene.items)
    return _fill(rng, COUNT, names=_say(rng, words, many=True)), str(number)


def _imagined(rng: random.Random) -> Item:
    black = (0, 0, 0)
    return Item(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), rng.choice(SIZES), 0, 0, 0, 0, black, None)


def exist(rng: random.Random, scene: Scene) -> Pair | None:
    """Is there a ...?"""
    keys = rng.choice(_NAMINGS)
    item = rng.choice(scene.items)
    words = _attributes(item, keys)
    if rng.random() < 0.5:
        # Change one attribute only, so that "no" takes as careful a look as "yes".
        key = rng.choice(keys)
        words[key] = rng.choice({"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}[key])
    there = any(_matches(item, words) for item in scene.items)
    name = _say(rng, words)
    if rng.random() < 0.3:
        return _fill(rng, EXIST_MANY, names=_say(rng, words, many=True)), _yes(there)
    return _fill(rng, EXIST, name=f"{'an' if name[0] in 'aeiou' else 'a'} {name}"), _yes(there)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


def background(rng: random.Random, scene: Scene) -> Pair | None:
    """What colour is the background?"""
    if rng.random() < 0.75:
        return _fill(rng, BACKGROUND, name=""), scene.background
    asked = scene.background if rng.random() < 0.5 else rng.choice(tuple(BACKGROUNDS))
    return _fill(rng, BACKGROUND_IS, name=asked), _yes(asked == scene.background)


def _two(rng: random.Random, scene: Scene, hidden: str) -> tuple[Item, str, Item, str] | None:
    if len(scene.items) < 2:
        return None
    first, second = rng.sample(scene.items, 2)
    one, other = _name(rng, scene, first, hidden), _name(rng, scene, second, hidden)
    return (first, one, second, other) if one and other and one != other else None


def relation(rng: random.Random, scene: Scene) -> Pair | None:
    """Is the ... left of the ...? Asked where the two lie clearly apart in that direction."""
    two = _two(rng, scene, "place")
    if not two:
        return None
    first, one, second, other = two
    word = rng.choice(tuple(RELATIONS))
    gap = first.x - second.x if word in ("left", "right") else first.y - second.y
    if abs(gap) < CLEAR:
        return None
    truth = gap < 0 if word in ("left", "above") else gap > 0
    return _fill(rng, RELATION, one=one, other=other, relation=rng.choice(RELATIONS[word])), _yes(truth)


def compare(rng: random.Random, scene: Scene) -> Pair | None:
    """Which is larger? Are they the same colour? Are there more circles than squares?"""
    if rng.random() < 0.3:
        return _more(rng, scene)
    two = _two(rng, scene, "size")
    if not two:
        return None
    first, one, second, other = two
    if first.size != second.size and rng.random() < 0.75:
        big = first if first.size == "large" else second
        if rng.random() < 0.5:
            larger = rng.random() < 0.5
            winner = one if (first is big) == larger else other
            return _fill(rng, LARGER if larger else SMALLER, one=one, other=other), f"the {winner}"
        larger = rng.random() < 0.5
        return _fill(rng, IS_LARGER if larger else IS_SMALLER, one=one, other=other), _yes((first is big) == larger)
    return _fill(rng, SAME_SIZE, one=one, other=other), _yes(first.size == second.size)


def _more(rng: random.Random, scene: Scene) -> Pair | None:
    key = rng.choice(("shape", "colour", "size"))
    seen = sorted({_attributes(item, (key,))[key] for item in scene.items})
    others = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES}[key]
    one = rng.choice(seen)
    other = rng.choice(seen if len(seen) > 1 else others)
    if one == other:
        return None
    if rng.random() < 0.5:
        one, other = other, one
    number = [sum(_matches(item, {key: value}) for item in scene.items) for value in (one, other)]
    names = [_say(rng, {key: value}, many=True) for value in (one, other)]
    return _fill(rng, MORE, one=names[0], other=names[1]), _yes(number[0] > number[1])


def describe(rng: random.Random, scene: Scene) -> Pair | None:
    """Describe the picture: every object in reading order, then the background."""
    return _fill(rng, DESCRIBE), description(scene)


def description(scene: Scene) -> str:
    """The exact sentence that describes a scene."""
    parts = [f"a {phrase(item)} {PLACES[CELLS[item.cell]][0]}" for item in scene.items]
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"{listed}, on a {scene.background} background."


COLOUR = (
    "What {color} is the {name}?", "What is the {color} of the {name}?", "Which {color} does the {name} have?",
    "What {color} does the {name} have?", "Tell me the {color} of the {name}.", "Which {color} is the {name}?",
    "Name the {color} of the {name}.", "The {name} is what {color}?", "What {color} is the {name} in the {pic}?",
)  # fmt: skip
SHAPE = (
    "What shape is the {name}?", "What is the shape of the {name}?", "Which shape does the {name} have?",
    "What shape does the {name} have?", "Tell me the shape of the {name}.", "Which shape is the {name}?",
    "Name the shape of the {name}.", "What kind of shape is the {name}?", "What is the {name}?",
    "What form does the {name} have?",
)  # fmt: skip
SIZE = (
    "Is the {name} large or small?", "What size is the {name}?", "How big is the {name}?", "What is the size of the {name}?",
    "Is the {name} small or large?", "Is the {name} big or small?", "Tell me the size of the {name}.", "How large is the {name}?",
)  # fmt: skip
WHERE = (
    "Where is the {name}?", "Where is the {name} in the {pic}?", "Where can I find the {name}?", "Where do you see the {name}?",
    "In which part of the {pic} is the {name}?", "What is the position of the {name}?", "Tell me where the {name} is.",
    "Find the {name}.", "Locate the {name}.", "Where does the {name} lie?", "Where is the {name} located?",
)  # fmt: skip
WHAT = (
    "What is {place}?", "What is {place} of the {pic}?", "What do you see {place}?", "What can be seen {place}?",
    "Which object is {place}?", "What object is {place}?", "What's {place}?",
    "What is there {place}?", "Name the object {place}.", "Is there anything {place}, and what is it?",
)  # fmt: skip
COUNT = (
    "How many {names} are there?", "How many {names} are in the {pic}?", "How many {names} do you see?", "How many {names}?",
    "Count the {names}.", "What is the number of {names}?", "How many {names} can you see?", "How many {names} does the {pic} show?",
    "Tell me how many {names} there are.", "How many {names} can you count?", "How many {names} are there in the {pic}?",
)  # fmt: skip
EXIST = (
    "Is there {name}?", "Is there {name} in the {pic}?", "Do you see {name}?", "Can you see {name}?", "Does the {pic} show {name}?",
    "Does the {pic} have {name}?", "Can you find {name}?", "Does the {pic} contain {name}?",
)  # fmt: skip
EXIST_MANY = (
    "Are there any {names}?", "Are there {names} in the {pic}?", "Do you see any {names}?", "Can you see any {names}?",
    "Are there any {names} in the {pic}?",
)  # fmt: skip
BACKGROUND = (
    "What {color} is the background?", "What is the {color} of the background?", "Which {color} is the background?",
    "What is the background {color}?", "Tell me the {color} of the background.", "What {color} is behind the objects?",
    "What {color} does the background have?", "What is the background?", "What {color} is the background of the {pic}?",
)  # fmt: skip
BACKGROUND_IS = ("Is the background {name}?", "Is the {pic}'s background {name}?", "Does the {pic} have a {name} background?")
RELATION = (
    "Is the {one} {relation} the {other}?", "Does the {one} lie {relation} the {other}?", "Do you see the {one} {relation} the {other}?",
    "Is the {one} located {relation} the {other}?",
)  # fmt: skip
LARGER = (
    "Which is larger, the {one} or the {other}?", "Which is bigger, the {one} or the {other}?", "What is bigger, the {one} or the {other}?",
    "Which one is larger: the {one} or the {other}?",
)  # fmt: skip
SMALLER = (
    "Which is smaller, the {one} or the {other}?", "What is smaller, the {one} or the {other}?",
    "Which one is smaller: the {one} or the {other}?",
)  # fmt: skip
IS_LARGER = ("Is the {one} larger than the {other}?", "Is the {one} bigger than the {other}?")
IS_SMALLER = ("Is the {one} smaller than the {other}?",)
SAME_SIZE = (
    "Are the {one} and the {other} the same size?", "Do the {one} and the {other} have the same size?",
    "Is the {one} the same size as the {other}?", "Is the {one} as big as the {other}?",
)  # fmt: skip
MORE = (
    "Are there more {one} than {other}?", "Do you see more {one} than {other}?", "Does the {pic} have more {one} than {other}?",
)  # fmt: skip
DESCRIBE = (
    "Describe the {pic}.", "Describe this {pic}.", "What do you see?", "What is in the {pic}?", "What does the {pic} show?",
    "Describe what you see.", "Give a description of the {pic}.", "What can you see in this {pic}?", "Tell me what is in the {pic}.",
    "List all objects.", "Write a caption for the {pic}.", "What is shown in the {pic}?", "Caption this {pic}.", "Describe it.",
    "What objects are in the {pic}?", "Please describe the {pic} in detail.",
)  # fmt: skip

KINDS: dict[str, Kind] = {
    "colour": colour,
    "shape": shape,
    "size": size,
    "where": where,
    "what": what,
    "count": count,
    "exist": exist,
    "background": background,
    "relation": relation,
    "compare": compare,
    "describe": describe,
}
_OPENINGS = ("Please tell me: ", "Look at the {pic}. ", "Question: ", "In this {pic}, ", "Hi! ", "Now, ")
_CLOSINGS = (" Answer briefly.", " Please answer.", " Thanks.", " Please.")


def ask(rng: random.Random, scene: Scene, kind: str) -> Pair | None:
    """A question of this kind with the small liberties that people take: no question mark, a polite word, "an image"."""
    pair = KINDS[kind](rng, scene)
    if not pair:
        return None
    question, answer = pair
    if rng.random() < 0.2:
        question = question.rstrip("?.")
    chance = rng.random()
    if chance < 0.08:
        question = rng.choice(_OPENINGS).format(pic=rng.choice(PICTURES)) + question
    elif chance < 0.14:
        question += rng.choice(_CLOSINGS)
    return question, answer


def words() -> Iterator[str]:
    """Every text from which questions and answers are made, with the places left open: the tokenizer's words."""
    for templates in (COLOUR, SHAPE, SIZE, WHERE, WHAT, COUNT, EXIST, EXIST_MANY, BACKGROUND, BACKGROUND_IS, RELATION, LARGER,
                      SMALLER, IS_LARGER, IS_SMALLER, SAME_SIZE, MORE, DESCRIBE, _OPENINGS, _CLOSINGS):  # fmt: skip
        yield from templates
    for phrases in (*SIZE_WORDS.values(), *PLACES.values(), *RELATIONS.values()):
        yield from phrases
    yield from (*NOUNS, *PICTURES, *SHAPES, *COLOURS, *BACKGROUNDS, *CELLS, *map(plural, (*NOUNS, *PICTURES, *SHAPES)))
    yield from ("color colour gray grey", "a an the", "yes no nothing", "and , on a background .")
    yield from map(str, range(MAX_ITEMS + 1))
