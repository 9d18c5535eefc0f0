"""Windows of sound with speech, noise and music in them, and who says what when: to train and to measure on.

Number i of a seed is the same whoever makes it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.signal import fftconvolve, lfilter
from sentences import phrase, several
from speak import RATE, Mark, Speech, Voice, Wave, say

SECONDS = 5
"""Of a window."""

ACCENTS = ("en-us", "en", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029", "en-us-nyc")
UNSEEN_ACCENTS = ("en-gb-x-gbcwmd",)
VARIANTS = several(
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f3 f5 klatt klatt2 klatt4 klatt5 klatt6 Alex Alicia Andrea Andy Denis Diogo Gene "
    "Gene2 Henrique Hugo Jacky Marco Mario Mike Nguyen Reed RicishayMax RicishayMax3 adam anika antonio belinda "
    "benjamin boris caleb ed edward edward2 grandma grandpa gustave ian iven iven2 iven3 john linda marcelo max "
    "miguel mike2 norbert pablo paul pedro quincy rob robert sandro steph steph2 travis victor zac aunty "
    "announcer whisper croak fast"
)
UNSEEN_VARIANTS = several("m5 f4 klatt3 Annie Michael Lee david shelby michel RicishayMax2 steph3 iven4")
"""Voices that nothing is trained on. Training hears none of them, nor the accent of the West Midlands."""


@dataclass(frozen=True, slots=True)
class Said:
    """Something said in a window: its words with their times in the window, in seconds.

    Attributes:
        words: of which most lies in the window.
        exact: which of these times are espeak's own.
        whole: the window holds the end.
    """

    words: tuple[Mark, ...]
    exact: tuple[bool, ...]
    whole: bool

    @property
    def text(self) -> str:
        """The words."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of sound.

    Attributes:
        wave: Shape: [samples].
        said: in order.
        phonemes: in order; parts of them may lie outside.
        voice: the name of the one that speaks, where it is one.
    """

    wave: Wave
    said: tuple[Said, ...]
    phonemes: tuple[Mark, ...]
    voice: str = ""

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(said.text for said in self.said)


def seen_voice(rng: random.Random) -> Voice:
    """A voice of those that training hears."""
    accent = rng.choice(ACCENTS[:2]) if rng.random() < 0.5 else rng.choice(ACCENTS)
    voice = _voice(rng, accent if rng.random() < 0.15 else f"{accent}+{rng.choice(VARIANTS)}")
    # Other throats make more voices of each.
    return voice if rng.random() < 0.3 else replace(voice, slow=rng.uniform(0.85, 1.18))


def unseen_voice(rng: random.Random) -> Voice:
    """A voice that training never heard."""
    accents = (*ACCENTS, *UNSEEN_ACCENTS)
    return _voice(rng, f"{rng.choice(accents)}+{rng.choice(UNSEEN_VARIANTS)}")


def _voice(rng: random.Random, name: str) -> Voice:
    usual = rng.random() < 0.2
    return Voice(
        name,
        speed=175 if usual else round(rng.triangular(110, 260, 170)),
        pitch=50 if usual else round(rng.triangular(10, 90, 50)),
        range=50 if usual else rng.randint(20, 80),
        gap=0 if rng.random() < 0.7 else rng.randint(1, 8),
    )


BANK = 48
"""Noises, and pieces of music, that windows take their parts of."""


@cache
def _stored(kind: str, number: int) -> Wave:
    """One of the noises, or of the pieces of music: 20 s."""
    rng = np.random.default_rng([number, len(kind)])
    return {"noise": make_noise, "music": make_music}[kind](rng, 20 * RATE)


def _part(rng: np.random.Generator, kind: str, samples: int) -> Wave:
    """A part of one of them, at about -20 dB."""
    whole = _stored(kind, int(rng.integers(BANK)))
    start = rng.integers(len(whole) - samples)
    return whole[start : start + samples]


def noise(rng: np.random.Generator, samples: int) -> Wave:
    """A part of a noise; 19 s at most."""
    return _part(rng, "noise", samples)


def music(rng: np.random.Generator, samples: int) -> Wave:
    """A part of a piece of music; 19 s at most."""
    return _part(rng, "music", samples)


def make_noise(rng: np.random.Generator, samples: int) -> Wave:
    """Noise of some colour, or a hum, at about -20 dB."""
    kind = rng.integers(4)
    white = rng.standard_normal(samples).astype(np.float32)
    if kind == 0:
        made = white
    elif kind == 1:
        made = lfilter([1.0], [1.0, -rng.uniform(0.8, 0.99)], white)
    elif kind == 2:
        made = lfilter([1.0, -0.9], [1.0], white)
    else:
        time = np.arange(samples) / RATE
        base = rng.choice([50.0, 60.0, 100.0, 120.0])
        made = sum(np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6)) / k for k in range(1, 6)) + 0.1 * white
    return (0.1 * made / (np.std(made) + 1e-9)).astype(np.float32)


def make_music(rng: np.random.Generator, samples: int) -> Wave:
    """Chords, a tune and a beat, at about -20 dB."""
    made = np.zeros(samples, np.float32)
    beat = int(RATE * rng.uniform(0.2, 0.6))
    root = 110 * 2 ** (rng.integers(0, 12) / 12)
    scale = np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16])
    drums = rng.random() < 0.5
    for start in range(-int(rng.integers(0, beat)), samples, beat):
        length = min(2 * beat, samples - max(start, 0))
        time = np.arange(length) / RATE
        fade = np.exp(-time * rng.uniform(1, 8)) * np.minimum(time * 100, 1)
        notes = rng.choice(scale, rng.integers(1, 4), replace=False)
        tones = [root * 2 ** (note / 12) * rng.choice([1, 2, 4]) for note in notes]
        sound = sum(np.sin(2 * np.pi * f * time) + 0.4 * np.sin(4 * np.pi * f * time) for f in tones) * fade
        if drums:
            sound = sound + rng.standard_normal(length) * np.exp(-time * 40) * 2
        made[max(start, 0) : max(start, 0) + length] += sound.astype(np.float32)
    return (0.1 * made / (np.std(made) + 1e-9)).astype(np.float32)


def room(rng: np.random.Generator, wave: Wave) -> Wave:
    """The sound in a room: echoes that die away, or a telephone's band."""
    if rng.random() < 0.5:
        length = int(RATE * rng.uniform(0.05, 0.35))
        echo = rng.standard_normal(length) * np.exp(-np.arange(length) / length * 6.9) * rng.uniform(0.02, 0.15)
        echo[0] = 1.0
        return fftconvolve(wave, echo)[: len(wave)].astype(np.float32)
    high = rng.uniform(0.75, 0.95)
    low = rng.uniform(0.1, 0.6)
    return lfilter([1 - low], [1, -low], lfilter([1, -1], [1, -high], wave)).astype(np.float32)


