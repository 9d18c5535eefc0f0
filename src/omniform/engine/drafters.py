"""Who guesses ahead for a request: what its settings and the objects of its call say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from omniform.architectures.encoder_decoder import MemoryCausalLM, Seq2SeqLM
from omniform.architectures.generative import Generative
from omniform.core.errors import InputError, brief
from omniform.engine.assistants import Assistant
from omniform.engine.drafts import Drafter
from omniform.engine.early_exit import beside_encoder, first_layers
from omniform.engine.guessing import LOOKBEHIND, Guessing
from omniform.engine.lookup import PromptLookup
from omniform.engine.parts import Parts
from omniform.engine.request import Request, Row
from omniform.engine.settings import Asked, Settings
from omniform.engine.spelling import Spelling
from omniform.engine.tongues import OtherTokens, SameTokens

if TYPE_CHECKING:
    from omniform.engine.inner import InnerEngine

log = logging.getLogger("omniform")

Key = tuple[object, ...]


class Drafters:
    """The drafters of one engine: requests that ask for the same share one.

    Args:
        model: what confirms the guesses.
        memory: of the engine, in bytes: an assistant takes as much again.
    """

    def __init__(self, model: Generative, memory: int) -> None:
        self._model = model
        self._memory = memory
        self._lookup = PromptLookup(model.vocabulary)
        # The objects stand beside what was made for them, so that their ids stay theirs.
        self._assistants: dict[Key, tuple[Assistant, list[object]]] = {}

    def of(self, request: Request) -> Drafter | None:
        """Who guesses for a request; None where nobody is asked to.

        Raises:
            InputError: somebody is, and the request's rows do not choose each for itself; or two are; or an assistant
                cannot help.
        """
        asked = wanted(request.settings, request.parts)
        if not asked:
            return None
        _refuse_strategies(request, asked)
        if request.contrast is not None:
            log.warning("%s: no tokens are guessed ahead beside guidance_scale", asked[0])
            return None
        if asked[0] == "prompt_lookup_num_tokens":
            return self._lookup
        depth = request.settings.guessing.early_exit
        if asked[0] == "assistant_early_exit":
            assert depth is not None
            return self._kept(("early exit", depth), [], lambda: self._same(first_layers(self._model, depth), own=True))
        given, theirs = request.parts.get("assistant_model"), request.parts.get("assistant_tokenizer")
        key = (id(given), id(theirs), None if theirs is None else id(request.tokenizer))
        return self._kept(key, [given, theirs, request.tokenizer], lambda: self._assistant(request, given, theirs))

    def _kept(self, key: Key, objects: list[object], make: Callable[[], Assistant]) -> Assistant:
        if key not in self._assistants:
            self._assistants[key] = make(), objects
        return self._assistants[key][0]

    def _assistant(self, request: Request, given: object, theirs: object) -> Assistant:
        model = _checked(self._model, given)
        if isinstance(model, MemoryCausalLM) and isinstance(self._model, Seq2SeqLM):
            model = beside_encoder(self._model, model)
        if theirs is None:
            if model.vocabulary != self._model.vocabulary:
                raise InputError(
                    "the assistant has another vocabulary",
                    where="assistant_model",
                    expected=f"{self._model.vocabulary} tokens",
                    found=f"{model.vocabulary} tokens",
                    remedy="Pass tokenizer=... and assistant_tokenizer=..., and texts will go between them.",
                )
            return self._same(model, own=False)
        if request.tokenizer is None:
            raise InputError(
                "texts go between two tokenizers",
                where="assistant_tokenizer",
                expected="tokenizer=... beside it",
                found="none",
                remedy="Pass tokenizer=... to generate, or give the Engine a processor.",
            )
        ours, other = Spelling(request.tokenizer, "tokenizer"), Spelling(theirs, "assistant_tokenizer")
        if ours.vocabulary == other.vocabulary:  # matrices of vocabularies are padded to sizes of their own
            return self._same(model, own=False)
        ends = Asked(model).values["eos_token_id"]
        assert isinstance(ends, tuple)

        def tongue(request: Request, row: Row, guessing: Guessing) -> OtherTokens:
            back, forth = guessing.target_lookbehind, guessing.assistant_lookbehind
            return OtherTokens(
                row,
                ours,
                other,
                target_lookbehind=LOOKBEHIND if back is None else back,
                assistant_lookbehind=LOOKBEHIND if forth is None else forth,
                ends=frozenset(ends),
                reads=model.knows,
            )

        return Assistant(model, self._inner(model), tongue, exact=False)

    def _inner(self, model: Generative) -> InnerEngine:
        from omniform.engine.inner import InnerEngine

        return InnerEngine(model, self._memory)

    def _same(self, model: Generative, *, own: bool) -> Assistant:
        whole = own or bool(model.encoder_inputs) or model.reads_items

        def tongue(request: Request, row: Row, guessing: Guessing) -> SameTokens:
            return SameTokens(request, row, model.knows, self._model.knows, whole=whole)

        return Assistant(model, self._inner(model), tongue, exact=True)


def wanted(settings: Settings, parts: Parts) -> list[str]:
    """The names of what asks for guesses."""
    asked = {
        "assistant_model": parts.get("assistant_model") is not None,
        "prompt_lookup_num_tokens": settings.guessing.lookup > 0,
        "assistant_early_exit": settings.guessing.early_exit is not None,
    }
    return [name for name, value in asked.items() if value]


def _checked(target: Generative, given: object) -> Generative:
    """An assistant that can help."""
    if not isinstance(given, Generative) or not given.can_generate():
        raise InputError(
            "this cannot guess", where="assistant_model", expected="a model that writes", found=brief(given)
        )
    if given.encoder_inputs and given.main_input != target.main_input:
        raise InputError(
            "the assistant reads what the model does not",
            where="assistant_model",
            expected=target.main_input,
            found=given.main_input,
        )
    return given


def _refuse_strategies(request: Request, asked: list[str]) -> None:
    """Guesses are for rows that choose each for itself; and one guesses, not two."""
    settings = request.settings
    if request.strategy is not None or settings.dola_layers is not None:
        ways = {
            "num_beams": settings.num_beams if settings.num_beams > 1 else None,
            "dola_layers": settings.dola_layers,
            "penalty_alpha": settings.penalty_alpha,
        }
        raise InputError(
            "tokens are guessed ahead for greedy search and sampling only",
            where=asked[0],
            expected="this setting left out, or the other way of writing",
            found=next(f"{name}={value}" for name, value in ways.items() if value is not None),
        )
    if len(asked) > 1:
        raise InputError(
            "one way to guess ahead at a time", where=asked[0], expected="one of them", found=" and ".join(asked)
        )
