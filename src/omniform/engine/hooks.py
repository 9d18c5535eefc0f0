"""The objects of one call that take part in choosing: processors, criteria, a prefix function, a watermark.

They see what they would see in the ecosystem: all rows of their call at once, in their order, filled on the left to one
length, ended ones filled on the right; scores in float32. In a step that some rows have no part in, these rows are
shown with scores of zero, and what comes back for them is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError, OmniformError, brief
from omniform.engine.history import History, Ids
from omniform.engine.parts import Parts
from omniform.engine.processors import PrefixConstrainedLogitsProcessor
from omniform.engine.processors.base import MissingArgumentError, further_arguments
from omniform.engine.rules import Change, Rule
from omniform.engine.settings import Settings

if TYPE_CHECKING:
    from omniform.engine.request import Request, Row

log = logging.getLogger("omniform")

Processor = Callable[[Tensor, Tensor], Tensor]
Criterion = Callable[[Tensor, tuple[Tensor, ...] | None], object]

NAMES: Final = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn")
"""What a call brings along for them, by the names of the table."""


class Hooks:
    """The objects of one call, and the rows that they look at.

    Args:
        parts: what the call brought along.
        settings: of its rows.

    Raises:
        InputError: something else than processors, criteria or a function.
    """

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._processors = [cast("Processor", p) for p in _several("logits_processor", parts)]
        self._criteria = [cast("Criterion", c) for c in _several("stopping_criteria", parts)]
        self._asked = _prefix_rule(parts, settings)
        self._settings = settings
        self._each = settings.num_beams if settings.num_beams > 1 else settings.num_return_sequences
        self._requests: list[Request] = []
        self._watermark: Processor | None = None
        self._in_place: list[Processor] = []
        self._scores: list[Tensor] = []

    def join(self, request: Request) -> None:
        """Another prompt of the call, in their order."""
        self._requests.append(request)

    @property
    def requests(self) -> list[Request]:
        """All requests of the call."""
        return self._requests

    @property
    def marks(self) -> bool:
        """Whether there is a watermark."""
        return self._settings.watermark is not None

    # -- scores --------------------------------------------------------------------------------------------------------

    def instead_of(self, rule: Rule) -> Change | None:
        """What takes a rule's place; None where it stays."""
        asked = PrefixConstrainedLogitsProcessor in rule.kinds
        if asked and self._asked is None:
            return None
        own = next((p for p in self._processors if type(p) in rule.kinds), None)
        if own is None:
            return self._allowed if asked else None
        if own not in self._in_place:
            self._in_place.append(own)
            log.warning("the call's own %s takes the place of the setting's", type(own).__name__)
        return lambda rows, scores: self._changed([own], rows, scores)

    def processed(self, rows: Sequence[Row], scores_RV: Tensor) -> Tensor:
        """Scores after the call's processors, those aside that took a rule's place. Shape: [R, V]."""
        rest = [p for p in self._processors if p not in self._in_place]
        return self._changed(rest, rows, scores_RV) if rest else scores_RV

    def marked(self, rows: Sequence[Row], scores_RV: Tensor) -> Tensor:
        """Scores with the watermark. Shape: [R, V]."""
        if self._watermark is None:
            config = self._settings.watermark
            assert config is not None, "asked of a call with a watermark"
            made = config.construct_processor(scores_RV.shape[-1], scores_RV.device)
            self._watermark = cast("Processor", made)
        return self._changed([self._watermark], rows, scores_RV)

    def _allowed(self, rows: Sequence[Row], scores_RV: Tensor) -> Tensor:
        assert self._asked is not None, "asked of a call with a function"
        return self._changed([self._asked], rows, scores_RV, "prefix_allowed_tokens_fn")

    def _changed(
        self, processors: Sequence[Processor], rows: Sequence[Row], scores_RV: Tensor, name: str | None = None
    ) -> Tensor:
        places = self._places(rows)
        # Objects of a user's get tensors that they may change, keep, and compute with as anywhere else.
        with torch.inference_mode(False), torch.no_grad():
            ids = self.ids(scores_RV.device, most=max(row.written for row in rows))
            scores = self._whole(places, scores_RV)
            known = bool(scores.isnan().any())
            for processor in processors:
                called = name or type(processor).__name__
                where = self._where(called, rows, places)
                out = _called(processor, where, ids, scores)
                _check_scores(out, scores, where)
                scores = cast("Tensor", out).float()
                if not known:
                    self._refuse_no_numbers(called, scores, rows, places)
            return scores[[place[0] for place in places]]

    def _whole(self, places: Sequence[Sequence[int]], scores_RV: Tensor) -> Tensor:
        """Scores of every row of the call; zeros where there are none. Shape: [R, V] in, [B, V] out."""
        count = self._each * len(self._requests)
        flat = [place for each in places for place in each]
        if flat == list(range(count)) and len(places) == count:
            return scores_RV.float().clone()
        whole = torch.zeros((count, scores_RV.shape[-1]), device=scores_RV.device)
        whole[flat] = scores_RV.float().repeat_interleave(
            torch.tensor([len(each) for each in places], device=whole.device), dim=0
        )
        return whole

    # -- ends ----------------------------------------------------------------------------------------------------------

    def ends(self, rows: Sequence[Row], tokens: Sequence[int], scores_RV: Tensor) -> list[bool]:
        """Which rows the call's criteria end.

        Args:
            rows: which.
            tokens: what each of them writes next.
            scores_RV: what these were chosen by.
        """
        if not self._criteria:
            return [False] * len(rows)
        places = self._places(rows)
        with torch.inference_mode(False), torch.no_grad():
            if self._settings.keep_scores:
                self._scores.append(self._whole(places, scores_RV))
            more = {id(row): token for row, token in zip(rows, tokens, strict=True)}
            ids = self.ids(scores_RV.device, more, most=1 + max(row.written for row in rows))
            done = self._done(ids, rows, places)
        return [bool(done[place[0]]) for place in places]

    def end_beam(self, row: Row, token: int) -> bool:
        """Whether the call's criteria end a beam that goes on with a token; they are shown that beam alone."""
        if not self._criteria:
            return False
        with torch.inference_mode(False), torch.no_grad():
            ids = torch.tensor([[*row.named, token]])
            return bool(self._done(ids, [row], self._places([row]))[0])

    def _done(self, ids: Tensor, rows: Sequence[Row], places: Sequence[Sequence[int]]) -> Tensor:
        scores = tuple(self._scores) if self._settings.keep_scores else None
        done = torch.zeros(ids.shape[0], dtype=torch.bool)
        for criterion in self._criteria:
            where = self._where(type(criterion).__name__, rows, places)
            found = _called(criterion, where, ids, scores)
            if isinstance(found, bool):
                found = torch.tensor(found)
            if not isinstance(found, Tensor) or found.dtype != torch.bool or found.numel() not in (1, ids.shape[0]):
                raise OmniformError(
                    "this is not what a criterion tells",
                    where=where,
                    expected=f"a bool, or a bool tensor of shape [{ids.shape[0]}]",
                    found=_described(found),
                )
            done = done | found.flatten().cpu()
        return done

    # -- rows ----------------------------------------------------------------------------------------------------------

    def ids(self, device: torch.device, more: dict[int, int] | None = None, most: int | None = None) -> Tensor:
        """The tokens of all rows of the call. Shape: [B, T].

        Args:
            device: where they are wanted.
            more: tokens that rows write next, by the rows' ids.
            most: how many written tokens are shown of a row, those that are ahead of others included; None for all.
        """
        held = [(row, request) for request in self._requests for row in self._rows(request)]
        arrays = [_array(row, request, (more or {}).get(id(row))) for row, request in held]
        prompts = [len(request.prompt.tokens) if row is None else row.prompt - row.nameless for row, request in held]
        if most is not None:
            arrays = [array[: prompt + most] for prompt, array in zip(prompts, arrays, strict=True)]
        longest = max(prompts)
        length = max(longest - prompt + len(array) for prompt, array in zip(prompts, arrays, strict=True))
        whole = np.full((len(held), length), self._settings.pad_token_id, dtype=np.int64)
        for line, (row, _), array, prompt in zip(whole, held, arrays, prompts, strict=True):
            # Rows that have ended stay where they are; one that lags behind has its last token under the others'.
            over = row is not None and row.finished is not None
            start = longest - prompt if over else length - len(array)
            line[start : start + len(array)] = array
        return torch.from_numpy(whole).to(device)

    def _rows(self, request: Request) -> list[Row | None]:
        rows: list[Row | None] = [*request.rows[: self._each]]
        return rows + [rows[0] if rows else None] * (self._each - len(rows))

    def _places(self, rows: Sequence[Row]) -> list[list[int]]:
        """Which rows of the call each row is; the one that a search begins with is all of its beams."""
        number = {id(row): at for at, request in enumerate(self._requests) for row in request.rows}
        found = []
        for row in rows:
            first = number[id(row)] * self._each
            alone = self._settings.num_beams > 1 and row.written == 0
            found.append([*range(first, first + self._each)] if alone else [first + row.number])
        return found

    def _where(self, called: str, rows: Sequence[Row], places: Sequence[Sequence[int]]) -> str:
        first, last = places[0][0], places[-1][-1]
        named = f"row {first}" if first == last else f"rows {first} to {last}"
        return f"{called}, {named}, step {rows[0].written}"

    def _refuse_no_numbers(
        self, called: str, scores_BV: Tensor, rows: Sequence[Row], places: Sequence[Sequence[int]]
    ) -> None:
        bad = scores_BV.isnan().any(-1).tolist()
        for row, place in zip(rows, places, strict=True):
            if bad[place[0]]:
                raise OmniformError(
                    "these scores are no numbers",
                    where=f"{called}, row {place[0]}, step {row.written}",
                    expected="numbers, or minus infinity for what is not to come",
                    found="NaN",
                )


