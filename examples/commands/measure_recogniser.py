"""Measure the bundled recogniser on voices that training did not hear, choose its heads for times, and write its card.

``python examples/commands/measure_recogniser.py DIR``; word error rates are those of jiwer.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import torch
from interview import Interview, interview
from rows import Writer
from sentences import vocabulary
from sounds import SECONDS, UNSEEN_ACCENTS, UNSEEN_VARIANTS, VARIANTS, Window, command, seen_voice
from speak import RATE, Mark

from omniform import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline
from omniform.engine.hearing.alignment import token_times
from omniform.engine.hearing.hear import hear

TOGETHER = 25
NEAR = 0.3
"""Seconds by which a word's time may be wrong."""


Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Heard:
    """What was written down of a sound.

    Attributes:
        text: all of it.
        words: with their times in seconds.
    """

    text: str
    words: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """How right some transcripts are.

    Attributes:
        wer: errors for each word that was said.
        gaps: of words that were written down right, how far their beginning is from espeak's mark, in seconds.
    """

    wer: float
    gaps: Numbers

    @property
    def near(self) -> float:
        """Share of the words whose time is near enough."""
        return float((self.gaps <= NEAR).mean())


class Recogniser:
    """A checkpoint that writes down what is said."""

    def __init__(self, folder: Path) -> None:
        self.pipeline = pipeline("automatic-speech-recognition", model=str(folder), num_beams=1)
        self.processor = AutoProcessor.from_pretrained(folder)

    def __call__(self, wave: np.ndarray) -> Heard:
        """Words with their times, as ``omniform run`` tells them."""
        told = list(hear(self.pipeline.model, self.processor, {"raw": wave, "sampling_rate": RATE}, words=True))
        words = [Mark(word.text.strip(), word.start, word.end) for one in told for word in one.words]
        return Heard(" ".join(one.text.strip() for one in told), tuple(words))

    def plain(self, waves: Sequence[np.ndarray]) -> list[str]:
        """The words alone, for sounds that fit into the model's window."""
        asked = [{"raw": wave, "sampling_rate": RATE} for wave in waves]
        return [one["text"].strip() for one in self.pipeline(asked, batch_size=TOGETHER)]


def unseen(count: int) -> list[Window]:
    """Commands in voices that training did not hear; half of them are spoiled by nothing."""
    return [command(str(number), clean=number % 2 == 0) for number in range(count)]


def gaps(said: Sequence[Mark], exact: Sequence[bool], heard: Sequence[Mark]) -> Iterator[float]:
    """How far beginnings are from espeak's own marks, of words that were written down right."""
    if not heard or not said:
        return
    texts = [" ".join(word.text for word in words) for words in (said, heard)]
    for chunk in jiwer.process_words(*texts).alignments[0]:
        if chunk.type == "equal":
            for i, j in zip(
                range(chunk.ref_start_idx, chunk.ref_end_idx),
                range(chunk.hyp_start_idx, chunk.hyp_end_idx),
                strict=True,
            ):
                if exact[i]:
                    yield abs(said[i].start - heard[j].start)


def of_commands(windows: Sequence[Window], heard: Sequence[Heard]) -> Result:
    """How right the transcripts of commands are."""
    wer = jiwer.wer([window.text for window in windows], [one.text for one in heard])
    found = [
        gap
        for window, one in zip(windows, heard, strict=True)
        for gap in gaps(
            [word for said in window.said for word in said.words],
            [exact for said in window.said for exact in said.exact],
            one.words,
        )
    ]
    return Result(float(wer), np.array(found))


def by_voice(windows: Sequence[Window], heard: Sequence[Heard], name: str) -> tuple[list[Window], list[Heard]]:
    """The commands of one voice."""
    chosen = [i for i, window in enumerate(windows) if window.voice.partition("+")[2] == name]
    return [windows[i] for i in chosen], [heard[i] for i in chosen]


def of_interview(made: Interview, heard: Heard) -> Result:
    """How right the transcript of a long recording is."""
    return Result(float(jiwer.wer(made.text, heard.text)), np.array([*gaps(made.words, made.exact, heard.words)]))


@torch.inference_mode()
def best_heads(folder: Path, count: int) -> list[list[int]]:
    """The heads whose times are nearest to espeak's marks in voices that training heard, alone or two together."""
    recogniser = Recogniser(folder).pipeline
    model, extractor, writer = recogniser.model, recogniser.feature_extractor, Writer()
    windows = [command(f"heads {i}", seen_voice(random.Random(f"head {i}"))) for i in range(count)]
    every = [[i, j] for i in range(model.config.decoder_layers) for j in range(model.config.decoder_attention_heads)]

    def misses(heads: list[list[int]]) -> float:
        found: list[float] = []
        for window, memory, row in zip(windows, memories, rows, strict=True):
            tokens = torch.tensor([row.tokens])
            frames = len(window.wave) // extractor.hop_length
            times = token_times(model, memory, tokens, prompt=3, heads=heads, frames=frames, median=median)[0].tolist()
            # A token's time is where it ends, and the next begins.
            starts = [time for token, time in zip(row.tokens[1:], times, strict=False) if token < writer.end]
            said, exact = window.said[0].words, window.said[0].exact
            # The path through all frames begins with the first word, whenever it is said.
            found += [abs(t - w.start) for t, w, e in [*zip(starts, said, exact, strict=True)][1:] if e]
        return float(np.mean(found))

    median = model.config.median_filter_width
    features = extractor([w.wave for w in windows], sampling_rate=RATE, return_tensors="pt")["input_features"]
    memories = [model.encode(input_features=one[None]) for one in features]
    rows = [writer.row(window, times=True) for window in windows]
    ranked = sorted(every, key=lambda head: misses([head]))
    return min(([ranked[0]], ranked[:2]), key=misses)


