"""Which attention kernel a config asks for: a note beside its keys, never saved, as the ecosystem keeps it.

``config._attn_implementation`` is what a model is built with, and tells afterwards what it computes with. What a
checkpoint's file holds under this name is what some machine once had, and means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

NOTE = "_attn_implementation"


class Noted(Protocol):
    """A config, as far as notes go."""

    @property
    def parts(self) -> Mapping[str, Noted]: ...


def note_attention(config: Noted, asked: object) -> None:
    """Note what is asked for: a name for the config and all configs within; or names by their keys, ``""`` its own."""
    notes = _notes(config)
    if not isinstance(asked, Mapping):
        notes[NOTE] = asked
        for part in config.parts.values():
            note_attention(part, asked)
        return
    if "" in asked:
        notes[NOTE] = asked[""]
    for key, part in config.parts.items():
        if key in asked:
            note_attention(part, asked[key])


def noted_attention(config: Noted) -> object:
    """What is noted: None for nothing, a name, or names by keys."""
    own = _notes(config).get(NOTE)
    parts = {key: noted_attention(part) for key, part in config.parts.items()}
    if all(one == own for one in parts.values()):
        return own
    told = {key: one for key, one in parts.items() if one is not None}
    return told if own is None else {"": own, **told}


def _notes(config: Noted) -> dict[str, object]:
    held: dict[str, object] = config.__dict__  # a config of the user's own keeps its notes there
    return cast("dict[str, object]", held.get("_notes", held))
