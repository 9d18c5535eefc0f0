"""Who guesses ahead for a request: what its settings and the objects of its call say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from omniform.architectures.generative import Generative
from omniform.architectures.model import Model
from omniform.core.errors import InputError
from omniform.engine.drafts import Drafter
from omniform.engine.lookup import PromptLookup
from omniform.engine.parts import Parts
from omniform.engine.request import Request
from omniform.engine.settings import Settings

if TYPE_CHECKING:
    from omniform.engine.engine import Engine


class Drafters:
    """The drafters of one engine: requests that ask for the same share one.

    Args:
        model: what confirms the guesses.
        engine: makes an engine for a model that guesses.
    """

    def __init__(self, model: Generative, engine: Callable[[Model], Engine]) -> None:
        self._model = model
        self._engine = engine
        self._lookup = PromptLookup(model.vocabulary)

    def of(self, request: Request) -> Drafter | None:
        """Who guesses for a request; None where nobody is asked to.

        Raises:
            InputError: somebody is, and the request's rows do not choose each for itself; or two are.
        """
        asked = wanted(request.settings, request.parts)
        if not asked:
            return None
        _refuse_strategies(request, asked)
        return self._lookup


def _refuse_strategies(request: Request, asked: list[str]) -> None:
    """Guesses are for rows that choose each for itself; and one guesses, not two."""
    way = request.strategy if request.contrast is None else request.contrast
    if way is not None:
        settings = request.settings
        beams = f"num_beams={settings.num_beams}" if settings.num_beams > 1 else type(way).__name__
        raise InputError(
            "tokens are guessed ahead for greedy search and sampling only",
            where=asked[0],
            expected="this setting left out, or the other way of writing",
            found=beams,
        )
    if len(asked) > 1:
        raise InputError(
            "one way to guess ahead at a time", where=asked[0], expected="one of them", found=" and ".join(asked)
        )


def wanted(settings: Settings, parts: Parts) -> list[str]:
    """The names of what asks for guesses."""
    asked = {
        "assistant_model": parts.get("assistant_model") is not None,
        "prompt_lookup_num_tokens": settings.guessing.lookup > 0,
        "assistant_early_exit": settings.guessing.early_exit is not None,
    }
    return [name for name, value in asked.items() if value]
