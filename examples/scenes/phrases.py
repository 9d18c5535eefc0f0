"""The many ways to ask: words for things, sizes and places, and the questions with places left open for them.

In a template ``{name}`` is one object ("small red circle"), ``{names}`` several, ``{a}`` one with its article,
``{place}`` a place, ``{pic}`` a word for the picture, ``{color}`` either spelling of the word.
"""

from __future__ import annotations

NOUNS = ("object", "shape", "thing", "item")
PICTURES = ("picture", "image", "scene", "photo")
SIZE_WORDS = {"small": ("small", "small", "little", "tiny"), "large": ("large", "large", "big")}
LARGER_WORDS = {"larger": ("larger", "bigger"), "smaller": ("smaller",)}
LARGEST_WORDS = {"large": ("largest", "biggest"), "small": ("smallest", "tiniest")}
RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "higher than", "over"),
    "below": ("below", "lower than", "under", "beneath"),
}


def _corner(row: str, side: str) -> tuple[str, ...]:
    other = {"top": "upper", "bottom": "lower"}[row]
    return (
        f"at the {row} {side}",
        f"in the {row} {side}",
        f"in the {row} {side} corner",
        f"in the {other} {side} corner",
        f"at the {other} {side}",
    )


# "left" is the whole left third of the picture, "top left" one cell of nine. Answers use the first way.
PLACES: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "at the left"),
    "right": ("on the right", "on the right side", "at the right"),
    "top": ("at the top", "on top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "center": ("in the center", "in the middle", "at the center", "in the centre"),
    "top left": _corner("top", "left"),
    "top right": _corner("top", "right"),
    "bottom left": _corner("bottom", "left"),
    "bottom right": _corner("bottom", "right"),
}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


