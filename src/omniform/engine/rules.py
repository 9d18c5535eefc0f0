"""The rules that settings ask for, in the ecosystem's order, over rows of any lengths at once.

Each rule is the function that the processor of its name is made of too (``engine/processors/``); here are the places
where rows of different lengths, and of different calls, come together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from omniform.engine import processors as p
from omniform.engine.history import History, Ids, Runs
from omniform.engine.processors.base import banned, only
from omniform.engine.processors.length import finite, hastened
from omniform.engine.processors.repetition import banned_pairs, lessened, penalised
from omniform.engine.request import Row
from omniform.engine.settings import Settings

Change = Callable[[Sequence[Row], Tensor], Tensor]
"""Scores of some rows, changed. Shape: [R, V] in and out."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule.

    Attributes:
        kinds: the processors that say the same; one of a user's takes the rule's place.
        change: what it does.
    """

    kinds: tuple[type[p.LogitsProcessor], ...]
    change: Change


@lru_cache(maxsize=64)
def rules_of(s: Settings, device: torch.device) -> tuple[Rule, ...]:
    """The rules that settings ask for, in order.

    Args:
        s: the settings.
        device: where scores lie.
    """

    def tokens(ids: Sequence[int]) -> Tensor:
        return torch.tensor(list(ids), dtype=torch.long, device=device)

    return (*_rules_of_tokens(s), *_rules_of_length(s, tokens(s.eos_token_ids), tokens), *_rules_of_sound(s))


def _rules_of_sound(s: Settings) -> list[Rule]:
    """Those of rows that say when something was spoken; a processor of a user's comes beside them."""
    timed = s.timestamps
    return [] if timed is None else [Rule((), lambda rows, x: timed([row.tokens[row.prompt :] for row in rows], x))]


def _rules_of_tokens(s: Settings) -> list[Rule]:
    """Those that look at what a row holds or has read."""
    rules: list[Rule] = []
    if s.sequence_bias:
        bias = p.SequenceBiasLogitsProcessor(dict(s.sequence_bias))
        rules.append(Rule((p.SequenceBiasLogitsProcessor,), lambda rows, x: bias(_tails(rows, bias.reach, x), x)))
    if s.encoder_repetition_penalty != 1.0:  # here a higher one asks for more of the same
        factor = 1 / s.encoder_repetition_penalty
        rules.append(
            Rule((p.EncoderRepetitionPenaltyLogitsProcessor,), lambda rows, x: _penalised(rows, x, factor, _read))
        )
    if s.repetition_penalty != 1.0:
        penalty = s.repetition_penalty
        rules.append(
            Rule((p.RepetitionPenaltyLogitsProcessor,), lambda rows, x: _penalised(rows, x, penalty, _written))
        )
    for kind, presence, frequency in (
        (p.PresencePenaltyLogitsProcessor, s.presence_penalty, 0.0),
        (p.FrequencyPenaltyLogitsProcessor, 0.0, s.frequency_penalty),
    ):
        if presence or frequency:
            rules.append(Rule((kind,), partial(_lessened, presence=presence, frequency=frequency)))
    if s.no_repeat_ngram_size:
        size = s.no_repeat_ngram_size
        rules.append(
            Rule(
                (p.NoRepeatNGramLogitsProcessor,),
                lambda rows, x: _unrepeated(x, [_followed(r).runs(size).after(r.named) for r in rows]),
            )
        )
    if s.encoder_no_repeat_ngram_size:
        length = s.encoder_no_repeat_ngram_size
        rules.append(
            Rule(
                (p.EncoderNoRepeatNGramLogitsProcessor,),
                lambda rows, x: _unrepeated(x, [_read_runs(r, length).after(r.named) for r in rows]),
            )
        )
    if s.bad_words:
        words = p.NoBadWordsLogitsProcessor([list(word) for word in s.bad_words])
        rules.append(Rule((p.NoBadWordsLogitsProcessor,), lambda rows, x: words(_tails(rows, words.reach, x), x)))
    return rules


