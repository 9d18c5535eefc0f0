"""What was said, as files that players and people read: SubRip, WebVTT, JSON, tab-separated values, plain text.

SubRip has no standard; this is what players read. WebVTT: https://www.w3.org/TR/webvtt1/. Tab-separated values are
laid out as OpenAI's ``whisper`` command lays them out: start and end in milliseconds, then the text.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from omniform.core.errors import InputError, nearest
from omniform.core.spoken import SpokenWord

WIDTH: Final = 42
"""Letters of a line, at most, where they are a subtitle's."""
LINES: Final = 2
"""Lines of a subtitle, at most."""
LONGEST: Final = 7.0
"""Seconds that a subtitle stays, at most, where its words' times are known."""
SHORTEST: Final = 0.7
"""Seconds that it stays at least, where nothing follows at once: less cannot be read."""
PAUSE: Final = 1.0
"""Seconds of silence between words that part one subtitle from the next."""


class Stretch(Protocol):
    """A stretch of what was said (:class:`~omniform.core.spoken.Utterance` is one)."""

    @property
    def text(self) -> str:
        """The words, with the space in front of them where the language has any."""

    @property
    def start(self) -> float | None:
        """When it begins, in seconds; None where nobody knows."""

    @property
    def end(self) -> float | None:
        """When it ends."""

    @property
    def words(self) -> tuple[SpokenWord, ...]:
        """The words with their times, where they are known; their texts together are ``text``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A :class:`Stretch`."""

    text: str
    start: float | None = None
    end: float | None = None
    words: tuple[SpokenWord, ...] = ()


def as_dict(one: Stretch) -> dict[str, object]:
    """A stretch as JSON holds it."""
    found: dict[str, object] = {"start": _round(one.start), "end": _round(one.end), "text": one.text.strip()}
    if one.words:
        found["words"] = [
            {"word": word.text.strip(), "start": _round(word.start), "end": _round(word.end)} for word in one.words
        ]
    return found


