"""Texts through ``pipeline("text-classification")``, omniform's and the reference's, turn by turn in one process.

    python benchmarks/pipelines.py                  # 1,000 texts of 3 to 60 words, a BERT of 6 layers of 256
    OMP_NUM_THREADS=1 python benchmarks/pipelines.py --processor    # where other work runs beside it

The reference is measured with each of its batch sizes; the ratio is to the best of them. Both read the same list of
texts, in an order that knows nothing of their lengths, and their answers are compared before anything is timed.
``--processor`` takes the processor's time instead of the clock's, which other processes lengthen.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from versus.theirs import stand_in_for_torchvision

import omniform

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIZES = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 1024}
BATCHES = (1, 8, 32, 64, 128)


def checkpoint(folder: Path, words: list[str]) -> None:
    """A seeded BERT that classifies, and a WordPiece tokenizer."""
    vocab = {word: index for index, word in enumerate((*SPECIALS, *words))}
    backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=512, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocab), num_labels=3, **SIZES)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)


def texts(count: int, words: list[str]) -> list[str]:
    """Texts of 3 to 60 words, short ones more often than long ones."""
    rng = random.Random(0)
    return [" ".join(rng.choices(words, k=min(60, 3 + int(rng.expovariate(1 / 16))))) for _ in range(count)]


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    how = parser.parse_args()
    stand_in_for_torchvision()
    transformers.logging.set_verbosity_error()
    clock = time.process_time if how.processor else time.perf_counter
    words = ["".join(pair) for pair in zip("abcdefgh" * 250, (f"word{i}x" for i in range(2000)), strict=True)]
    read = texts(how.texts, words)
    with tempfile.TemporaryDirectory() as name:
        checkpoint(Path(name), words)
        ours = omniform.pipeline("text-classification", name, device="cpu", top_k=None)
        theirs = transformers.pipeline("text-classification", name, device="cpu", top_k=None)
        compare(ours(read[:64]), theirs(read[:64]))
        ways: dict[str, Callable[[], object]] = {"omniform": lambda: ours(read)}
        for size in how.batches:
            ways[f"transformers, batch_size={size}"] = lambda size=size: theirs(read, batch_size=size)
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(how.turns):
            for way, work in ways.items():
                took[way].append(timed(work, clock))
    median = {way: statistics.median(times) for way, times in took.items()}
    best = min(value for way, value in median.items() if way != "omniform")
    print(f"{how.texts} texts, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {how.turns}\n")
    print("| way | seconds | texts a second |\n| --- | ---: | ---: |")
    for way, value in median.items():
        print(f"| {way} | {value:.2f} | {how.texts / value:.0f} |")
    print(f"\nratio to the best: {best / median['omniform']:.2f}")


def compare(ours: object, theirs: object) -> None:
    """Fail unless both give the same labels and, within 1e-4, the same scores."""
    for mine, its in zip(ours, theirs, strict=True):
        assert [one["label"] for one in mine] == [one["label"] for one in its]
        assert all(abs(a["score"] - b["score"]) < 1e-4 for a, b in zip(mine, its, strict=True))


if __name__ == "__main__":
    main()
