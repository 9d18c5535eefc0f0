"""A tiny Voxtral as it is published: Mistral's tekken.json, and no file that says more of the tokenizer."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from reference import saved_reference, transformers

NAMES = {
    0: "<unk>", 1: "<s>", 2: "</s>", 3: "[INST]", 4: "[/INST]", 5: "[AVAILABLE_TOOLS]", 6: "[/AVAILABLE_TOOLS]",
    7: "[TOOL_RESULTS]", 8: "[/TOOL_RESULTS]", 9: "[TOOL_CALLS]", 11: "<pad>", 17: "[SYSTEM_PROMPT]",
    18: "[/SYSTEM_PROMPT]", 19: "[TOOL_CONTENT]", 24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]",
}  # fmt: skip
SPECIAL = 40
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS = ["he", "ll", "llo", "hello", " f", "ox", " fox"]
RATE, SECOND = 16000, 25
"""Samples of a second, which is a window here, and its tokens."""


def tekken(folder: Path, **config: object) -> Path:
    """A folder with the tokenizer, the feature extractor and a config."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in WORDS]
    raw = {
        "config": {"pattern": PATTERN, "default_vocab_size": SPECIAL + len(tokens),
                   "default_num_special_tokens": SPECIAL, "version": "v7"},
        "vocab": [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None}
                  for i, t in enumerate(tokens)],
        "special_tokens": [{"rank": i, "token_str": NAMES.get(i, f"<SPECIAL_{i}>"), "is_control": True}
                           for i in range(SPECIAL)],
    }  # fmt: skip
    (folder / "tekken.json").write_text(json.dumps(raw))
    extractor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 12, "chunk_length": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps({**extractor, "processor_class": "VoxtralProcessor"}))
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": "voxtral", **config}))
    return folder


def voxtral(folder: Path) -> Path:
    """The same, with a model."""
    text = {
        "vocab_size": 303, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512,
    }  # fmt: skip
    sound = {
        "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_bins": 12,
        "max_source_positions": 50,
    }  # fmt: skip
    config = transformers.VoxtralConfig(text_config=text, audio_config=sound, audio_token_id=24)
    saved_reference(transformers.VoxtralForConditionalGeneration, config, folder)
    return tekken(folder)
