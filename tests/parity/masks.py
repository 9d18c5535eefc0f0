"""What tests of models that predict sets of masks share: a small backbone, objects, losses and gradients by seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

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
    """The gradient of every parameter, told apart by the checkpoint's names."""
    theirs.requires_grad_(True)
    for model in (theirs, ours):
        model.eval()
        torch.manual_seed(7)
        model(**inputs).loss.sum().backward()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(folder / "gradients")
    expected = load_file(folder / "gradients" / "model.safetensors")
    table = table_of(ours)
    for path, parameter in ours.named_parameters():
        wanted = table.read(path, expected.__getitem__)
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # Biases before norms have none, but for rounding.
        largest = wanted.abs().max().clamp(min=5e-2)
        close(found / largest, wanted / largest, path, 1e-3)


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
