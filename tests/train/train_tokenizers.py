"""Tiny tokenizers of every kind in folders, read by omniform and by the reference; and rows of random texts."""

from __future__ import annotations

import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

import omniform
from reference import transformers

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dogs",
    "don't",
    "x",
    "un",
    "known",
    "a",
    "walk",
    "ing",
)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wordpiece() -> Tokenizer:
    pieces = sorted({letter for word in WORDS for letter in word})
    vocab = [*SPECIALS, *WORDS, *(f"##{piece}" for piece in (*pieces, "ing", "known", "walk")), *pieces]
    backend = Tokenizer(models.WordPiece(vocab={t: i for i, t in enumerate(dict.fromkeys(vocab))}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def byte_bpe(trim: bool) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("o", "x"), ("q", "u")]
    vocab = [*SPECIALS, *letters, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(vocab)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    return backend


def metaspace() -> Tokenizer:
    pieces = [*SPECIALS, *(f"▁{word}" for word in WORDS), "▁", *sorted({letter for word in WORDS for letter in word})]
    vocab = [(piece, -1.0 if piece.startswith("▁") else -5.0) for piece in dict.fromkeys(pieces)]
    backend = Tokenizer(models.Unigram(vocab, unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


MADE = {
    "wordpiece": wordpiece,
    "trimmed bytes": lambda: byte_bpe(True),
    "bytes": lambda: byte_bpe(False),
    "metaspace": metaspace,
}


def write(kind: str, folder: Path, side: str = "right") -> Path:
    """A folder with a tokenizer that frames texts with [CLS] and [SEP]."""
    backend = MADE[kind]()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    framing = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    trimming = backend.post_processor
    backend.post_processor = framing if trimming is None else processors.Sequence([trimming, framing])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", padding_side=side, model_max_length=64,
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder


def both(folder: Path) -> tuple[object, object]:
    """Omniform's tokenizer and the reference's, of one folder."""
    return omniform.AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def texts(count: int, seed: int = 0, shortest: int = 1) -> list[str]:
    """Random texts of one to a dozen words."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(shortest, 12))) for _ in range(count)]
