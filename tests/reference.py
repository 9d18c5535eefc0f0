"""Tools to build tiny models of the reference library and to compare omniform with them.

Every parameter and buffer is re-randomised, so that a dropped bias, a swapped norm or a wrong table cannot hide behind
zeros and ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


def import_torchvision() -> None:
    """Make the CUDA build of torchvision importable beside a CPU torch: define the operators it expects.

    Beside a torch with CUDA it brings its own, and ends the process where somebody defined them before.
    """
    if torch.version.cuda is not None:
        import torchvision

        return
    arguments = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", arguments)
    import torchvision  # noqa: F401


import_torchvision()  # before transformers, which imports it

import transformers  # noqa: E402

import omniform  # noqa: E402
from omniform.architectures.model import Model  # noqa: E402
from omniform.core.config import read_common  # noqa: E402
from omniform.core.reader import ConfigReader  # noqa: E402
from omniform.models import registry  # noqa: E402

for absent in (torch.cuda, torch.xpu, torch.mtia):
    if not absent.is_available():
        # torch keeps each seed, with the whole stack as text, for a device that never comes: 5 ms a seed.
        absent.manual_seed_all = lambda seed: None
torch.set_num_threads(1)
torch.manual_seed(0)  # parameters of tests that are drawn when they are collected are the same in every run
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("omniform").setLevel(logging.ERROR)

TOLERANCE = 1e-4


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """Give all that is saved, parameters and buffers, a random value: norm weights and variances about 1, the rest
    about 0. Buffers that are not saved (rotary frequencies, the scale of embeddings) follow from the config."""
    generator = torch.Generator().manual_seed(seed)
    saved = model.state_dict().keys() - {*(getattr(model, "_keys_to_ignore_on_save", None) or ())}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or name not in saved:
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        last = name.rsplit(".", 1)[-1]
        around_one = last == "running_var" or (last == "weight" and tensor.dim() == 1)
        tensor.copy_(1 + 0.2 * noise.clamp(-2, 2) if around_one else scale * noise)
    return model


def saved_reference(model_class: type, config: object, folder: Path, *, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """A randomised reference model in float32, saved to ``folder``, in evaluation mode."""
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    randomise(model, seed, scale)
    model.save_pretrained(folder)
    return model


def close(ours: object, theirs: object, what: str = "output", tolerance: float = TOLERANCE) -> None:
    """Fail unless two outputs agree within ``tolerance`` of max(1, |expected|), nested tuples included."""
    if isinstance(theirs, (tuple, list)):
        assert isinstance(ours, (tuple, list)), f"{what}: a sequence expected, found {type(ours)}"
        assert len(ours) == len(theirs), f"{what}: {len(theirs)} entries expected, found {len(ours)}"
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            close(mine, other, f"{what}[{index}]", tolerance)
        return
    assert isinstance(theirs, Tensor) and isinstance(ours, Tensor), f"{what}: {type(ours)} against {type(theirs)}"
    assert ours.shape == theirs.shape, f"{what}: shape {tuple(theirs.shape)} expected, found {tuple(ours.shape)}"
    error = (ours.float() - theirs.float()).abs() / theirs.float().abs().clamp(min=1)
    worst = error.max().item() if error.numel() else 0.0
    assert worst <= tolerance, f"{what}: off by {worst:.3g}"
    assert not torch.isnan(ours.float()).any(), f"{what}: NaN"


@torch.no_grad()
def compare(
    ours: Model, theirs: nn.Module, inputs: Mapping[str, object], fields: Iterable[str], tolerance: float = TOLERANCE
) -> None:
    """Run both on the same inputs and compare the named fields; hidden states and attentions are asked for by name."""
    fields = list(fields)
    flags: dict[str, object] = {}
    if any("hidden_states" in f for f in fields):
        flags["output_hidden_states"] = True
    if any("attentions" in f for f in fields):
        flags["output_attentions"] = True
        theirs.set_attn_implementation("eager")
    expected = theirs(**inputs, **flags)
    found = ours(**inputs, **flags)
    for name in fields:
        close(found[name], expected[name], name, tolerance)


def check_round_trip(folder: Path, model: Model, again: Path) -> None:
    """Save what was loaded from ``folder`` and compare keys, bytes and config."""
    from safetensors.torch import load_file

    model.save_pretrained(str(again))
    before, after = load_file(folder / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key
    assert json.loads((folder / "config.json").read_text()) == json.loads((again / "config.json").read_text())


def unaccounted(model_type: str, reference_config: type, **given: object) -> set[str]:
    """Fields of a reference config class that our reader of ``model_type`` neither uses, nor declares inert or refuses.

    Args:
        given: values without which our reader refuses the defaults.
    """
    raw = {**reference_config().to_dict(), **given}
    reader = ConfigReader({k: v for k, v in raw.items() if v is not None})
    read_common(reader)
    registry.family(model_type).read(reader)
    return {name for name in raw if name not in reader.touched and not name.startswith("_")}


def wrong_defaults(model_type: str, reference_config: type, **given: object) -> dict[str, tuple[object, object]]:
    """Values that a config resolves to otherwise than the reference's, where the file leaves them out: ours, theirs."""
    theirs = reference_config(**given).to_dict()
    ours = omniform.AutoConfig.for_model(model_type, **given)
    read = ours.__dict__["values"]
    told = [name for name, value in theirs.items() if value is not None or name.endswith("token_id")]
    pairs = {name: (ours.get(name), theirs[name]) for name in told if name in read}
    plain = {name: (list(a) if isinstance(a, tuple) else a, b) for name, (a, b) in pairs.items()}
    named = ("architectures", "id2label", "label2id", "transformers_version")
    return {name: pair for name, pair in plain.items() if pair[0] != pair[1] and name not in named}


def trains(
    model: Model, inputs: Mapping[str, object], steps: int = 5, rate: float = 1e-2, unused: tuple[str, ...] = ()
) -> None:
    """Fail unless the loss falls, and every parameter gets a gradient, but for those whose paths begin as named."""
    model.train()
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    torch.manual_seed(0)
    np.random.seed(0)  # which frames are hidden
    for _ in range(steps):
        loss = model(**inputs).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses
    idle = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith(unused or ("-",))]
    assert not idle, f"no gradient: {idle}"
    model.eval()


def ragged(vocabulary: int, lengths: Sequence[int], seed: int = 0, low: int = 3) -> list[Tensor]:
    """Random rows of token ids of the given lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(low, vocabulary, (n,), generator=generator) for n in lengths]


def padded(rows: Sequence[Tensor], pad: int = 0, side: str = "right") -> tuple[Tensor, Tensor]:
    """Rows as one padded batch and its mask."""
    longest = max(len(r) for r in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, where] = row
        mask[i, where] = 1
    return ids, mask


__all__ = [
    "check_round_trip", "close", "compare", "import_torchvision", "omniform", "padded", "ragged", "randomise",
    "saved_reference", "trains", "transformers", "unaccounted", "wrong_defaults",
]  # fmt: skip