def _rules_of_length(s: Settings, ends: Tensor, tokens: Callable[[Sequence[int]], Tensor]) -> list[Rule]:
    """Those that look at how long it is, or at nothing."""
    rules: list[Rule] = []

    def rule(*kinds: type[p.LogitsProcessor], change: Callable[[Tensor], Tensor], when: Callable[[int], bool]) -> None:
        rules.append(Rule(kinds, lambda rows, x: _where([when(row.written) for row in rows], x, change)))

    if s.min_new_tokens:
        rule(
            p.MinLengthLogitsProcessor,
            p.MinNewTokensLengthLogitsProcessor,
            change=lambda x: banned(x, ends),
            when=lambda written: written < s.min_new_tokens,
        )
    rules.append(_ASKED)
    if s.forced_first is not None:
        first = tokens([s.forced_first])
        rule(p.ForcedBOSTokenLogitsProcessor, change=lambda x: only(x, first), when=lambda written: written == 0)
    if s.forced_last:
        last = tokens(s.forced_last)
        rule(
            p.ForcedEOSTokenLogitsProcessor,
            change=lambda x: only(x, last),
            when=lambda written: written == s.max_new_tokens - 1,
        )
    if s.remove_invalid:
        rule(p.InfNanRemoveLogitsProcessor, change=finite, when=lambda written: True)
    if s.length_decay is not None:
        start, factor = s.length_decay
        rules.append(Rule((p.ExponentialDecayLengthPenalty,), lambda rows, x: _hastened(rows, x, ends, start, factor)))
    if s.suppress_tokens:
        never = tokens(s.suppress_tokens)
        rule(p.SuppressTokensLogitsProcessor, change=lambda x: banned(x, never), when=lambda written: True)
    if s.begin_suppress_tokens:
        not_first = tokens(s.begin_suppress_tokens)
        # Where the first token is forced, the second is the one that somebody begins with.
        begin = int(s.forced_first is not None)
        rule(
            p.SuppressTokensAtBeginLogitsProcessor,
            change=lambda x: banned(x, not_first),
            when=lambda written: written == begin,
        )
    return rules


_ASKED = Rule((p.PrefixConstrainedLogitsProcessor,), lambda rows, x: x)
"""Stands where a call's ``prefix_allowed_tokens_fn`` has its turn."""


def _followed(row: Row) -> History:
    row.history = History() if row.history is None else row.history
    return row.history.follow(row.named)


def _written(row: Row) -> Ids:
    return _followed(row).unique


def _read(row: Row) -> Ids:
    history = _followed(row)
    if history.read is None:
        history.read = np.unique(np.array(row.read, dtype=np.int64))
    return history.read


def _read_runs(row: Row, size: int) -> Runs:
    history = _followed(row)
    if size not in history.read_runs:
        history.read_runs[size] = Runs(size)
        history.read_runs[size].add(row.read)
    return history.read_runs[size]


def _tails(rows: Sequence[Row], reach: int, scores: Tensor) -> Tensor:
    """The last tokens of each row; -1, which no token is, where there are none. Shape: [R, reach]."""
    held = [row.named[-reach:] if reach else [] for row in rows]
    filled = [[-1] * (reach - len(tail)) + tail for tail in held]
    return torch.tensor(filled, dtype=torch.long, device=scores.device).view(len(rows), reach)


def _penalised(
    rows: Sequence[Row],
    scores: Tensor,
    penalty: float,
    held: Callable[[Row], Ids],
) -> Tensor:
    each = [held(row) for row in rows]
    whose = np.repeat(np.arange(len(rows)), [len(ids) for ids in each])
    return penalised(scores, torch.from_numpy(whose), torch.from_numpy(np.concatenate(each)), penalty)


def _lessened(rows: Sequence[Row], scores: Tensor, *, presence: float, frequency: float) -> Tensor:
    """Scores less the penalties of what each row has written itself: its prompt does not count."""
    each = [_followed(row).counts(row.prompt - row.nameless) for row in rows]
    whose = np.repeat(np.arange(len(rows)), [len(ids) for ids, _ in each])
    tokens, counts = (torch.from_numpy(np.concatenate(part)) for part in zip(*each, strict=True))
    return lessened(scores, torch.from_numpy(whose), tokens, counts, presence, frequency)


def _unrepeated(scores: Tensor, each: Sequence[Sequence[int]]) -> Tensor:
    pairs = [(row, token) for row, tokens in enumerate(each) for token in tokens]
    if not pairs:
        return scores
    whose, tokens = torch.tensor(pairs).unbind(1)
    return banned_pairs(scores, whose, tokens)


def _hastened(rows: Sequence[Row], scores: Tensor, ends: Tensor, start: int, factor: float) -> Tensor:
    changed = [
        hastened(scores[i], ends, factor ** (row.written - start)) if row.written > start else scores[i]
        for i, row in enumerate(rows)
    ]
    return torch.stack(changed)


def _where(which: Sequence[bool], scores: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Scores with those of some rows changed."""
    if all(which):
        return change(scores)
    if not any(which):
        return scores
    places = torch.tensor([i for i, here in enumerate(which) if here], device=scores.device)
    return scores.index_copy(0, places, change(scores[places]))
