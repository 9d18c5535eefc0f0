"""Where tokens stand on three axes, in time by the second, so that a film and its sound go together.

Qwen2.5-Omni calls it TMRoPE (https://arxiv.org/abs/2503.20215, section 2.2). Text counts on all axes alike; what
follows a picture or a sound goes on behind the greatest position in it. All of it is about numbers that the host knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from omniform.core.turns import turns

Grid = tuple[int, int, int]
"""Patches in time, down and across."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What stands among the tokens of one row, in reading order.

    Attributes:
        images: the pictures' grids.
        videos: the films' grids, and the seconds from one of their steps in time to the next.
        audios: how many tokens each sound has.
        aligned: whether films stand among the tokens of their sounds.
    """

    images: Sequence[Grid] = ()
    videos: Sequence[tuple[Grid, float]] = ()
    audios: Sequence[int] = ()
    aligned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Counts positions.

    Attributes:
        image, audio, video: the placeholders.
        vision_start, audio_start: what stands before pictures and films, and before sounds.
        per_second: positions in a second of film.
        merge: rows and columns of patches that become one token.
        chunk: positions of a stretch of time, by which films and sounds take turns; None: token by token. Positions are
            whole numbers then, and what opens a film and what opens its sound stand at one place, as what closes them.
    """

    image: int
    audio: int
    video: int
    vision_start: int
    audio_start: int
    per_second: float
    merge: int
    chunk: int | None = None

    def places(self, row: Sequence[int], heard: Heard) -> tuple[Tensor, float]:
        """Where a row's tokens stand, and how far a token behind them lies beyond its index.

        Args:
            row: its tokens, without padding.
            heard: what stands among them.

        Returns:
            Shape: [3, T], float32.
        """
        return _Walk(self, list(row), heard).done()

    def seen(self, grid: Grid, seconds: float, begin: float) -> Tensor:
        """Where the tokens of a picture or a film stand. Shape: [3, tokens]."""
        grid = grid[0], grid[1] // self.merge, grid[2] // self.merge
        return spread(grid, seconds, self.per_second, whole=self.chunk is not None) + begin


def spread(grid: Grid, seconds: float, per_second: float, *, whole: bool) -> Tensor:
    """Where tokens stand beyond the first of them.

    Args:
        grid: how many there are in time, down and across.
        seconds: from one step in time to the next.
        per_second: positions in a second.
        whole: whether positions in time are whole numbers.

    Returns:
        Shape: [3, tokens], float32, on the CPU.
    """
    with torch.device("cpu"):
        # The seconds are float32 where positions are counted, whatever they were before.
        steps = (torch.arange(grid[0]) * torch.tensor(seconds, dtype=torch.float32) * per_second).float()
        axes = steps.trunc() if whole else steps, torch.arange(grid[1]).float(), torch.arange(grid[2]).float()
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


