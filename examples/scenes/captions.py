"""What people say about scenes: captions that tell a scene from all others, short queries, and which scenes fit those.

A caption names every shape with size, colour and place, and the background. A query names little: "a red circle",
"two stars", "something blue on a white background"; it is true of many scenes, and ``Query.fits`` says of which.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from draw import BACKGROUNDS, CELLS, SHAPES, Item, Scene
from phrases import NOUNS, PICTURES, PLACES, SIZE_WORDS
from questions import in_place, plural
from wider import FILLS, MEDIUM

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
OPENINGS = (
    "",
    "",
    "",
    "",
    "a {pic} of ",
    "a {pic} with ",
    "there is ",
    "{pic}: ",
    "show me ",
    "find ",
    "this {pic} shows ",
)
GROUNDS = ("on a {ground} background", "on {ground}", "the background is {ground}", "with a {ground} background")
WORDS = """
    all are contains containing drawing draw drawn empty find has have here holds including i is it like look me my only
    please search see seeing showing shown single some something there these this those want where which whose with
    image images picture pictures photo photos and of or a an the on in at no one two three four five six seven eight
    shape shapes thing things colored coloured grey gray white black background plain blank nothing left right above
    below next to beside between near disc disk ball dot round plus box five-pointed
"""
WEIGHT = {"small": 0, "large": 1}


def article(name: str) -> str:
    """A name with its article."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _colour(rng: random.Random, colour: str) -> str:
    return "grey" if colour == "gray" and rng.random() < 0.4 else colour


def _named(rng: random.Random, size: str | None, colour: str | None, shape: str | None, *, many: bool = False) -> str:
    noun = shape or rng.choice(NOUNS)
    parts = [rng.choice(SIZE_WORDS[size])] if size and size != MEDIUM else []
    parts += [_colour(rng, colour)] if colour else []
    return " ".join([*parts, plural(noun) if many else noun])


# -- captions ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Caption:
    """A scene in words; ``sized`` and ``grounded`` say whether sizes and the background are told."""

    text: str
    sized: bool = True
    grounded: bool = True


def plain_caption(scene: Scene) -> str:
    """The scene in fixed words: shapes in reading order, then the background. Such captions are measured with."""
    if not scene.items:
        return f"an empty {scene.background} picture"
    parts = []
    for item in scene.items:
        size = "" if item.size == MEDIUM else f"{item.size} "
        parts.append(f"{article(f'{size}{item.colour} {item.shape}')} {PLACES[CELLS[item.cell]][0]}")
    listed = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"{listed}, on a {scene.background} background"


def caption(rng: random.Random, scene: Scene) -> Caption:
    """The scene in words of many kinds; a quarter of them the fixed ones."""
    if rng.random() < 0.25:
        return Caption(plain_caption(scene))
    ground = _colour(rng, scene.background) if scene.background == "gray" else scene.background
    if not scene.items:
        says = ("an empty {g} picture", "nothing on a {g} background", "a plain {g} image", "a blank {g} picture")
        return Caption(rng.choice(says).format(g=ground))
    sized, grounded = rng.random() > 0.15, rng.random() > 0.15
    items = list(scene.items)
    if rng.random() < 0.5:
        rng.shuffle(items)
    groups = _grouped(items) if rng.random() < 0.3 else [[item] for item in items]
    parts = [_part(rng, group, sized=sized) for group in groups]
    if grounded and rng.random() < 0.2:
        text = f"{article(ground + ' background')} with " + _listed(rng, parts)
    else:
        text = rng.choice(OPENINGS).format(pic=rng.choice(PICTURES)) + _listed(rng, parts)
        if grounded:
            text += rng.choice((", ", " ")) + rng.choice(GROUNDS).format(ground=ground)
    return Caption(text + rng.choice(("", "", ".")), sized, grounded)


def _grouped(items: list[Item]) -> list[list[Item]]:
    """Shapes that have the same name, together."""
    groups: dict[tuple[str, str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.size, item.colour, item.shape), []).append(item)
    return list(groups.values())


def _part(rng: random.Random, group: list[Item], *, sized: bool) -> str:
    first = group[0]
    size = first.size if sized else None
    places = [rng.choice(PLACES[CELLS[item.cell]]) for item in group]
    if len(group) == 1:
        return f"{article(_named(rng, size, first.colour, first.shape))} {places[0]}"
    name = _named(rng, size, first.colour, first.shape, many=True)
    return f"{NUMBERS[len(group)]} {name} " + _listed(rng, places)


