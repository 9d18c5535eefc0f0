"""Products of matrices whose four-bit codes stand for a table's numbers, beside those whose codes are even steps.

    python benchmarks/codes.py [--threads 1,2] [--repeats 15] [--cpu]

One process, kinds in turn, medians; thousands of millions of products a second, for one row and for 256. Each kind is
multiplied in copies that no cache holds, as a model's layers are.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from omniform.native.matrix import Matrix

NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP4 = tuple(n / 12 for n in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
TABLES = {
    "NF4": (NF4, 64),
    "FP4": ((*FP4, *(-n for n in FP4)), 64),
    "MXFP4": ((*E2M1, *(-n for n in E2M1)), 32),
    "IQ4": (tuple(map(float, IQ4)), 32),
}
SIZES = ((1024, 1024), (4096, 1024), (1024, 4096))
HELD = 64 << 20
"""Bytes of a kind's copies together: more than a cache holds."""


def coded(outs: int, ins: int, table: tuple[float, ...], group: int) -> Matrix:
    """Codes at random, and scales."""
    codes = torch.randint(0, 16, (outs, ins)).to(torch.uint8)
    scales = (torch.rand(outs, ins // group) + 0.5).half()
    return Matrix.quantized(codes, scales, table=table, group=group)


def even(outs: int, ins: int) -> Matrix:
    """What ``dtype="int4"`` makes."""
    return Matrix.quantize(torch.randn(outs, ins), bits=4, group=32)


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cpu", action="store_true", help="count the processor's seconds; of one thread only")
    given = parser.parse_args()
    clock = time.process_time if given.cpu else time.perf_counter
    for threads in map(int, given.threads.split(",")):
        torch.set_num_threads(threads)
        print(
            f"\n| {threads} thread(s), GMAC/s | {' | '.join(['int4', *TABLES])} |\n|---|{'---:|' * (1 + len(TABLES))}"
        )
        for outs, ins in SIZES:
            kinds: dict[str, Callable[[], Matrix]] = {"int4": lambda outs=outs, ins=ins: even(outs, ins)}
            for name, (table, group) in TABLES.items():
                kinds[name] = lambda outs=outs, ins=ins, table=table, group=group: coded(outs, ins, table, group)
            made = {name: make() for name, make in kinds.items()}
            for rows in (1, 256):
                speeds = measured(made, rows, given.repeats, clock)
                print(f"| {rows} x {outs} x {ins} | {' | '.join(f'{speeds[name]:.1f}' for name in made)} |", flush=True)


def measured(kinds: dict[str, Matrix], rows: int, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """GMAC/s of each kind."""
    first = next(iter(kinds.values()))
    outs, ins = first.c.outs, first.c.ins
    x = torch.randn(rows, ins)
    copies = max(1, HELD // first.nbytes) if rows == 1 else 2
    held = {name: [copied(matrix) for _ in range(copies)] for name, matrix in kinds.items()}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(repeats):
        for name, matrices in held.items():
            started = clock()
            for matrix in matrices:
                matrix.multiply(x)
            times[name].append((clock() - started) / copies)
    return {name: rows * outs * ins / statistics.median(found) / 1e9 for name, found in times.items()}


def copied(matrix: Matrix) -> Matrix:
    """The same numbers in memory of their own."""
    return Matrix.below_one_another(matrix.c.outs, iter([matrix]))


if __name__ == "__main__":
    main()
