"""Quantizers written as for releases before 5, and what a config and ``inspect`` say of a quantized model."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from omniform.quantizers import HfQuantizer, get_module_from_name, register_quantization_config, register_quantizer
from omniform.utils.quantization_config import QuantizationConfigMixin
from torch import nn

import omniform
from omniform.core.errors import ConfigError
from omniform.hub.inspect import inspect

IDS = torch.tensor([[1, 2, 3]])


class SymmetricLinear(nn.Module):
    def __init__(self, in_features, out_features, bias, dtype=torch.float32):
        super().__init__()
        self.register_buffer("weight", torch.zeros((out_features, in_features), dtype=torch.int8))
        self.register_buffer("weight_scale", torch.zeros((out_features, 1), dtype=dtype))
        if bias:
            self.register_buffer("bias", torch.zeros(out_features, dtype=dtype))
        else:
            self.bias = None

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.weight_scale, self.bias)


@register_quantization_config("test_older")
class OlderConfig(QuantizationConfigMixin):
    def __init__(self, modules_to_not_convert=None, **kwargs):
        self.quant_method = "test_older"
        self.modules_to_not_convert = modules_to_not_convert


@register_quantizer("test_older")
class OlderQuantizer(HfQuantizer):
    def update_torch_dtype(self, torch_dtype):
        return torch_dtype or torch.float32

    def _process_model_before_weight_loading(self, model, **kwargs):
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear) and name != "lm_head":
                parent, child = get_module_from_name(model, name)
                has_bias, dtype = layer.bias is not None, layer.weight.dtype
                parent._modules[child] = SymmetricLinear(layer.in_features, layer.out_features, has_bias, dtype)

    def check_quantized_param(self, model, param_value, param_name, state_dict, **kwargs):
        module, name = get_module_from_name(model, param_name)
        return isinstance(module, SymmetricLinear) and name == "weight" and not self.pre_quantized

    def create_quantized_param(self, model, param_value, param_name, target_device, state_dict, unexpected_keys=None):
        scale = param_value.abs().amax(1, keepdim=True).clamp(min=1e-5) / 127
        module, name = get_module_from_name(model, param_name)
        module._buffers[name] = (param_value / scale).round().clamp(-128, 127).to(torch.int8).to(target_device)
        module._buffers["weight_scale"] = scale.to(target_device)
        assert state_dict[param_name] is param_value

    def _process_model_after_weight_loading(self, model, **kwargs):
        return True

    def is_serializable(self, safe_serialization=None):
        return True

    @property
    def is_trainable(self):
        return False


@register_quantization_config("test_plain")
class PlainConfig(QuantizationConfigMixin):
    def __init__(self):
        self.quant_method, self.bits = "test_plain", 8

    def to_dict(self):
        return {"num_bits": self.bits}


@register_quantizer("test_plain")
class PlainQuantizer(HfQuantizer):
    def is_serializable(self):
        return True

    def is_trainable(self):
        return False


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("plain")
    config = omniform.Qwen2Config(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    omniform.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def load(folder, **kwargs):
    return omniform.AutoModelForCausalLM.from_pretrained(folder, **kwargs)


def test_asked_for_saved_and_loaded(plain, tmp_path):
    model = load(plain, quantization_config=OlderConfig(), device_map="cpu")
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, SymmetricLinear) and layer.weight.dtype == torch.int8 and layer.bias is not None
    expected = load(plain)(IDS).logits
    assert 0 < (model(IDS).logits - expected).abs().max() < 0.05 * expected.abs().max()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    again = load(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert torch.equal(again.generate(IDS, max_new_tokens=3), model.generate(IDS, max_new_tokens=3))

    summary = inspect(tmp_path)
    assert summary.dtypes["int8"] == sum(m.weight.numel() for m in model.modules() if isinstance(m, SymmetricLinear))
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"]["quant_method"] = "nobodys"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="nobodys"):
        inspect(tmp_path)


def test_a_config_says_it(plain, tmp_path):
    given = omniform.AutoConfig.from_pretrained(plain)
    model = load(plain, config=given, quantization_config=OlderConfig(["a"]))
    assert "quantization_config" not in given.raw  # the caller's own, to be used again
    for config in (model.config, copy.deepcopy(model.config), pickle.loads(pickle.dumps(model.config))):
        said = config.quantization_config
        assert isinstance(said, OlderConfig) and said.modules_to_not_convert == ["a"]
        assert config.to_dict()["quantization_config"] == {
            "quant_method": "test_older",
            "modules_to_not_convert": ["a"],
        }
    model.save_pretrained(tmp_path)
    assert isinstance(load(tmp_path).config.quantization_config, OlderConfig)
    given.quantization_config = OlderConfig(["a"])  # as one sets it by hand
    assert torch.equal(load(tmp_path, config=given)(IDS).logits, model(IDS).logits)
    given.quantization_config = None
    assert given.quantization_config is None and not load(plain, config=given).is_quantized


def test_the_method_is_always_named(plain, tmp_path):
    model = load(plain, quantization_config=PlainConfig())
    assert torch.equal(model(IDS).logits, load(plain)(IDS).logits)
    model.save_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert said == {"quant_method": "test_plain", "num_bits": 8}
