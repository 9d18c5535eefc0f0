"""What importing costs beyond torch: omniform beside the reference, in fresh interpreters, in turn.

Run it with ``make bench`` or ``python benchmarks/import.py [--runs N] [--json FILE]``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

STATEMENTS = {
    "import omniform": "import omniform",
    "omniform.AutoModelForCausalLM": "from omniform import AutoModelForCausalLM",
    "transformers.AutoModelForCausalLM": "from transformers import AutoModelForCausalLM",
    "omniform.LlavaForConditionalGeneration": "from omniform import LlavaForConditionalGeneration",
    "transformers.LlavaForConditionalGeneration": "from transformers import LlavaForConditionalGeneration",
}

PROBE = """
import time, torch
# torchvision has no CPU build for this torch; without these operators the reference cannot import it.
for name in ("nms", "qnms"):
    torch.library.define(f"torchvision::{{name}}", "(Tensor a, Tensor b, float c) -> Tensor")
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
"""


def seconds(statement: str) -> float:
    """Seconds that a statement takes in a fresh interpreter, once torch is imported."""
    probe = [sys.executable, "-c", PROBE.format(statement=statement)]
    return float(subprocess.run(probe, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    runs: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(arguments.runs + 1):
        for name, statement in STATEMENTS.items():
            runs[name].append(seconds(statement))
    medians = {name: statistics.median(times[1:]) for name, times in runs.items()}  # the first run fills disk caches
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, torch {version('torch')}")
    for name, median in medians.items():
        print(f"{name:<44} {median:7.3f} s beyond torch")
    for name in ("AutoModelForCausalLM", "LlavaForConditionalGeneration"):
        ratio = medians[f"transformers.{name}"] / medians[f"omniform.{name}"]
        print(f"{'ratio for ' + name:<44} {ratio:7.1f} x")
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": runs, "medians": medians}, indent=2))


if __name__ == "__main__":
    main()
