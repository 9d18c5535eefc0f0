"""Tiny Whispers with the tokens of real ones (languages, tasks, timestamps), whose windows are 0.4 seconds long."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from reference import omniform, saved_reference, transformers

END, START, TRANSLATE, TRANSCRIBE, BEFORE, SILENCE, OFF = 150, 151, 156, 157, 159, 160, 161
WINDOW = 40

CONFIG = {
    "vocab_size": OFF + 22, "num_mel_bins": 8, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_source_positions": 20, "max_target_positions": 48, "decoder_start_token_id": START, "pad_token_id": END,
    "bos_token_id": END, "eos_token_id": END, "suppress_tokens": None, "begin_suppress_tokens": None,
}  # fmt: skip
ENGLISH = {
    "no_timestamps_token_id": OFF, "prev_sot_token_id": BEFORE, "max_initial_timestamp_index": 10,
    "alignment_heads": [[0, 1], [1, 0], [1, 3]], "decoder_start_token_id": START, "pad_token_id": END,
    "eos_token_id": END, "bos_token_id": END, "max_length": 48, "begin_suppress_tokens": [3, END],
    "suppress_tokens": [1, 2, 7, 8, 9, START, 158, BEFORE, SILENCE],
}  # fmt: skip
MANY = {
    **ENGLISH, "is_multilingual": True, "lang_to_id": {"<|en|>": 152, "<|de|>": 153, "<|fr|>": 154, "<|es|>": 155},
    "task_to_id": {"transcribe": TRANSCRIBE, "translate": TRANSLATE},
}  # fmt: skip
PADDED = {**MANY, "pad_token_id": 0}
"""Padding that is no end, and may be written."""


@functools.cache
def _loaded(kind: str, layers: int, eager: bool):
    settings = {"many": MANY, "english": ENGLISH, "padded": PADDED}[kind]
    config = transformers.WhisperConfig(
        **{**CONFIG, "decoder_layers": layers, "pad_token_id": settings["pad_token_id"]}
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs = saved_reference(transformers.WhisperForConditionalGeneration, config, Path(folder), scale=0.4)
        if eager:
            theirs.set_attn_implementation("eager")
        theirs.generation_config = transformers.GenerationConfig(**settings)
        theirs.generation_config.save_pretrained(folder)
        return omniform.AutoModelForSpeechSeq2Seq.from_pretrained(folder), theirs


def pair(kind: str = "many", layers: int = 2, *, eager: bool = False, **changed: object):
    """Ours and the reference's, of the same weights; ``changed``: in ``generation_config.json``, None to leave out."""
    ours, theirs = _loaded(kind, layers, eager)
    settings = {"many": MANY, "english": ENGLISH, "padded": PADDED}[kind] | changed
    said = {name: value for name, value in settings.items() if value is not None}
    theirs.generation_config = transformers.GenerationConfig(**said)
    ours.generation_config = omniform.GenerationConfig(**said)
    return ours, theirs


def features(rows: int, frames: int, seed: int = 1) -> torch.Tensor:
    """Spectrograms of noise. Shape: [rows, 8, frames]."""
    return torch.randn(rows, 8, frames, generator=torch.Generator().manual_seed(seed))


def mask(*lengths: int) -> torch.Tensor:
    """Which frames are sound. Shape: [rows, frames]."""
    return (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()


def same(found: object, expected: object, where: str = "result") -> None:
    """Fail unless two results agree: tokens and shapes exactly, numbers within 1e-4; state is not looked at."""
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor) and found.shape == expected.shape, where
        assert torch.allclose(found.double(), expected.double(), atol=1e-4), where
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{i}]")
    elif hasattr(expected, "keys"):
        names = [name for name in expected if name != "past_key_values"]
        # What the steps' scores and attentions were is kept with segments only where somebody asks for them.
        for name in names if "result[" not in where else [name for name in names if name in found]:
            same(found[name], expected[name], f"{where}[{name}]")
    else:
        assert found == expected, where