COLOUR = _lines("""
    What {color} is the {name}?
    What is the {color} of the {name}?
    Which {color} does the {name} have?
    What {color} does the {name} have?
    Tell me the {color} of the {name}.
    Which {color} is the {name}?
    Name the {color} of the {name}.
    The {name} is what {color}?
    What {color} is the {name} in the {pic}?
""")
COLOUR_MANY = _lines("""
    What {color} are the {names}?
    Which {color} are the {names}?
    What is the {color} of the {names}?
    What {color} do the {names} have?
""")
SHAPE = _lines("""
    What shape is the {name}?
    What is the shape of the {name}?
    Which shape does the {name} have?
    What shape does the {name} have?
    Tell me the shape of the {name}.
    Which shape is the {name}?
    Name the shape of the {name}.
    What kind of shape is the {name}?
    What is the {name}?
    What form does the {name} have?
""")
SHAPE_AT = _lines("""
    What shape is {place}?
    Which shape is {place}?
    What shape is {place} of the {pic}?
    What shape do you see {place}?
""")
SIZE = _lines("""
    Is the {name} large or small?
    What size is the {name}?
    How big is the {name}?
    What is the size of the {name}?
    Is the {name} small or large?
    Is the {name} big or small?
    Tell me the size of the {name}.
    How large is the {name}?
""")
WHERE = _lines("""
    Where is the {name}?
    Where is the {name} in the {pic}?
    Where can I find the {name}?
    Where do you see the {name}?
    In which part of the {pic} is the {name}?
    What is the position of the {name}?
    Tell me where the {name} is.
    Find the {name}.
    Locate the {name}.
    Where does the {name} lie?
    Where is the {name} located?
""")
WHAT = _lines("""
    What is {place}?
    What is {place} of the {pic}?
    What do you see {place}?
    What can be seen {place}?
    Which object is {place}?
    What object is {place}?
    What's {place}?
    What is there {place}?
    Name the object {place}.
    Is there anything {place}, and what is it?
""")
LARGEST = _lines("""
    What is the {most} {noun}?
    Which {noun} is the {most}?
    Which {noun} is {most}?
    What is the {most} {noun} in the {pic}?
    Name the {most} {noun}.
""")
COUNT = _lines("""
    How many {names} are there?
    How many {names} are in the {pic}?
    How many {names} do you see?
    How many {names}?
    Count the {names}.
    What is the number of {names}?
    How many {names} can you see?
    How many {names} does the {pic} show?
    Tell me how many {names} there are.
    How many {names} can you count?
    How many {names} are there in the {pic}?
""")
COUNT_AT = _lines("""
    How many {names} are {place}?
    How many {names} are there {place}?
    How many {names} do you see {place}?
    Count the {names} {place}.
    How many {names} are {place} of the {pic}?
""")
EXIST = _lines("""
    Is there {a}?
    Is there {a} in the {pic}?
    Do you see {a}?
    Can you see {a}?
    Does the {pic} show {a}?
    Does the {pic} have {a}?
    Can you find {a}?
    Does the {pic} contain {a}?
    Is {a} in the {pic}?
""")
EXIST_MANY = _lines("""
    Are there any {names}?
    Are there {names} in the {pic}?
    Do you see any {names}?
    Can you see any {names}?
    Are there any {names} in the {pic}?
    Does the {pic} have any {names}?
""")
EXIST_AT = _lines("""
    Is there {a} {place}?
    Do you see {a} {place}?
    Can you see {a} {place}?
    Is there {a} {place} of the {pic}?
""")
IS = _lines("""
    Is the {name} {trait}?
    Is the {name} in the {pic} {trait}?
    Would you say that the {name} is {trait}?
    Is it true that the {name} is {trait}?
""")
BACKGROUND = _lines("""
    What {color} is the background?
    What is the {color} of the background?
    Which {color} is the background?
    What is the background {color}?
    Tell me the {color} of the background.
    What {color} is behind the objects?
    What {color} does the background have?
    What is the background?
    What {color} is the background of the {pic}?
    Which {color} does the background have?
""")
BACKGROUND_IS = _lines("""
    Is the background {ground}?
    Is the {pic}'s background {ground}?
    Does the {pic} have a {ground} background?
    Is the background of the {pic} {ground}?
""")
RELATION = _lines("""
    Is the {one} {relation} the {other}?
    Does the {one} lie {relation} the {other}?
    Do you see the {one} {relation} the {other}?
    Is the {one} located {relation} the {other}?
""")
WHICH_LARGER = _lines("""
    Which is {larger}, the {one} or the {other}?
    What is {larger}, the {one} or the {other}?
    Which one is {larger}: the {one} or the {other}?
    Which is {larger}: the {one} or the {other}?
    Which object is {larger}, the {one} or the {other}?
""")
IS_LARGER = _lines("""
    Is the {one} {larger} than the {other}?
    Is the {one} {larger} than the {other} in the {pic}?
""")
SAME_SIZE = _lines("""
    Are the {one} and the {other} the same size?
    Do the {one} and the {other} have the same size?
    Is the {one} the same size as the {other}?
    Is the {one} as big as the {other}?
    Are the {one} and the {other} equally big?
""")
MORE = _lines("""
    Are there more {one} than {other}?
    Do you see more {one} than {other}?
    Does the {pic} have more {one} than {other}?
    Are there more {one} than {other} in the {pic}?
""")
DESCRIBE = _lines("""
    Describe the {pic}.
    Describe this {pic}.
    What do you see?
    What is in the {pic}?
    What does the {pic} show?
    Describe what you see.
    Give a description of the {pic}.
    What can you see in this {pic}?
    Tell me what is in the {pic}.
    List all objects.
    Write a caption for the {pic}.
    What is shown in the {pic}?
    Caption this {pic}.
    Describe it.
    What objects are in the {pic}?
    Describe the {pic} in detail.
    What do you see in the {pic}?
    Tell me about the {pic}.
""")
OPENINGS = ("Please tell me: ", "Look at the {pic}. ", "Question: ", "In this {pic}, ", "Hi! ", "Now, ", "Please: ")
CLOSINGS = (" Answer briefly.", " Please answer.", " Thanks.", " Please.")

TEMPLATES = (
    *COLOUR, *COLOUR_MANY, *SHAPE, *SHAPE_AT, *SIZE, *WHERE, *WHAT, *LARGEST, *COUNT, *COUNT_AT, *EXIST, *EXIST_MANY,
    *EXIST_AT, *IS, *BACKGROUND, *BACKGROUND_IS, *RELATION, *WHICH_LARGER, *IS_LARGER, *SAME_SIZE, *MORE, *DESCRIBE,
    *OPENINGS, *CLOSINGS,
)  # fmt: skip
