"""Speech by espeak-ng, and when every word and every phoneme of it is said.

``python examples/commands/speak.py "turn left" --voice en-us+f4 --out turn.wav`` writes a sound and prints its words'
times. The library and its data come with the package ``espeakng-loader``; it is called by ctypes (espeak-ng's
``speak_lib.h``).
"""

from __future__ import annotations

import argparse
import ctypes
import wave
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soxr

RATE = 16_000
"""Samples of a second, of all sounds here."""

Wave = np.ndarray[tuple[int], np.dtype[np.float32]]

# speak_lib.h: espeak_AUDIO_OUTPUT, espeak_EVENT_TYPE, espeak_PARAMETER, flags.
_SYNCHRONOUS, _PHONEME_EVENTS = 2, 1
_LIST_END, _WORD, _PHONEME = 0, 1, 7
_SPEED, _VOLUME, _PITCH, _RANGE, _GAP = 1, 2, 3, 4, 7
_BY_CHARACTERS, _UTF8 = 1, 1


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, slots=True)
class Voice:
    """How a text is said.

    Attributes:
        name: a language or accent of espeak's with a variant, ``en-us+f3``.
        speed: words of a minute; 175 is usual.
        pitch: 0 to 99; 50 is usual.
        range: how lively the pitch is, 0 to 99; 50 is usual.
        gap: pause between words, in steps of 10 ms at the usual speed.
        slow: the sound is played so many times as slowly as it is made: a longer or a shorter throat.
    """

    name: str = "en-us"
    speed: int = 175
    pitch: int = 50
    range: int = 50
    gap: int = 0
    slow: float = 1.0


@dataclass(frozen=True, slots=True)
class Mark:
    """A word or a phoneme, and when it is said, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Speech:
    """What was said.

    Attributes:
        wave: mono, at :data:`RATE`, from -1 to 1. Shape: [samples].
        words: in order; the starts are espeak's marks, the ends those of the words' last phonemes.
        phonemes: in order, pauses left out.
        exact: which words espeak marked itself; the others ("the" in "on the") lie in their group by letters.
    """

    wave: Wave
    words: tuple[Mark, ...]
    phonemes: tuple[Mark, ...]
    exact: tuple[bool, ...]


class _Synthesiser:
    """The library, which is there once in a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, _PHONEME_EVENTS)
        if self._rate <= 0:
            raise RuntimeError(f"espeak-ng did not start with the data in {data.decode()}")
        self._blocks: list[np.ndarray] = []
        self._events: list[tuple[int, int, int, int, str]] = []
        # The library keeps the pointer only: the object must live as long.
        self._callback = _CALLBACK(self._heard)
        self._library.espeak_SetSynthCallback(self._callback)

    def _heard(self, block: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if block and count:
            self._blocks.append(np.ctypeslib.as_array(block, (count,)).copy())
        index = 0
        while events[index].type != _LIST_END:
            event = events[index]
            name = event.id.string.decode(errors="replace") if event.type == _PHONEME else ""
            self._events.append((event.type, event.sample, event.text_position, event.length, name))
            index += 1
        return 0

    def say(self, text: str, voice: Voice) -> Speech:
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name!r}")
        settings = {_SPEED: voice.speed, _VOLUME: 100, _PITCH: voice.pitch, _RANGE: voice.range, _GAP: voice.gap}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._blocks, self._events = [], []
        self._library.espeak_ng_SetRandSeed(1)  # of breath and rustling: the same text is the same sound
        given = text.encode()
        self._library.espeak_Synth(given, len(given) + 1, 0, _BY_CHARACTERS, 0, _UTF8, None, None)
        return self._speech(text, self._rate / voice.slow)

    def _speech(self, text: str, rate: float) -> Speech:
        samples = np.concatenate(self._blocks) if self._blocks else np.zeros(0, np.int16)
        wave = soxr.resample(samples.astype(np.float32) / 32768, rate, RATE)
        total = len(samples) / rate
        phonemes = [(sample / rate, name) for kind, sample, _, _, name in self._events if kind == _PHONEME]
        ends = [start for start, _ in phonemes[1:]] + [total]
        said = tuple(
            Mark(name, start, end)
            for (start, name), end in zip(phonemes, ends, strict=True)
            if name.strip("_:;|") and end > start
        )
        starts = [
            (sample / rate, text[place - 1 : place - 1 + length])
            for kind, sample, place, length, _ in self._events
            if kind == _WORD and length
        ]
        limits = [start for start, _ in starts[1:]] + [total]
        marks = [
            Mark(word, start, max((p.end for p in said if start - 1e-3 <= p.start < limit - 1e-3), default=limit))
            for (start, word), limit in zip(starts, limits, strict=True)
        ]
        words, exact = _every_word(text.split(), marks)
        return Speech(wave.astype(np.float32), words, said, exact)


def _every_word(texts: list[str], marks: list[Mark]) -> tuple[tuple[Mark, ...], tuple[bool, ...]]:
    """Marks of all words, and which of them are espeak's: groups like "on the" have one mark, and are shared out."""
    groups: list[tuple[list[str], Mark]] = []
    rest = list(marks)
    for text in texts:
        if rest and (rest[0].text == text or not groups):
            groups.append(([text], rest.pop(0)))
        else:
            groups[-1][0].append(text)
    words: list[Mark] = []
    exact: list[bool] = []
    for group, mark in groups:
        letters, place = sum(map(len, group)), mark.start
        for text in group:
            end = place + (mark.end - mark.start) * len(text) / letters
            words.append(Mark(text, place, end))
            exact.append(len(words) == 1 or text is group[0])
            place = end
    return tuple(words), tuple(exact)


@cache
def _synthesiser() -> _Synthesiser:
    return _Synthesiser()


def say(text: str, voice: Voice) -> Speech:
    """Say a text.

    Raises:
        ValueError: there is no such voice.
    """
    return _synthesiser().say(text, voice)


def write_wave(samples: Wave, file: Path) -> None:
    """Write a WAV file of 16 bits."""
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    """Say a text, with a little silence around it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--voice", default="en-us")
    parser.add_argument("--speed", type=int, default=175, help="words a minute")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    speech, rest = say(args.text, Voice(args.voice, speed=args.speed)), np.zeros(RATE * 2 // 5, np.float32)
    write_wave(np.concatenate([rest, 0.5 * speech.wave, rest]), args.out)
    for word in speech.words:
        print(f"{word.start + 0.4:6.2f} {word.end + 0.4:6.2f} {word.text}")


if __name__ == "__main__":
    main()
