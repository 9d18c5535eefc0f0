"""From what a model wrote of the pieces of a recording to one text, with the times of its stretches or words.

Pieces overlap by *strides*: what is said there was heard twice, and the two transcripts are joined where they agree
best. Timestamps among the tokens part a text into stretches; in a stride they are passed over, since both pieces have
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NotRequired, TypedDict, cast

import numpy as np
from torch import Tensor

from omniform.core.errors import InputError
from omniform.core.languages import LANGUAGES
from omniform.core.logs import get_logger
from omniform.inputs.text.ids import read_id_rows, shown
from omniform.inputs.text.spoken_words import Word

Timestamps = bool | Literal["word"] | None
Span = tuple[float, float]
"""When something begins and ends, in seconds."""

WINDOW = 1500
"""Steps of timestamps in a window of 30 s."""


class Stretch(TypedDict):
    """A stretch of a transcript, or a word of it."""

    text: str
    timestamp: NotRequired[tuple[float | None, float | None]]
    language: NotRequired[str | None]


class Stretches(TypedDict, total=False):
    """A transcript's stretches or words, where they were asked for."""

    chunks: list[Stretch]


@dataclass(frozen=True)
class Vocabulary:
    """What joining has to know of a tokenizer.

    Attributes:
        decode: ids to text.
        words: ids in a language (None: the tokenizer's) to words.
        unprompted: ids without the prompt before the transcript.
        special: the special ids, with their tokens.
        first_time: the id of 0.00 seconds.
    """

    decode: Callable[[list[int]], str]
    words: Callable[[list[int], str | None], list[Word]]
    unprompted: Callable[[list[int]], list[int]]
    special: Mapping[int, str]
    first_time: int


def joined(
    outputs: Iterable[Mapping[str, object]],
    vocabulary: Vocabulary,
    *,
    timestamps: Timestamps,
    language: bool,
    precision: float,
) -> tuple[str, Stretches]:
    """One transcript of the pieces of a recording, in their order.

    Args:
        outputs: of each piece, ``tokens`` ``[1, T]``; ``token_timestamps`` ``[1, T]`` in seconds, where words are asked
            for; and ``stride``: how long it is, and how much of its beginning and of its end others have too, in
            seconds.
        timestamps: True to tell the times of stretches, ``"word"`` those of words.
        language: whether to tell the language of each.
        precision: seconds from one timestamp to the next.

    Returns:
        The text, and what was asked for beside it.
    """
    if timestamps not in (True, False, None, "word"):
        raise InputError("unknown kind of times", where="return_timestamps", expected="True, False or 'word'")
    reader = _Reader(vocabulary, timestamps, language, precision)
    for output in outputs:
        reader.read(output)
    return reader.finished()


@dataclass
class _Piece:
    """One piece of a recording while it is read: its tokens, and which timestamps stand in its strides.

    Attributes:
        times: of each token, in seconds; None where nobody asked for words.
        first_time: timestamps below this stand in the stride at its beginning.
        last_time: timestamps from this on stand in the stride at its end; 0 if there is none.
    """

    tokens: list[int]
    times: list[float] | None
    first_time: float
    last_time: int = 0


@dataclass
class Windows:
    """Where timestamps stand that begin anew in each window of a long recording.

    Attributes:
        precision: seconds from one timestamp to the next.
        first: the id of 0.00 seconds.
        before: seconds of the windows before this.
    """

    precision: float
    first: int
    latest: float = 0.0
    earlier: float = 0.0
    before: float = 0.0

    def passed(self, tokens: Sequence[int], place: int) -> bool:
        """Go on to the timestamp at this place.

        Returns:
            Whether a window begins here and the last two timestamps were of one place, of which one ended nothing.
        """
        time = float((tokens[place] - self.first) * self.precision)
        doubled = False
        if time < self.latest:
            # A window whose last timestamp stands alone was heard to its end.
            if place >= 2 and not (tokens[place - 1] >= self.first and tokens[place - 2] >= self.first):
                self.before += self.precision * WINDOW
            else:
                self.latest, doubled = self.earlier, True
                self.before += self.earlier
        self.earlier, self.latest = self.latest, time
        return doubled