def _round(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


Writer = Callable[[Iterable[Stretch], Mapping[str, object]], Iterator[str]]
"""Turns stretches into pieces of a file, each as soon as it can be written."""


def subtitles(said: Iterable[Stretch], form: str, facts: Mapping[str, object] | None = None) -> Iterator[str]:
    """What was said in one of :data:`FORMS`, piece by piece, as it comes.

    Args:
        said: stretches in their order.
        form: ``srt``, ``vtt``, ``json``, ``tsv`` or ``txt``.
        facts: what JSON tells besides: the file, the language...

    Raises:
        InputError: no such form.
    """
    if form not in FORMS:
        raise InputError("no such form of a transcript", where="format", found=form, remedy=nearest(form, FORMS))
    return FORMS[form](said, facts or {})


def _srt(said: Iterable[Stretch], facts: Mapping[str, object]) -> Iterator[str]:
    for number, (start, end, lines) in enumerate(shown(said), start=1):
        text = "\n".join(lines).replace("-->", "->")  # the arrow would be read as times
        yield f"{number}\n{clock(start, comma=True)} --> {clock(end, comma=True)}\n{text}\n\n"


def _vtt(said: Iterable[Stretch], facts: Mapping[str, object]) -> Iterator[str]:
    yield "WEBVTT\n\n"
    for start, end, lines in shown(said):
        text = "\n".join(lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        yield f"{clock(start)} --> {clock(end)}\n{text}\n\n"


def _tsv(said: Iterable[Stretch], facts: Mapping[str, object]) -> Iterator[str]:
    yield "start\tend\ttext\n"
    for one in timed(said):
        yield f"{_milliseconds(one.start)}\t{_milliseconds(one.end)}\t{_line(one.text)}\n"


def _txt(said: Iterable[Stretch], facts: Mapping[str, object]) -> Iterator[str]:
    for one in said:
        if _line(one.text):
            yield f"{_line(one.text)}\n"


def _json(said: Iterable[Stretch], facts: Mapping[str, object]) -> Iterator[str]:
    found = list(said)
    text = "".join(one.text for one in found).strip()
    whole = {**facts, "text": text, "segments": [{"id": i, **as_dict(one)} for i, one in enumerate(found)]}
    yield json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


FORMS: Final[Mapping[str, Writer]] = {"srt": _srt, "vtt": _vtt, "json": _json, "tsv": _tsv, "txt": _txt}
"""Forms of files by their endings."""


def clock(seconds: float, *, comma: bool = False) -> str:
    """A time as subtitles have it: hours, minutes, seconds and milliseconds."""
    whole = _milliseconds(seconds)
    minutes, milliseconds = divmod(whole, 60_000)
    mark = "," if comma else "."
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _milliseconds(seconds: float | None) -> int:
    return max(0, round(1000 * (seconds or 0.0)))


def _line(text: str) -> str:
    return " ".join(text.split())


def timed(said: Iterable[Stretch]) -> Iterator[Said]:
    """Stretches with something in them, each with a beginning and an end that is not before it.

    Where an end is unknown it is the next one's beginning, or a second for every fifteen letters.
    """
    before = 0.0
    for one, follower in _followed(one for one in said if one.text.strip()):
        start = max(before, one.start if one.start is not None else before)
        end = one.end
        if end is None:
            end = follower.start if follower is not None and follower.start is not None else None
        if end is None:
            end = start + max(SHORTEST, len(one.text) / 15)
        before = max(start, end)
        yield Said(text=one.text, start=start, end=before, words=one.words)


def _followed(said: Iterable[Stretch]) -> Iterator[tuple[Stretch, Stretch | None]]:
    held: Stretch | None = None
    for one in said:
        if held is not None:
            yield held, one
        held = one
    if held is not None:
        yield held, None


def shown(said: Iterable[Stretch]) -> Iterator[tuple[float, float, list[str]]]:
    """Subtitles to be read: start, end and lines of each.

    Long stretches are cut where their words pause, or where lines are full; without times of words, time goes by
    letters. None overlaps the next.
    """
    held: tuple[float, float, list[str]] | None = None
    for one in timed(said):
        for start, end, text in _cut(one):
            if held is not None:
                yield held[0], _until(held[0], held[1], start), held[2]
            held = start, end, textwrap.wrap(text, WIDTH, break_long_words=True) or [text]
    if held is not None:
        yield held[0], _until(held[0], held[1], None), held[2]


def _until(start: float, end: float, following: float | None) -> float:
    """How long a subtitle stays: long enough to be read, but not beyond the next one's beginning."""
    end = max(end, start + SHORTEST)
    return end if following is None else max(start, min(end, following))


def _cut(one: Stretch) -> Iterator[tuple[float, float, str]]:
    """A stretch as subtitles of a few lines each."""
    assert one.start is not None and one.end is not None
    words = one.words or _guessed(one.text, one.start, one.end)
    held: list[SpokenWord] = []
    for word in words:
        if held and not _fits([*held, word], known=bool(one.words)):
            yield held[0].start, held[-1].end, _line("".join(w.text for w in held))
            held = []
        held.append(word)
    if held:  # what is said last is seen until its stretch is over
        yield held[0].start, max(held[-1].end, one.end), _line("".join(w.text for w in held))


def _fits(words: Sequence[SpokenWord], *, known: bool) -> bool:
    lines = textwrap.wrap(_line("".join(word.text for word in words)), WIDTH)
    if not known:
        return len(lines) <= LINES
    pause = words[-1].start - words[-2].end
    ended = words[-2].text.rstrip()[-1:] in ".?!" and pause > PAUSE / 3
    return len(lines) <= LINES and words[-1].end - words[0].start <= LONGEST and pause <= PAUSE and not ended


def _guessed(text: str, start: float, end: float) -> tuple[SpokenWord, ...]:
    """Words of a stretch, as if each letter took the same time; writing without spaces is cut into lines."""
    pieces = [f" {piece}" for word in text.split() for piece in textwrap.wrap(word, WIDTH) or [word]]
    letters = sum(map(len, pieces))
    found, at = [], 0
    for piece in pieces:
        share = [start + (end - start) * place / letters for place in (at, at + len(piece))]
        found.append(SpokenWord(piece, share[0], share[1]))
        at += len(piece)
    return tuple(found)


def readable_clock(seconds: float) -> str:
    """A time as a person says it: ``1:02:03.4``, ``2:03.4``."""
    tenths = math.floor(seconds * 10 + 0.5)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"
