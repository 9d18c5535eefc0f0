"""Checkpoints that compressed-tensors itself wrote (make_compressed.py), beside what that package reads from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from quantize_checkpoints import same_tensors

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.stacks import QuantStack
from reference import omniform

FOLDER = Path(__file__).parent / "data" / "compressed"
CASES = sorted(path.name for path in FOLDER.iterdir())
IDS = torch.tensor([[1, 5, 9, 2, 14, 3, 7]])


def told(name):
    return json.loads((FOLDER / name / "oracle.json").read_text())


def weights_of(model):
    """The numbers of every quantized layer, by the name of its module in the checkpoint."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, QuantLinear):
            found[path] = module.weight
        elif isinstance(module, QuantStack):
            parent, own = path.rsplit(".", 1)
            for expert in range(module.shape[0]):
                numbers = module.numbers_of(expert).chunk(module.shares)
                names = ("gate_proj", "up_proj") if module.shares == 2 else (own,)
                found |= {f"{parent}.{expert}.{n}": x for n, x in zip(names, numbers, strict=True)}
    return found


def logits(model):
    with torch.no_grad():
        return model(IDS).logits[0].float()


def rounded(model, layers):
    """A plain model whose quantized weights are rounded to the dtype in which the package decompresses them."""
    (dtype,) = {one["dtype"] for one in layers.values()}
    paths = [path for path, module in model.named_modules() if isinstance(module, QuantLinear | QuantStack)]
    model = model.dequantize(torch.float32).float()
    with torch.no_grad():
        for path in paths:
            weight = model.get_submodule(path).weight
            weight.copy_(weight.to(getattr(torch, dtype)))
    return model


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_the_packages(name, tmp_path):
    oracle = told(name)
    model = omniform.AutoModelForCausalLM.from_pretrained(FOLDER / name)
    found = weights_of(model)
    assert found.keys() == oracle["layers"].keys()
    for layer, expected in oracle["layers"].items():
        numbers = found[layer].to(getattr(torch, expected["dtype"])) + 0.0
        assert numbers.flatten()[:6].float().tolist() == expected["first"], layer
        raw = numbers.contiguous().view(torch.uint8).numpy().tobytes()
        assert hashlib.sha256(raw).hexdigest() == expected["sha256"], layer
    model.save_pretrained(tmp_path)
    same_tensors(FOLDER / name, tmp_path)
    said, saved = (
        json.loads((f / "config.json").read_text())["quantization_config"] for f in (FOLDER / name, tmp_path)
    )
    assert {key: saved[key] for key in said} == said
    plain = torch.tensor(oracle["plain"])
    assert (logits(rounded(model, oracle["layers"])) - plain).abs().max() <= 1e-4 * plain.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_packed_ones_answer_as_their_numbers_do(name):
    asked = omniform.CompressedTensorsConfig(round_activations=False)
    model = omniform.AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32, quantization_config=asked)
    packed = logits(model)
    expected = logits(model.dequantize())
    assert (packed - expected).abs().max() <= 4e-3 * expected.abs().max()


ROUNDED = ("fp8", "fp8-dynamic", "mxfp4", "mxfp8", "nvfp4", "w4a8", "w4afp8", "w8a8", "w8a8-static", "w8a8-static-asym")


@pytest.mark.parametrize("name", ROUNDED)
def test_rounded_activations_are_the_packages(name):
    """Beside the package's own forward, from which plain activations are further off by far."""
    oracle = told(name)
    model = omniform.AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32)
    expected, plain = torch.tensor(oracle["active"]), torch.tensor(oracle["plain"])
    off = (plain - expected).abs().mean()
    if name not in ("fp8-dynamic", "w4a8", "w4afp8", "w8a8"):  # where weights rounded to bfloat16 differ as much
        assert (logits(model) - expected).abs().mean() <= 0.5 * off
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert all(layer.format.rounds_inputs for layer in layers.values())
    same = rounded(model, oracle["layers"])
    for path, layer in layers.items():
        hook = lambda module, given, layer=layer: layer.format.rounding(given[0], layer.held)
        same.get_submodule(path).register_forward_pre_hook(hook)
    assert (logits(same) - expected).abs().mean() <= 0.02 * off


def test_inputs_that_are_no_whole_groups_are_named(caplog):
    asked = omniform.CompressedTensorsConfig(round_activations=True)
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.down_proj.*groups of 128, of 160 inputs"):
        omniform.AutoModelForCausalLM.from_pretrained(FOLDER / "fp8-block", quantization_config=asked)
    with caplog.at_level("WARNING", "omniform"):
        omniform.AutoModelForCausalLM.from_pretrained(FOLDER / "fp8-block")
    assert "activations stay floats" in caplog.text and "down_proj" in caplog.text
