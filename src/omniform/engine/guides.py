"""Grammars: answers that are always of a form: JSON of a schema, a regular expression, a choice, a grammar.

A :class:`Guide` says which form, a :class:`Grammar` is a guide made ready for one tokenizer, and a :class:`Matcher` is
where one row stands in it: it tells which tokens may come next (a mask, computed in a thread while the model's step
runs), and is told which one came. The work is done by the package ``llguidance`` (extra ``grammar``).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omniform.core.errors import InputError, OmniformError
from omniform.engine.guide import Guide
from omniform.engine.guide_faults import refusal, short_words, unspelled
from omniform.engine.guide_vocabulary import WORD, GuideVocabulary
from omniform.engine.text import Decodes

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

__all__ = ["Grammar", "Guide", "Matcher", "Seen", "begin", "grammar_of", "masked"]

NEVER = float("-inf")
_KEPT: Final = 64
"""So many grammars are kept ready for each tokenizer."""

_LOCK: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class Seen:
    """What may come next in a row.

    Attributes:
        words: a bit for each token of the tokenizer, the lowest of a word first. Shape: [words].
        may_end: whether the text is whole as it stands.
    """

    words: NDArray[np.int32]
    may_end: bool

    @property
    def only_end(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        return self.may_end and not self.words.any()

    @property
    def stuck(self) -> bool:
        """Whether the text is not whole and nothing can follow."""
        return not self.may_end and not self.words.any()


@cache
def _pool() -> ThreadPoolExecutor:
    """The thread that masks are computed in."""
    return ThreadPoolExecutor(1, thread_name_prefix="omniform-guides")


@cache
def _executor() -> LLExecutor:
    """The library's own threads, for several rows at once."""
    from llguidance import LLExecutor

    return LLExecutor()


def _forget_threads() -> None:
    _pool.cache_clear()
    _executor.cache_clear()


os.register_at_fork(after_in_child=_forget_threads)  # a child process has no threads of its parent's


class Grammar:
    """A guide made ready for one tokenizer.

    Args:
        guide: the form.
        vocabulary: the tokenizer.

    Attributes:
        first: what may be written first.

    Raises:
        InputError: the guide is broken, no text is of its form, or the vocabulary cannot spell it.
    """

    def __init__(self, guide: Guide, vocabulary: GuideVocabulary) -> None:
        from llguidance import LLMatcher

        self.guide = guide
        self.vocabulary = vocabulary
        self._made = LLMatcher(vocabulary.library, guide.grammar, log_level=0)
        if self._made.is_error():
            raise refusal(guide, self._made.get_error())
        words = np.zeros((1, vocabulary.all_words), dtype=np.int32)
        _fill([self._made], words)
        self.first = Seen(vocabulary.opening_words(words[0]), self._made.is_accepting())
        missing = unspelled(self)
        if missing is not None:
            raise missing
        # Having been asked for a mask, it may have stopped.
        self._made = LLMatcher(vocabulary.library, guide.grammar, log_level=0)

    def matcher(self, ends: Sequence[int], skip: int | None = None) -> Matcher:
        """The beginning of a row; see :class:`Matcher` for the arguments."""
        known = skip is not None and (skip >= self.vocabulary.size or not self.vocabulary.spellings.tokens[skip])
        return Matcher(self, self.library(), tuple(ends), skip if known else None)

    def library(self) -> LLMatcher:
        """The library's matcher of the beginning."""
        return self._made.deep_copy()


def grammar_of(guide: Guide, tokenizer: Decodes | None) -> Grammar:
    """A guide made ready for a tokenizer, at its first call; the last ones are kept.

    Raises:
        DependencyError: llguidance is not installed.
        InputError: there is no tokenizer, or see :class:`Grammar`.
    """
    if tokenizer is None:
        raise InputError(
            "a grammar needs a tokenizer to know every token's text",
            where="guide",
            remedy="Pass tokenizer=... to generate, or give the Engine a processor.",
        )
    vocabulary = GuideVocabulary.of(tokenizer)
    ready = vocabulary.ready
    with _LOCK:
        found = ready.get(guide)
        if found is not None:
            ready.move_to_end(guide)
            return found
    made = Grammar(guide, vocabulary)  # may take a second; others need not wait
    with _LOCK:
        ready[guide] = made
        while len(ready) > _KEPT:
            ready.popitem(last=False)
    return made


