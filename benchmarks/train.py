"""A training script, omniform's Trainer and the reference's, as whole processes in turn.

    python benchmarks/train.py                     # every case, three rounds
    python benchmarks/train.py --cases bert-uneven --rounds 5 --threads 1 --processor

Each round runs every case once with each library, one after the other, so that other work falls on both alike.
A process says how long it took from its start to the end of its first step (imports, loading and all), how long each
later step took, the peak of its memory, and the losses, which have to be the same. ``--processor`` takes the
processor's time of steps instead of the clock's, which other work lengthens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STARTED = float(os.environ.get("TRAIN_STARTED", time.time()))
TEXT = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 1024}
MODELS: Mapping[str, tuple[str, str, dict[str, object]]] = {
    "bert": ("bert", "AutoModelForSequenceClassification", {"vocab_size": 8000, "num_labels": 3, **TEXT}),
    "llama": ("llama", "AutoModelForCausalLM", {"vocab_size": 8000, "num_key_value_heads": 4, **TEXT}),
    "t5": (
        "t5",
        "AutoModelForSeq2SeqLM",
        {"vocab_size": 8000, "d_model": 256, "d_kv": 32, "d_ff": 1024, "num_layers": 3, "num_heads": 8,
         "dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
    ),
    "vit": ("vit", "AutoModelForImageClassification", {"image_size": 96, "patch_size": 8, "num_labels": 10, **TEXT}),
}  # fmt: skip
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")
LENGTHS = {"even": (128, 128), "uneven": (16, 256)}
CASES = ("bert-even", "bert-uneven", "llama-even", "llama-uneven", "t5-uneven", "vit-even")
BATCH = 8


def checkpoint(folder: Path, name: str) -> None:
    """A seeded model of the reference's, without dropout, so that losses can be compared."""
    import torch
    import transformers

    kind, auto, given = MODELS[name]
    config = transformers.AutoConfig.for_model(kind, **given)
    for dropout in DROPOUTS:
        if hasattr(config, dropout):
            setattr(config, dropout, 0.0)
    torch.manual_seed(0)
    getattr(transformers, auto).from_config(config).save_pretrained(folder)


def examples(name: str, lengths: tuple[int, int], count: int) -> list[dict[str, Any]]:
    """Random ids, or pictures, with labels; lengths are uniform between two numbers."""
    import torch

    rng = torch.Generator().manual_seed(0)
    made: list[dict[str, Any]] = []
    for _ in range(count):
        length = int(torch.randint(lengths[0], lengths[1] + 1, (), generator=rng))
        ids = torch.randint(5, 8000, (length,), generator=rng)
        if name == "vit":
            pixels = torch.rand(3, 96, 96, generator=rng)
            made.append({"pixel_values": pixels, "labels": int(ids[0]) % 10})
        else:
            labels = {"bert": int(ids[0]) % 3, "llama": ids, "t5": ids[: max(length // 4, 2)]}[name]
            made.append({"input_ids": ids, "labels": labels})
    return made


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows filled up to the longest."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    if "pixel_values" in rows[0]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}
    ids = [row["input_ids"] for row in rows]
    labels = [row["labels"] for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": torch.tensor(labels)
        if isinstance(labels[0], int)
        else pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def work(library: str, case: str, folder: str, steps: int, threads: int) -> None:
    """Train in this process and print what it took."""
    import torch

    torch.set_num_threads(threads)
    name, how = case.split("-")
    if library == "transformers":
        from versus.theirs import stand_in_for_torchvision

        stand_in_for_torchvision()
        import transformers as hf
    else:
        import omniform as hf  # type: ignore[no-redef]
    times: list[tuple[float, float]] = []

    class Clock(hf.TrainerCallback):
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            times.append((time.time(), time.process_time()))

    model = getattr(hf, MODELS[name][1]).from_pretrained(folder)
    args = hf.TrainingArguments(
        output_dir=f"{folder}/out-{library}",
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    data = examples(name, LENGTHS[how], BATCH * steps)
    trainer = hf.Trainer(model=model, args=args, train_dataset=data, data_collator=collate, callbacks=[Clock()])
    trainer.train()
    gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(times)]
    found = {
        "first": times[0][0] - STARTED,
        "wall": [gap[0] for gap in gaps],
        "processor": [gap[1] for gap in gaps],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    }
    print("RESULT " + json.dumps(found), flush=True)


def run(library: str, case: str, folder: Path, how: argparse.Namespace) -> dict[str, Any]:
    """One process; what it says."""
    command = [sys.executable, __file__, "--worker", library, case, str(folder), str(how.steps), str(how.threads)]
    env = {**os.environ, "TRAIN_STARTED": repr(time.time()), "OMP_NUM_THREADS": str(how.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise SystemExit(f"{library} {case}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return found


def row(case: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], clock: str) -> str:
    """A line of the table: medians, and theirs over ours."""
    for one, other in zip(ours[0]["losses"], theirs[0]["losses"], strict=True):
        assert abs(one - other) <= 1e-3 * max(1, abs(other)), f"{case}: {ours[0]['losses']} {theirs[0]['losses']}"
    cells = []
    for read, unit in (
        (lambda r: 1000 * statistics.median(r[clock]), "ms"),
        (lambda r: r["peak"], "MiB"),
        (lambda r: r["first"], "s"),
    ):
        mine, his = (statistics.median(map(read, rounds)) for rounds in (ours, theirs))
        digits = 1 if unit == "s" else 0
        cells.append(f"{mine:.{digits}f} / {his:.{digits}f} {unit} | {his / mine:.2f} x")
    return f"| {case} | " + " | ".join(cells) + " |"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="*", default=CASES, choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processor", action="store_true", help="steps by the processor's time")
    how = parser.parse_args()
    clock = "processor" if how.processor else "wall"
    print(f"step by {clock} time; omniform / transformers | theirs over ours\n")
    print("| case | step | | peak memory | | start to first step | |\n|---|---:|---:|---:|---:|---:|---:|")
    from versus.theirs import stand_in_for_torchvision

    stand_in_for_torchvision()
    with tempfile.TemporaryDirectory() as root:
        for name in {case.split("-")[0] for case in how.cases}:
            checkpoint(Path(root) / name, name)
        for case in how.cases:
            found: dict[str, list[dict[str, Any]]] = {"omniform": [], "transformers": []}
            for turn in range(how.rounds):
                for library in sorted(found, reverse=bool(turn % 2)):
                    found[library].append(run(library, case, Path(root) / case.split("-")[0], how))
            print(row(case, found["omniform"], found["transformers"], clock), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        library, case, folder, steps, threads = sys.argv[2:]
        work(library, case, folder, int(steps), int(threads))
    else:
        main()
