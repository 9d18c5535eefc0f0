"""Tiny recognizers' inputs: a vocabulary of letters and a model of words, made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh"]
WORDS = {"bad": 0.4, "cab": 0.3, "head": 0.2, "a": 0.1}
PAIRS = {("a", "bad"): 0.6, ("bad", "head"): 0.7, ("a", "cab"): 0.2}


def arpa(path: Path) -> Path:
    """A model of words and pairs of words, in the format of ARPA."""
    log = {word: math.log10(0.8 * share) for word, share in WORDS.items()}
    lines = ["\\data\\", f"ngram 1={len(log) + 3}", f"ngram 2={len(PAIRS) + 1}", "", "\\1-grams:"]
    lines += ["-1.5\t<unk>\t0", "0\t<s>\t-0.3", "-1\t</s>\t0"]
    lines += [f"{value:.4f}\t{word}\t-0.2" for word, value in log.items()]
    lines += ["", "\\2-grams:", "-0.2\t<s> a"]
    lines += [f"{math.log10(share):.4f}\t{first} {second}" for (first, second), share in PAIRS.items()]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return path


def letters(folder: Path, **config: object) -> Path:
    """A folder with a CTC tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(LETTERS)}))
    values = {"tokenizer_class": "Wav2Vec2CTCTokenizer", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def spoken(text: str, seed: int = 0, noise: float = 2.0) -> torch.Tensor:
    """What a model might say of each frame of a text: its letters, two frames each, and noise. Shape: [T, V]."""
    ids = [LETTERS.index("|" if letter == " " else letter) for letter in text for _ in range(2)]
    logits = noise * torch.randn(2 * len(ids), len(LETTERS), generator=torch.Generator().manual_seed(seed))
    for place, index in enumerate(ids):
        logits[2 * place, index] += 5.0
        logits[2 * place + 1, 0] += 4.0
    return logits
