"""Segments: what a window's tokens say of when they were spoken, and where the next window begins.

Source: https://github.com/openai/whisper/blob/main/whisper/transcribe.py
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(slots=True)
class Segment:
    """A stretch of speech.

    Attributes:
        start, end: seconds from the beginning of the sound. Shape: [], float64.
        tokens: what was said, its timestamps included. Shape: [n].
        place: which of the tokens of its window's result these are, from and to.
        result: all that was written for its window: the tokens, or a mapping of what ``generate`` gives.
        token_times: when each token was said, where that was asked for. Shape: [n].
        span: from when to when it is said by its own timestamps, to the window's end where none ends it. The ecosystem
            lets the only segment of a window begin with the window, whatever silence is before it, and end with the
            last timestamp, be it the first. None: it has none.
    """

    start: Tensor
    end: Tensor
    tokens: Tensor
    place: tuple[int, int]
    result: object
    token_times: Tensor | None = None
    span: tuple[Tensor, Tensor] | None = None

    def as_dict(self) -> dict[str, object]:
        """By the ecosystem's names."""
        found: dict[str, object] = {
            "start": self.start,
            "end": self.end,
            "tokens": self.tokens,
            "idxs": self.place,
            "result": self.result,
        }
        return found if self.token_times is None else {**found, "token_timestamps": self.token_times}


@dataclass(frozen=True, slots=True)
class Clock:
    """How tokens and frames are seconds.

    Attributes:
        first: the token of the earliest timestamp.
        precision: seconds from one to the next.
        frame: seconds from one frame of the spectrogram to the next.
        stride: frames of the spectrogram from one timestamp to the next.
    """

    first: int
    precision: float
    frame: float
    stride: int

    def at(self, frames: int) -> Tensor:
        """When a window begins that begins with this frame. Shape: []."""
        return torch.tensor(frames, dtype=torch.float64) * self.precision / self.stride


def spoken(
    tokens: Tensor, result: object, clock: Clock, *, seek: int, frames: int, before: int, times: Tensor | None = None
) -> tuple[list[Segment], int]:
    """The segments of one window, and how many frames it has told of.

    Two timestamps in a row end one segment and begin the next. What comes after the last such pair was cut by the
    window's end, and is heard again by the next; a single timestamp at the end says that nobody speaks after it.

    Args:
        tokens: what was written. Shape: [T].
        result: what every segment is told to be part of.
        seek: the frame that the window begins with.
        frames: how many frames it has.
        before: tokens that the decoder read first.
        times: when each token was said, the decoder's first ones included. Shape: [before + T].
    """
    stamps = [token >= clock.first for token in tokens.tolist()]
    begins, offset = clock.at(seek), frames
    cuts = [i + 1 for i, pair in enumerate(pairwise(stamps)) if all(pair)]
    silent_after = stamps[-2:] == [False, True]

    def at(place: int) -> Tensor:
        return begins + (tokens[place] - clock.first).to(torch.float64).cpu() * clock.precision

    def segment(first: int, stop: int, start: Tensor, end: Tensor) -> Segment:
        place = (before + first, before + stop)
        own = None if times is None else times[place[0] : place[1]] + begins.to(times)
        ended = sum(stamps[first:stop]) > 1
        last = end if ended else begins + frames * clock.frame
        span = (at(first), last) if stamps[first : first + 1] == [True] else None
        return Segment(start, end, tokens[first:stop], place, result, own, span)

    if not cuts:
        found = [i for i, stamp in enumerate(stamps) if stamp]
        # In float32, as in the ecosystem: 30 frames are 14 timestamps there, where exact numbers have 15.
        last = (torch.tensor(frames) * clock.frame / clock.precision).trunc().double()
        if found and int(tokens[found[-1]]) != clock.first:
            last = (tokens[found[-1]] - clock.first).to(torch.float64).cpu()
        return [segment(0, len(stamps), begins, begins + last * clock.precision)], offset
    if silent_after:
        cuts.append(len(stamps))
    else:
        cuts[-1] += 1  # with the timestamp after it, which tells that it was no single one
    segments, first = [], 0
    for stop in cuts:
        ends = 1 if stop != cuts[-1] or silent_after else 2
        segments.append(segment(first, stop, at(first), at(stop - ends)))
        first = stop
    if not silent_after:
        offset = (int(tokens[first - 2]) - clock.first) * clock.stride
    return segments, offset


def compression_ratio(tokens: Sequence[int], vocabulary: int) -> float:
    """How many times smaller zlib makes the tokens' bytes: what repeats itself compresses well."""
    length = int(math.log2(vocabulary) / 8) + 1
    whole = b"".join(token.to_bytes(length, "little") for token in tokens)
    return len(whole) / len(zlib.compress(whole))


def mean_logprob(scores: Sequence[Tensor], tokens: Tensor, temperature: float | None) -> float:
    """How likely a row's tokens were, by what they were chosen by.

    Args:
        scores: of each step. Shape: [V] each.
        tokens: those that were chosen, the end included. Shape: [T].
        temperature: that the scores were divided by.
    """
    count = min(len(scores), len(tokens))
    tokens = tokens[len(tokens) - count :]
    factor = temperature if temperature else 1.0
    whole = torch.stack(list(scores[:count])).to(tokens.device) * factor
    logs = whole.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0].cpu()
    return float(sum(logs, torch.zeros(())) / count)


def without_padding(tokens: Tensor, pad: int, ends: Sequence[int]) -> Tensor:
    """A row's tokens, the padding after its end left out, the end itself kept. Shape: [T]."""
    if len(tokens) and int(tokens[-1]) == pad:
        more = int((tokens == pad).sum()) - int(pad in ends)
        return tokens[: len(tokens) - more] if more else tokens
    return tokens


def past_of(segments: Sequence[Tensor], first_stamp: int) -> list[int]:
    """What was said so far, for the next window to go on from.

    Args:
        segments: the tokens of each; where one ends with two timestamps, the second is the next one's first.
    """
    found: list[int] = []
    for tokens in segments:
        twice = len(tokens) > 2 and int(tokens[-2]) >= first_stamp
        found += tokens[:-1].tolist() if twice else tokens.tolist()
    return found
