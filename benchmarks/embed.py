"""Vectors of 1,000 texts of mixed length, beside sentence-transformers: same checkpoint, same process, turn by turn.

    python benchmarks/embed.py            # OMP_NUM_THREADS=1 on a busy machine

The model is of the size of all-MiniLM-L6-v2 with random weights; texts have 3 to 250 words, most of them few. Each side
runs with each batch size, and its best counts. The time of the processor is measured too, which other processes that
want it do not lengthen.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from reference import transformers  # makes torchvision importable beside a CPU torch

import sentence_transformers  # isort: skip
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import omniform

SIZES = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 12}
WORDS = 5000


def checkpoint(folder: Path, layers: int) -> None:
    """A BERT and a tokenizer of whole words, in the layout of sentence-transformers."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS + 5, max_position_embeddings=512, num_hidden_layers=layers, **SIZES
    )
    transformers.BertModel(config).save_pretrained(folder / "plain")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(WORDS))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=256, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder / "plain")  # fmt: skip
    sentence_transformers.SentenceTransformer(str(folder / "plain"), device="cpu").save_pretrained(str(folder / "st"))


def texts(many: int) -> list[str]:
    """Lengths as in a search log and its documents: the median is about 20 words, one text in twenty is cut."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(3.0, 1.1, many).astype(int), 3, 250)
    return [" ".join(f"w{i}" for i in rng.integers(0, WORDS, length)) for length in lengths]


def timed(job: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    wall, used = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - wall, time.process_time() - used


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 32, 128])
    how = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), how.layers)
        name = str(Path(folder) / "st")
        ours = omniform.SentenceTransformer(name, device="cpu")
        theirs = sentence_transformers.SentenceTransformer(name, device="cpu")
        given = texts(how.texts)
        print(f"off by {np.abs(ours.encode(given) - theirs.encode(given, show_progress_bar=False)).max():.1e}")
        print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; {len(given)} texts, {how.layers} layers")
        print("| batch size | omniform | sentence-transformers | ratio, median of pairs | by processor time |")
        print("| ---: | ---: | ---: | ---: | ---: |")
        for size in how.batch_sizes:
            pairs = [
                (timed(lambda: ours.encode(given, batch_size=size)),  # noqa: B023
                 timed(lambda: theirs.encode(given, batch_size=size, show_progress_bar=False)))  # noqa: B023
                for _ in range(how.turns)
            ]  # fmt: skip
            mine, other = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
            ratios = [statistics.median(b[kind] / a[kind] for a, b in pairs) for kind in (0, 1)]
            print(f"| {size} | {mine:.2f} s | {other:.2f} s | {ratios[0]:.2f} x | {ratios[1]:.2f} x |", flush=True)


if __name__ == "__main__":
    main()
