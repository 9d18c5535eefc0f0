"""Vision, omniform beside the reference: ``python benchmarks/vision.py [PART ...] [--runs N] [--json FILE]``.

``preprocess``: 64 photographs of mixed sizes (scikit-image's, decoded) through the processors of several families,
beside the reference's fast class and its slow one. One process, one thread by default, in turns whose order turns
round; what is quoted is the median of the processor time, which other work on the machine disturbs least (with more
threads, of the clock's), and ratios of medians.

A part is a function in ``PARTS`` that takes the arguments and gives rows of numbers by name.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch

PROCESSORS = ("ViT", "CLIP", "Bit", "ConvNext", "Segformer", "Detr", "RTDetr", "MaskFormer", "Sam")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
COUNT, EDGES = 64, (300, 1000)
# These make pictures of a megapixel: fewer of them fit.
LARGE, FEW = ("Detr", "MaskFormer", "Sam"), 16

Row = Mapping[str, float]


def photographs() -> list[object]:
    """Photographs of mixed sizes, decoded, the same in every run."""
    import skimage.data
    from PIL import Image

    rng = np.random.default_rng(0)
    kept = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    sizes = [tuple(int(edge) for edge in rng.integers(*EDGES, 2)) for _ in range(COUNT)]
    return [kept[number % len(kept)].resize(size) for number, size in enumerate(sizes)]


def in_turns(contenders: Mapping[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """The median time of each in milliseconds; each has run once before."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for number in range(runs):
        for name in [*contenders][:: 1 if number % 2 else -1]:
            start = clock()
            contenders[name]()
            taken[name].append(1000 * (clock() - start))
    return {name: statistics.median(times) for name, times in taken.items()}


def preprocess(chosen: argparse.Namespace) -> dict[str, Row]:
    """Pictures to ``pixel_values``."""
    import transformers

    import omniform

    rows: dict[str, Row] = {}
    pictures = photographs()
    for kind in PROCESSORS:
        name = f"{kind}ImageProcessor"
        batch = pictures[:FEW] if kind in LARGE else pictures
        makers = {
            "omniform": getattr(omniform, name), "fast": getattr(transformers, name),
            "slow": getattr(transformers, f"{name}Pil"), "omniform pil": getattr(omniform, f"{name}Pil"),
        }  # fmt: skip
        made = {who: maker() for who, maker in makers.items()}
        times = in_turns({who: partial(one, batch, return_tensors="pt") for who, one in made.items()}, chosen.runs)
        ours = times["omniform"]
        rows[kind] = {
            **times, "of fast": times["fast"] / ours, "of slow": times["slow"] / ours,
            "pil of slow": times["slow"] / times["omniform pil"],
        }  # fmt: skip
    return rows


PARTS: Mapping[str, Callable[[argparse.Namespace], dict[str, Row]]] = {"preprocess": preprocess}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)} (all)")
    parser.add_argument("--runs", type=int, default=5, help="of every contender (5)")
    parser.add_argument("--threads", type=int, default=1, help="that a library may compute with (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(chosen.threads)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import reference  # noqa: F401 # makes the reference importable beside a CPU torch

    torch.set_num_threads(chosen.threads)
    told = {}
    for part in chosen.parts or PARTS:
        told[part] = PARTS[part](chosen)
        for row, numbers in told[part].items():
            print(f"{part} {row:12}", "  ".join(f"{name} {value:8.2f}" for name, value in numbers.items()))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
