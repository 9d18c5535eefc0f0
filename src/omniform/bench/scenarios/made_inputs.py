"""Texts, pictures, sounds and videos, the same for everyone who asks."""

from __future__ import annotations

import random
from importlib import import_module
from typing import Any

MODALITIES = ("text", "image", "audio", "video")
RATE = 16000
TEXT = "where light falls on water the small birds gather and nobody counts them before winter while a boat waits"


def made(modality: str, place: int, size: int = 0) -> Any:
    """An input.

    Args:
        place: which of them; others differ.
        size: words, rows and columns of pixels, seconds, or frames; 0 for 64 words, 480 x 640 pixels, 5 s, 8 frames.
    """
    if modality == "text":
        return " ".join(random.Random(place).choices(TEXT.split(), k=size or 64))
    np = import_module("numpy")
    chance = np.random.default_rng(place)
    if modality == "audio":
        return (0.1 * chance.standard_normal((size or 5) * RATE)).astype("float32")
    if modality == "video":
        return chance.integers(0, 256, (size or 8, 240, 320, 3), dtype="uint8")
    shape = (size, size, 3) if size else (480, 640, 3)
    return import_module("PIL.Image").fromarray(chance.integers(0, 256, shape, dtype="uint8"))
