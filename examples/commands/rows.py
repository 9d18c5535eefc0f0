"""Training batches: spectrograms, what is to be written down, which phoneme lies under every frame, where words lie."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from sentences import phrase, several
from sounds import SECONDS, Window, training_window
from speak import Mark
from tokens import END, ENGLISH, NO_TIMES, PREVIOUS, QUIET, START, STEP, TIMES, TRANSCRIBE, build
from torch import Tensor

from omniform import WhisperFeatureExtractor

IGNORED = -100
FRAMES = round(SECONDS / STEP)
BANDS = 80
ONSET = 0.06
"""Seconds about a beginning where its time is to be read off."""
LONGEST = 96
"""Tokens of an answer, its beginning included."""

# espeak-ng's phonemes of English without their stress marks; seldom ones are not asked for.
PHONES = several(
    "n t s d r k l I E m z @ aI p w i: V f D eI a v b u: 0 oU g I2 3 j h i a# @L A@ N 3: aU @2 T O: O@ U e@ dZ tS "
    "o@ aI2 t[ r- aa aI@ S O2 i@ @- I# i@3 w# t# IR VR OI U@ t2 Z A:"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """B windows, of F frames of 20 ms, with T tokens to read and T to write.

    Attributes:
        features: Shape: [B, bands, 2 F].
        tokens: what the decoder reads. Shape: [B, T].
        targets: what it is to write; -100 where nothing is asked. Shape: [B, T].
        phones: of every frame the index of its phoneme plus one; 0 where nobody speaks. Shape: [B, F].
        here: where the token lies that is read: equal weights that add up to 1, or none. Shape: [B, T, F].
        ahead: where the one lies that is to be written. Shape: [B, T, F].
    """

    features: Tensor
    tokens: Tensor
    targets: Tensor
    phones: Tensor
    here: Tensor
    ahead: Tensor


Span = tuple[float, float] | None


@dataclass(slots=True)
class Row:
    """A row as it grows.

    Attributes:
        tokens: from the first that is read to the end.
        wide: of each token where it lies, in seconds: words last until the next begins, times fill what is between.
        narrow: the same, but words end where they end, and times that begin something lie there alone.
        first: the place of the first token that is asked for.
    """

    tokens: list[int]
    wide: list[Span]
    narrow: list[Span]
    first: int = 0

    def add(self, token: int, wide: Span = None, narrow: Span = None) -> None:
        """Append a token."""
        self.tokens.append(token)
        self.wide.append(wide)
        self.narrow.append(narrow or wide)


class Writer:
    """Writes down what is said in a window as Whisper's decoder does."""

    def __init__(self) -> None:
        self.tokenizer = build()
        names = (END, START, ENGLISH, TRANSCRIBE, PREVIOUS, QUIET, NO_TIMES, TIMES[0])
        ids = [self.tokenizer.token_to_id(name) for name in names]
        self.end, self.start, self.english, self.transcribe, self.previous, self.quiet, self.no_times, self.zero = ids

    def words(self, text: str) -> list[int]:
        """Tokens of words, each with the space before it."""
        return self.tokenizer.encode(f" {text}").ids

    def time(self, seconds: float) -> int:
        """The token of a time."""
        return self.zero + min(max(round(seconds / STEP), 0), FRAMES)

    def row(self, window: Window, *, times: bool, before: str = "") -> Row:
        """Tokens and places of what is said; after words that were said before, if there are any."""
        row = Row([], [], [])
        for token in [self.previous, *self.words(before)] if before else []:
            row.add(token)
        row.first = len(row.tokens) + 1
        for token in (self.start, self.english, self.transcribe, *(() if times else (self.no_times,))):
            row.add(token)
        starts = [said.words[0].start for said in window.said] + [SECONDS]
        if times and not window.said:
            row.add(self.zero)
        ended, latest = 0.0, 0
        for said, following in zip(window.said, starts[1:], strict=True):
            begin, end = said.words[0].start, said.words[-1].end
            if times:
                latest = max(self.time(begin), latest)
                row.add(latest, (ended, begin), (max(begin - ONSET, 0.0), begin + ONSET))
            limit = end if times else following
            self._say(row, said.words, limit)
            if times and said.whole:
                ended = end if following == SECONDS else (end + following) / 2
                latest = max(self.time(end), latest + 1)
                row.add(latest, (end, SECONDS if following == SECONDS else ended))
        last = window.said[-1].words[-1].end if window.said else 0.0
        row.add(self.end, (last, min(last + 0.3, SECONDS)) if window.said else None)
        return row

    def _say(self, row: Row, words: tuple[Mark, ...], limit: float) -> None:
        for word, following in zip(words, [*(w.start for w in words[1:]), limit], strict=True):
            for token in self.words(word.text):
                row.add(token, (word.start, max(following, word.start + STEP)), (word.start, word.end))