def hooks_of(parts: Parts, settings: Settings, *, shared: bool) -> Hooks | None:
    """What takes part in choosing for a request; None where nothing does.

    Args:
        parts: what its call brought along.
        settings: its settings.
        shared: the requests of the call are its rows, and looked at together.

    Raises:
        InputError: something else than processors, criteria or a function.
    """
    if settings.watermark is None and all(parts.get(name) is None for name in NAMES):
        return None
    if not shared:
        return Hooks(parts, settings)
    return cast("Hooks", parts.made.setdefault("hooks", Hooks(parts, settings)))


def _several(name: str, parts: Parts) -> list[object]:
    given = parts.get(name)
    if given is None:
        return []
    if not isinstance(given, (list, tuple)) or not all(map(callable, given)):
        kind = "LogitsProcessorList" if name == "logits_processor" else "StoppingCriteriaList"
        raise InputError(
            "these are not what takes part in choosing",
            where=name,
            expected=f"a {kind}, or a list of what can be called with input_ids and scores",
            found=brief(given),
            remedy=f"Put a single one into a list: {kind}([...])." if callable(given) else None,
        )
    for one in given if name == "logits_processor" else ():
        wanted = [name for name, needed in further_arguments(one).items() if needed]
        if wanted:
            raise MissingArgumentError(
                "generate calls processors with ids and scores",
                where=type(one).__name__,
                expected="nothing else",
                found=", ".join(wanted),
            )
    return list(given)


