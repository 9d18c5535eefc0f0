"""Grammars among the other rules of an answer: which request has one, and what it does to its rows' scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from omniform.core.errors import InputError
from omniform.engine.guide import Guide
from omniform.engine.guides import NEVER, Grammar, Matcher, begin, grammar_of, masked
from omniform.engine.parts import Parts
from omniform.engine.settings import Settings
from omniform.engine.text import Decodes

if TYPE_CHECKING:
    from omniform.engine.request import Request, Row


def grammar_in(parts: Parts, tokenizer: Decodes | None) -> Grammar | None:
    """The grammar that a call brings along; None if it brings none.

    Raises:
        DependencyError, InputError: see :func:`omniform.engine.guides.grammar_of`.
    """
    said = {name: parts.get(name) for name in ("guide", "response_format") if parts.get(name) is not None}
    if len(said) > 1:
        raise InputError("an answer has one form", where="guide and response_format", remedy="Leave one of them out.")
    for name, value in said.items():
        guide = Guide.read(value, name)
        return None if guide is None else grammar_of(guide, tokenizer)
    return None


def seat(request: Request, row: Row) -> None:
    """Give a row its place in its request's grammar, if there is one."""
    if request.grammar is not None and row.guide is None:
        row.guide = request.grammar.matcher(request.settings.eos_token_ids, request.settings.forced_first)


def begin_masks(requests: Iterable[Request]) -> None:
    """Begin to compute, in a thread, what rows may write next."""
    waiting = []
    for request in requests:
        if request.grammar is not None and not request.over:
            for row in request.running:
                if row.guide is not None:
                    row.guide.follow(row.tokens[row.prompt :])
                    waiting.append(row.guide)
    if waiting:
        begin(waiting)


def is_whole(row: Row) -> bool:
    """Whether nothing can follow what a row has written, by its grammar."""
    if row.guide is None:
        return False
    row.guide.follow(row.tokens[row.prompt :])
    return row.guide.done


def would_be_whole(row: Row, token: int) -> bool:
    """Whether nothing could follow in a row that goes on by a token."""
    if row.guide is None:
        return False
    twin = row.guide.copy()
    return twin.accept(token) and twin.done


def refuse_unfit(request: Request, answers: Iterable[Sequence[int]]) -> None:
    """Raise an error for an answer of a search that does not fit: what else was asked for left none that does."""
    if request.grammar is None:
        return
    for tokens in answers:
        matcher = request.grammar.matcher(request.settings.eos_token_ids, request.settings.forced_first)
        matcher.follow(tokens)
        if matcher.lost:
            constrained = bool(request.settings.force_words or request.parts.get("constraints"))
            raise InputError(
                "no answer of this form was found",
                where=f"guide and {'force_words_ids' if constrained else 'num_beams'}",
                found=f"nothing that goes on after {matcher.text[-60:].decode(errors='replace')!r}",
                remedy="Leave one of them out, or search with more beams.",
            )


def fitted(rows: Sequence[Row], settings: Settings, scores_RV: Tensor) -> Tensor:
    """Scores of what the rows' grammars allow; as they are where no row has one. Shape: [R, V] in and out.

    Raises:
        InputError: the grammar and the other rules leave a row no token.
    """
    if all(row.guide is None for row in rows):
        return scores_RV
    for row in rows:
        if row.guide is not None:
            row.guide.follow(row.tokens[row.prompt :])
    scores = masked(scores_RV, [row.guide for row in rows])
    none_left = (scores.amax(-1) == NEVER).tolist()
    for row, none in zip(rows, none_left, strict=True):
        if none and row.guide is not None and not _is_past(row.guide):
            raise _contradiction(row, settings)
    return scores


def forgotten(rows: Sequence[Row], scores_RV: Tensor) -> Tensor:
    """Scores in which beams that only fill a place have none, also where a rule made numbers of them."""
    past = [row.guide is not None and _is_past(row.guide) for row in rows]
    if not any(past):
        return scores_RV
    return scores_RV.masked_fill(torch.tensor(past, device=scores_RV.device)[:, None], NEVER)


def _is_past(matcher: Matcher) -> bool:
    """Whether a row is a beam that only fills a place: it does not fit, or it is whole and no token could say so."""
    return matcher.lost or (not matcher.ends and matcher.done)


def _contradiction(row: Row, s: Settings) -> InputError:
    acting = {
        "min_new_tokens": row.written < s.min_new_tokens,
        "forced_bos_token_id": s.forced_first is not None and row.written == 0,
        "forced_eos_token_id": bool(s.forced_last) and row.written == s.max_new_tokens - 1,
        "suppress_tokens": bool(s.suppress_tokens),
        "begin_suppress_tokens": bool(s.begin_suppress_tokens) and row.written <= 1,
        "bad_words_ids": bool(s.bad_words),
        "no_repeat_ngram_size": bool(s.no_repeat_ngram_size or s.encoder_no_repeat_ngram_size),
        "sequence_bias": bool(s.sequence_bias),
    }
    names = [name for name, acts in acting.items() if acts]
    assert row.guide is not None
    return InputError(
        "these leave no token to choose" if names else "the model has no score for what the grammar allows",
        where=f"{' and '.join(['guide', *names[:1]])}, row {row.number}, step {row.written}",
        found=f"{row.guide.text[-60:].decode(errors='replace')!r} so far",
        remedy=f"Leave one of them out: {', '.join(['guide', *names])}." if names else None,
    )
