"""Choosing the next token: rules that change scores, then the most likely token or a draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.core.errors import OmniformError
from omniform.engine.guided import fitted, forgotten
from omniform.engine.request import Row, TokenLogprob
from omniform.engine.settings import Settings
from omniform.engine.speculative import settle

NEVER = float("-inf")


def choose(
    rows: Sequence[Row], settings: Settings, logits_RV: Tensor, places: Sequence[int]
) -> tuple[list[int], Tensor]:
    """The next token of each row, under one set of settings.

    Rows with a generator of their own draw from it; the others draw together, from torch's global one, where the rows
    of one call keep their places when others of them have ended.

    Args:
        rows: the rows.
        settings: how to choose.
        logits_RV: the model's scores of each row's next token. Shape: [R, V].
        places: which row of its call each is, to name it.

    Returns:
        One token per row, and the scores that they were chosen by, Shape: [R, V].

    Raises:
        OmniformError: the scores of a row are no numbers, or the rules leave none to choose by.
    """
    scores = processed(rows, settings, logits_RV)
    if not settings.do_sample:
        # The first of the highest, as argmax gives it; in bfloat16 this is several times as fast.
        best = scores.max(-1)
        refuse_no_numbers(best.values.isnan(), rows, logits_RV, places)
        return best.indices.tolist(), scores
    odds = scores.softmax(-1)
    # One NaN makes all of a row's odds NaN. Found before anybody has drawn: the others' generators stay as they are.
    refuse_no_numbers(odds[:, 0].isnan(), rows, logits_RV, places)
    tokens = [0] * len(rows)
    proposed = [i for i, row in enumerate(rows) if row.proposals]
    together = [i for i, row in enumerate(rows) if row.generator is None and not row.proposals]
    if proposed:
        for i, token in zip(proposed, settle([rows[i] for i in proposed], odds[proposed]), strict=True):
            tokens[i] = token
    if together:
        lanes = [rows[i].lane for i in together]
        places = list(range(len(together))) if None in lanes else [lane for lane in lanes if lane is not None]
        everyone = odds.new_ones((max(places[-1] + 1, rows[together[0]].lanes), odds.shape[1]))
        everyone[places] = odds[together]
        drawn = torch.multinomial(everyone, 1)[:, 0].tolist()
        for i, place in zip(together, places, strict=True):
            tokens[i] = drawn[place]
    for i, row in enumerate(rows):
        if row.generator is not None and i not in proposed:
            tokens[i] = int(torch.multinomial(odds[i], 1, generator=row.generator))
    return tokens, scores


def refuse_no_numbers(bad_R: Tensor, rows: Sequence[Row], logits_RV: Tensor, places: Sequence[int]) -> None:
    """Raise :class:`OmniformError` for the first row whose scores cannot be chosen by, naming it and its step."""
    if not bool(bad_R.any()):
        return
    first = bad_R.tolist().index(True)
    theirs = bool(((logits_RV[first] != logits_RV[first]) | (logits_RV[first] == float("inf"))).any())
    raise OmniformError(
        "the model's scores are no numbers" if theirs else "the rules leave no token to choose",
        where=f"row {places[first]}, step {rows[first].written}",
        remedy="Check weights and dtype." if theirs else "Relax suppress_tokens, sequence_bias or the like.",
    )


def processed(rows: Sequence[Row], settings: Settings, logits_RV: Tensor) -> Tensor:
    """Scores after the rules.

    Returns:
        Shape: [R, V]; float32, unless nothing is to be done, when it is the input itself.
    """
    if settings.is_plain and all(row.guide is None for row in rows):
        return logits_RV
    scores = logits_RV.float()
    if settings.has_token_rules:
        scores = torch.stack([_ruled(row, settings, scores[i]) for i, row in enumerate(rows)])
    scores = fitted(rows, settings, _banned(scores, settings.suppress_tokens))
    scores = _narrowed(scores, settings) if settings.do_sample else scores
    return forgotten(rows, scores.log_softmax(-1) if settings.renormalize else scores)


def logprobs_of(logits_V: Tensor, token: int, top: int) -> TokenLogprob:
    """How likely a token was under the model itself, and the likeliest tokens.

    Args:
        logits_V: the model's scores.
        top: how many of the likeliest to name.
    """
    logprobs = logits_V.float().log_softmax(-1)
    best = logprobs.topk(min(top, logprobs.shape[-1]))
    named = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return TokenLogprob(token, float(logprobs[token]), named)


def _ruled(row: Row, s: Settings, scores: Tensor) -> Tensor:
    """The rules that look at what a row holds or how long it is. Shape: [V] in and out."""
    written = row.written
    scores = _biased(scores, row.named, s.sequence_bias)
    if s.encoder_repetition_penalty != 1.0:  # here a higher one asks for more of the same
        scores = _penalised(scores, row.read, 1 / s.encoder_repetition_penalty)
    if s.repetition_penalty != 1.0:
        scores = _penalised(scores, row.named, s.repetition_penalty)
    if s.no_repeat_ngram_size:
        scores = _banned(scores, _repeats(row.named, row.named, s.no_repeat_ngram_size))
    if s.encoder_no_repeat_ngram_size:
        scores = _banned(scores, _repeats(row.named, row.read, s.encoder_no_repeat_ngram_size))
    scores = _biased(scores, row.named, [(word, NEVER) for word in s.bad_words])
    if written < s.min_new_tokens:
        scores = _banned(scores, s.eos_token_ids)
    if s.forced_first is not None and written == 0:
        scores = _only(scores, (s.forced_first,))
    if s.forced_last and written == s.max_new_tokens - 1:
        scores = _only(scores, s.forced_last)
    if s.remove_invalid:
        most = torch.finfo(scores.dtype).max
        scores = scores.nan_to_num(0.0, most, -most)
    if s.length_decay is not None and written > s.length_decay[0]:
        scores = _hastened(scores, s.eos_token_ids, s.length_decay[1] ** (written - s.length_decay[0]))
    # Where the first token is forced, the second is the one that somebody begins with.
    return _banned(scores, s.begin_suppress_tokens) if written == (s.forced_first is not None) else scores


def _banned(scores: Tensor, tokens: Sequence[int]) -> Tensor:
    inside = [t for t in tokens if t < scores.shape[-1]]
    if not inside:
        return scores
    return scores.index_fill(-1, torch.tensor(inside, device=scores.device), NEVER)


def _only(scores: Tensor, tokens: Sequence[int]) -> Tensor:
    return torch.full_like(scores, NEVER).index_fill(-1, torch.tensor(list(tokens), device=scores.device), 0.0)


def _penalised(scores: Tensor, tokens: Sequence[int], penalty: float) -> Tensor:
    """CTRL's repetition penalty (https://arxiv.org/abs/1909.05858, section 4.1)."""
    seen = torch.tensor(sorted(set(tokens)), dtype=torch.long, device=scores.device)
    old = scores[seen]
    return scores.index_copy(0, seen, torch.where(old < 0, old * penalty, old / penalty))


