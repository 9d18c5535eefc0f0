"""Classes that scripts import to compare with or to use when asked to, and that omniform does not have yet.

The import works, ``isinstance`` answers no, and making one is refused.
"""

from __future__ import annotations

from omniform.core.errors import MissingPartError


class Awaited:
    """A class that is not here yet; it cannot be made.

    Raises:
        MissingPartError: always.
    """

    what: str

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise _missing(type(self))

    @classmethod
    def from_pretrained(cls, *args: object, **kwargs: object) -> object:
        """Refused.

        Raises:
            MissingPartError: always.
        """
        raise _missing(cls)


def _missing(kind: type[Awaited]) -> MissingPartError:
    return MissingPartError(f"omniform has no {kind.what} yet", where=kind.__name__)


class VisionTextDualEncoderModel(Awaited):
    """A model of pictures and one of texts, side by side."""

    what = "pair of any two models; CLIP is here"


class VisionTextDualEncoderProcessor(Awaited):
    """The processor of such a pair."""

    what = "processor of any two models; CLIPProcessor is here"


__all__ = [
    "VisionTextDualEncoderModel",
    "VisionTextDualEncoderProcessor",
]  # fmt: skip
