"""Text with pictures, sounds and films, omniform beside the reference: ``python benchmarks/multimodal.py [PART ...]``.

``mixed``: 24 requests at once (texts, one and three pictures, sounds, a picture that comes again), beside the
reference's best way: the fastest of one after another and batches of like ones.
``again``: how soon a second question about the same picture is answered, beside the first.
``films``: 32 frames of a minute of film.

Times: one process, one thread by default, in turns whose order turns round. What is quoted is the median of the
processor time, which other work on the machine disturbs least (with more threads, and in ``again``, of the clock's),
and ratios of medians. ``--tiny`` tests the benchmark and measures nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from answering.again import SEERS, again
from answering.films import KEYED, films
from answering.mixed import TALKERS, mixed
from contests import Part, Parts, measured

PARTS: Parts = {
    "mixed": Part([*TALKERS], mixed, "requests", "ms", 1000),
    "again": Part([*SEERS], again, "model", "ms", 1000),
    "films": Part([*KEYED], films, "film", "ms", 1000),
}


def main(given: Sequence[str] | None = None) -> int:
    """Measure, print, write; 1 where something is missed."""
    return measured(PARTS, __doc__, given)


if __name__ == "__main__":
    sys.exit(main())
