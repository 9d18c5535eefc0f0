"""What sampling costs over greedy search, per step, at a vocabulary of 150,000; the reference's own cost beside it.

    python benchmarks/sampling.py [--layers 8] [--tokens 16] [--repeats 5] [--rows 1]

One process and one thread, both libraries on the same checkpoint (random weights, bfloat16, scores of standard
deviation 3), ways in turn; seconds of the processor, which neighbours on the machine hardly change; medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

for _name in (
    "nms",
    "qnms",
):  # torchvision has no CPU build for this torch; without them the reference cannot import it
    torch.library.define(f"torchvision::{_name}", "(Tensor a, Tensor b, float c) -> Tensor")

import transformers  # noqa: E402

import omniform  # noqa: E402

VOCABULARY = 150_000
ALL = {
    "temperature": 0.8, "top_k": 50, "top_p": 0.9, "top_h": 0.9, "min_p": 0.02, "typical_p": 0.95,
    "epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4,
}  # fmt: skip
WAYS = {
    "greedy": {},
    "all filters": {"do_sample": True, **ALL},
    "all filters and rules": {
        "do_sample": True, **ALL, "repetition_penalty": 1.1, "no_repeat_ngram_size": 4,
        "bad_words_ids": [[i, i + 1] for i in range(100, 1100)], "suppress_tokens": list(range(50)),
    },
    "top_k alone": {"do_sample": True, "top_k": 50},
    "top_p alone": {"do_sample": True, "top_k": 0, "top_p": 0.9},
    "typical_p alone": {"do_sample": True, "top_k": 0, "typical_p": 0.9},
    "no filter": {"do_sample": True, "top_k": 0},
}  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 8), ("tokens", 16), ("repeats", 5), ("rows", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        models = build(Path(folder), given.layers)
        ids = torch.randint(3, VOCABULARY, (given.rows, 64), generator=torch.Generator().manual_seed(0))
        for model in models.values():
            step(model, ids, 2, {})  # weights are packed at the second step
        found: dict[tuple[str, str], list[float]] = {}
        for _ in range(given.repeats):
            for side, model in models.items():
                for way, asked in WAYS.items():
                    found.setdefault((side, way), []).append(step(model, ids, given.tokens, asked))
    best = {key: statistics.median(times) for key, times in found.items()}
    print("| per step | omniform | over greedy | reference | over greedy |\n|---|---:|---:|---:|---:|")
    for way in WAYS:
        line = [way]
        for side in models:
            more = best[side, way] / best[side, "greedy"] - 1
            line += [f"{best[side, way] * 1e3:.2f} ms", "" if way == "greedy" else f"{more:+.0%}"]
        print("| " + " | ".join(line) + " |")


def build(folder: Path, layers: int) -> dict[str, torch.nn.Module]:
    """The same model in both libraries."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=768, intermediate_size=2048, num_hidden_layers=layers,
        num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False,
        eos_token_id=None, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    torch.nn.init.normal_(theirs.lm_head.weight, std=3 / 768**0.5)
    theirs.save_pretrained(folder)
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16")
    print(f"{sum(p.numel() for p in theirs.parameters()) / 1e6:.0f}M parameters")
    return {"omniform": ours, "reference": theirs}


def step(model: torch.nn.Module, ids: torch.Tensor, tokens: int, asked: dict[str, object]) -> float:
    """Seconds per step: a long answer less a short one."""

    def seconds(count: int) -> float:
        torch.manual_seed(0)
        started = time.process_time()
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=count, eos_token_id=None, pad_token_id=0, **asked)
        return time.process_time() - started

    short, whole = seconds(4), seconds(4 + tokens)
    return (whole - short) / tokens


if __name__ == "__main__":
    main()
