"""Stopping criteria: rules that tell which rows have come to their end, by the ecosystem's names."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.processors.base import Tokens, refuse, token_tensor

if TYPE_CHECKING:
    from omniform.engine.text import Decodes

log = logging.getLogger("omniform")

Scores = tuple[Tensor, ...] | Tensor | None
"""What tokens were chosen by, step by step, Shape: [B, V] each; None where nobody keeps them."""


class StoppingCriteria:
    """Tells which rows have come to their end. Subclasses define ``__call__``."""

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> Tensor | bool:
        """Which rows are done: one answer for each, Shape: [B], bool, or one for all of them.

        Args:
            input_ids: the tokens so far, the newest included. Shape: [B, T].
            scores: what they were chosen by, with ``output_scores`` and ``return_dict_in_generate``.
            kwargs: a criterion's own.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define __call__")


class StoppingCriteriaList(list[StoppingCriteria]):
    """Several: a row is done as soon as one of them says so."""

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> Tensor:
        """Which rows are done. Shape: [B], bool; see :class:`StoppingCriteria` for the arguments."""
        done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        for rule in self:
            done = done | rule(input_ids, scores, **kwargs)
        return done

    @property
    def max_length(self) -> int | None:
        """That of the first :class:`MaxLengthCriteria` among them, if there is one."""
        return next((rule.max_length for rule in self if isinstance(rule, MaxLengthCriteria)), None)


class MaxLengthCriteria(StoppingCriteria):
    """Rows of so many tokens are done.

    Args:
        max_length: how many, prompt included.
        max_position_embeddings: what the model was made for; longer rows are warned of once.
    """

    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings
        self._told = False

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> Tensor:
        """See :class:`StoppingCriteria`."""
        length = input_ids.shape[1]
        done = length >= self.max_length
        limit = self.max_position_embeddings
        if limit is not None and not done and length > limit and not self._told:
            self._told = True
            log.warning("rows are longer than the %d tokens that the model was made for", limit)
        return _all(input_ids, done)


class MaxTimeCriteria(StoppingCriteria):
    """All rows are done after a time.

    Args:
        max_time: seconds.
        initial_timestamp: when it began, as ``time.time()``; now, if nothing is said.
    """

    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> Tensor:
        """See :class:`StoppingCriteria`."""
        return _all(input_ids, time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """Rows are done whose last tokens have an end among them.

    Args:
        eos_token_id: the tokens that end a row.
    """

    def __init__(self, eos_token_id: Tokens) -> None:
        self.eos_token_id = token_tensor(eos_token_id)

    def __call__(  # type: ignore[override]
        self, input_ids: Tensor, scores: Scores, new_token_length: int = 1, **kwargs: object
    ) -> Tensor:
        """See :class:`StoppingCriteria`; ``new_token_length`` last tokens are looked at."""
        self.eos_token_id = self.eos_token_id.to(input_ids.device)
        return torch.isin(input_ids[:, -new_token_length:], self.eos_token_id).any(-1)


class StopStringCriteria(StoppingCriteria):
    """Rows are done whose text contains one of some strings, once its last token completes it.

    Args:
        tokenizer: whose tokens are written.
        stop_strings: one string or several.

    Raises:
        InputError: a string that is empty, or none at all.
    """

    def __init__(self, tokenizer: Decodes, stop_strings: str | Sequence[str]) -> None:
        from omniform.engine.stop import StopStrings

        self.stop_strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings)
        if not self.stop_strings or not all(isinstance(s, str) and s for s in self.stop_strings):
            raise refuse("stop_strings", "texts, not empty", stop_strings)
        self._stops = StopStrings(self.stop_strings, tokenizer)

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> Tensor:
        """See :class:`StoppingCriteria`."""
        last = input_ids[:, -self._stops.window :].tolist()
        return torch.tensor([self._stops.ends(row) for row in last], dtype=torch.bool, device=input_ids.device)


class ConfidenceCriteria(StoppingCriteria):
    """Done as soon as the first row's last token was less likely than this.

    Args:
        assistant_confidence_threshold: than what.
    """

    def __init__(self, assistant_confidence_threshold: float) -> None:
        self.assistant_confidence_threshold = assistant_confidence_threshold

    def __call__(self, input_ids: Tensor, scores: Scores, **kwargs: object) -> bool:
        """See :class:`StoppingCriteria`."""
        if scores is None or len(scores) == 0:
            raise InputError(
                "this criterion looks at scores",
                where="ConfidenceCriteria",
                expected="output_scores=True, return_dict_in_generate=True",
            )
        return bool(scores[-1].softmax(-1)[0, input_ids[0, -1]] < self.assistant_confidence_threshold)


def validate_stopping_criteria(stopping_criteria: StoppingCriteriaList, max_length: int) -> StoppingCriteriaList:
    """A copy of some criteria that has one of length.

    Args:
        stopping_criteria: which.
        max_length: what is added where there is none; one of another length is warned of.
    """
    own = stopping_criteria.max_length
    copy = deepcopy(stopping_criteria)
    if own is None:
        copy.append(MaxLengthCriteria(max_length))
    elif own != max_length:
        words = f"the criteria end rows at {own} tokens, and max_length is {max_length}"
        warnings.warn(words, UserWarning, stacklevel=2)
    return copy


def _all(input_ids: Tensor, done: bool) -> Tensor:
    return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)
