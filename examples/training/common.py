"""What the examples share: texts, a small tokenizer, the command line, the line that says what was learned."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import omniform
from omniform.train.fresh_tokenizer import byte_level

DATA = Path(__file__).parent / "data"


def rows(name: str) -> list[dict]:
    """The examples of ``data/{name}.jsonl``."""
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def tokenizer_of(texts: Iterable[str], vocab_size: int = 1000) -> omniform.PreTrainedTokenizerFast:
    """A tokenizer made of these texts."""
    return byte_level(texts, vocab_size)


def options(description: str | None, *, steps: int, examples: int, held_out: int) -> argparse.Namespace:
    """How much is trained on and evaluated on, and where the model goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output-dir", default="out/example", help="where the model goes")
    parser.add_argument("--steps", type=int, default=steps, help=f"optimizer steps ({steps})")
    parser.add_argument("--examples", type=int, default=examples, help=f"examples to train on ({examples})")
    parser.add_argument("--held-out", type=int, default=held_out, help=f"examples to evaluate on ({held_out})")
    return parser.parse_args()


def arguments(
    given: argparse.Namespace, kind: type = omniform.TrainingArguments, **more: object
) -> omniform.TrainingArguments:
    """Arguments that all examples train with, and an example's own."""
    usual = {
        "output_dir": given.output_dir,
        "max_steps": given.steps,
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": min(50, given.steps // 5),
        "logging_steps": max(given.steps // 10, 1),
        "save_strategy": "no",
        "seed": 1,
    }
    return kind(**{**usual, **more})


def learned(before: Mapping[str, float], after: Mapping[str, float], name: str) -> None:
    """Print a number before and after the training."""
    print(f"{name}: {before[f'eval_{name}']:.3f} before, {after[f'eval_{name}']:.3f} after")


def trained(trainer: omniform.Trainer, name: str) -> None:
    """Evaluate, train, evaluate, save; print what changed."""
    before = trainer.evaluate()
    trainer.train()
    learned(before, trainer.evaluate(), name)
    trainer.save_model()