PLAIN = "python examples/commands/train_recogniser.py --out DIR"
CARD = """---
license: apache-2.0
library_name: omniform
pipeline_tag: automatic-speech-recognition
language: en
tags: [whisper, synthetic]
metrics: [wer]
---

# {name}

A very small Whisper that writes down spoken commands, with the times of their words.

{parameters:,} parameters, trained from nothing by `examples/commands/train_recogniser.py` in about {minutes}
minutes of one core's time, on speech that espeak-ng made meanwhile. It comes with omniform, so that a fresh
install has something to hear with. It is an ordinary checkpoint in the Hub's layout, which `transformers` loads as
well, with the same text.

## What it knows

English, {words} words of it, in lower case and without marks: numbers below ten thousand, colours, shapes, places,
short commands, and what an interview about shapes and colours needs (`examples/commands/sentences.py`), said by
espeak-ng in {seen} kinds of voice and seven accents, at 110 to 260 words a minute, with noise, music, echoes or none.
It hears windows of {seconds} s. `<|en|>` is its only language, and it writes times where it is asked for them
(`return_timestamps`); longer sounds are heard window by window then.

## How well

On {count:,} commands (other seeds; half of them clean, half in rooms, with noise that is at least 10 dB softer, or
music 13 dB, and other loudness), of the same patterns of sentences as in training, in {unseen} kinds of voice that
training did not hear, though they were looked at while it was made ({names};
one of the accents, {accents}, is new too). They are heard in float32 as `omniform run` hears: greedily, and with some
chance where an answer is unlikely; without times, greedily alone:

{numbers}

Word error rate by jiwer; times are where words begin, of words that were written down right, beside espeak's own marks.
An interview is {minutes_long:.0f} minutes of two or three such voices with music and silence between
(`examples/commands/interview.py`), heard as a whole.

The times come from heads {heads} (layer, head) of the decoder's cross-attention, chosen on voices that training heard.

## What it does not know

Everything else. It has never heard a person, nor a word that is not on its list: it writes those that sound most alike.

## How to make it again

```
{command}
python examples/commands/measure_recogniser.py DIR
```
{note}"""


def table(rows: Sequence[tuple[str, Result]], plain: float) -> str:
    """The numbers of the card."""
    lines = ["| | WER | median gap | gaps within 0.3 s |", "|---|---:|---:|---:|"]
    for name, result in rows:
        lines.append(f"| {name} | {result.wer:.3f} | {np.median(result.gaps):.3f} s | {100 * result.near:.1f} % |")
    lines.append(f"| commands, without times | {plain:.3f} | | |")
    return "\n".join(lines)


def main() -> None:
    """Measure a checkpoint and write its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("folder", type=Path, help="the checkpoint; its README.md is written anew")
    parser.add_argument("--count", type=int, default=1000, help="commands")
    parser.add_argument("--heads", type=int, default=60, help="commands on which heads are chosen")
    parser.add_argument("--minutes", type=int, default=40, help="that the training took")
    parser.add_argument("--command", action="append", help="that the training was started with, if not the plain one")
    parser.add_argument("--note", default="", help="what else is to be known of how it was made")
    args = parser.parse_args()
    torch.set_num_threads(1)
    settings = args.folder / "generation_config.json"
    written = json.loads(settings.read_text(encoding="utf-8"))
    written["alignment_heads"] = best_heads(args.folder, args.heads)
    settings.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    recogniser = Recogniser(args.folder)
    windows = unseen(args.count)
    waves = [window.wave for window in windows]
    heard, plain = [recogniser(wave) for wave in waves], recogniser.plain(waves)
    clean = slice(0, None, 2)
    long = interview("card")
    rows = [
        ("commands", of_commands(windows, heard)),
        ("clean ones", of_commands(windows[clean], heard[clean])),
        ("an interview", of_interview(long, recogniser(long.wave))),
        *((f"voice {name}", of_commands(*by_voice(windows, heard, name))) for name in UNSEEN_VARIANTS),
    ]
    numbers = table(rows, float(jiwer.wer([window.text for window in windows], plain)))
    model = AutoModelForSpeechSeq2Seq.from_pretrained(args.folder)
    facts = {
        "name": args.folder.name, "parameters": model.num_parameters(), "minutes": args.minutes,
        "words": len(vocabulary()), "seen": len(VARIANTS), "seconds": SECONDS, "count": args.count,
        "unseen": len(UNSEEN_VARIANTS), "names": ", ".join(UNSEEN_VARIANTS), "accents": ", ".join(UNSEEN_ACCENTS),
        "numbers": numbers, "minutes_long": len(long.wave) / RATE / 60, "heads": written["alignment_heads"],
        "command": "\n".join(args.command or [PLAIN]), "note": f"\n{args.note}\n" if args.note else "",
    }  # fmt: skip
    text = CARD.format(**facts)
    (args.folder / "README.md").write_text(text, encoding="utf-8")
    print(numbers)


if __name__ == "__main__":
    main()
