"""Choosing the next token: rules that change scores, then the most likely token or a draw."""

from __future__ import annotations

import torch
from torch import Tensor

from omniform.engine.settings import Settings

NEVER = float("-inf")


class Sampler:
    """Chooses tokens for a batch of rows under one set of settings.

    Args:
        settings: how to choose.
        device: where the scores will lie.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings = settings
        self._generator: torch.Generator | None = None
        if settings.seed is not None:
            self._generator = torch.Generator(device).manual_seed(settings.seed)
        self._eos = torch.tensor(settings.eos_token_ids, device=device)

    def ended(self, tokens_B: Tensor) -> Tensor:
        """Which of the tokens end their row. Shape: [B], boolean."""
        return torch.isin(tokens_B, self._eos)

    def processed(self, logits_BV: Tensor, seen_BT: Tensor, real_BT: Tensor | None, written: int) -> Tensor:
        """Scores after the rules.

        Args:
            logits_BV: the model's scores. Shape: [B, V].
            seen_BT: every row's tokens so far. Shape: [B, T].
            real_BT: which of them are no padding. Shape: [B, T]; None for all.
            written: how many of them are new.

        Returns:
            Shape: [B, V], float32.
        """
        s = self.settings
        scores = logits_BV.float()
        if s.repetition_penalty != 1.0:
            scores = _penalised(scores, seen_BT, real_BT, s.repetition_penalty)
        if s.no_repeat_ngram_size:
            scores = _without_repeats(scores, seen_BT, real_BT, s.no_repeat_ngram_size)
        if written < s.min_new_tokens:
            scores = _banned(scores, s.eos_token_ids)
        if s.forced_first is not None and written == 0:
            scores = _only(scores, s.forced_first)
        if s.forced_last is not None and written == s.max_new_tokens - 1:
            scores = _only(scores, s.forced_last)
        scores = _banned(scores, s.suppress_tokens)
        if written == 0:
            scores = _banned(scores, s.begin_suppress_tokens)
        return _narrowed(scores, s) if s.do_sample else scores

    def choose(self, scores_BV: Tensor) -> Tensor:
        """The next token of each row. Shape: [B]."""
        if not self.settings.do_sample:
            return scores_BV.argmax(-1)
        return torch.multinomial(scores_BV.softmax(-1), 1, generator=self._generator)[:, 0]


def _banned(scores: Tensor, tokens: tuple[int, ...]) -> Tensor:
    inside = [t for t in tokens if t < scores.shape[-1]]
    if not inside:
        return scores
    return scores.index_fill(-1, torch.tensor(inside, device=scores.device), NEVER)


def _only(scores: Tensor, token: int) -> Tensor:
    return torch.full_like(scores, NEVER).index_fill(-1, torch.tensor([token], device=scores.device), 0.0)


def _penalised(scores: Tensor, seen: Tensor, real: Tensor | None, penalty: float) -> Tensor:
    """CTRL's repetition penalty (https://arxiv.org/abs/1909.05858, section 4.1)."""
    here = torch.ones_like(seen) if real is None else real.long()
    present = torch.zeros_like(scores, dtype=torch.long).scatter_add_(1, seen, here) > 0
    return torch.where(present, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _without_repeats(scores: Tensor, seen: Tensor, real: Tensor | None, size: int) -> Tensor:
    scores = scores.clone()
    for row in range(seen.shape[0]):
        tokens = (seen[row] if real is None else seen[row][real[row]]).tolist()
        if len(tokens) + 1 < size:
            continue
        tail = tokens[len(tokens) - size + 1 :]
        for i in range(len(tokens) - size + 1):
            if tokens[i : i + size - 1] == tail:
                scores[row, tokens[i + size - 1]] = NEVER
    return scores


def _narrowed(scores: Tensor, s: Settings) -> Tensor:
    if s.temperature != 1.0:
        scores = scores / s.temperature
    if s.top_k:
        least = scores.topk(min(s.top_k, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < least, NEVER)
    if s.top_p < 1.0:
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - s.top_p
        unlikely[:, -1] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), NEVER)
    if s.min_p:
        odds = scores.softmax(-1)
        scores = scores.masked_fill(odds < s.min_p * odds.amax(-1, keepdim=True), NEVER)
    return scores