@dataclass
class _Reader:
    vocabulary: Vocabulary
    timestamps: Timestamps
    tell_language: bool
    precision: float
    language: str | None = None  # the last that was named
    offset: float = 0.0  # where the piece begins in the recording
    skipping: bool = False  # whether a pair of timestamps is being passed over
    begin: float | None = None  # of the stretch that is being read
    stretch_language: str | None = None
    heard: list[list[int]] = field(default_factory=list)  # of it, by the pieces that heard it
    heard_times: list[list[Span]] = field(default_factory=list)
    current: list[int] = field(default_factory=list)  # of it, by the piece that is being read
    current_times: list[Span] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    stretches: list[Stretch] = field(default_factory=list)

    @property
    def by_word(self) -> bool:
        return self.timestamps == "word"

    def read(self, output: Mapping[str, object]) -> None:
        """Read the output of one piece."""
        stride = _stride(output.get("stride"))
        piece = self._piece(output, stride)
        windows = Windows(self.precision, self.vocabulary.first_time)
        self.current, self.current_times = [], []
        for place, token in enumerate(piece.tokens):
            if token in self.vocabulary.special:
                self._name_language(self.vocabulary.special[token])
            elif token >= self.vocabulary.first_time:
                windows.passed(piece.tokens, place)
                time = (token - self.vocabulary.first_time) * self.precision + self.offset + windows.before
                self._time(token, round(time, 2), piece)
            else:
                self._text(token, place, piece)
        if stride is not None:
            self.offset += stride[0] - stride[2]
        if self.current:
            self._keep()
        elif not any(self.heard):
            self._begin_anew()

    def _piece(self, output: Mapping[str, object], stride: tuple[float, float, float] | None) -> _Piece:
        first = self.vocabulary.first_time
        tokens = self.vocabulary.unprompted(read_id_rows(output["tokens"])[0][0])
        times = _times(output.get("token_timestamps"), len(tokens)) if self.by_word else None
        piece = _Piece(tokens, times, first)
        if stride is None:
            return piece
        length, left, right = stride
        self.offset -= left
        if left:
            piece.first_time = left / self.precision + first
        if right:
            # There may be several in the stride at the end; the last one is always passed over.
            for token in reversed(tokens):
                if token >= first:
                    if piece.last_time and (token - first) * self.precision < length - right:
                        break
                    piece.last_time = token
        return piece

    def _name_language(self, token: str) -> None:
        named = LANGUAGES.get(token[2:-2])
        if named is None:
            return
        if self.language and named != self.language and not self.timestamps:
            self._keep()
            self._end(None)
            self._begin_anew()
        self.stretch_language = self.language = named

    def _time(self, token: int, time: float, piece: _Piece) -> None:
        if piece.last_time and token >= piece.last_time:
            # The piece after this one heard it better. Timestamps come in pairs, so the next is passed over too.
            self.skipping = True
        elif self.skipping or (self.heard and token < piece.first_time):
            self.skipping = False
        elif self.begin is None:
            self.begin = time
        elif time != self.begin:  # a time that is written twice does not end what it began
            self._keep()
            self._end(time)
            self._begin_anew()

    def _text(self, token: int, place: int, piece: _Piece) -> None:
        self.current.append(token)
        if piece.times is not None:
            before = piece.times[place - 1] if place else 0.0
            self.current_times.append((round(before + self.offset, 2), round(piece.times[place] + self.offset, 2)))

    def _keep(self) -> None:
        self.heard.append(self.current)
        if self.by_word:
            self.heard_times.append(self.current_times)

    def _begin_anew(self) -> None:
        self.heard, self.heard_times, self.current, self.current_times = [], [], [], []
        self.begin, self.stretch_language = None, self.language

    def _end(self, end: float | None) -> None:
        """Put the stretch that was read with the others."""
        tokens, times = merged(self.heard, self.heard_times)
        text = self.vocabulary.decode(tokens)
        self.texts.append(text)
        if self.by_word:
            said: Stretch = {"text": ""}
            if self.tell_language:
                said["language"] = self.language
            for word in self.vocabulary.words(tokens, self.language):
                span = (times[word.places[0]][0], times[word.places[-1]][1])
                self.stretches.append({**said, "text": word.text, "timestamp": span})
            return
        stretch: Stretch = {"text": text}
        if self.tell_language:
            stretch["language"] = self.stretch_language
        if self.timestamps:
            stretch["timestamp"] = (self.begin, end)
        self.stretches.append(stretch)

    def finished(self) -> tuple[str, Stretches]:
        """The transcript of all that was read."""
        if self.heard:
            if self.timestamps:
                get_logger().warning(
                    "The last stretch has no end: its timestamp was not written. The sound may be cut off within a "
                    "word, or timestamps were not asked for when it was generated (return_timestamps=True)."
                )
            self._end(None)
        wanted = self.timestamps or self.tell_language
        return "".join(self.texts), {"chunks": self.stretches} if wanted else {}