def place(span: Span) -> Tensor:
    """Equal weights on the frames of a span that add up to 1. Shape: [F]."""
    weights = torch.zeros(FRAMES)
    if span is not None:
        first = min(int(span[0] / STEP + 0.5), FRAMES - 1)
        last = min(max(int(span[1] / STEP + 0.5), first + 1), FRAMES)
        weights[first:last] = 1 / (last - first)
    return weights


def phones_of(window: Window) -> Tensor:
    """Of every frame its phoneme's index plus one. Shape: [F]."""
    found = torch.zeros(FRAMES, dtype=torch.long)
    for mark in window.phonemes:
        first, last = max(round(mark.start / STEP), 0), max(round(mark.end / STEP), 0)
        name = mark.text.lstrip("',%=")
        found[first:last] = PHONES.index(name) + 1 if name in PHONES else IGNORED
    return found


class Windows:
    """The batches of a training run, the same for the same seed.

    Half of the windows are new, half are taken again from a store of earlier ones and written down in another way:
    to make them costs as much as to learn from them.

    Args:
        seed: of the run.
        batch: windows in a batch.
        store: windows that are kept.
    """

    def __init__(self, seed: int, batch: int, store: int = 768) -> None:
        self.seed, self.batch, self.most = seed, batch, store
        self.writer = Writer()
        self.extractor = WhisperFeatureExtractor(feature_size=BANDS, chunk_length=SECONDS)
        self.store: list[tuple[Window, Tensor]] = []

    def __call__(self, number: int) -> Batch:
        """Batch number ``number``, counted from 0; they are asked for in turn."""
        rng = random.Random(f"rows {self.seed} {number}")
        again = self.batch // 2 if self.store else 0
        chosen = [rng.choice(self.store) for _ in range(again)] + self._new(number, self.batch - again)
        rows = []
        for window, _ in chosen:
            before = phrase(rng, 0.3) if rng.random() < 0.08 else ""
            rows.append(self.writer.row(window, times=rng.random() < 0.6, before=before))
        return self._batch([window for window, _ in chosen], rows, torch.stack([heard for _, heard in chosen]))

    def _new(self, number: int, count: int) -> list[tuple[Window, Tensor]]:
        windows = [training_window(f"{self.seed} {number} {i}") for i in range(count)]
        waves = [window.wave for window in windows]
        heard = self.extractor(waves, sampling_rate=16_000, return_tensors="pt")["input_features"]
        made = [(Window(np.zeros(0, np.float32), w.said, w.phonemes), h) for w, h in zip(windows, heard, strict=True)]
        self.store = [*self.store, *made][-self.most :]
        return made

    def _batch(self, windows: list[Window], rows: list[Row], features: Tensor) -> Batch:
        length = max(len(row.tokens) for row in rows) - 1
        tokens = torch.full((len(rows), length), self.writer.end)
        targets = torch.full((len(rows), length), IGNORED)
        here, ahead = torch.zeros(2, len(rows), length, FRAMES)
        for i, (window, row) in enumerate(zip(windows, rows, strict=True)):
            count = len(row.tokens) - 1
            tokens[i, :count] = torch.tensor(row.tokens[:-1])
            targets[i, row.first - 1 : count] = torch.tensor(row.tokens[row.first :])
            if not window.said:
                targets[i, row.first - 1] = self.writer.quiet
            # Task and the token that turns times off are the caller's to choose.
            targets[i, row.first] = IGNORED
            if row.tokens[row.first + 2] == self.writer.no_times:
                targets[i, row.first + 1] = IGNORED
            here[i, :count] = torch.stack([place(span) for span in row.wide[:-1]])
            ahead[i, :count] = torch.stack([place(span) for span in row.narrow[1:]])
        return Batch(features, tokens, targets, torch.stack([phones_of(w) for w in windows]), here, ahead)
