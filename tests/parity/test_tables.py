"""Every family has a table, and the families that are due are there."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from harness import TABLES

from omniform.models.registry import known_families

DUE = {
    "bert", "clip", "clip_text_model", "clip_vision_model", "deberta-v2", "detr", "gemma2", "gpt2", "llama",
    "llava", "mistral", "phi3", "qwen3", "qwen3_next", "t5", "vit", "whisper",
}  # fmt: skip
"""Families that must be registered. One that is in a table and not here is collected when it is registered."""


def test_families_that_are_due_are_registered() -> None:
    assert set(known_families()) >= DUE


def test_every_family_has_a_table() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        import_module(path.stem)
    assert set(known_families()) >= DUE
    assert {table.model_type for table in TABLES} >= DUE
