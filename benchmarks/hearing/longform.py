"""Eight files of different lengths written down in one batch, window after window, by both libraries.

The bundled recogniser hears spoken commands between silences, so that answers are as short and as sure as real ones.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hearing.mels import RATE
from turns import OURS, THEIRS, Contest, in_turns

SECONDS = (35, 190, 60, 45, 120, 31, 240, 90)
TINY_SECONDS = (9, 14, 6)
GOAL = 2.0
COMMAND = Path(__file__).parents[2] / "examples/sounds/command.wav"

WAYS: Mapping[str, Mapping[str, object]] = {
    "greedy": {"do_sample": False},
    "as its authors hear": {
        "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "compression_ratio_threshold": 1.35, "logprob_threshold": -1.0,
        "no_speech_threshold": 0.6, "condition_on_prev_tokens": False,
    },
}  # fmt: skip
"""Settings of ``generate``; the second anew at higher temperatures where a text does not convince."""


def talk(seconds: float, seed: int) -> np.ndarray:
    """Commands with silences of different lengths between them."""
    from omniform.inputs.audio import load_audio

    luck, spoken = np.random.default_rng(seed), load_audio(str(COMMAND), RATE).numpy()
    pieces: list[np.ndarray] = []
    while sum(map(len, pieces)) < seconds * RATE:
        pieces += [spoken, np.zeros(round(luck.uniform(0.2, 2.0) * RATE), dtype=np.float32)]
    sound = np.concatenate(pieces)[: round(seconds * RATE)]
    return sound + 1e-3 * luck.standard_normal(len(sound), dtype=np.float32)


def longform(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """The batch, in each way; ``apart`` is the part of tokens that differ."""
    import transformers

    import omniform

    name, lengths = str(omniform.bundled_checkpoint("audio")), TINY_SECONDS if tiny else SECONDS
    reader = omniform.AutoFeatureExtractor.from_pretrained(name)
    given = reader(
        [talk(seconds, seed) for seed, seconds in enumerate(lengths)], sampling_rate=RATE, truncation=False,
        padding="longest", return_attention_mask=True, return_tensors="pt",
    )  # fmt: skip
    inputs = {key: given[key] for key in ("input_features", "attention_mask")}
    libraries = {OURS: omniform, THEIRS: transformers}
    models = {who: library.WhisperForConditionalGeneration for who, library in libraries.items()}
    models = {who: kind.from_pretrained(name, dtype="float32").eval() for who, kind in models.items()}
    found: dict[str, Contest] = {}
    for way in only or WAYS:
        asked = {**WAYS[way], "return_timestamps": True}
        ways = {who: partial(model.generate, **inputs, **asked) for who, model in models.items()}
        with torch.inference_mode():
            torch.manual_seed(0)
            ours = ways[OURS]()
            torch.manual_seed(0)
            theirs = ways[THEIRS]()
            contest = Contest(in_turns(ways, runs), {THEIRS: GOAL}, facts := {"apart": differing(ours, theirs)})
        facts["times real time"] = sum(lengths) / contest.medians[OURS]
        title = f"{way}, {len(lengths)} files, {sum(lengths)} s"
        found[title] = contest
        print(title, contest.medians, contest.ratios, file=sys.stderr, flush=True)
    return found


def differing(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Which part of the tokens differs, those of the longer rows counted."""
    width = max(ours.shape[1], theirs.shape[1])
    padded = [torch.nn.functional.pad(one, (0, width - one.shape[1]), value=-1) for one in (ours, theirs)]
    return float((padded[0] != padded[1]).float().mean())
