"""Log-mels of a long sound by both libraries' Whisper extractors."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
from turns import OURS, THEIRS, Contest, in_turns

BANDS = ("80 bands", "128 bands")
RATE, HOUR, TINY = 16_000, 3600, 40
GOAL = 3.0


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """A sound that is louder and quieter by turns."""
    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE), dtype=np.float32) * 0.1
    return samples * (1 + np.sin(np.arange(len(samples), dtype=np.float32) / RATE))


def mels(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """An hour, with each number of bands."""
    import transformers

    import omniform

    sound, found = noise(TINY if tiny else HOUR), {}
    for name in only or BANDS:
        sizes = {"feature_size": int(name.split()[0])}
        both = {OURS: omniform.WhisperFeatureExtractor(**sizes), THEIRS: transformers.WhisperFeatureExtractor(**sizes)}
        asked = {"sampling_rate": RATE, "truncation": False, "padding": "longest", "return_tensors": "np"}
        ways = {who: partial(make, sound, **asked) for who, make in both.items()}
        ours, theirs = (way()["input_features"] for way in ways.values())
        off = float(np.abs(ours - theirs).max())
        del ours, theirs
        found[f"{name}, {len(sound) // RATE} s"] = Contest(in_turns(ways, runs), {THEIRS: GOAL}, {"apart": off})
        print(name, found[f"{name}, {len(sound) // RATE} s"].ratios, file=sys.stderr, flush=True)
    return found
