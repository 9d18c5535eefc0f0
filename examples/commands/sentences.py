"""What is said: numbers, colours, shapes, short commands, and what an interview about them needs.

All chances come from the ``random.Random`` that is given; texts are lower case, without marks.
"""

from __future__ import annotations

import random
import re
from functools import cache


def several(words: str) -> tuple[str, ...]:
    """Words that stand in one text."""
    return tuple(words.split())


ONES = several("one two three four five six seven eight nine")
TEENS = several("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen")
TENS = several("twenty thirty forty fifty sixty seventy eighty ninety")

# {kind} stands for one of its kind; (a|b) for one of several, of which one may be empty.
KINDS: dict[str, tuple[str, ...]] = {
    "colour": several("red orange yellow green blue purple black white pink brown gray"),
    "one": several("circle square triangle star cross rectangle line heart diamond oval"),
    "many": several("circles squares triangles stars crosses rectangles lines hearts diamonds ovals"),
    "size": several("small large big little tiny huge"),
    "place": (
        "on the left", "on the right", "at the top", "at the bottom", "in the middle", "in the center",
        "in the corner", "at the top left", "at the top right", "at the bottom left", "at the bottom right",
    ),
    "beside": ("above", "below", "beside", "behind", "under", "over", "next to", "near", "inside", "in front of"),
    "way": ("left", "right", "up", "down", "forward", "back"),
    "room": ("kitchen", "bedroom", "bathroom", "garden", "garage", "office", "living room", "hall"),
    "thing": (
        "light", "lights", "lamp", "radio", "music", "television", "heating", "fan", "alarm", "camera", "computer",
        "phone", "screen",
    ),
    "opens": ("door", "window", "box", "file", "map", "garage", "curtains", "picture", "page", "book", "menu"),
    "unit": ("seconds", "minutes", "hours", "days", "weeks"),
    "day": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "today", "tomorrow"),
    "who": ("my mother", "my father", "my brother", "my sister", "my friend", "the doctor", "home", "the office"),
    "ordinal": ("first", "second", "third", "fourth", "fifth", "last", "next", "other"),
}  # fmt: skip

TEMPLATES = """
(please|) {number}
{number} {number} {number}
{digits}
number {number}
{number} (and|plus|minus|times) {number}
{number} (percent|degrees|points|steps|meters|dollars)
(is it|it is) {number} or {number}
{colour}
{colour} (and|or) {colour}
{a_shape}
{some}
{some} and {some}
(the|a|every|each|this|that) {size} {colour} {one}
{a_shape} {beside} {a_shape}
draw {a_shape} (please|)
(please|now) draw {some} {place}
(draw|paint|add|make|show me|find|give me) {a_shape} {place}
(draw|paint|add|make|find|count) {some}
paint the {one} {colour}
make the {one} {colour}
make (it|them|the {one}) (bigger|smaller|{colour}|darker|lighter)
(move|push|turn|drag|slide) the {colour} {one} (to the|) (left|right)
move (it|the {one}|the {ordinal} {one}) {way} (by|) {number} (steps|points)
put the {colour} {one} {beside} the {colour} {one}
(delete|remove|erase|copy|select|hide|fill|rotate) the {ordinal} {one}
(delete|remove|erase|copy|select|hide) (all|) the {many}
fill the {one} with {colour}
rotate the {one} by {number} degrees
turn {way}
turn (on|off) the {thing}
turn the {thing} (on|off)
(switch|turn) (on|off) the {room} {thing}
(go|move|look|step) {way}
(go|move|walk) {number} steps {way}
(open|close) the {opens} (please|)
(open|close) the (kitchen|bedroom|garage|front|back) (door|window)
(stop|start|play|pause) (it|the music|the timer|) (now|please|)
(next|previous|last) (page|song|picture|one)
(volume|brightness) (up|down)
set the (volume|brightness|temperature|alarm) to {number} (percent|degrees|)
set (a|the) timer for {number} {unit}
wake me (up|) at {number} (thirty|fifteen|) (in the morning|)
what (time|day) is it (now|today|)
what is {number} (plus|minus|times) {number}
(call|send a message to) {who}
read (my|the) (messages|news|page)
(remind me|call me) {day} at {number}
(save|print|close|open) the (file|picture|page) (now|)
(undo|redo|repeat) (that|it|the last step|)
(yes|no|okay|stop|start|go|wait|help|cancel|continue|repeat|undo|redo|louder|quieter|faster|slower|hello|goodbye) (please|)
(yes|no) (please|thank you|it is|it is not|i do|i do not)
(hello|good morning|good evening|welcome) (my friend|and welcome|to the show|everyone|)
(thank you|thanks) (very much|for your time|for the question|and goodbye|)
how many {many} (are there|do you see|can you see|did you draw)
what (colour|shape|size) is (it|the {one}|the {ordinal} one)
what is your favourite (colour|shape|number)
my favourite (colour|shape|number) is ({colour}|the {one}|{number})
(where|which one) is the {colour} {one}
why do you like the {colour} {one}
i like (it|the {colour} {one}|{colour} {many}|{colour} and {colour}) (very much|best|)
i (see|saw|drew|found|painted|want|have|need) {some} (and|) {some}
i (see|saw|drew|found|painted|want|have|need) {a_shape} {place}
there (is|was) {a_shape} {place}
there (are|were) {some} {place}
the {one} is {colour} and the {one} is {colour}
the {colour} {one} is {beside} the {colour} {one}
(can|could|would) you (draw|paint|find|show me) {a_shape} (please|)
(tell|ask) me (about|more about) the {colour} {one}
(do|did) you (like|see|draw|want) the {one}
is (it|there) {a_shape}
(it was|this is|that was|we had) (a|the) (good|long|short|hard|easy|new|old) (day|question|answer|picture|story)
(we|they|you) (went|came|worked|lived) there for {number} (days|weeks|years|months)
(then|so|and|but) (we|they|you|he|she) (said|made|saw|had|wanted) {some}
when did you (begin|start|learn) to (draw|paint|work)
(when i was|i was) {number} years old
let us (begin|start|talk|go on|stop here)
the (first|next|last) question is about {many}
"""  # noqa: E501