class Matcher:
    """Where one row stands in its grammar.

    Args:
        grammar: what it is to fit.
        library: the library's matcher, this one's own.
        ends: the tokens that end it. They are allowed where the text is whole, and nowhere else, whatever they read.
        skip: a token that may open the row and is no part of its text (a language's, that another rule forces).
    """

    def __init__(self, grammar: Grammar, library: LLMatcher, ends: tuple[int, ...], skip: int | None = None) -> None:
        self.grammar = grammar
        self.ends = ends
        self._library = library
        self._skip = skip
        self._row: list[int] = []
        self._places: list[int] = []  # what the library was told
        self._after = 0  # tokens since the end, or since one that does not fit
        self._ended = False
        self._mask: _Mask | None = None

    # -- what came --

    def follow(self, row: Sequence[int]) -> None:
        """Stand where a row stands, whatever was accepted so far."""
        known = len(self._row)
        if list(row[:known]) != self._row:
            same = next((i for i, (a, b) in enumerate(zip(row, self._row, strict=False)) if a != b), len(row))
            self.rollback(known - same)
        for token in row[len(self._row) :]:
            self.accept(token)

    def accept(self, token: int) -> bool:
        """Go on by a token.

        Returns:
            Whether it fits; after one that does not, nothing fits until it is rolled back.
        """
        self._settle()
        self._row.append(token)
        if self._after:
            self._after += 1
            return False
        if token == self._skip and len(self._row) == 1:
            return True
        if token in self.ends:
            fits = self._library.is_accepting()
            self._after, self._ended = 1, fits
            return fits
        place = self.grammar.vocabulary.place(token, first=not self._places)
        if self._library.try_consume_tokens([place]) != 1:
            self._after = 1
            return False
        self._places.append(place)
        self._mask = None
        return True

    def rollback(self, tokens: int) -> None:
        """Take back the last tokens."""
        if not tokens:
            return
        self._settle()
        assert tokens <= len(self._row), "more than was accepted"
        del self._row[len(self._row) - tokens :]
        late = min(tokens, self._after)
        self._after -= late
        self._ended = self._ended and self._after > 0
        taken = min(tokens - late, len(self._places))
        if taken:
            del self._places[len(self._places) - taken :]
            self._mask = None
            if not self._library.rollback(taken):  # it has stopped for good
                self._library = self.grammar.library()
                self._library.consume_tokens(self._places)

    def copy(self) -> Matcher:
        """Another row that begins the same."""
        self._settle()
        twin = Matcher(self.grammar, self._library.deep_copy(), self.ends, self._skip)
        twin._row, twin._places = list(self._row), list(self._places)
        twin._after, twin._ended, twin._mask = self._after, self._ended, self._mask
        return twin

    # -- what may come --

    @property
    def done(self) -> bool:
        """Whether the text is whole and nothing can follow."""
        self._settle()
        if self._ended:
            return True
        if self._after:
            return False
        if self._library.is_stopped() and self._library.is_accepting():
            return True
        # A vocabulary that spells every text can go on wherever the grammar can.
        return not self.ends and not self.grammar.vocabulary.spells_bytes and self.seen().only_end

    @property
    def unopened(self) -> bool:
        """Whether the token that opens the row, and that another rule sees to, is still to come."""
        return self._skip is not None and not self._row

    @property
    def lost(self) -> bool:
        """Whether a token came that does not fit."""
        return self._after > 0 and not self._ended

    def seen(self) -> Seen:
        """What may come next, waiting for it if need be."""
        if self._after:
            return Seen(np.zeros(self.grammar.vocabulary.words, dtype=np.int32), self._ended)
        if not self._places:
            return self.grammar.first
        if self._mask is None:
            begin([self])
        assert self._mask is not None, "it was begun"
        return self._mask.seen(self.grammar.vocabulary)

    def ahead(self, drafted: Sequence[int]) -> list[Seen]:
        """What may come next, and after each of some drafted tokens; ends where one of them does not fit."""
        found = [self.seen()]
        taken = 0
        for token in drafted:
            taken += 1
            if not self.accept(token):
                break
            found.append(self.seen())
        self.rollback(taken)
        return found

    @property
    def text(self) -> bytes:
        """What was written so far."""
        return bytes(self.grammar.vocabulary.library.decode_bytes(self._places))

    def why_stuck(self) -> OmniformError:
        """The error of a row that nothing can follow."""
        self._settle()
        words = short_words(self._library.get_error())
        return InputError(
            "the grammar is too large to go on" if words else "no token goes on with the grammar",
            where="guide",
            expected=None if words else "a vocabulary that can spell what comes next",
            found=words or f"{self.text[-60:].decode(errors='replace')!r}",
            remedy="Simplify the grammar." if words else "Use a grammar of characters that the tokenizer knows.",
        )

    def _settle(self) -> None:
        """Wait for the thread, which must not find the library's matcher changed."""
        if self._mask is not None:
            self._mask.wait()

    @property
    def idle(self) -> bool:
        """Whether a mask is still to be begun."""
        return self._mask is None and not self._after and bool(self._places)


