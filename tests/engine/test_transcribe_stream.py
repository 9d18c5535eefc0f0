"""Streams of sound that are written down while they come, heard by a listener that knows what is said in them.

Samples count on from 0, so that the listener sees which part of the stream it is given; a clock goes on as blocks come.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from omniform.core.errors import InputError
from omniform.core.spoken import SpokenWord, Words
from omniform.engine.hearing.agreement import Agreement, Pass
from omniform.engine.hearing.transcribe import Stream
from omniform.inputs.audio.load import open_recording
from omniform.inputs.text.spoken_words import Word

RATE = 1000
COUNT = 2.0**22
WINDOW = 30


class Clock:
    """A clock that goes on when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def speech(seconds: float, *, every: float = 0.4, silences: Sequence[tuple[float, float]] = ()) -> list[SpokenWord]:
    """A word every so often, the tenth ends a sentence; none in silences."""
    found = []
    for number in range(int(seconds / every)):
        start, end = number * every, (number + 0.8) * every
        if not any(begin < end and start < stop for begin, stop in silences):
            found.append(SpokenWord(f" w{number}" + ("." if number % 10 == 9 else ""), round(start, 2), round(end, 2)))
    return found


class Knowing:
    """Knows what is said, but hears badly what the end of the sound cuts off.

    Args:
        words: what is said.
        clock: goes on by ``takes`` seconds with every pass.
        unsteady: at the end of the sound so many seconds are heard otherwise each time.
        deaf: at the beginning of the sound so many seconds are heard wrong, where nobody says what is said there.
        told: what it says instead, by the number of the pass and the end of the sound; None for nothing else.
    """

    rate, window, positions = RATE, RATE * WINDOW, 448

    def __init__(
        self,
        words: Sequence[SpokenWord],
        clock: Clock,
        *,
        takes: float = 0.0,
        unsteady: float = 0.3,
        deaf: float = 0.0,
        told: Callable[[int, float], Pass | None] = lambda number, end: None,
    ) -> None:
        self.words, self.clock, self.takes, self.told = list(words), clock, takes, told
        self.unsteady, self.deaf = unsteady, deaf
        self.passes = 0
        self.longest = 0
        self.befores: list[list[int]] = []

    def hear(self, samples: torch.Tensor, before: Sequence[int], said: Sequence[int]) -> Pass:
        self.passes += 1
        self.longest = max(self.longest, len(samples))
        self.clock.now += self.takes
        self.befores.append(list(before))
        start = round(float(samples[0]) * COUNT) / RATE
        end = start + len(samples) / RATE
        assert round(float(samples[-1]) * COUNT) == round(end * RATE) - 1, "sound is missing"
        told = self.told(self.passes, end)
        if told is not None:
            return told
        here = [n for n, word in enumerate(self.words) if word.start >= start - 1e-6 and word.start < end]
        assert list(said) == here[: len(said)], "what was said is not what the sound begins with"
        words, spans = [], []
        for place, number in enumerate(here[len(said) :]):
            word = self.words[number]
            clear = word.end <= end - self.unsteady and (start == 0 or word.start >= start + self.deaf)
            token = number if clear else 10_000_000 + number * 7 + self.passes % 7
            words.append(Word(word.text if clear else " eh", [token], [place]))
            spans.append((word.start - start, min(word.end, end) - start))
        return Pass(words, spans)


def live(blocks: Sequence[int], clock: Clock, seconds: float, error: Exception | None = None) -> Iterator[torch.Tensor]:
    """Blocks of so many samples over and over, each when its last sample has been spoken."""
    at, whole = 0, round(seconds * RATE)
    for size in itertools.cycle(blocks):
        size = min(size, whole - at)
        if not size:
            if error is not None:
                raise error
            return
        clock.now += size / RATE
        yield torch.arange(at, at + size) / COUNT
        at += size


def hear(listener: Knowing, source: object, step: float = 1.0, **more: object) -> Iterator[Words]:
    recording = open_recording(source, RATE)
    return Stream(listener, recording, step, [], listener.clock, **more).words()


def together(told: Sequence[Words]) -> list[SpokenWord]:
    return [word for words in told for word in words]


@pytest.mark.parametrize("blocks", [[1000], [160], [1], [7, 1301, 13, 450], [45_000]], ids=str)
@pytest.mark.parametrize("step", [1.0, 0.37, 4.0])
def test_every_word_comes_once_in_order_and_in_time(blocks, step):
    clock = Clock()
    seconds = 4.03 if blocks == [1] else 63.7
    words = speech(seconds)
    told = list(hear(listener := Knowing(words, clock), live(blocks, clock, seconds), step))
    found = together(told)
    # What the end cuts off is as it was heard then.
    sure = [word for word in words if word.end <= seconds - 0.3]
    assert found[: len(sure)] == sure and len(found) == len([word for word in words if word.start < seconds])
    assert [words.final for words in told] == [False] * (len(told) - 1) + [True]
    assert listener.longest <= RATE * WINDOW
    for words_then in told:
        assert words_then.heard >= words_then.words[-1].end and len(words_then) and str(words_then).startswith(" ")


def test_first_words_come_with_the_second_pass_and_late_by_as_much_as_two():
    clock = Clock()
    told = list(hear(listener := Knowing(speech(20), clock, takes=0.1), live([100], clock, 20)))
    assert told[0].heard <= 2.2 and str(told[0]) == " w0"
    # A word is agreed on by the second pass that hears it well.
    assert all(0 < words.delay <= 2 * (1.0 + 0.1) + 0.3 + 0.2 for words in told)
    assert listener.passes >= 18


