"""Vision, omniform beside the reference: ``python benchmarks/vision.py [PART ...]``.

``preprocess``: 64 photographs of mixed sizes (scikit-image's, decoded; four of them from 2,000 to 3,500 pixels a side)
through the processors of several families, beside the reference's fast class and its slow one.
``forwards``: models of the usual sizes with the same random weights.
``memory``: the most that a process holds which loads one of these models and runs it once.
``large``: a picture of 12,000 x 12,000 pixels through processors, from its file, in a process of its own.

Times: one process, one thread by default, in turns whose order turns round. What is quoted is the median of the
processor time, which other work on the machine disturbs least (with more threads, of the clock's), and ratios of
medians. ``--tiny`` tests the benchmark and measures nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from contests import Part, Parts, measured
from seeing.forwards import SIGHTS, forwards
from seeing.memory import forward_peaks, large_picture
from seeing.preprocess import PROCESSORS, preprocess

PARTS: Parts = {
    "preprocess": Part(PROCESSORS, preprocess, "processor", "ms", 1000),
    "forwards": Part([*SIGHTS], forwards, "model", "ms", 1000),
    "memory": Part([*SIGHTS], lambda only, runs, tiny: forward_peaks(only, tiny), "model", "MB", 1.0),
    "large": Part(PROCESSORS, lambda only, runs, tiny: large_picture(only, tiny), "processor", "times decoded", 1.0),
}


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where something is missed."""
    return measured(PARTS, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
