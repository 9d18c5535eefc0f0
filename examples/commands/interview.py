"""Make a long recording to transcribe: ``python examples/commands/interview.py --out interview.wav``.

Two or three people talk about shapes and colours, with music before, between and after, and silence. What is said when
is written beside it, as subtitles. The voices are none that training heard.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sentences import fill
from sounds import make_music, make_noise, unseen_voice
from speak import RATE, Mark, Voice, Wave, say, write_wave

OPENING = ("hello everyone and welcome to the show", "good evening and welcome", "good morning everyone")
QUESTIONS = """
how many {many} did you draw
what is your favourite (colour|shape|number)
why do you like the {colour} {one}
tell me more about the {colour} {one}
when did you learn to (draw|paint)
the next question is about {many}
did you like the {one}
can you show me {a_shape}
what (colour|shape|size) is the {ordinal} one
where is the {colour} {one}
"""
ANSWERS = """
my favourite colour is {colour}
i like {colour} and {colour} very much
i drew {some} and {some}
there was {a_shape} {place}
the {one} is {colour} and the {one} is {colour}
i was {number} years old
we worked there for {number} (days|weeks|years|months)
so i painted {a_shape} {place}
yes i do
no i do not
it was a (good|long|short|hard) day
then we saw {some}
i have {number} {many}
"""
CLOSING = ("thank you very much", "thank you for your time", "thank you and goodbye")


@dataclass(frozen=True, slots=True)
class Interview:
    """A long recording.

    Attributes:
        wave: Shape: [samples].
        lines: what is said, and when, in seconds.
        words: the same word by word.
        exact: which of the words' times are espeak's own.
    """

    wave: Wave
    lines: tuple[Mark, ...]
    words: tuple[Mark, ...]
    exact: tuple[bool, ...]

    @property
    def text(self) -> str:
        """All that is said."""
        return " ".join(line.text for line in self.lines)


class Tape:
    """A recording as it grows."""

    def __init__(self) -> None:
        self.parts: list[Wave] = []
        self.lines: list[Mark] = []
        self.words: list[Mark] = []
        self.exact: list[bool] = []
        self.seconds = 0.0

    def add(self, wave: Wave) -> None:
        """Append a sound."""
        self.parts.append(wave)
        self.seconds += len(wave) / RATE

    def rest(self, seconds: float) -> None:
        """Append silence."""
        self.add(np.zeros(round(seconds * RATE), np.float32))

    def say(self, text: str, voice: Voice) -> None:
        """Append speech."""
        speech, at = say(text, voice), self.seconds
        moved = [Mark(word.text, word.start + at, word.end + at) for word in speech.words]
        self.lines.append(Mark(text, moved[0].start, moved[-1].end))
        self.words += moved
        self.exact += speech.exact
        self.add(0.5 * speech.wave)


def _theme(chances: np.random.Generator, seconds: float) -> Wave:
    """Music that swells and dies away."""
    made = make_music(chances, round(seconds * RATE))
    ramp = np.minimum(np.arange(len(made)) / RATE, 1.0)
    return (made * ramp * ramp[::-1]).astype(np.float32)


def interview(seed: str, minutes: float = 5.0) -> Interview:
    """An interview of about this length; the same for the same seed."""
    rng = random.Random(f"interview {seed}")
    chances = np.random.default_rng(rng.getrandbits(64))
    host, *guests = (unseen_voice(rng) for _ in range(rng.choice((2, 3))))
    tape = Tape()
    tape.add(_theme(chances, rng.uniform(6, 12)))
    tape.rest(rng.uniform(0.3, 1.5))
    tape.say(rng.choice(OPENING), host)
    while tape.seconds < 60 * minutes - 15:
        guest = rng.choice(guests)
        for _ in range(rng.randint(2, 5)):
            tape.rest(rng.uniform(0.4, 1.5))
            tape.say(fill(rng, rng.choice(QUESTIONS.strip().splitlines())), host)
            for _ in range(rng.randint(1, 3)):
                tape.rest(rng.uniform(0.3, 1.2))
                tape.say(fill(rng, rng.choice(ANSWERS.strip().splitlines())), guest)
        kind = rng.random()
        tape.rest(rng.uniform(0.5, 2.0) if kind < 0.6 else rng.uniform(3, 9))
        if kind < 0.6:
            tape.add(_theme(chances, rng.uniform(4, 10)))
            tape.rest(rng.uniform(0.3, 1.0))
    tape.say(rng.choice(CLOSING), host)
    tape.rest(1.0)
    tape.add(_theme(chances, 8.0))
    whole = np.concatenate(tape.parts)
    whole = whole + make_noise(chances, len(whole)) * 10 ** (-rng.uniform(25, 45) / 20)
    return Interview(whole.astype(np.float32), tuple(tape.lines), tuple(tape.words), tuple(tape.exact))


def clock(seconds: float) -> str:
    """A time as subtitles have it."""
    whole = round(1000 * seconds)
    return f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02},{whole % 1000:03}"


def main() -> None:
    """Write the recording and its subtitles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the sound; its subtitles lie beside it")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", default="1")
    args = parser.parse_args()
    made = interview(args.seed, args.minutes)
    write_wave(made.wave, args.out)
    rows = (f"{i}\n{clock(m.start)} --> {clock(m.end)}\n{m.text}\n" for i, m in enumerate(made.lines, 1))
    args.out.with_suffix(".truth.srt").write_text("\n".join(rows), encoding="utf-8")
    print(f"{len(made.wave) / RATE:.1f} s, {len(made.words)} words")


if __name__ == "__main__":
    main()
