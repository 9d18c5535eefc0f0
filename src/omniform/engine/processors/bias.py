"""Runs of tokens that are wanted or unwanted, each with a bias for the token that completes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.processors.base import NEVER, LogitsProcessor, Tokens, refuse, token_tensor

Run = tuple[int, ...]


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Something is added to the score of a run's last token wherever the others stand before it.

    Args:
        sequence_bias: runs and biases: a list of ``[tokens, float]``, or a mapping from tuples of tokens.
    """

    def __init__(self, sequence_bias: Sequence[Sequence[object]] | Mapping[Run, float]) -> None:
        self._begin(_biases(sequence_bias))

    def _begin(self, biases: dict[Run, float]) -> None:
        self.sequence_bias = biases
        self._lone: Tensor | None = None
        self._longer: list[tuple[Tensor, Tensor, Tensor]] = []

    @property
    def reach(self) -> int:
        """How many of a row's last tokens matter."""
        return max((len(run) - 1 for run in self.sequence_bias), default=0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """See :class:`LogitsProcessor`.

        Raises:
            InputError: a run has a token that there are no scores of.
        """
        if self._lone is None or self._lone.shape[-1] != scores.shape[-1] or self._lone.device != scores.device:
            self._prepare(scores)
        assert self._lone is not None, "just prepared"
        bias = torch.zeros_like(scores)
        bias += self._lone
        for before, last, biases in self._longer:
            length = before.shape[1]
            if length > input_ids.shape[1]:
                continue
            matches = (input_ids[:, None, -length:] == before).all(-1)
            bias.index_add_(1, last, torch.where(matches, biases, 0.0).to(bias.dtype))
        return scores + bias

    def _prepare(self, scores: Tensor) -> None:
        vocabulary, device = scores.shape[-1], scores.device
        outside = [token for run in self.sequence_bias for token in run if token >= vocabulary]
        if outside:
            raise InputError(
                "a token is not in the vocabulary",
                where=type(self).__name__,
                expected=f"tokens below {vocabulary}",
                found=", ".join(map(str, outside[:6])),
            )
        lone = {run[0]: bias for run, bias in self.sequence_bias.items() if len(run) == 1}
        self._lone = torch.zeros(vocabulary, device=device)
        if lone:
            self._lone[list(lone)] = torch.tensor(list(lone.values()), device=device)
        # Runs of one length are looked for at once.
        groups: dict[int, list[tuple[Run, float]]] = {}
        for run, bias in self.sequence_bias.items():
            if len(run) > 1:
                groups.setdefault(len(run), []).append((run, bias))
        self._longer = [
            (
                torch.tensor([run[:-1] for run, _ in group], device=device),
                torch.tensor([run[-1] for run, _ in group], device=device),
                torch.tensor([bias for _, bias in group], dtype=torch.float, device=device),
            )
            for group in groups.values()
        ]


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Runs of tokens that are never written.

    Args:
        bad_words_ids: which.
        eos_token_id: ends, which are no bad words by themselves.
    """

    def __init__(self, bad_words_ids: list[list[int]], eos_token_id: Tokens | None = None) -> None:
        if not isinstance(bad_words_ids, list) or not bad_words_ids:
            raise refuse("bad_words_ids", "a list of lists of token ids, not empty", bad_words_ids)
        if any(not isinstance(run, list) or not _all_tokens(run) for run in bad_words_ids):
            raise refuse("bad_words_ids", "a list of lists of token ids", bad_words_ids)
        self.bad_word_ids = bad_words_ids
        ends = [] if eos_token_id is None else token_tensor(eos_token_id).flatten().tolist()
        self._begin({tuple(run): NEVER for run in bad_words_ids if not (len(run) == 1 and run[0] in ends)})


def _biases(given: object) -> dict[Run, float]:
    if isinstance(given, list) and given:
        for pair in given:
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], list)):
                raise refuse("sequence_bias", "a list of [token ids, float]", given)
        given = {tuple(pair[0]): pair[1] for pair in given}
    if not isinstance(given, Mapping) or not given:
        raise refuse("sequence_bias", "a mapping or a list of [token ids, float], not empty", given)
    found: dict[Run, float] = {}
    for run, bias in given.items():
        if not isinstance(run, tuple) or not run or not _all_tokens(run):
            raise refuse("sequence_bias", "runs of token ids, not empty", run)
        if not isinstance(bias, float):
            raise refuse("sequence_bias", "floats as biases", bias)
        found[run] = bias
    return found


def _all_tokens(run: Sequence[object]) -> bool:
    return all(isinstance(token, (int, np.integer)) and token >= 0 for token in run)