# Words for strings of words without sense, beside all that the templates have.
SPARE = several("""
a about after again all also always am an any are as ask at away be because been before best better between but by
came can change clean click clear cold come could cut dark did do does done each early easy end enter even every fast
few from full get girl boy give good great had hand hard has have he head her here high him his hot house how i if
in into is it job just keep kind late later left less let life light like listen long look low made make man many
may maybe me mean men more most much must my name never new night no noise not nothing now of off often old on once
only or other out paper part people person picture place ready really remember right room round same say see she
should side silence simple slow small so some something sound speak spell still street such sure table take talk tell
test than that the their them then there these they thing think this those time together two type under until
us use very voice walk want was water way we well went were what when where which while white who why will with woman
word words work world would year yes yet you young your zero hundred thousand
""")

_CHOICE = re.compile(r"\(([^()]*)\)")
_KIND = re.compile(r"\{(\w+)\}")


def number_words(value: int) -> str:
    """A number below a million as it is said: ``one hundred and seven``."""
    if value < 10:
        return ("zero", *ONES)[value]
    if value < 20:
        return TEENS[value - 10]
    if value < 100:
        tens = TENS[value // 10 - 2]
        return tens if value % 10 == 0 else f"{tens} {ONES[value % 10 - 1]}"
    big, name = (1000, "thousand") if value >= 1000 else (100, "hundred")
    head = f"{number_words(value // big)} {name}"
    rest = value % big
    if not rest:
        return head
    return f"{head} {'and ' if rest < 100 else ''}{number_words(rest)}"


def _number(rng: random.Random) -> str:
    highest = rng.choice((10, 10, 20, 100, 100, 1000, 10_000))
    return number_words(rng.randrange(highest))


def _some(rng: random.Random) -> str:
    others = ("some", "many", "all", "a few", "more", "no", number_words(rng.randint(20, 99)))
    count = rng.choice((*ONES[1:], *TEENS, *others))
    parts = [count, rng.choice(("", "", rng.choice(KINDS["size"]))), rng.choice(("", rng.choice(KINDS["colour"])))]
    return " ".join([*parts, rng.choice(KINDS["many"])])


def _a_shape(rng: random.Random) -> str:
    parts = [rng.choice(("", "", rng.choice(KINDS["size"]))), rng.choice((rng.choice(KINDS["colour"]), ""))]
    name = " ".join([*(part for part in parts if part), rng.choice(KINDS["one"])])
    article = rng.choice(("a", "a", "one", "another", "the"))
    return f"{'an' if article == 'a' and name[0] in 'aeiou' else article} {name}"


def _fill(rng: random.Random, kind: str) -> str:
    made = {
        "number": lambda: _number(rng),
        "digits": lambda: " ".join(rng.choice(("zero", *ONES)) for _ in range(rng.randint(2, 7))),
        "some": lambda: _some(rng),
        "a_shape": lambda: _a_shape(rng),
    }
    return made[kind]() if kind in made else rng.choice(KINDS[kind])


@cache
def templates() -> tuple[str, ...]:
    """What phrases are made of."""
    return tuple(TEMPLATES.strip().splitlines())


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word there is, sorted."""
    found = {"hundred", "thousand", "and", "zero", "some", "many", "all", "few", "more", "no", "another", "an"}
    found.update(ONES, TEENS, TENS, SPARE)
    for text in (*templates(), *(one for kind in KINDS.values() for one in kind)):
        found.update(re.findall(r"[a-z]+", _KIND.sub(" ", text)))
    return tuple(sorted(found))


@cache
def _loose() -> tuple[str, ...]:
    # Without those that sound like numbers: nothing would tell which of them is said.
    return tuple(word for word in vocabulary() if word not in ("to", "for"))


def phrase(rng: random.Random, loose: float = 0.0) -> str:
    """Something to say; in this share of all cases words without sense, so that no model learns to guess."""
    if rng.random() < loose:
        return " ".join(rng.choices(_loose(), k=rng.randint(1, 7)))
    return fill(rng, rng.choice(templates()))


def fill(rng: random.Random, template: str) -> str:
    """A template with its chances taken: ``(a|b)`` and ``{kind}``."""
    text = template
    while (chosen := _CHOICE.search(text)) is not None:
        text = text[: chosen.start()] + rng.choice(chosen[1].split("|")) + text[chosen.end() :]
    return " ".join(_KIND.sub(lambda kind: _fill(rng, kind[1]), text).split())
