"""What one call brings along besides settings: objects that no file can hold, and that act on its rows only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError, brief


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The objects of one call, by the names of the table (rows with :attr:`omniform.core.settings.Effect.PART`).

    Attributes:
        given: what was handed over, as it is.
        made: what was made of it once for all rows of the call, by name.
    """

    given: Mapping[str, object] = field(default_factory=dict)
    made: dict[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.given)

    def get(self, name: str) -> object:
        """What was handed over under a name; None if nothing was."""
        return self.given.get(name)

    def some(self, name: str) -> object:
        """What was handed over under a name; None if nothing was, or an empty list."""
        found = self.given.get(name)
        return None if isinstance(found, (list, tuple)) and not found else found


def refuse_loop(parts: Parts) -> None:
    """Raise :class:`InputError` for a decoding loop where requests are answered step by step."""
    if parts.get("custom_generate") is not None:
        raise InputError(
            "a loop of one's own answers a whole call",
            where="custom_generate",
            expected="model.generate(..., custom_generate=...)",
            found=brief(parts.get("custom_generate")),
        )


def refuse_whole(model: Generative, said: Mapping[str, object]) -> None:
    """Refuse what only ``generate`` acts on, where a request reads a part of an input (a window of a sound)."""
    wrong = [
        name for name in said if name in model.whole_settings and not model.own_settings[name].is_neutral(said[name])
    ]
    if wrong:
        raise InputError(
            "this is about a whole sound",
            where=", ".join(sorted(wrong)),
            expected="model.generate(...)",
            remedy="A request, a stream of tokens and a loop of one's own hear one window.",
        )


NO_PARTS: Final = Parts()