class _Masks:
    """Masks of several rows, computed together."""

    def __init__(self, matchers: Sequence[LLMatcher], words: int) -> None:
        self.words: NDArray[np.int32] = np.zeros((len(matchers), words), dtype=np.int32)
        self._work: Future[list[bool]] = _pool().submit(_fill, matchers, self.words)

    def may_end(self) -> list[bool]:
        """Wait for it."""
        return self._work.result()


class _Mask:
    """One of them."""

    def __init__(self, masks: _Masks, row: int) -> None:
        self._masks = masks
        self._row = row

    def wait(self) -> None:
        self._masks.may_end()

    def seen(self, vocabulary: GuideVocabulary) -> Seen:
        may_end = self._masks.may_end()[self._row]
        return Seen(self._masks.words[self._row, : vocabulary.words], may_end)


def begin(matchers: Sequence[Matcher]) -> None:
    """Begin to compute what may come next in rows, in a thread; :func:`masked` waits for it."""
    groups: dict[GuideVocabulary, list[Matcher]] = {}
    for matcher in matchers:
        if matcher.idle:
            groups.setdefault(matcher.grammar.vocabulary, []).append(matcher)
    for vocabulary, some in groups.items():
        masks = _Masks([matcher._library for matcher in some], vocabulary.all_words)
        for row, matcher in enumerate(some):
            matcher._mask = _Mask(masks, row)


def masked(scores_RV: Tensor, matchers: Sequence[Matcher | None]) -> Tensor:
    """Scores in which what the grammars do not allow is never chosen.

    Args:
        scores_RV: of each row's next token; they stay as they are. Columns without a token (padding) are never allowed.
            Shape: [R, V].
        matchers: each row's; None for a row without a grammar.

    Returns:
        Shape: [R, V].

    Raises:
        InputError: nothing can follow in a row, and its text is not whole.
    """
    begin([matcher for matcher in matchers if matcher is not None])
    guided = [row for row, matcher in enumerate(matchers) if matcher is not None]
    if not guided:
        return scores_RV
    width = -(-scores_RV.shape[1] // WORD)
    words: NDArray[np.int32] = np.zeros((len(guided), width), dtype=np.int32)
    for at, matcher in enumerate(m for m in matchers if m is not None):
        _write(matcher, words[at])
    if len(guided) == len(matchers):
        return _barred(scores_RV, words)
    scores = scores_RV.clone()
    scores[guided] = _barred(scores_RV[guided], words)
    return scores


def _write(matcher: Matcher, words: NDArray[np.int32]) -> None:
    """One row's mask, its ends included."""
    if matcher.unopened:
        words[:] = -1
        return
    seen = matcher.seen()
    if seen.stuck and not matcher.lost:
        raise matcher.why_stuck()
    count = min(len(words), len(seen.words))
    words[:count] = seen.words[:count]
    bits = words.view(np.uint32)
    for end in matcher.ends:
        if end < len(words) * WORD:
            bit = np.uint32(1 << end % WORD)
            bits[end // WORD] = bits[end // WORD] | bit if seen.may_end else bits[end // WORD] & ~bit


def _barred(scores_RV: Tensor, words: NDArray[np.int32]) -> Tensor:
    """Scores without those whose bit is not set. Shape: [R, V] and [R, words] to [R, V]."""
    columns = scores_RV.shape[1]
    if scores_RV.device.type == "cpu":
        # Eight numbers to add for each byte of the mask: five times as fast as a choice for every token.
        penalties = torch.from_numpy(_penalties().take(words.view(np.uint8), axis=0))
        return penalties.flatten(1)[:, :columns].to(scores_RV.dtype).add_(scores_RV)
    packed = torch.from_numpy(words).to(scores_RV.device, non_blocking=True)
    shifts = torch.arange(WORD, device=scores_RV.device, dtype=torch.int32)
    allowed = ((packed[:, :, None] >> shifts) & 1).flatten(1)[:, :columns].bool()
    return scores_RV.masked_fill(~allowed, NEVER)


@cache
def _penalties() -> NDArray[np.float32]:
    """What each byte of a mask adds to the scores of its eight tokens. Shape: [256, 8]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits > 0, 0.0, NEVER).astype(np.float32)


def _fill(matchers: Sequence[LLMatcher], words: NDArray[np.int32]) -> list[bool]:
    """Compute masks, the library's rows side by side in its own threads; whether each text is whole."""
    size = words.shape[1] * words.itemsize
    if len(matchers) == 1:
        matchers[0].unsafe_compute_mask_ptr(words.ctypes.data, size)
    else:
        rows = [(matcher, row) for row, matcher in enumerate(matchers)]
        _executor().unsafe_compute_mask_ptr(rows, words.ctypes.data, size, len(matchers))
    return [matcher.is_accepting() for matcher in matchers]
