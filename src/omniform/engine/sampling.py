"""Choosing the next token: rules that change scores, then the most likely token or a draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omniform.core.errors import OmniformError
from omniform.engine.draws import Candidates, drawn, drawn_of, drawn_there, narrowed
from omniform.engine.guided import fitted, forgotten
from omniform.engine.hooks import Hooks
from omniform.engine.request import Row, TokenLogprob
from omniform.engine.rules import rules_of
from omniform.engine.settings import Settings
from omniform.engine.speculative import settle
from omniform.engine.tops import highest


def choose(
    rows: Sequence[Row],
    settings: Settings,
    logits_RV: Tensor,
    places: Sequence[int],
    hooks: Hooks | None = None,
) -> tuple[list[int], Tensor]:
    """The next token of each row, under one set of settings.

    Rows with a generator of their own draw from it; the others draw together, from torch's global one, where the rows
    of one call keep their places when others of them have ended.

    Args:
        rows: the rows.
        settings: how to choose.
        logits_RV: the model's scores of each row's next token. Shape: [R, V].
        places: which row of its call each is, to name it.
        hooks: the objects of their call, if it has any.

    Returns:
        One token per row, and the scores that they were chosen by, Shape: [R, V]; where nobody keeps these, scores
        before the filters of draws.

    Raises:
        OmniformError: the scores of a row are no numbers, the rules leave none to choose by, or an object of the call
            has failed.
    """
    scores = ruled(rows, settings, logits_RV, hooks)
    if not settings.do_sample:
        scores = finished(rows, settings, scores, hooks)
        # The first of the highest, as argmax gives it; in bfloat16 this is several times as fast.
        values, best = highest(scores)
        if scores.device.type != "cpu":  # one read for both
            return _numbers(torch.where(values.isnan(), -1, best), rows, logits_RV, places), scores
        refuse_no_numbers(values.isnan(), rows, logits_RV, places)
        return best.tolist(), scores
    proposed = [i for i, row in enumerate(rows) if row.proposals]
    marked = hooks is not None and bool(hooks.marks)
    left = narrowed(scores, settings, in_doubt=not (proposed or marked or settings.keep_scores or settings.renormalize))
    if marked:
        left = Candidates(finished(rows, settings, left.spread(), hooks), None, left.vocabulary)
    elif settings.renormalize:
        left = Candidates(left.scores.log_softmax(-1), left.tokens, left.vocabulary)
    odds = left.scores.softmax(-1)
    if odds.device.type != "cpu" and not proposed:
        tokens = drawn_there(left, odds, rows)
        return _numbers(tokens, rows, logits_RV, places), left.spread() if settings.keep_scores else scores
    # One NaN makes all of a row's odds NaN. Found before anybody has drawn: the others' generators stay as they are.
    refuse_no_numbers(odds[:, 0].isnan(), rows, logits_RV, places)
    if not proposed and not marked:
        return drawn_of(left, odds, rows, scores, settings), left.spread() if settings.keep_scores else scores
    settled: dict[int, int] = {}
    if proposed:
        own = Candidates(odds[proposed], None if left.tokens is None else left.tokens[proposed], left.vocabulary)
        found = settle([rows[i] for i in proposed], own.odds_of_all())
        settled = dict(zip(proposed, found, strict=True))
    return drawn(left, odds, rows, settled), left.spread() if settings.keep_scores else scores


def _numbers(tokens_R: Tensor, rows: Sequence[Row], logits_RV: Tensor, places: Sequence[int]) -> list[int]:
    """Tokens on the host, in one read; -1 stands for scores that are no numbers, which is refused."""
    tokens: list[int] = tokens_R.tolist()
    if min(tokens, default=0) < 0:
        refuse_no_numbers(tokens_R < 0, rows, logits_RV, places)
    return tokens


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


def goes_by_likeliest(rows: Sequence[Row], settings: Settings, hooks: Hooks | None) -> bool:
    """Whether rows take their likeliest tokens whatever these are: no rule and no object changes scores before."""
    return settings.is_plain and hooks is None and all(row.guide is None for row in rows)


def processed(rows: Sequence[Row], settings: Settings, logits_RV: Tensor, hooks: Hooks | None = None) -> Tensor:
    """Scores after the rules, a call's own objects, and the filters of draws.

    Args:
        rows: the rows.
        settings: how to choose.
        logits_RV: scores of each row's next token. Shape: [R, V].
        hooks: the objects of their call, if it has any.

    Returns:
        Shape: [R, V]; float32, unless nothing is to be done, when it is the input itself.
    """
    scores = ruled(rows, settings, logits_RV, hooks)
    if settings.do_sample:
        scores = narrowed(scores, settings).spread()
    return finished(rows, settings, scores, hooks)


def ruled(rows: Sequence[Row], settings: Settings, logits_RV: Tensor, hooks: Hooks | None = None) -> Tensor:
    """Scores after the rules, a call's own processors and grammars; see :func:`processed`."""
    if goes_by_likeliest(rows, settings, hooks):
        return logits_RV
    scores = logits_RV.float()
    for rule in rules_of(settings, scores.device):
        own = None if hooks is None else hooks.instead_of(rule)
        scores = rule.change(rows, scores) if own is None else own(rows, scores)
    return fitted(rows, settings, scores if hooks is None else hooks.processed(rows, scores))


def finished(rows: Sequence[Row], settings: Settings, scores_RV: Tensor, hooks: Hooks | None = None) -> Tensor:
    """Scores with what comes last: a watermark, and their sum; see :func:`processed`."""
    if hooks is not None and hooks.marks:
        scores_RV = hooks.marked(rows, scores_RV)
    return forgotten(rows, scores_RV.log_softmax(-1) if settings.renormalize else scores_RV)


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