def test_the_delay_is_that_of_the_last_word():
    clock = Clock()
    words = [SpokenWord(" one", 0.1, 0.5)]
    told = list(hear(Knowing(words, clock, takes=0.25), live([100], clock, 5.0)))
    # Heard at 1.0 and at 2.0 s of sound; the passes took a quarter of a second each.
    assert [(str(w), w.heard, w.final) for w in told] == [(" one", 2.0, False)]
    assert told[0].delay == pytest.approx(2.0 + 2 * 0.25 - 0.5)


def test_slow_passes_wait_for_more_sound():
    clock = Clock()
    told = list(hear(listener := Knowing(speech(60), clock, takes=3.0), live([100], clock, 60)))
    assert together(told)[:140] == speech(60)[:140]
    assert listener.passes <= 22


def test_an_hour_takes_no_more_memory_than_a_minute():
    clock = Clock()
    silences = [(600, 900), (1000, 1003), (2000, 2100.5)]
    words = speech(3600, every=1.0, silences=silences)
    listener = Knowing(words, clock)
    stream = Stream(listener, open_recording(live([4000], clock, 3600), RATE), 8.0, [], clock, condition=True)
    found = together([*stream.words()])
    assert found[:-1] == words[:-1]
    assert listener.longest <= RATE * WINDOW
    assert 0 < max(map(len, listener.befores)) <= listener.positions // 4
    assert len(stream._arrivals.times) < 1000 and len(stream._agreement._settled) < 100


def test_sound_is_let_go_behind_sentences():
    clock = Clock()
    listener = Knowing(speech(60), clock)
    list(hear(listener, live([500], clock, 60), condition=True))
    cuts = [before[-1] for before, _ in itertools.groupby(listener.befores) if before]
    assert cuts and all(number % 10 == 9 for number in cuts)


def test_what_a_cut_leaves_of_words_is_known():
    """No sentence ends here, so that sound is let go of between words."""
    clock = Clock()
    words = [SpokenWord(word.text.replace(".", ""), word.start, word.end) for word in speech(150)]
    listener = Knowing(words, clock, deaf=0.5)
    assert together([*hear(listener, live([500], clock, 150))])[:370] == words[:370]
    assert not any(listener.befores)


@pytest.mark.parametrize("doubtful", [True, False])
def test_silence_gives_no_words_and_no_memory(doubtful):
    clock = Clock()
    listener = Knowing([], clock, told=lambda number, end: Pass(doubtful=doubtful))
    assert list(hear(listener, live([333], clock, 200))) == [] and listener.longest <= RATE * WINDOW


def test_nothing_is_ever_agreed_on():
    clock = Clock()

    def other(number: int, end: float) -> Pass:
        return Pass([Word(f" x{number}", [number], [0]), Word(" y", [7], [1])], [(1.0, 2.0), (2.0, 3.0)])

    listener = Knowing([], clock, told=other)
    told = list(hear(listener, live([500], clock, 100)))
    assert listener.longest <= RATE * WINDOW
    times = [word.start for word in together(told)]
    assert times == sorted(times) and len(told) >= 3


def test_what_is_doubted_is_forgotten():
    clock = Clock()
    words = speech(12)
    told = list(
        hear(
            Knowing(words, clock, told=lambda n, end: Pass(doubtful=True) if n % 3 == 0 else None),
            live([100], clock, 12),
        )
    )
    assert together(told)[:20] == words[:20]


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.0, 1.001, 2.0, 7.43])
def test_an_abrupt_end(seconds):
    clock = Clock()
    words = [word for word in speech(10) if word.start < seconds]
    told = list(hear(Knowing(words, clock, unsteady=0), live([100], clock, seconds)))
    assert [word.start for word in together(told)] == [word.start for word in words]
    assert told[-1].final and told[-1].heard == pytest.approx(seconds)


@pytest.mark.parametrize("error", [ValueError("unplugged"), InputError("unplugged"), OSError("unplugged")], ids=repr)
def test_a_source_that_fails_is_heard_to_where_it_did(error):
    clock = Clock()
    words = speech(5)
    told: list[Words] = []
    with pytest.raises(type(error), match="unplugged"):
        for some in hear(Knowing(words, clock, unsteady=0), live([250], clock, 4.75, error)):
            told.append(some)
    assert told[-1].final and together(told)[-1].start > 4
    with pytest.raises(type(error), match="unplugged"):
        list(hear(Knowing(words, clock), live([250], clock, 0, error)))


def test_a_stream_that_is_left_is_closed():
    closed = []
    clock = Clock()

    def source() -> Iterator[torch.Tensor]:
        try:
            yield from live([100], clock, 1000)
        finally:
            closed.append(clock.now)

    blocks = source()
    heard = hear(Knowing(speech(100), clock), blocks)
    next(heard)
    heard.close()
    assert clock.now < 5  # no more was asked for than was needed
    with pytest.raises(InputError, match="empty"):
        list(hear(Knowing([], clock), iter([])))


def test_words_that_grow_are_settled_when_they_are_whole():
    agreement = Agreement(window=30, keep=15, tail=5, most_before=100)
    to = Word(" to", [1], [0])
    tomorrow = Word(" tomorrow", [1, 2], [0, 1])
    assert agreement.settle(Pass([to], [(0, 1)])) == []
    assert agreement.settle(Pass([tomorrow], [(0, 1)])) == []
    assert agreement.settle(Pass([tomorrow, Word(" we", [3], [2])], [(0, 1), (1, 2)])) == [
        SpokenWord(" tomorrow", 0, 1)
    ]
    assert agreement.said == [1, 2]
    assert agreement.settle_rest() == [SpokenWord(" we", 1, 2)] and agreement.settle_rest() == []