def _prefix_rule(parts: Parts, settings: Settings) -> Processor | None:
    given = parts.get("prefix_allowed_tokens_fn")
    if given is None:
        return None
    if not callable(given):
        raise InputError(
            "this is no function",
            where="prefix_allowed_tokens_fn",
            expected="a function of a prompt's number and a row's tokens",
            found=brief(given),
        )
    asked = cast("Callable[[int, Tensor], Sequence[int]]", given)
    # Without beams, the ecosystem counts every answer as a prompt of its own.
    return PrefixConstrainedLogitsProcessor(asked, settings.num_beams)


def _called(hook: Callable[..., object], where: str, *arguments: object) -> object:
    try:
        return hook(*arguments)
    except OmniformError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        raise OmniformError("an object of the call has failed", where=where, found=words) from error


def _check_scores(found: object, given: Tensor, where: str) -> None:
    fits = isinstance(found, Tensor) and found.shape == given.shape and found.is_floating_point()
    if not fits or cast("Tensor", found).device != given.device:
        raise OmniformError(
            "these are no scores of the next token",
            where=where,
            expected=f"a tensor of shape {[*given.shape]}, {given.dtype}",
            found=_described(found),
        )


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {[*found.shape]}, {found.dtype} on {found.device}"
    return brief(found)


def _array(row: Row | None, request: Request, more: int | None) -> Ids:
    if row is None:
        return np.array([t for t in request.prompt.tokens if t >= 0], dtype=np.int64)
    row.history = History() if row.history is None else row.history
    tokens = row.history.follow(row.named).tokens
    return tokens if more is None else np.append(tokens, more)
