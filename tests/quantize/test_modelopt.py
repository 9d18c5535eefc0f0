"""Checkpoints of ModelOpt: those of compressed-tensors (see make_compressed.py) with its names and kind of scales."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from quantize_checkpoints import same_tensors
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from reference import omniform

FOLDER = Path(__file__).parent / "data" / "compressed"
IDS = torch.tensor([[1, 5, 9, 2, 14, 3, 7]])
LAYER = "model.layers.0.mlp.up_proj"
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SETTINGS = {
    "quant_method": "modelopt",
    "producer": {"name": "modelopt", "version": "0.37.0"},
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
    },
    "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
    "ignore": ["lm_head"],
}


def written(folder, name, algo, harm=lambda held: None):
    """The checkpoint, and the numbers of every layer, worked out one group at a time."""
    shutil.copytree(FOLDER / name, folder)
    held = load_file(folder / "model.safetensors")
    made, numbers = {}, {}
    for key, tensor in held.items():
        stem, _, own = key.rpartition(".")
        if own == "weight_packed":
            made[f"{stem}.weight"] = tensor
        elif own == "weight_global_scale":
            made[f"{stem}.weight_scale_2"] = (1 / tensor).reshape(())
        elif own == "input_global_scale":
            made[f"{stem}.input_scale"] = (1 / tensor).reshape(())
        elif own in ("weight_scale", "input_scale") and algo == "FP8":
            made[key] = tensor.float().reshape(())
        else:
            made[key] = tensor
    for key in [key for key in made if key.endswith(".weight_scale")]:
        stem = key.removesuffix(".weight_scale")
        weight, scales = made[f"{stem}.weight"], made[key].float()
        if algo == "FP8":
            numbers[stem] = weight.float() * scales
        else:
            codes = torch.stack([weight & 15, weight >> 4], -1).flatten(1)
            values = torch.tensor([E2M1[c & 7] * (-1 if c & 8 else 1) for c in codes.flatten().tolist()])
            each = (scales * made[f"{stem}.weight_scale_2"])[:, :, None]
            numbers[stem] = (values.view(*scales.shape, 16) * each).flatten(1)
        if stem.endswith("k_proj"):
            made[f"{stem}.k_scale"] = torch.tensor(0.5)
    harm(made)
    save_file(
        {key: tensor.contiguous() for key, tensor in made.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**SETTINGS, "quant_algo": algo}
    (folder / "config.json").write_text(json.dumps(config))
    return numbers


def replace(held, own, change):
    held[f"{LAYER}.{own}"] = change(held[f"{LAYER}.{own}"])


@pytest.mark.parametrize(("name", "algo"), (("nvfp4", "NVFP4"), ("fp8", "FP8")))
def test_numbers_and_answers(name, algo, tmp_path, caplog):
    numbers = written(tmp_path / "made", name, algo)
    with caplog.at_level("WARNING", "omniform"):
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert "activations stay floats" in caplog.text and "cache_dtype" in caplog.text
    found = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert found.keys() == numbers.keys()
    for path, layer in found.items():
        assert torch.equal(layer.weight, numbers[path]), path
    model.save_pretrained(tmp_path / "again")
    same_tensors(tmp_path / "made", tmp_path / "again")
    saved = json.loads((tmp_path / "again/config.json").read_text())["quantization_config"]
    assert {key: saved[key] for key in SETTINGS} == SETTINGS
    asked = omniform.CompressedTensorsConfig(round_activations=False)  # as ModelOpt's stay here
    twin = omniform.AutoModelForCausalLM.from_pretrained(FOLDER / name, quantization_config=asked)
    with torch.no_grad():
        expected = twin(IDS).logits.float()
        assert (model(IDS).logits.float() - expected).abs().max() <= 2e-2 * expected.abs().max()
    asked = omniform.ModelOptConfig(quant_algo=algo, dequantize=True)
    plain = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made", quantization_config=asked)
    assert not any(isinstance(m, QuantLinear) for m in plain.modules())


@pytest.mark.parametrize(
    ("harm", "said"),
    (
        (lambda held: held.pop(f"{LAYER}.weight"), f"{LAYER}.*expected weight"),
        (lambda held: replace(held, "weight_scale", lambda x: x[:, :3]), f"{LAYER}.*3 scales"),
        (lambda held: replace(held, "weight", lambda x: x.int()), f"{LAYER}.*uint8.*int32"),
        (lambda held: replace(held, "weight_scale", lambda x: x[:9]), f"{LAYER}.*96.*9"),
    ),
)  # fmt: skip
def test_tensors_that_do_not_fit(harm, said, tmp_path):
    written(tmp_path / "made", "nvfp4", "NVFP4", harm)
    with pytest.raises(WeightsError, match=f"(?s){said}"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")


def test_methods_that_are_not_read():
    with pytest.raises(ConfigError, match=r"quant_algo.*NVFP4, FP8.*W4A8_AWQ"):
        omniform.ModelOptConfig(quant_algo="W4A8_AWQ")