def _biased(scores: Tensor, tokens: Sequence[int], biases: Sequence[tuple[tuple[int, ...], float]]) -> Tensor:
    """Scores with something added for each run of tokens that the next token would complete."""
    sums: dict[int, float] = {}
    for run, bias in biases:
        *before, last = run
        if len(before) <= len(tokens) and before == list(tokens[len(tokens) - len(before) :]):
            sums[last] = sums.get(last, 0.0) + bias
    if not sums:
        return scores
    places = torch.tensor(list(sums), device=scores.device)
    return scores.index_add(-1, places, torch.tensor(list(sums.values()), device=scores.device))


def _hastened(scores: Tensor, ends: Sequence[int], factor: float) -> Tensor:
    """Ends made likelier; also where their scores are negative, hence the absolute value."""
    places = torch.tensor([t for t in ends if t < scores.shape[-1]], dtype=torch.long, device=scores.device)
    more = (scores[places].abs() * (factor - 1)).masked_fill(~scores[places].isfinite(), 0.0)
    return scores.index_add(-1, places, more)


def _repeats(tokens: Sequence[int], held: Sequence[int], size: int) -> tuple[int, ...]:
    """The tokens that would complete a run of ``size`` tokens at the end of a row which ``held`` holds already."""
    if len(tokens) + 1 < size:
        return ()
    tail = list(tokens[len(tokens) - size + 1 :])
    places = range(len(held) - size + 1)
    return tuple({held[i + size - 1] for i in places if list(held[i : i + size - 1]) == tail})


def _narrowed(scores: Tensor, s: Settings) -> Tensor:
    # Beams need candidates to go on with even if all likely tokens end an answer.
    least = max(2, 1 + len(s.eos_token_ids)) if s.num_beams > 1 else 1
    if s.temperature != 1.0:
        scores = scores / s.temperature
    if s.top_k:
        lowest = scores.topk(min(max(s.top_k, least), scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, NEVER)
    if s.top_p < 1.0:
        ascending, order = scores.sort(dim=-1)
        unlikely = ascending.softmax(-1).cumsum(-1) <= 1 - s.top_p
        unlikely[:, -least:] = False
        scores = scores.masked_fill(unlikely.scatter(1, order, unlikely), NEVER)
    if s.min_p:
        odds = scores.softmax(-1)
        unlikely = odds < s.min_p * odds.amax(-1, keepdim=True)
        unlikely.scatter_(1, odds.topk(least, dim=-1).indices, False)
        scores = scores.masked_fill(unlikely, NEVER)
    return _cut_off(_typical(scores, s.typical_p, least), s, least)


def _typical(scores: Tensor, mass: float, least: int) -> Tensor:
    """Locally typical sampling (https://arxiv.org/abs/2202.00666, algorithm in section 4)."""
    if mass >= 1.0:
        return scores
    logs = scores.log_softmax(-1)
    entropy = -(logs * logs.exp()).nansum(-1, keepdim=True)
    strange, order = (-logs - entropy).abs().sort(-1)
    within = (scores.gather(-1, order).softmax(-1).cumsum(-1) < mass).sum(1, keepdim=True)
    out = strange > strange.gather(1, within.clamp(max=scores.shape[-1] - 1))
    out[:, :least] = False
    return scores.masked_fill(out.scatter(1, order, out), NEVER)


def _cut_off(scores: Tensor, s: Settings, least: int) -> Tensor:
    """Epsilon and eta sampling (https://arxiv.org/abs/2210.15191, section 3)."""
    for name, epsilon in (("epsilon", s.epsilon_cutoff), ("eta", s.eta_cutoff)):
        if not epsilon:
            continue
        odds = scores.softmax(-1)
        limit = torch.tensor(epsilon, device=scores.device)
        if name == "eta":
            # The most negative number, since nothing times minus infinity is no number.
            entropy = -(odds * scores.log_softmax(-1).clamp(min=torch.finfo(scores.dtype).min)).sum(-1, keepdim=True)
            limit = torch.minimum(limit, limit.sqrt() * (-entropy).exp())
        kept = scores.topk(min(least, scores.shape[-1]), dim=-1).values[:, -1:]
        scores = scores.masked_fill((odds < limit) & (scores < kept), NEVER)
    return scores
