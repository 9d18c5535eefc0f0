"""Which words of a stream are settled: those that two passes over the sound agree on.

LocalAgreement-2 (Liu et al. 2020, https://arxiv.org/abs/2005.11185; for Whisper: Macháček et al. 2023,
https://arxiv.org/abs/2307.14743). Every pass hears all of the sound that is kept, and goes on from the words that were
settled before; what the new pass has in common with the one before it is settled. Sound whose words are settled is let
go, and its words stay as what came before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from omniform.core.spoken import SpokenWord
from omniform.inputs.text.spoken_words import Word

ENDINGS = (".", "?", "!", "。", "？", "！", "…", "।", "؟")
"""What a sentence ends with."""

_OVERLAP = 3  # so many settled words are heard again with what comes after them


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass over the kept sound has written.

    Attributes:
        words: after the settled ones; their ``places`` count from there.
        spans: when each of them was said, in seconds from the beginning of the kept sound.
        doubtful: what was written is not to be believed: nobody speaks, or it repeats itself.
    """

    words: Sequence[Word] = ()
    spans: Sequence[tuple[float, float]] = ()
    doubtful: bool = False

    @property
    def tokens(self) -> list[int]:
        return [token for word in self.words for token in word.tokens]


@dataclass(slots=True)
class _Settled:
    """A word that is settled, as far as cutting the sound takes it."""

    start: float
    end: float
    tokens: int
    ends_sentence: bool


@dataclass(slots=True)
class Agreement:
    """What is settled of a stream.

    Args:
        window: seconds of sound that a pass can hear.
        keep: sound is let go of when more is kept than this, in seconds.
        tail: seconds of the end of the sound that are left to be heard once more, where nothing was settled.
        most_before: how many tokens of what came before are remembered.

    Attributes:
        start: where the kept sound begins, in seconds from the beginning of the stream.
        said: tokens of the settled words in the kept sound; ``before``: the last of those before it.
    """

    window: float
    keep: float
    tail: float
    most_before: int
    start: float = 0.0
    said: list[int] = field(default_factory=list)
    before: list[int] = field(default_factory=list)
    _guess: list[int] = field(default_factory=list)
    _settled: deque[_Settled] = field(default_factory=deque)
    _latest: float = 0.0
    _last: Pass = field(default_factory=Pass)

    def settle(self, heard: Pass, *, final: bool = False) -> list[SpokenWord]:
        """Take what a pass has written, and give the words that are settled by it.

        Args:
            final: nothing comes after it, so that all of it is.
        """
        self._last = heard
        if heard.doubtful:
            self._guess = []
            return []
        tokens = heard.tokens
        agreed = len(tokens) if final else _common(self._guess, tokens)
        self._guess = tokens
        return self._take(sum(word.places[-1] < agreed for word in heard.words))

    def settle_rest(self) -> list[SpokenWord]:
        """Settle all that the last pass has written: the sound is over."""
        return [] if self._last.doubtful else self._take(len(self._last.words))

    def let_go(self, end: float) -> tuple[list[SpokenWord], float]:
        """Make room where much sound is kept.

        Args:
            end: where the kept sound ends, in seconds from the beginning of the stream.

        Returns:
            Words that had to be settled for it, and how many seconds of the kept sound go.
        """
        forced: list[SpokenWord] = []
        if end - self.start <= self.keep:
            return forced, 0.0
        place, most = self._place(end), self.window - self.tail
        if place is not None and end - place <= most:
            return forced, self._cut(place)
        if end - self.start < most:
            return forced, 0.0
        # Nothing was agreed on in all that time. What was guessed is settled, or nothing was said.
        least = end - self.tail
        forced = self._take(sum(self.start + stop <= least for _, stop in self._last.spans))
        return forced, self._cut(max(least, self._latest) if forced else least)

    def _place(self, end: float) -> float | None:
        """Where to cut: behind a sentence if there is one, else in front of the last few words that are settled.

        How these are written is known, so that it does no harm if the first of them is cut.
        """
        sentences = [word.end for word in self._settled if word.ends_sentence and end - word.end <= self.keep]
        if sentences:
            return sentences[-1]
        return [*self._settled][-_OVERLAP:][0].start if self._settled else None

    def _cut(self, place: float) -> float:
        count = 0
        while self._settled and (self._settled[0].end <= place or self._settled[0].start < place):
            count += self._settled.popleft().tokens
        self.before = (self.before + self.said[:count])[-self.most_before :]
        self.said = self.said[count:]
        gone = place - self.start
        self.start = place
        spans = [(begin - gone, end - gone) for begin, end in self._last.spans]
        self._last = Pass(self._last.words, spans, self._last.doubtful)
        return gone

    def _take(self, count: int) -> list[SpokenWord]:
        """Settle the first words of the last pass."""
        found = []
        for word, (begin, stop) in zip(self._last.words[:count], self._last.spans[:count], strict=True):
            start = max(self._latest, self.start + begin)
            end = max(start, self.start + stop)
            self._latest = end
            found.append(SpokenWord(word.text, round(start, 2), round(end, 2)))
            self.said += word.tokens
            self._guess = self._guess[len(word.tokens) :]
            self._settled.append(_Settled(start, end, len(word.tokens), word.text.rstrip().endswith(ENDINGS)))
        self._last = Pass(_moved(self._last.words[count:]), self._last.spans[count:], self._last.doubtful)
        return found


def _moved(words: Sequence[Word]) -> list[Word]:
    """Words whose places count from the first of them."""
    first = words[0].places[0] if words else 0
    return [Word(word.text, word.tokens, [place - first for place in word.places]) for word in words]


def _common(old: Sequence[int], new: Sequence[int]) -> int:
    """With how many equal tokens two rows begin."""
    for place, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            return place
    return min(len(old), len(new))
