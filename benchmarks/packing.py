"""How fast matrices are packed: GB/s of what is read, beside a copy of the same bytes to new memory, in turn.

Run it with ``python benchmarks/packing.py [--threads 2] [--pairs 5] [--only bf16]``; it takes half a gigabyte. The best
of the pairs counts by the clock; processor time is told beside it, for machines that have other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor

from omniform.native.matrix import Matrix
from omniform.transforms.stacks import addresses, layout_of
from omniform.weights.gguf.codes import BY_NAME
from omniform.weights.gguf.types import TYPES, BlockType

OUTS, INS = 8192, 4096

Case = tuple[str, Tensor, Callable[[Tensor], object]]


def of_blocks(kind: BlockType) -> Case:
    """Any bytes as the blocks of a type."""
    raw = torch.randint(0, 256, (OUTS, INS // kind.numbers * kind.nbytes), dtype=torch.uint8)
    return f"GGUF {kind.name}", raw, lambda given: Matrix.of_blocks(addresses(given), INS, layout_of(kind))


def cases() -> list[Case]:
    """Name, what is packed, and how."""
    torch.manual_seed(0)
    weight = torch.randn(OUTS, INS) * 0.02
    half = weight.bfloat16()
    return [
        ("bf16", half, Matrix.pack),
        ("f32", weight, Matrix.pack),
        ("int8 of bf16", half, lambda given: Matrix.quantize(given, bits=8)),
        ("int4 of bf16", half, lambda given: Matrix.quantize(given, bits=4)),
        *(of_blocks(kind) for kind in TYPES.values() if kind.name in BY_NAME),
    ]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    clock, own = time.perf_counter(), time.process_time()
    made = work()
    spent = time.perf_counter() - clock, time.process_time() - own
    del made
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose names begin so")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print("| packed | read | GB/s | a copy's GB/s | by processor time, times a copy |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, given, work in cases():
        if not name.startswith(asked.only):
            continue
        work(given)
        pairs = [(timed(partial(work, given)), timed(given.clone)) for _ in range(asked.pairs)]
        packed, copied = (given.nbytes / 1e9 / min(pair[n][0] for pair in pairs) for n in (0, 1))
        ratio = median(copy[1] / own[1] for own, copy in pairs)
        print(f"| {name} | {given.nbytes / 1e6:.0f} MB | {packed:.2f} | {copied:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
