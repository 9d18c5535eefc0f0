"""What tests of models that predict sets of masks share: a small backbone, objects, losses and gradients by seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

from in_float64 import InFloat64, gradients_of, widened
from omniform.architectures.model import Model
from omniform.hub.load import table_of
from reference import close, omniform, saved_reference, transformers

RESNET = {
    "embedding_size": 8, "hidden_sizes": [16, 20, 24, 32], "depths": [1, 1, 1, 1], "layer_type": "basic",
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip

SWIN = {
    "image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 4],
    "window_size": 3, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}  # fmt: skip

Inputs = dict[str, object]


def backbone(kind: str = "resnet", **changes: object):
    """The config of a small backbone: a ResNet, a Swin, or one of timm's networks."""
    if kind == "timm":
        timm = {"backbone": "resnet18", "out_indices": [1, 2, 3, 4], "use_pretrained_backbone": False}
        return transformers.TimmBackboneConfig(**timm)
    if kind == "swin":
        return transformers.SwinConfig(**{**SWIN, **changes})
    return transformers.ResNetConfig(**{**RESNET, **changes})


def pictures(rows: int = 2, height: int = 70, width: int = 45) -> Inputs:
    """Pictures, the last of them padded, and their mask."""
    generator = torch.Generator().manual_seed(5)
    values, mask = torch.randn(rows, 3, height, width, generator=generator), torch.ones(rows, height, width).long()
    mask[-1, height // 2 :] = 0
    return {"pixel_values": values * mask[:, None], "pixel_mask": mask}


def objects(*counts: int, size: tuple[int, int] = (70, 45), classes: int = 7) -> Inputs:
    """So many objects per picture."""
    generator = torch.Generator().manual_seed(1)
    return {
        "mask_labels": [(torch.rand(n, *size, generator=generator) > 0.5).float() for n in counts],
        "class_labels": [torch.randint(0, classes, (n,), generator=generator) for n in counts],
    }


def pair(name: str, config: object, folder: Path, scale: float = 0.1) -> tuple[Model, torch.nn.Module]:
    """Ours and the reference's, of the same random weights."""
    theirs = saved_reference(getattr(transformers, name), config, folder / "model", scale=scale)
    theirs.set_attn_implementation("eager")
    return getattr(omniform, name).from_pretrained(folder / "model"), theirs


def same(ours: object, theirs: object, what: str) -> None:
    """Compare outputs, mappings in them included."""
    if isinstance(theirs, Mapping):
        assert isinstance(ours, Mapping) and list(ours) == list(theirs), what
        for key, value in theirs.items():
            same(ours[key], value, f"{what}.{key}")
    elif isinstance(theirs, (tuple, list)):
        assert isinstance(ours, (tuple, list)) and len(ours) == len(theirs), what
        for i, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            same(mine, other, f"{what}[{i}]")
    else:
        close(ours, theirs, what)


@torch.no_grad()
def agree(ours: Model, theirs: torch.nn.Module, inputs: Inputs, **flags: object) -> None:
    """Every entry, drawn from the same seed."""
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(7)
        outputs.append(model(**inputs, **flags))
    expected, found = outputs
    assert found.keys() == [name for name in expected if expected[name] is not None]
    for name in found:
        same(found[name], expected[name], name)


def gradients_agree(ours: Model, theirs: torch.nn.Module, inputs: Inputs, folder: Path) -> None:
    """The gradient of every parameter, told apart by the checkpoint's names.

    One that float32 alone put off (a bias before a norm has none, and what is left of it is rounding) agrees in float64
    a thousand times as closely, and is about as far from it as the reference's.
    """
    found, wanted = _gradients(ours, theirs, inputs, folder / "narrow")
    wide: tuple[Inputs, Inputs] | None = None
    for path, mine in found.items():
        largest = wanted[path].abs().max().clamp(min=5e-2)
        if (mine - wanted[path]).abs().max() <= 1e-3 * largest:
            continue
        if wide is None:
            with InFloat64():
                double = (copy.deepcopy(one).double() for one in (ours, theirs))
                wide = _gradients(*double, widened(inputs), folder / "wide")
        exact, also = wide[1][path], wide[0][path]
        close(also / largest, exact / largest, f"{path}, in float64", 1e-6)
        off, theirs_off = ((one - exact).abs().max() for one in (mine, wanted[path]))
        assert off <= 4 * theirs_off, f"{path}: {off:.3g} from float64, the reference {theirs_off:.3g}"


def _gradients(ours: Model, theirs: torch.nn.Module, inputs: Inputs, folder: Path) -> tuple[Inputs, Inputs]:
    """Ours and theirs, by our paths."""
    found, expected = (gradients_of(one.eval(), inputs) for one in (ours, theirs))
    kept = copy.deepcopy(theirs)
    with torch.no_grad():
        for path, parameter in kept.named_parameters():
            parameter.copy_(expected[path])
    kept.save_pretrained(folder)
    saved = load_file(folder / "model.safetensors")
    table = table_of(ours)
    return found, {path: table.read(path, saved.__getitem__) for path in found}


def dropped_alike(ours: Model, theirs: torch.nn.Module, inputs: Inputs, *fields: str) -> None:
    """In training, from the same seed."""
    ours.set_attn_implementation("eager")
    outputs = []
    for model in (theirs, ours):
        torch.manual_seed(3)
        outputs.append(model.train()(**inputs))
        model.eval()
    for name in fields:
        same(outputs[1][name], outputs[0][name], name)
