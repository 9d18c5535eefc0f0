"""Sound, omniform beside the reference: ``python benchmarks/audio.py [PART ...]``.

``mels``: an hour of sound through Whisper's extractors.
``forwards``: models of the usual sizes with the same random weights.
``long``: eight files of different lengths written down in one batch by the bundled recogniser, window after window.
``memory``: what an hour of sound needs beside the bundled recogniser, in a process of its own.
``streams``: how much of a stream has been heard when its first words come.

Times: one process, one thread by default, in turns whose order turns round. What is quoted is the median of the
processor time, which other work on the machine disturbs least (with more threads, of the clock's), and ratios of
medians. ``--tiny`` tests the benchmark and measures nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from contests import Part, Parts, measured
from hearing.forwards import HEARERS, forwards
from hearing.longform import WAYS, longform
from hearing.mels import BANDS, mels
from hearing.memory import KINDS, memory, streams

PARTS: Parts = {
    "mels": Part(BANDS, mels, "log-mels", "ms", 1000),
    "forwards": Part([*HEARERS], forwards, "model", "ms", 1000),
    "long": Part([*WAYS], longform, "batch", "ms", 1000),
    "memory": Part(KINDS, memory, "door", "MB", 1.0),
    "streams": Part((), streams, "stream", "s", 1.0),
}


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where something is missed."""
    return measured(PARTS, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
