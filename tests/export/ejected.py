"""Cases of ``omniform eject``: the parity tables' tiny models, each with a checkpoint, a file and what it is asked."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "parity"))
sys.path.insert(0, str(Path(__file__).parents[1] / "citizens"))

import harness
from harness import Case, Table

import citizens
from omniform.architectures.model import Model
from omniform.export.eject import eject
from omniform.models import registry
from reference import randomise

PARITY = Path(__file__).parents[1] / "parity"
LONE = ("logits", "image_embeds", "text_embeds", "reconstruction", "predicted_depth", "waveform", "last_hidden_state")
LEARNED = {
    "labels",
    "mask_labels",
    "class_labels",
    "start_positions",
    "end_positions",
    "next_sentence_label",
    "sentence_order_label",
    "mc_labels",
}
"""Inputs that give a loss, which ejected files do not have."""

READ = ("input_ids", "input_features", "input_values", "attention_mask", "pixel_values")
"""Inputs of models that write."""

SPARED = {"position_ids", "return_loss", "use_cache", "pixel_mask"}
"""Inputs that files leave out where they change nothing."""


def tables() -> dict[str, Table]:
    """The parity table of each family, the first where there are several."""
    for file in sorted(PARITY.glob("test_*.py")):
        if file.stem not in ("test_configs", "test_tables", "test_labels"):
            importlib.import_module(file.stem)
    found: dict[str, Table] = {}
    for table in harness.TABLES:
        found.setdefault(table.model_type, table)
    return found


def covering() -> set[str]:
    """Families that hold every class of module between them."""
    return {citizens.CITIZENS[name].model_type for name in citizens.covering()}


def heads(table: Table) -> Iterator[Case]:
    """One case for each architecture."""
    seen = set()
    for name, head in table.heads.items():
        if head.reference not in seen:
            seen.add(head.reference)
            yield table.case(name)


def main_head(table: Table) -> Case:
    """What writes, or the first architecture beyond the base model."""
    if table.writes is not None:
        return table.case(table.writes[0])
    cases = list(heads(table))
    return cases[min(1, len(cases) - 1)]


@torch.no_grad()
def job_of(case: Case, folder: Path) -> dict[str, object]:
    """A case's file and checkpoint, and what the file must answer."""
    raw = json.loads(json.dumps(case.config().to_dict(), default=str))
    name = case.architecture.reference
    raw["architectures"] = [name]
    kind = registry.family(raw["model_type"]).classes[name]
    torch.manual_seed(0)
    randomise(kind(registry.config_of(raw)).eval()).save_pretrained(folder)
    ours = kind.from_pretrained(folder).eval()
    file = eject(folder, folder.with_suffix(".py"), architecture=name)
    takes = parameters(file, name)
    asked = [(q.inputs, q.real) for q in case.questions() if fits(q.inputs, takes)]
    questions = [(kept(inputs, takes), real) for inputs, real in asked][:4]
    answered = [(inputs, answers(ours, inputs), real) for inputs, real in questions]
    return {
        "name": f"{name}, {case.variant}",
        "file": str(file),
        "folder": str(folder),
        "questions": answered,
        "single": next((name for name in LONE if name in answered[0][1]), ""),
        "cached": first_ids(questions, takes),
        "written": list(written(ours, questions, takes, file)),
    }


def parameters(file: Path, name: str) -> set[str]:
    """What an ejected model's forward takes, read from its text."""
    tree = ast.parse(file.read_text())
    found = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    forward = next(n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "forward")
    return {a.arg for a in (*forward.args.args, *forward.args.kwonlyargs)} - {"self"}


def fits(inputs: dict[str, object], takes: set[str]) -> bool:
    """Whether a question is one that the file can be asked."""
    if LEARNED & set(inputs) and "decoder_input_ids" in takes - set(inputs):
        return False  # the decoder's beginning is made of its answer there
    return not set(inputs) - takes - LEARNED - SPARED


def kept(inputs: dict[str, object], takes: set[str]) -> dict[str, object]:
    """A question's inputs that the file takes."""
    return {name: value for name, value in inputs.items() if name in takes}


def answers(model: Model, inputs: dict[str, object]) -> dict[str, Tensor]:
    """What a model answers, tensors only; one that gives a tensor as it is (a vocoder) gives a wave."""
    output = model(**inputs)
    if isinstance(output, Tensor):
        return {"waveform": output}
    maps = {f"feature_maps.{i}": value for i, value in enumerate(output.get("feature_maps", ()))}
    return {name: value for name, value in output.items() if isinstance(value, Tensor)} | maps


def first_ids(questions: Iterable[tuple[dict[str, object], object]], takes: set[str]) -> Tensor | None:
    """Rows without padding for a model that reads on from what it keeps; None for others."""
    if "cache" not in takes or takes & {"decoder_input_ids", "pixel_values"}:
        return None
    return next((i["input_ids"][:2] for i, _ in questions if i.get("attention_mask") is None), None)


def written(
    model: Model, questions: list[tuple[dict[str, object], object]], takes: set[str], file: Path
) -> Iterator[tuple[dict[str, object], Tensor]]:
    """Prompts, and what the model writes after them."""
    if not model.can_generate() or "def generate(" not in file.read_text():
        return
    plain = {"do_sample": False, "num_beams": 1, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": 5}
    plain |= {"forced_bos_token_id": None, "forced_eos_token_id": None}
    inputs = questions[0][0]
    asked = {n: v for n, v in inputs.items() if n in READ}
    if "decoder_input_ids" in takes:
        start = 2 if model.start_token_id is None else model.start_token_id
        asked["decoder_input_ids"] = torch.full((len(next(iter(asked.values()))), 1), start)
    yield asked, model.generate(**asked, **plain)
    left = next((i for i, _ in questions if _padded_left(i)), None)
    if left is not None and not takes & {"decoder_input_ids", "pixel_values"}:
        asked = {"input_ids": left["input_ids"], "attention_mask": left["attention_mask"]}
        yield asked, model.generate(**asked, **plain)


def _padded_left(inputs: dict[str, object]) -> bool:
    mask = inputs.get("attention_mask")
    return isinstance(mask, Tensor) and bool((mask[:, 0] == 0).any()) and bool((mask[:, -1] == 1).all())


def run_alone(jobs: list[dict[str, object]], folder: Path) -> str:
    """What fails of some files, in a process that has no omniform."""
    torch.save(jobs, folder / "jobs.pt")
    command = [sys.executable, "-P", str(Path(__file__).with_name("alone.py")), str(folder / "jobs.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr[-2000:]
