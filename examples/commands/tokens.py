"""The tokenizer of the recogniser: byte-level in Whisper's layout, with one token for every word that is said.

Special tokens come after the words, and times after those: ``<|0.00|>`` to the window's length, 20 ms apart.
"""

from __future__ import annotations

import json
from pathlib import Path

from sentences import vocabulary
from sounds import SECONDS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

END, START, ENGLISH, QUIET, NO_TIMES = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
TRANSCRIBE, PREVIOUS = "<|transcribe|>", "<|startofprev|>"
# In Whisper's order; a language's number follows from that of the start token.
SPECIAL = (END, START, ENGLISH, "<|translate|>", TRANSCRIBE, "<|startoflm|>", PREVIOUS, QUIET, NO_TIMES)
STEP = 0.02
TIMES = tuple(f"<|{step * STEP:.2f}|>" for step in range(round(SECONDS / STEP) + 1))


def build() -> Tokenizer:
    """The tokenizer itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Merges until every word is one token, seldom ones too.
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer.train_from_iterator([f" {word}" for word in vocabulary()] * 2, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in TIMES])
    return tokenizer


def save(folder: Path) -> Tokenizer:
    """Write the tokenizer's files as Whisper's checkpoints have them into a folder."""
    tokenizer = build()
    model = json.loads(tokenizer.to_str())["model"]
    settings = {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": END, "eos_token": END, "unk_token": END, "pad_token": END,
        "additional_special_tokens": list(SPECIAL[1:]),
        "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "model_max_length": 96, "processor_class": "WhisperProcessor", "return_attention_mask": False,
        "language": "english", "task": "transcribe",
    }  # fmt: skip
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True),
        "tokenizer_config.json": json.dumps(settings, indent=2),
        "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
        "merges.txt": "\n".join(merges),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n", encoding="utf-8")
    return tokenizer