def colour(rng: np.random.Generator, wave: Wave) -> Wave:
    """The sound with some pitch louder or softer, by 8 dB at most (R. Bristow-Johnson's peaking filter)."""
    gain = 10 ** (rng.uniform(-8, 8) / 40)
    angle = 2 * np.pi * 200 * 2 ** rng.uniform(0, 5) / RATE
    width = np.sin(angle) / (2 * rng.uniform(0.5, 2.0))
    above = [1 + width * gain, -2 * np.cos(angle), 1 - width * gain]
    below = [1 + width / gain, -2 * np.cos(angle), 1 - width / gain]
    return lfilter(above, below, wave).astype(np.float32)


def spoil(rng: np.random.Generator, wave: Wave, least: float = 3.0) -> Wave:
    """What befalls sound on its way: rooms, noise, music, other loudness, rounding to 16 bits.

    Args:
        wave: Shape: [samples].
        least: dB by which speech is louder than noise; than music 3 dB more.
    """
    level = float(np.sqrt(np.mean(wave**2))) or 0.05
    if rng.random() < 0.25:
        wave = room(rng, wave)
    for _ in range(rng.integers(0, 3)):
        wave = colour(rng, wave)
    kind = rng.random()
    if kind < 0.45:
        wave = wave + noise(rng, len(wave)) * (level * 10 * 10 ** (-rng.uniform(least, 40) / 20))
    elif kind < 0.6:
        wave = wave + music(rng, len(wave)) * (level * 10 * 10 ** (-rng.uniform(least + 3, 35) / 20))
    wave = wave / (np.abs(wave).max() + 1e-6) * 10 ** (rng.uniform(-30, 0) / 20)
    return (np.round(wave * 32767) / 32768).astype(np.float32)


def quiet(rng: np.random.Generator, samples: int) -> Wave:
    """Nothing is said: silence, noise, or music."""
    kind = rng.integers(4)
    loud = 10 ** (rng.uniform(-50, 15) / 20)
    if kind == 0:
        return np.zeros(samples, np.float32)
    made = (noise if kind == 1 else music)(rng, samples).copy()
    if kind == 3:
        made = made + noise(rng, samples) * rng.uniform(0.05, 1)
    # They may begin or end in the window.
    if rng.random() < 0.4:
        made[: rng.integers(samples)] *= rng.choice([0.0, 0.1])
    if rng.random() < 0.4:
        made[rng.integers(samples) :] *= rng.choice([0.0, 0.1])
    return np.clip(made * loud, -1, 1).astype(np.float32)


