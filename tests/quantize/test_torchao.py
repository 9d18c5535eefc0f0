"""torchao's checkpoints of eight bits: read without it; with it, its own ``quantize_`` is the oracle."""

from __future__ import annotations

import json

import pytest
import torch
from quantize_checkpoints import FAMILIES, logits, plain, rewritten

from omniform.core.errors import ConfigError, DependencyError, InputError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from reference import omniform

# As torchao 0.18 writes it: config_to_dict(Int8WeightOnlyConfig()), and the other's.
INT8 = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None, "granularity": {
    "_type": "PerRow", "_version": 1, "_data": {"dim": -1}}, "set_inductor_config": True}}  # fmt: skip
FLOAT8 = {"_type": "Float8WeightOnlyConfig", "_version": 2, "_data": {"weight_dtype": {
    "_type": "torch.dtype", "_data": "float8_e4m3fn"}, "set_inductor_config": True}}  # fmt: skip


def settings(said):
    return {"quant_method": "torchao", "quant_type": {"default": said}, "modules_to_not_convert": None,
            "include_input_output_embeddings": False, "untie_embedding_weights": False}  # fmt: skip


def packer(kind, groups, zeros):
    """A packer of the test's own, of the keys and shapes that torchao 0.18 writes."""

    def packed(name, weight):
        outs, ins = weight.shape
        x = weight.reshape(outs, groups, -1).float()
        if kind is torch.int8:
            scale = x.abs().amax(-1) / 127
            zero = torch.randint(-5, 6, scale.shape) if zeros else torch.zeros_like(scale)
            codes = (x / scale[..., None] + zero[..., None]).round().clamp(-128, 127)
            numbers = (codes - zero[..., None]) * scale[..., None]
            held = {"_weight_zero_point": zero.to(torch.int8)}
        else:
            scale = x.abs().amax(-1) / 448
            codes = (x / scale[..., None]).to(kind)
            numbers, held = codes.float() * scale[..., None], {}
        held |= {"_weight_qdata": codes.to(kind).reshape(outs, ins), "_weight_scale": scale}
        return held, numbers.reshape(outs, ins)

    return packed


READ = [
    *((family, torch.int8, 1, False, INT8) for family in FAMILIES),
    ("llama", torch.int8, 2, True, INT8),
    ("phi3", torch.float8_e4m3fn, 1, False, FLOAT8),
]


@pytest.mark.parametrize(("family", "kind", "groups", "zeros", "said"), READ)
def test_read_without_the_package(family, kind, groups, zeros, said, tmp_path):
    cls = plain(family, tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "ao", settings(said), packer(kind, groups, zeros), tmp_path / "twin")
    model, twin = cls.from_pretrained(tmp_path / "ao"), cls.from_pretrained(tmp_path / "twin")
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(layers) >= 8
    for path, layer in layers.items():
        assert torch.allclose(layer.weight, twin.get_submodule(path).weight, atol=1e-6), path
    expected = logits(twin)
    assert (logits(model) - expected).abs().max() <= 2e-2 * max(1, expected.abs().max())
    with pytest.raises(InputError, match="cannot be saved"):
        model.save_pretrained(tmp_path / "saved")
    assert model.config.quantization_config.to_dict() == settings(said)
    model.dequantize().save_pretrained(tmp_path / "back")
    assert (logits(cls.from_pretrained(tmp_path / "back")) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_four_bits_are_refused_by_name(tmp_path):
    cls = plain("llama", tmp_path / "plain")

    def four(name, weight):
        outs, ins = weight.shape
        made = {
            "_weight_qdata": torch.zeros(outs, ins // 2, dtype=torch.int8),
            "_weight_scale": torch.ones(ins // 32, outs),
        }
        return made, weight

    rewritten(tmp_path / "plain", tmp_path / "ao", settings({"_type": "Int4WeightOnlyConfig"}), four)
    with pytest.raises(WeightsError, match=r"q_proj|k_proj") as raised:
        cls.from_pretrained(tmp_path / "ao")
    assert "int8" in raised.value.expected and raised.value.remedy


@pytest.mark.parametrize("given", ["int8_weight_only", None, {"group_size": 3}])
def test_what_are_no_settings_of_torchao(given):
    with pytest.raises(ConfigError, match="quant_type"):
        omniform.TorchAoConfig(given)


def test_without_the_package_making_one_is_refused(tmp_path):
    import importlib.util

    if importlib.util.find_spec("torchao") is not None:
        pytest.skip("torchao is installed")
    cls = plain("llama", tmp_path / "plain")
    with pytest.raises(DependencyError, match="omniform\\[torchao\\]"):
        cls.from_pretrained(tmp_path / "plain", quantization_config=omniform.TorchAoConfig(INT8))


@pytest.mark.parametrize("name", ["Int8WeightOnlyConfig", "Float8WeightOnlyConfig"])
def test_made_by_the_package(name, tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    from torchao.core.config import config_to_dict

    said = getattr(quantization, name)()
    cls = plain("llama", tmp_path / "plain")
    asked = omniform.TorchAoConfig(said)
    assert asked.to_dict() == settings(config_to_dict(said))
    again = omniform.AutoQuantizationConfig.from_dict(json.loads(json.dumps(asked.to_dict())))
    assert again.to_dict() == asked.to_dict()
    model, twin = (
        cls.from_pretrained(tmp_path / "plain", quantization_config=asked),
        cls.from_pretrained(tmp_path / "plain"),
    )
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(layers) == 14
    for path, layer in layers.items():
        lone = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        lone.weight.data = twin.get_submodule(path).weight.detach().clone()
        quantization.quantize_(lone, said)
        assert torch.allclose(layer.weight, lone.weight.dequantize(), atol=1e-6), path
