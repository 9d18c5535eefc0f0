"""Run in a process of its own, where omniform cannot be imported: what files that were ejected compute.

    python alone.py JOBS

JOBS is a file of torch: for each model its file, its checkpoint's folder, and what it is asked with the answers that it
must give. What fails is printed, one line each.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from types import ModuleType

import torch
from torch import Tensor

FORBIDDEN = ("omniform", "transformers")
TOLERANCE = 8e-6
"""Most files give the very same bits; ModernBERT leaves padding out where its rows are many, and BridgeTower shows its
attentions and so writes them out: both round otherwise."""


class Absent(MetaPathFinder):
    """Refuses what an ejected file must not need."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} was imported")


def opened(path: str) -> ModuleType:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location(path.rpartition("/")[2].removesuffix(".py"), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def entries(output: object) -> dict[str, Tensor]:
    """What a model gave, by name; a lone tensor has none."""
    if isinstance(output, Tensor):
        return {"": output}
    if isinstance(output, tuple):  # feature maps, and nothing else
        return {f"feature_maps.{i}": value for i, value in enumerate(output)}
    return {name: value for name, value in vars(output).items() if isinstance(value, Tensor)}


def off(found: Tensor, expected: Tensor, real: Tensor | None) -> str:
    """How far a tensor is from another, where that is too far."""
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    if real is not None and found.shape[:2] == real.shape:
        found, expected = found[real], expected[real]
    error = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item() if found.numel() else 0.0
    return "" if error <= TOLERANCE else f"off by {error:.2g}"


def faults(job: Mapping[str, object]) -> list[str]:
    """What is wrong with one file."""
    module = opened(job["file"])
    model = module.load(job["folder"])
    found = []
    for number, (inputs, expected, real) in enumerate(job["questions"]):
        made = entries(model(**inputs))
        for name, tensor in made.items():
            wrong = off(tensor, expected[name or job["single"]], real)
            found += [f"question {number}, {name or job['single']}: {wrong}"] if wrong else []
    ids = job["cached"]
    if ids is not None:
        whole, cache = entries(model(ids)), module.Cache()
        parts = [entries(model(ids[:, a:b], cache=cache)) for a, b in ((0, 5), (5, 6), (6, ids.shape[1]))]
        for name in whole:
            error = (torch.cat([part[name] for part in parts], dim=1) - whole[name]).abs().max().item()
            found += [f"cached: off by {error:.2g}"] if error > 2e-4 else []
    for inputs, tokens in job["written"]:
        made = module.generate(model, **inputs, max_new_tokens=5)[:, -5:]
        found += [] if torch.equal(made, tokens[:, -5:]) else [f"writes {made.tolist()}, not {tokens[:, -5:].tolist()}"]
    return found


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent())
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for job in torch.load(sys.argv[1], weights_only=False):
        try:
            wrong = faults(job)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"[:300]]
        for line in wrong:
            print(f"{job['name']}: {line}")
