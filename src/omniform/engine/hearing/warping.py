"""Dynamic time warping: the cheapest way through a table of costs that goes on in both of its directions.

Sakoe & Chiba 1978 (https://doi.org/10.1109/TASSP.1978.1163055), with steps of one. The cells of an anti-diagonal need
those of the two before it only, so each is computed in one go, for all tables of a batch side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BOTH, _DOWN, _ON = 0, 1, 2  # the step that led to a cell: to the next row and column, the next row, the next column


def first_columns(tables: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int64]]:
    """For each table, in which column its cheapest path first stands in each row.

    Costs are added up in float32, and where steps cost the same a path stays in its row: so does Whisper's own code, by
    which the numbers can be compared.

    Args:
        tables: costs, none of them NaN. Shape: [rows, columns] each, of any sizes.

    Returns:
        Shape: [rows] each; zeros where there is no column.
    """
    if not tables:
        return []
    steps = _steps(_skewed(tables))
    return [_followed(steps[:, k], *table.shape) for k, table in enumerate(tables)]


def _skewed(tables: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Anti-diagonals as rows: ``[d, k, i]`` is table k's cell (i, d - i). Shape: [rows + columns - 1, K, rows]."""
    rows, columns = (max(table.shape[axis] for table in tables) for axis in (0, 1))
    diagonals = rows + columns - 1
    # Rows one longer than they are read as: each is read one place later than the one before.
    wide = np.zeros((len(tables), rows, diagonals + 1))
    for k, table in enumerate(tables):
        wide[k, : table.shape[0], : table.shape[1]] = table
    read = wide.reshape(len(tables), -1)[:, : rows * diagonals].reshape(len(tables), rows, diagonals)
    return np.ascontiguousarray(read.transpose(2, 0, 1))


def _steps(costs_DKR: NDArray[np.float64]) -> NDArray[np.uint8]:
    """The step that leads to each cell. Shape: [D, K, R] in and out."""
    diagonals, tables, rows = costs_DKR.shape
    columns = diagonals - rows + 1
    steps = np.full(costs_DKR.shape, _ON, dtype=np.uint8)
    # What it costs to come to the cells of this diagonal and of the two before it; in front of row 0 nothing leads on.
    before, latest, here = (np.full((tables, rows + 1), np.inf, dtype=np.float32) for _ in range(3))
    before[:, 0] = 0  # the way begins at the corner in front of the first cell
    for d in range(diagonals):
        low, high = max(0, d - columns + 1), min(rows, d + 1)
        both, down, on = before[:, low:high], latest[:, low:high], latest[:, low + 1 : high + 1]
        diagonal = (both < down) & (both < on)
        downward = (down < both) & (down < on)
        here.fill(np.inf)
        here[:, low + 1 : high + 1] = costs_DKR[d, :, low:high] + np.where(diagonal, both, np.where(downward, down, on))
        found = steps[d, :, low:high]
        found[downward] = _DOWN
        found[diagonal] = _BOTH
        before, latest, here = latest, here, before
    return steps


def _followed(steps_DR: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.int64]:
    first = np.zeros(rows, dtype=np.int64)
    i, j = rows - 1, columns - 1
    while i >= 0 and j >= 0:
        first[i] = j
        step = steps_DR[i + j, i]
        i -= step != _ON
        j -= step != _DOWN
    return first
