"""Tiny checkpoints that hear, and sounds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from seen import new_folder

from reference import saved_reference, transformers

RATE = 16000
LABELS = {"id2label": {0: "dog", 1: "rain", 2: "bell", 3: "car horn", 4: "sea", 5: "wind", 6: "cat"}}


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """A tone that glides, in noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 + 150 * seed + 400 * time) * time)
    return (0.4 * tone + 0.1 * generator.standard_normal(len(time))).astype(np.float32)


def sounds() -> list[np.ndarray]:
    """Short, odd and longer ones."""
    return [sound(0.5, 1), sound(0.31, 2), sound(0.92, 3)]


WHISPER = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 8,
    "max_source_positions": 50,
}  # fmt: skip


@cache
def whisper_classifier(*changes: tuple[str, object]) -> Path:
    """A Whisper encoder that tells classes, with an extractor that hears one second."""
    folder, told = new_folder(), dict(changes)
    labels = {} if {"num_labels", "problem_type"} & told.keys() else LABELS
    config = transformers.WhisperConfig(
        **WHISPER, vocab_size=60, max_target_positions=20, classifier_proj_size=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=3, **labels, **told,
    )  # fmt: skip
    saved_reference(transformers.WhisperForAudioClassification, config, folder)
    transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1).save_pretrained(folder)
    return folder