def _times(given: object, tokens: int) -> list[float]:
    """When each token was said, of one piece."""
    rows = given.tolist() if isinstance(given, (Tensor, np.ndarray)) else given
    row = rows[0] if isinstance(rows, (list, tuple)) and rows else None
    if not isinstance(row, (list, tuple)) or len(row) < tokens:
        raise InputError(
            "words need the times of their tokens",
            where="token_timestamps",
            expected=f"a row of at least {tokens} times",
            found=None if given is None else shown(given),
            remedy="Generate with return_token_timestamps=True.",
        )
    return [float(time) for time in row]


def _stride(given: object) -> tuple[float, float, float] | None:
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) != 3:
        raise InputError("a stride is a length and two overlaps", where="stride", found=shown(given))
    return cast("tuple[float, float, float]", tuple(given))


def merged(heard: Sequence[Sequence[int]], times: Sequence[Sequence[Span]] = ()) -> tuple[list[int], list[Span]]:
    """One row of tokens of several that overlap, each with the one before it.

    Two rows are laid over one another in every way; where they agree best, the first half of what is common is taken of
    the left one, the second of the right one: what stands at a piece's edge was heard worst.

    Args:
        heard: the rows, in their order.
        times: when each of their tokens was said; equal tokens agree only if the right one is not earlier.

    Returns:
        The tokens, and their times where there are any.
    """
    left, left_times = list(heard[0]), list(times[0]) if times else []
    tokens: list[int] = []
    spans: list[Span] = []
    for number, right in enumerate(heard[1:], start=1):
        right_times = list(times[number]) if times else []
        left_middle, right_middle = _seam(left, right, left_times, right_times)
        tokens += left[:left_middle]
        spans += left_times[:left_middle]
        left, left_times = list(right[right_middle:]), right_times[right_middle:]
    return tokens + left, spans + left_times


def _seam(
    left: Sequence[int], right: Sequence[int], left_times: Sequence[Span], right_times: Sequence[Span]
) -> tuple[int, int]:
    """Where to leave the left row, and where to go on in the right one."""
    size, other = len(left), len(right)
    rows, columns = np.nonzero(np.equal.outer(np.asarray(left, dtype=np.int64), np.asarray(right, dtype=np.int64)))
    if left_times and right_times:
        later = [left_times[i] <= right_times[j] for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]
        keep = np.asarray(later, dtype=bool)
        rows, columns = rows[keep], columns[keep]
    # Laid so that the last `shift` tokens of the left one stand over the first `shift` of the right one, or beyond.
    matches = np.bincount(size - rows + columns, minlength=size + other)
    shifts = np.arange(1, size + other)
    if not len(shifts) or (matches := matches[1:]).max() < 2:
        return size, 0
    agreement = np.where(matches > 1, matches / shifts + shifts / 10000.0, 0.0)  # among equals, the longer one
    shift = int(shifts[agreement.argmax()])
    left_span = max(0, size - shift) + min(size, size + other - shift)
    right_span = max(0, shift - size) + min(other, shift)
    return left_span // 2, right_span // 2
