"""Pictures of any size as tiles of one size: which resolution is taken, and how much of its features is picture.

The rules of LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/) and LLaVA-OneVision
(https://arxiv.org/abs/2408.03326); heights come before widths everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

Size = tuple[int, int]
"""Height and width."""

# Features are made fewer only where there are this many times too many along an edge.
_TOO_MANY = 1.1


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution that keeps most of a picture's own pixels, and of those the one that wastes fewest.

    Args:
        size: of the picture.
        resolutions: those there are; the first of two that are as good is taken.
    """

    def worth(resolution: Size) -> tuple[int, int]:
        height, width = fitted(size, resolution, rounded=False)
        kept = min(height * width, size[0] * size[1])
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=worth)


def fitted(size: Size, resolution: Size, *, rounded: bool = True) -> Size:
    """A picture's size once it is scaled to fit into a resolution.

    Args:
        rounded: whether fractions of a pixel count as a whole one, as where it is resized.
    """
    across, down = resolution[1] / size[1], resolution[0] / size[0]
    if not rounded:
        scale = min(across, down)
        return int(size[0] * scale), int(size[1] * scale)
    if across < down:
        return min(math.ceil(size[0] * across), resolution[0]), resolution[1]
    return resolution[0], min(math.ceil(size[1] * down), resolution[1])


def tiled(resolution: Size, tile: Size) -> Size:
    """Rows and columns of tiles that cover a resolution."""
    return -(-resolution[0] // tile[0]), -(-resolution[1] // tile[1])


def unpadded(size: Size, grid: Size) -> Size:
    """Rows and columns of a grid of features that show the picture, in the middle, and not what it was padded with.

    Args:
        size: of the picture.
        grid: rows and columns of the features of all its tiles.
    """
    rows, columns = grid
    if size[1] / size[0] > columns / rows:
        shown = int(round(size[0] * (columns / size[1]), 7))
        return rows - (rows - shown) // 2 * 2, columns
    shown = int(round(size[1] * (rows / size[0]), 7))
    return rows, columns - (columns - shown) // 2 * 2


def at_most(grid: Size, tiles: int, side: int) -> Size:
    """A grid of features made smaller where it holds clearly more than those of so many tiles.

    Args:
        grid: rows and columns.
        tiles: how many tiles' worth of features there may be.
        side: rows of a tile's features.
    """
    ratio = math.sqrt(grid[0] * grid[1] / (tiles * side**2))
    return (int(grid[0] // ratio), int(grid[1] // ratio)) if ratio > _TOO_MANY else grid


def read_most(said: object) -> int | None:
    """The number of ``anyres_max_9``; None where it is none."""
    found = re.fullmatch(r"(?:anyres_max_)?([1-9]\d{0,3})", said) if isinstance(said, str) else None
    return None if found is None else int(found[1])
