"""Words as somebody said them: what transcribing a stream gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word, and when it was said.

    Attributes:
        text: with the space in front of it, where the language has any, and with its punctuation.
        start: when it begins, in seconds from the beginning of the sound.
        end: when it ends.
    """

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Words:
    """Words that are settled: iterate over them, or take ``str(words)``.

    Attributes:
        words: the words.
        heard: how much of the sound had been heard by then, in seconds.
        delay: seconds from when the sound of the last word had come to when it was told.
        final: whether the sound is over. Where nothing was left for its end, no words say so.
    """

    words: tuple[SpokenWord, ...]
    heard: float
    delay: float
    final: bool = False

    def __iter__(self) -> Iterator[SpokenWord]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def __str__(self) -> str:
        return "".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Utterance:
    """A stretch of speech, as a whole sound is heard: ``str(utterance)`` is what was said.

    Attributes:
        text: what was said, with the space in front of it.
        start, end: when, in seconds from the beginning of the sound.
        tokens: of the text, without those that tell times.
        words: when each word was said, where that was asked for.
        language: the code of the language that was heard or asked for; None of models that know one only.
        heard: how much of the sound has been heard by now, in seconds.
        seconds: how long it is.
    """

    text: str
    start: float
    end: float
    tokens: tuple[int, ...]
    words: tuple[SpokenWord, ...]
    language: str | None
    heard: float
    seconds: float

    def __str__(self) -> str:
        return self.text
