"""A sound as a picture: which frequencies are in it when, with the words below."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from omniform.core.spoken import SpokenWord
from omniform.core.subtitles import readable_clock
from omniform.inputs.audio.mel import SLANEY, mel_filter_bank
from omniform.pipelines.drawing.colours import FAINT, GROUND, INK, heat
from omniform.pipelines.drawing.texts import Line, line

WIDTH: Final = 1200
"""Pixels of a row."""
HEIGHT: Final = 160
"""Pixels of the spectrogram in it."""
ROW: Final = 12.0
"""Seconds of a row, where no more than :data:`MOST_ROWS` come of it; longer sounds have longer rows."""
MOST_ROWS: Final = 24
LANES: Final = 3
"""Lines of words below a row, each word where it is said; where that is too few, words are written as running text."""
RANGE: Final = 80.0
"""Decibels below the loudest that are told apart."""
BANDS: Final = 80
SIZE: Final = 14
"""Of letters, in pixels."""
LEFT, GAP = 52, 6

Columns = npt.NDArray[np.float32]
"""Power in mel bands, lowest band first. Shape: [columns, bands]."""


@dataclass(frozen=True, slots=True)
class Rows:
    """How a sound is laid out.

    Attributes:
        seconds: its length.
        each: seconds of a row.
        count: how many rows.
    """

    seconds: float
    each: float
    count: int

    @classmethod
    def of(cls, seconds: float) -> Rows:
        """The rows of a sound of so many seconds."""
        if seconds <= 1.25 * ROW:
            return cls(seconds, max(seconds, 0.1), 1)
        each = max(ROW, seconds / MOST_ROWS)
        return cls(seconds, each, math.ceil(seconds / each - 1e-9))

    @property
    def columns(self) -> int:
        """Pixels that the sound takes, all rows together."""
        return min(self.count * WIDTH, math.ceil(self.seconds / self.each * WIDTH))


def draw_spectrogram(
    blocks: Iterable[Tensor], sampling_rate: int, seconds: float, words: Sequence[SpokenWord] = ()
) -> Image.Image:
    """A sound, time from left to right in rows, frequency upwards, and the words below where they are said.

    Args:
        blocks: the samples in order, in pieces of any length. Shape: [samples] each.
        sampling_rate: samples per second.
        seconds: how long the sound is.
        words: what was said, in order.

    Returns:
        RGB. Light is loud.
    """
    rows = Rows.of(seconds)
    colours = _coloured(_columns(blocks, sampling_rate, rows))
    drawn = [_row(rows, number, colours, words, sampling_rate) for number in range(rows.count)]
    whole = Image.new("RGB", (LEFT + WIDTH + 2 * GAP, sum(one.height + GAP for one in drawn) + GAP), GROUND)
    top = GAP
    for one in drawn:
        whole.paste(one, (0, top))
        top += one.height + GAP
    return whole


def _columns(blocks: Iterable[Tensor], rate: int, rows: Rows) -> Columns:
    """The loudest that each band is within each column."""
    length = 1 << max(5, round(math.log2(rate * 0.032)))
    each = rate * rows.each / WIDTH
    hop = max(1, min(length // 4, int(each)))
    bank = mel_filter_bank(
        bins=length // 2 + 1, filters=BANDS, lowest=0.0, highest=rate / 2, sampling_rate=rate
    ).float()
    window = torch.hann_window(length)
    found = torch.zeros(rows.columns, BANDS)
    for first, frames in _frames(blocks, length, hop):
        power = torch.fft.rfft(frames * window).abs().square() @ bank
        at = ((first + torch.arange(len(frames)) * hop) / each).long().clamp(max=rows.columns - 1)
        found.scatter_reduce_(0, at[:, None].expand(-1, BANDS), power, "amax")
    return found.numpy()


def _frames(blocks: Iterable[Tensor], length: int, hop: int) -> Iterator[tuple[int, Tensor]]:
    """Frames of a sound between zeros, and the sample that the first of them is centred on."""
    held, begun = torch.zeros(length // 2), 0
    for block in chain(blocks, (torch.zeros(length // 2),)):
        held = torch.cat((held, block))
        count = (len(held) - length) // hop + 1
        if count > 0:
            yield begun, held.unfold(0, length, hop)
            held, begun = held[count * hop :], begun + count * hop


def _coloured(columns: Columns) -> npt.NDArray[np.uint8]:
    """Decibels in colours. Shape: [columns, bands] to [bands, columns, 3], the highest band first."""
    decibels = 10 * np.log10(np.maximum(columns, 1e-10))
    loudest = max(float(decibels.max(initial=-100.0)), -60.0)
    shares = np.clip((decibels - loudest + RANGE) / RANGE, 0, 1)
    found: npt.NDArray[np.uint8] = heat()[(shares * 255).astype(np.uint8)].transpose(1, 0, 2)[::-1]
    return found


def _row(
    rows: Rows, number: int, colours: npt.NDArray[np.uint8], words: Sequence[SpokenWord], rate: int
) -> Image.Image:
    """One row: frequencies, spectrogram, times, words."""
    begun = number * rows.each
    here = [w for w in words if begun <= w.start < begun + rows.each or (number == 0 and w.start < 0)]
    placed = _placed(here, begun, rows.each)
    text = [] if placed is not None else _running(here)
    step = line("0", SIZE).height + 4
    deep = (1 + max((lane for lane, *_ in placed), default=-1)) if placed is not None else len(text)
    image = Image.new("RGB", (LEFT + WIDTH + 2 * GAP, HEIGHT + step + 4 + deep * step), GROUND)
    draw = ImageDraw.Draw(image)
    part = colours[:, number * WIDTH : (number + 1) * WIDTH]
    if part.shape[1]:
        pixels = Image.fromarray(np.ascontiguousarray(part)).resize((part.shape[1], HEIGHT), Image.Resampling.BILINEAR)
        image.paste(pixels, (LEFT, 0))
    _frequencies(draw, rate)
    _times(draw, begun, rows)
    below = HEIGHT + step + 4
    for lane, left, right, _ in placed or ():
        draw.line((left, HEIGHT + 1, max(right, left + 2), HEIGHT + 1), fill=INK, width=2)
        if lane:
            draw.line((left, HEIGHT + 2, left, below + lane * step), fill=FAINT)
    for lane, left, _, written in placed or ():  # over the lines
        written.draw(draw, left, below + lane * step, INK)
    for lane, written in enumerate(text):
        written.draw(draw, LEFT, below + lane * step, INK)
    return image


def _placed(words: Sequence[SpokenWord], begun: float, each: float) -> list[tuple[int, int, int, Line]] | None:
    """Lane, left, right and text of each word; None where there are not enough lanes."""
    ends, found = [LEFT - GAP] * LANES, []
    for word in words:
        left = LEFT + round(max(0.0, word.start - begun) / each * WIDTH)
        right = LEFT + min(WIDTH, round((word.end - begun) / each * WIDTH))
        written = line(word.text.strip(), SIZE)
        left = min(left, LEFT + WIDTH + GAP - written.width)
        lane = next((lane for lane, end in enumerate(ends) if end + GAP <= left), None)
        if lane is None:
            return None
        ends[lane] = left + written.width
        found.append((lane, left, right, written))
    return found


def _running(words: Sequence[SpokenWord]) -> list[Line]:
    """Words as lines of text as wide as a row."""
    found, held = [], ""
    for word in words:
        longer = held + word.text if held else word.text.strip()
        if held and line(longer, SIZE).width > WIDTH:
            found.append(line(held, SIZE))
            longer = word.text.strip()
        held = longer
    return [*found, line(held, SIZE)] if held else found


def _frequencies(draw: ImageDraw.ImageDraw, rate: int) -> None:
    """Numbers of hertz at the left, where their bands are."""
    marks = torch.tensor([200.0, 1000.0, 4000.0, 12000.0, rate / 2], dtype=torch.float64)
    mels = SLANEY.from_hertz(marks)
    for hertz, mel in zip(marks.tolist()[:-1], mels.tolist()[:-1], strict=True):
        if hertz < 0.9 * rate / 2:
            top = round(HEIGHT * (1 - mel / float(mels[-1])))
            draw.line((LEFT - 5, top, LEFT - 1, top), fill=FAINT)
            written = line(f"{hertz / 1000:g} kHz" if hertz >= 1000 else f"{hertz:g} Hz", SIZE - 3)
            written.draw(draw, LEFT - 8 - written.width, top - written.height // 2, FAINT)


def _times(draw: ImageDraw.ImageDraw, begun: float, rows: Rows) -> None:
    """Times below the spectrogram, as many as fit well."""
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800) if rows.each / s <= 13), 3600)
    at = math.ceil(begun / step - 1e-9) * step
    while at < min(begun + rows.each, rows.seconds) + 1e-9:
        left = LEFT + round((at - begun) / rows.each * WIDTH)
        draw.line((left, HEIGHT, left, HEIGHT + 5), fill=FAINT)
        written = line(readable_clock(at), SIZE - 3)
        if left + written.width < LEFT + WIDTH:
            written.draw(draw, left + 4, HEIGHT + 3, FAINT)
        at += step
