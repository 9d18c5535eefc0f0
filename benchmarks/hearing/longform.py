"""Eight sounds of different lengths written down in one batch: window after window, by both libraries."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from hearing.mels import RATE, noise
from turns import OURS, THEIRS, Contest, in_turns

SECONDS = (35, 190, 60, 45, 120, 31, 240, 90)
"""Of the sounds; a mean of a hundred."""
TINY_SECONDS = (3.0, 9.5, 5.0)
GOAL = 2.0
LONGEST = 48
"""Tokens of a window's answer, at most."""

SIZES: Mapping[str, Mapping[str, int]] = {
    "Whisper tiny": {"d_model": 384, "encoder_layers": 4, "decoder_layers": 4, "heads": 6, "inner": 1536},
}
TINY: Mapping[str, int] = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "inner": 16}


def save_random(folder: Path, sizes: Mapping[str, int], window: int) -> None:
    """A Whisper of random weights with the vocabulary of the multilingual ones, windows of so many seconds."""
    import transformers

    torch.manual_seed(0)
    ids = {"bos_token_id": 50257, "eos_token_id": 50257, "pad_token_id": 50257, "decoder_start_token_id": 50258}
    config = transformers.WhisperConfig(
        d_model=sizes["d_model"], encoder_layers=sizes["encoder_layers"], decoder_layers=sizes["decoder_layers"],
        encoder_attention_heads=sizes["heads"], decoder_attention_heads=sizes["heads"], encoder_ffn_dim=sizes["inner"],
        decoder_ffn_dim=sizes["inner"], max_source_positions=50 * window, vocab_size=51865, init_std=0.06, **ids,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config = transformers.GenerationConfig(
        **ids, is_multilingual=True, no_timestamps_token_id=50363, max_length=448, return_timestamps=True,
        lang_to_id={"<|en|>": 50259}, task_to_id={"transcribe": 50359, "translate": 50358},
    )  # fmt: skip
    model.save_pretrained(folder)
    transformers.WhisperFeatureExtractor(chunk_length=window).save_pretrained(folder)


def longform(only: tuple[str, ...], runs: int, tiny: bool) -> dict[str, Contest]:
    """The batch, greedily; ``apart`` counts tokens that differ."""
    import transformers

    import omniform

    found: dict[str, Contest] = {}
    for name in only or SIZES:
        window, lengths = (2, TINY_SECONDS) if tiny else (30, SECONDS)
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            save_random(Path(folder), TINY if tiny else SIZES[name], window)
            reader = omniform.WhisperFeatureExtractor.from_pretrained(folder)
            sounds: list[np.ndarray] = [noise(seconds, seed) for seed, seconds in enumerate(lengths)]
            given = reader(
                sounds, sampling_rate=RATE, truncation=False, padding="longest", return_attention_mask=True,
                return_tensors="pt",
            )  # fmt: skip
            asked = {"max_new_tokens": 8 if tiny else LONGEST, "language": "en", "do_sample": False}
            inputs = {name: given[name] for name in ("input_features", "attention_mask")}
            models = {
                who: getattr(library, "WhisperForConditionalGeneration").from_pretrained(folder).eval()  # noqa: B009
                for who, library in {OURS: omniform, THEIRS: transformers}.items()
            }
            ways = {who: partial(model.generate, **inputs, **asked) for who, model in models.items()}
            ours, theirs = (way() for way in ways.values())
            same = ours.shape == theirs.shape and torch.equal(ours, theirs)
            title = f"{name}, {len(lengths)} sounds, {sum(lengths):g} s"
            facts = {"apart": 0.0 if same else 1.0, "times real time": 0.0}
            contest = Contest(in_turns(ways, runs), {THEIRS: GOAL}, facts)
            facts["times real time"] = sum(lengths) / contest.medians[OURS]
            found[title] = contest
            print(title, contest.medians, contest.ratios, file=sys.stderr, flush=True)
    return found