class Canvas:
    """A window as it is filled."""

    def __init__(self, seconds: float) -> None:
        self.wave: Wave = np.zeros(int(seconds * RATE), np.float32)
        self.seconds = seconds
        self.said: list[Said] = []
        self.phonemes: list[Mark] = []

    def add(self, speech: Speech, at: float, loud: float = 1.0) -> None:
        """Put speech where it begins at this second, which may lie before the window."""
        start = round(at * RATE)
        first, last = max(start, 0), min(start + len(speech.wave), len(self.wave))
        if last <= first:
            return
        self.wave[first:last] += loud * speech.wave[first - start : last - start]
        self.phonemes += [Mark(p.text, p.start + at, p.end + at) for p in speech.phonemes]
        kept = [
            (Mark(word.text, max(word.start + at, 0.0), min(word.end + at, self.seconds)), exact)
            for word, exact in zip(speech.words, speech.exact, strict=True)
            if self._inside(word.start + at, word.end + at)
        ]
        if kept:
            end = speech.words[-1].end + at
            words, exact = zip(*kept, strict=True)
            self.said.append(Said(words, exact, end <= self.seconds + 0.02))

    def _inside(self, start: float, end: float) -> bool:
        """Three quarters of it are heard."""
        return min(end, self.seconds) - max(start, 0.0) >= 0.75 * (end - start)

    def window(self, wave: Wave) -> Window:
        """What is here, with this sound."""
        return Window(wave, tuple(self.said), tuple(self.phonemes))


def training_window(seed: str, seconds: float = SECONDS, loose: float = 0.3) -> Window:
    """A window to train on: speech of one or two voices that may be cut at either end, or nothing said at all.

    Args:
        seed: a number for the window.
        seconds: its length.
        loose: share of what is said that has no sense.
    """
    rng = random.Random(f"command {seed}")
    chances = np.random.default_rng(rng.getrandbits(64))
    canvas = Canvas(seconds)
    kind = rng.random()
    if kind < 0.12:
        return canvas.window(quiet(chances, len(canvas.wave)))
    voices = [seen_voice(rng) for _ in range(rng.choice((1, 1, 2)))]
    if kind < 0.45:
        at, most = rng.uniform(0.0, 2.5) if rng.random() < 0.6 else rng.uniform(0.0, 0.5), 1
    elif kind < 0.8:
        at, most = rng.uniform(0.0, 1.0), rng.randint(2, 6)
    else:
        at, most = -rng.uniform(0.0, 2.5), rng.randint(1, 6)
    for _ in range(most):
        speech = say(phrase(rng, loose), rng.choice(voices))
        canvas.add(speech, at, rng.uniform(0.5, 1.0))
        at += len(speech.wave) / RATE + rng.uniform(0.15, 1.2)
        if at > seconds - 0.1:
            break
    wave = spoil(chances, canvas.wave)
    if canvas.said and rng.random() < 0.35:
        wave = interlude(chances, wave, canvas.said[0].words[0].start, canvas.said[-1].words[-1].end)
    return canvas.window(wave)


def interlude(rng: np.random.Generator, wave: Wave, begin: float, end: float) -> Wave:
    """Loud music or noise before or after what is said, as between the parts of a broadcast.

    Args:
        wave: Shape: [samples].
        begin, end: of speech, in seconds.
    """
    first, last = round(begin * RATE) - RATE // 10, round(end * RATE) + RATE // 5
    pieces = [(0, first), (last, len(wave))]
    made = (music if rng.random() < 0.75 else noise)(rng, len(wave)) * 10 ** (rng.uniform(-15, 10) / 20)
    shown = np.zeros(len(wave), np.float32)
    for start, stop in pieces:
        if stop - start > RATE // 4 and rng.random() < 0.8:
            ramp = np.minimum(np.arange(stop - start) / (RATE * rng.uniform(0.05, 0.8)), 1.0)
            shown[start:stop] = ramp * ramp[::-1]
    return np.clip(wave + made * shown, -1, 1).astype(np.float32)


def command(seed: str, voice: Voice | None = None, clean: bool = False) -> Window:
    """A command that training did not see, in a voice that it never heard, with a little silence around it.

    Args:
        seed: a number for the command.
        voice: another voice.
        clean: nothing befalls the sound.
    """
    rng = random.Random(f"unseen {seed}")
    chances = np.random.default_rng(rng.getrandbits(64))
    voice = voice or unseen_voice(rng)
    speech = say(phrase(rng), voice)
    before, after = rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.7)
    canvas = Canvas(min(before + len(speech.wave) / RATE + after, SECONDS))
    canvas.add(speech, min(before, max(0.0, SECONDS - len(speech.wave) / RATE)))
    window = canvas.window(canvas.wave if clean else spoil(chances, canvas.wave, 10.0))
    return replace(window, voice=voice.name)