class _Walk:
    """One row, from its first token to its last."""

    def __init__(self, clock: Clock, row: list[int], heard: Heard) -> None:
        self.clock, self.row, self.heard = clock, row, heard
        self.parts: list[Tensor] = []
        self.at = 0
        self.next = 0.0

    def done(self) -> tuple[Tensor, float]:
        """See :meth:`Clock.places`."""
        c, row, heard = self.clock, self.row, self.heard
        after = [b for a, b in itertools.pairwise(row) if a == c.vision_start]
        images, videos, audios = iter(heard.images), iter(heard.videos), iter(heard.audios)
        pictures, films = after.count(c.image), after.count(c.audio_start if heard.aligned else c.video)
        sounds = row.count(c.audio_start)
        looks, hears = c.image in row or c.video in row, c.audio in row
        for _ in range(pictures + sounds + (0 if heard.aligned else films)):
            picture = self._find(c.vision_start) if looks and (pictures > 0 or films > 0) else len(row) + 1
            sound = self._find(c.audio_start) if hears and sounds > 0 else len(row) + 1
            first = min(picture, sound)
            if first >= len(row):
                break
            both = first == picture and sound == picture + 1
            self._text(first - self.at)
            self._edge(both)
            if first == sound:
                self._put(self._steps(next(audios)))
                sounds -= 1
            elif both:
                grid, seconds = next(videos)
                self._together(c.seen(grid, seconds, self.next), self._steps(next(audios)))
                films, sounds = films - 1, sounds - 1
            elif row[first + 1] == c.video:
                self._put(c.seen(*next(videos), self.next))
                films -= 1
            else:
                self._put(c.seen(next(images), 1.0, self.next))
                pictures -= 1
            self._edge(both)
        if self.at < len(row):
            self._text(len(row) - self.at)
        whole = torch.cat(self.parts, dim=1)
        return whole, float(whole.max()) + 1 - len(row)

    def _find(self, token: int) -> int:
        return self.row.index(token, self.at) if token in self.row[self.at :] else len(self.row) + 1

    def _steps(self, count: int) -> Tensor:
        """So many positions from here on, the same on all axes. Shape: [3, count]."""
        return (torch.arange(count).float() + self.next).expand(3, -1)

    def _text(self, count: int) -> None:
        if count > 0:
            self._put(self._steps(count))

    def _edge(self, both: bool) -> None:
        """What opens or closes an item; a film and its sound have one each."""
        if both and self.clock.chunk is not None:
            self._put(self._steps(1).repeat(1, 2))
        else:
            self._text(2 if both else 1)

    def _put(self, places: Tensor, last: Tensor | None = None) -> None:
        """Let tokens stand there; what follows goes on behind the greatest position in ``last``."""
        self.parts.append(places)
        self.at += places.shape[1]
        self.next = float((places if last is None else last).max()) + 1

    def _together(self, film: Tensor, sound: Tensor) -> None:
        """A film and its sound, by time."""
        chunk = self.clock.chunk
        if chunk is not None:
            self._in_chunks(film, sound, chunk)
            return
        both = torch.cat((film, sound), dim=1)
        order = torch.argsort(both[0], stable=True)  # of equals the film's
        tail = film[:, film[0] > sound[0, -1]]
        self._put(both[:, order], tail if tail.shape[1] else sound)

    def _in_chunks(self, film: Tensor, sound: Tensor, chunk: int) -> None:
        """The same in turns of so many positions: what is seen in each, then what is heard."""
        begin, parts = self.next, list[Tensor]()
        cuts = [turns((track[0] - begin).tolist(), chunk) for track in (film, sound)]
        for turn in range(max(map(len, cuts))):
            for track, own in zip((film, sound), cuts, strict=True):
                if turn < len(own):
                    parts.append(track[:, slice(*own[turn])])
        self._put(torch.cat(parts, dim=1), parts[-1])


def walked(clock: Clock, ids: Tensor, mask: Tensor | None, heard: Heard) -> tuple[Tensor, Tensor]:
    """Where the tokens of rows stand, row by row, on the host.

    Args:
        ids: Shape: [B, T].
        mask: 1 for real tokens. Shape: [B, T].
        heard: what stands in all rows.

    Returns:
        Shape: [3, B, T]; and how far what follows lies beyond its index, Shape: [B, 1].
    """
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    rows = [row[own].tolist() for row, own in zip(ids, real, strict=True)]
    at = [0, 0, 0]
    positions = torch.full((3, *ids.shape), float(clock.chunk is not None), device=ids.device)
    shifts = []
    for number, row in enumerate(rows):
        own, at = _share(heard, row, clock, at)
        places, shift = clock.places(row, own)
        positions[:, number, real[number]] = places.to(ids.device)
        shifts.append(shift)
    return positions, torch.tensor(shifts, device=ids.device)[:, None]


def _share(whole: Heard, row: Sequence[int], clock: Clock, at: Sequence[int]) -> tuple[Heard, list[int]]:
    """What of a batch stands in one row, and how much of it has then been told."""
    after = [b for a, b in itertools.pairwise(row) if a == clock.vision_start]
    films = after.count(clock.video) + after.count(clock.audio_start)
    end = [at[0] + after.count(clock.image), at[1] + films, at[2] + row.count(clock.audio_start)]
    own = Heard(
        images=whole.images[at[0] : end[0]],
        videos=whole.videos[at[1] : end[1]],
        audios=whole.audios[at[2] : end[2]],
        aligned=whole.aligned,
    )
    return own, end
