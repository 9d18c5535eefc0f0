"""Photographs of mixed sizes to ``pixel_values``, beside the reference's fast and slow classes."""

from __future__ import annotations

import gc
from functools import partial

import numpy as np
from turns import OURS, Contest, in_turns

PROCESSORS = ("ViT", "CLIP", "Bit", "ConvNext", "Segformer", "Detr", "RTDetr", "MaskFormer", "Sam")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
COUNT, EDGES = 64, (300, 1000)
TINY_COUNT, TINY_EDGES = 4, (10, 40)
LARGE_ONES, LARGE_EDGES = 4, (2000, 3500)
"""How many of them come from a camera."""
BIG, FEW = ("Detr", "MaskFormer", "Sam"), 16
"""Kinds that make pictures of a megapixel, of which fewer fit into the memory."""
FAST, SLOW = "transformers fast", "transformers slow"
GOALS = {FAST: 1.5, SLOW: 4.0}


def photographs(tiny: bool) -> list[object]:
    """Photographs of mixed sizes, decoded, the same in every run."""
    import skimage.data
    from PIL import Image

    rng = np.random.default_rng(0)
    kept = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    every = TINY_COUNT if tiny else COUNT
    edges = [LARGE_EDGES if number % (every // LARGE_ONES) == 5 and not tiny else EDGES for number in range(every)]
    sizes = [tuple(int(edge) for edge in rng.integers(*(TINY_EDGES if tiny else least), 2)) for least in edges]
    return [kept[number % len(kept)].resize(size) for number, size in enumerate(sizes)]


def preprocess(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """All kinds, or some."""
    import transformers

    import omniform

    found: dict[str, Contest] = {}
    pictures = photographs(tiny)
    for kind in only or PROCESSORS:
        name = f"{kind}ImageProcessor"
        batch = pictures[:FEW] if kind in BIG else pictures
        makers = {
            OURS: getattr(omniform, name), FAST: getattr(transformers, name),
            SLOW: getattr(transformers, f"{name}Pil"), "omniform pil": getattr(omniform, f"{name}Pil"),
        }  # fmt: skip
        ways = {who: partial(maker(), batch, return_tensors="pt") for who, maker in makers.items()}
        samples = in_turns(ways, runs)
        one = Contest(samples, GOALS)
        pil = one.medians[SLOW] / one.medians["omniform pil"]
        found[f"{kind}, {len(batch)} pictures"] = Contest(samples, GOALS, {"pil of slow": pil})
        gc.collect()
    return found
