"""Quantized folders of before ``config.json`` said so, biases of noughts, and AWQ's scaled activations."""

from __future__ import annotations

import json

import pytest
import torch
from gptq_written import written
from quantize_checkpoints import logits, plain, rewritten
from safetensors.torch import load_file, save_file
from test_awq_format import packer, settings

from omniform.blocks.lowering import CannotLower
from omniform.core.errors import ConfigError, WeightsError
from omniform.transforms.matrices import matrix_of
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.scaled import DividedLinear
from reference import omniform

NOTHING = {"quant_method": "none"}


def of_gptq(name, weight):
    outs, ins = weight.shape
    tensors, numbers = written(name, outs, ins, 4, 32, seed=len(name) + outs)
    held = {key.removeprefix(f"{name}."): x for key, x in tensors.items()}
    return {**held, "bias": torch.zeros(outs)}, torch.from_numpy(numbers).float()


def old(folder, settings_file, said, weights="model.safetensors"):
    """Turn a folder into one of old: the settings beside the config, the weights under another name."""
    raw = json.loads((folder / "config.json").read_text())
    del raw["quantization_config"]
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / settings_file).write_text(json.dumps(said))
    (folder / "model.safetensors").rename(folder / weights)


GPTQ = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": False, "static_groups": False, "sym": False,
        "true_sequential": True, "model_name_or_path": None, "model_file_base_name": None}  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "base"),
    (
        ("model.safetensors", None), ("model.safetensors", "model"), ("gptq_model-4bit-32g.safetensors", None),
        ("gptq_model-4bit-32g.safetensors", "gptq_model-4bit-32g"), ("mine-4bit.safetensors", "mine-4bit"),
    ),
)  # fmt: skip
def test_folders_of_autogptq(weights, base, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    layers = rewritten(tmp_path / "plain", tmp_path / "old", NOTHING, of_gptq, tmp_path / "twin")
    old(tmp_path / "old", "quantize_config.json", {**GPTQ, "model_file_base_name": base}, weights)
    model = kind.from_pretrained(tmp_path / "old")
    assert sum(isinstance(m, QuantLinear) for m in model.modules()) == len(layers)
    assert model.config.quantization_config.quant_method == "gptq"
    expected = logits(kind.from_pretrained(tmp_path / "twin"))
    assert (logits(model) - expected).abs().max() <= 1e-2 * expected.abs().max()
    model.save_pretrained(tmp_path / "saved")
    one, two = load_file(tmp_path / "old" / weights), load_file(tmp_path / "saved/model.safetensors")
    assert one.keys() == two.keys() and any(key.endswith("q_proj.bias") for key in one)
    assert all(torch.equal(one[key], two[key]) for key in one)
    again = kind.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(model))
    again.dequantize().save_pretrained(tmp_path / "back")
    held = load_file(tmp_path / "back/model.safetensors")
    assert held.keys() == load_file(tmp_path / "plain/model.safetensors").keys()


def test_a_bias_that_is_of_the_checkpoint_alone_counts(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "old", NOTHING, of_gptq)
    old(tmp_path / "old", "quantize_config.json", GPTQ)
    before = logits(kind.from_pretrained(tmp_path / "old"))
    held = load_file(tmp_path / "old/model.safetensors")
    held["model.layers.0.mlp.up_proj.bias"] += 0.5
    save_file(held, tmp_path / "old/model.safetensors", {"format": "pt"})
    model = kind.from_pretrained(tmp_path / "old")
    assert torch.equal(model.model.layers[0].mlp.up_proj.bias, held["model.layers.0.mlp.up_proj.bias"])
    assert (logits(model) - before).abs().max() > 1e-2


def test_a_folder_for_a_kernel_of_others_is_refused(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "old", NOTHING, of_gptq)
    old(tmp_path / "old", "quantize_config.json", {**GPTQ, "is_marlin_format": True})
    with pytest.raises(ConfigError, match="Marlin"):
        kind.from_pretrained(tmp_path / "old")


@pytest.mark.parametrize(
    ("said", "version"),
    (
        ({"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}, "gemm"),
        ({"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMV"}, "gemv"),
        ({"q_group_size": 32, "w_bit": 4}, "gemm"),
    ),
)
def test_folders_of_awq(said, version, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "old", NOTHING, packer(version, 32), tmp_path / "twin")
    old(tmp_path / "old", "quant_config.json", said)
    model = kind.from_pretrained(tmp_path / "old")
    expected = logits(kind.from_pretrained(tmp_path / "twin"))
    assert (logits(model) - expected).abs().max() <= 1e-2 * expected.abs().max()
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(logits(kind.from_pretrained(tmp_path / "saved")), logits(model))


def scaled(tmp_path, wide=None):
    """AWQ of a GPT-NeoX with divided activations, and a plain twin whose matrices say the same."""
    kind = plain("gpt_neox", tmp_path / "plain")
    torch.manual_seed(5)
    scales = {n: torch.rand(128) + 0.5 for n in range(2)}
    pack = packer("gemm", 32)

    def packed(name, weight):
        held, numbers = pack(name, weight)
        if "dense_4h_to_h" in name:
            numbers = numbers / scales[int(name.split("layers.")[1][0])]
        return held, numbers

    rewritten(tmp_path / "plain", tmp_path / "awq", settings("gemm", 32), packed, tmp_path / "twin")
    path = tmp_path / "awq/model.safetensors"
    held = load_file(path)
    for n, one in scales.items():
        held[f"gpt_neox.layers.{n}.mlp.act.scales"] = one[:wide]
    save_file(held, path, {"format": "pt"})
    return kind, held


def test_scaled_activations(tmp_path):
    kind, held = scaled(tmp_path)
    model = kind.from_pretrained(tmp_path / "awq")
    found = {path: m for path, m in model.named_modules() if isinstance(m, DividedLinear)}
    assert len(found) == 2
    expected = logits(kind.from_pretrained(tmp_path / "twin"))
    assert (logits(model) - expected).abs().max() <= 1e-2 * expected.abs().max()
    model.save_pretrained(tmp_path / "saved")
    again = load_file(tmp_path / "saved/model.safetensors")
    assert again.keys() == held.keys() and all(torch.equal(again[key], held[key]) for key in held)
    back = kind.from_pretrained(tmp_path / "saved").dequantize()
    assert (logits(back) - expected).abs().max() <= 1e-4 * expected.abs().max()
    back.save_pretrained(tmp_path / "back")
    assert (logits(kind.from_pretrained(tmp_path / "back")) - expected).abs().max() <= 1e-4 * expected.abs().max()
    with pytest.raises(CannotLower, match="divided"):
        matrix_of(next(iter(found.values())))
    ids = [5, 6, 7]
    for token in omniform.Engine(model).generate(ids, max_new_tokens=6).tokens:
        with torch.no_grad():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids = [*ids, token]


def test_scaled_activations_that_fit_no_layer(tmp_path):
    kind, _ = scaled(tmp_path, wide=100)
    with pytest.raises(WeightsError, match=r"mlp\.act\.scales.*128.*100"):
        kind.from_pretrained(tmp_path / "awq")