def _listed(rng: random.Random, parts: list[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return (", " if rng.random() < 0.7 else " and ").join(parts[:-1]) + " and " + parts[-1]


# -- queries -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Thing:
    """Some shape: what is None is not told."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None

    def count(self, scene: Scene, *, loose: bool) -> int:
        """How many of a scene's shapes this names; ``loose``: a medium one passes for small and for large."""
        return sum(self._is(item, loose) for item in scene.items)

    def _is(self, item: Item, loose: bool) -> bool:
        return (
            (self.colour is None or self.colour == item.colour)
            and (self.shape is None or self.shape == item.shape)
            and (self.size is None or self.size == item.size or (loose and item.size == MEDIUM))
            and (self.place is None or in_place(item, self.place))
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A short text and what it asks for: each of ``things`` at least once, or ``count`` times; the background."""

    text: str
    things: tuple[Thing, ...] = ()
    count: int | None = None
    background: str | None = None
    alone: bool = False

    def fits(self, scene: Scene) -> bool | None:
        """Whether it is true of a scene; None where people would disagree."""
        strict, loose = self._fits(scene, loose=False), self._fits(scene, loose=True)
        return strict if strict == loose else None

    def _fits(self, scene: Scene, *, loose: bool) -> bool:
        if self.background is not None and self.background != scene.background:
            return False
        if self.alone and len(scene.items) != len(self.things):
            return False
        counts = [thing.count(scene, loose=loose) for thing in self.things]
        if self.count is not None:
            return counts == [self.count]
        if len(set(self.things)) < len(self.things):
            return all(found >= Counter(self.things)[thing] for thing, found in zip(self.things, counts, strict=True))
        return all(counts)


def _thing(rng: random.Random, item: Item) -> Thing:
    size = item.size if item.size != MEDIUM and rng.random() < 0.3 else None
    keys = rng.choices(("both", "colour", "shape"), (0.7, 0.15, 0.15))[0]
    return Thing(size, None if keys == "shape" else item.colour, None if keys == "colour" else item.shape)


def _say(rng: random.Random, thing: Thing) -> str:
    name = _named(rng, thing.size, thing.colour, thing.shape)
    if thing.shape is None and thing.size is None and rng.random() < 0.3:
        return f"something {thing.colour}"
    return name if rng.random() < 0.25 else article(name)


def _one(rng: random.Random, scene: Scene) -> Query:
    thing = _thing(rng, rng.choice(scene.items))
    text = _say(rng, thing)
    if rng.random() < 0.1:
        text = _named(rng, thing.size, thing.colour, thing.shape, many=True)
    return Query(text, (thing,))


def _placed(rng: random.Random, scene: Scene) -> Query:
    item = rng.choice(scene.items)
    thing = _thing(rng, item)
    place = rng.choice([place for place in PLACES if in_place(item, place)])
    return Query(
        f"{_say(rng, thing)} {rng.choice(PLACES[place])}", (Thing(thing.size, thing.colour, thing.shape, place),)
    )


def _pair(rng: random.Random, scene: Scene) -> Query:
    if len(scene.items) < 2:
        return _one(rng, scene)
    things = tuple(_thing(rng, item) for item in rng.sample(scene.items, 2))
    join = rng.choice((" and ", " and ", ", ", " with "))
    return Query(join.join(_say(rng, thing) for thing in things), things)


def _counted(rng: random.Random, scene: Scene) -> Query:
    item = rng.choice(scene.items)
    thing = rng.choice(
        (Thing(), Thing(colour=item.colour), Thing(shape=item.shape), Thing(None, item.colour, item.shape))
    )
    number = thing.count(scene, loose=False)
    word = NUMBERS[number] if rng.random() < 0.75 else str(number)
    return Query(f"{word} {_named(rng, None, thing.colour, thing.shape, many=number > 1)}", (thing,), number)


def _ground(rng: random.Random, scene: Scene) -> Query:
    ground = _colour(rng, scene.background) if scene.background == "gray" else scene.background
    if not scene.items or rng.random() < 0.3:
        return Query(rng.choice((f"a {ground} background", f"{ground} background")), (), None, scene.background)
    thing = _thing(rng, rng.choice(scene.items))
    text = f"{_say(rng, thing)} {rng.choice(GROUNDS).format(ground=ground)}"
    return Query(text, (thing,), None, scene.background)


def _only(rng: random.Random, scene: Scene) -> Query:
    if len(scene.items) != 1:
        return _one(rng, scene)
    thing = _thing(rng, scene.items[0])
    name = _named(rng, thing.size, thing.colour, thing.shape)
    return Query(
        rng.choice((f"only {article(name)}", f"a single {name}", f"one {name} and nothing else")), (thing,), alone=True
    )


_KINDS: dict[Callable[[random.Random, Scene], Query], float] = {
    _one: 0.42, _placed: 0.18, _pair: 0.15, _counted: 0.12, _ground: 0.08, _only: 0.05,
}  # fmt: skip


def query(rng: random.Random, scene: Scene) -> Query:
    """A short text that is true of this scene."""
    kind = rng.choices(tuple(_KINDS), tuple(_KINDS.values()))[0] if scene.items else _ground
    made = kind(rng, scene)
    if rng.random() < 0.3:
        text = rng.choice(OPENINGS).format(pic=rng.choice(PICTURES)) + made.text
        return Query(text, made.things, made.count, made.background, made.alone)
    return made


def words() -> list[str]:
    """All that captions and queries are made of: the tokenizer's words."""
    singular = (*NOUNS, *PICTURES, *SHAPES)
    tables = (*SIZE_WORDS.values(), *PLACES.values())
    some = [*singular, *map(plural, singular), *FILLS, *BACKGROUNDS, *CELLS, *NUMBERS, *map(str, range(10)), WORDS]
    return [*some, *(way for ways in tables for way in ways), *OPENINGS, *GROUNDS]
