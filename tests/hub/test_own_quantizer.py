"""Quantizers of the user's own: registered, asked for, saved, loaded and taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from omniform.core.errors import ConfigError, InputError, MissingPartError, UnknownArgumentError, WeightsError
from reference import omniform, transformers

ROOT = Path(__file__).parents[2]
IDS = torch.tensor([[5, 6, 7, 8]])


class ByteLinear(nn.Module):
    """Rows of whole numbers, each with its scale."""

    def __init__(self, features_in: int, features_out: int, bias: bool) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(features_out, features_in, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.zeros(features_out, 1))
        self.bias = nn.Parameter(torch.zeros(features_out)) if bias else None

    def plain(self) -> torch.Tensor:
        return self.weight * self.weight_scale

    def forward(self, x):
        return nn.functional.linear(x, self.plain().to(x.dtype), self.bias)


@omniform.register_quantization_config("test_bytes")
class BytesConfig(omniform.QuantizationConfigMixin):
    def __init__(self, skip=("head", "lm_head", "classifier"), group=None, **kwargs):
        self.quant_method = "test_bytes"
        self.skip = list(skip)
        self.group = group


class ToBytes(omniform.ConversionOps):
    def convert(self, input_dict, *, model, full_layer_name, missing_keys, **kwargs):
        weight = input_dict[full_layer_name][0]
        scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-9).float() / 127
        return {full_layer_name: (weight / scale).round().to(torch.int8), f"{full_layer_name}_scale": [scale]}


@omniform.register_quantizer("test_bytes")
class BytesQuantizer(omniform.HfQuantizer):
    is_trainable = True
    saves = True

    def validate_environment(self, **kwargs):
        if kwargs["dtype"] == torch.float16:
            raise ValueError("no halves")

    def update_dtype(self, dtype):
        return dtype or torch.float32

    def _process_model_before_weight_loading(self, model, **kwargs):
        for name, layer in list(model.named_modules()):
            if isinstance(layer, nn.Linear) and omniform.should_convert_module(name, self.quantization_config.skip):
                parent, child = omniform.get_module_from_name(model, name)
                setattr(parent, child, ByteLinear(layer.in_features, layer.out_features, layer.bias is not None))

    def param_needs_quantization(self, model, param_name, **kwargs):
        module, name = omniform.get_module_from_name(model, param_name)
        return isinstance(module, ByteLinear) and name == "weight"

    def get_quantize_ops(self):
        return ToBytes()

    def is_serializable(self):
        return self.saves

    def _dequantize(self, model, dtype=None):
        for name, layer in list(model.named_modules()):
            if isinstance(layer, ByteLinear):
                parent, child = omniform.get_module_from_name(model, name)
                plain = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], layer.bias is not None)
                plain.weight = nn.Parameter(layer.plain().to(dtype or torch.float32))
                plain.bias = layer.bias
                setattr(parent, child, plain)
        return model


SMALL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": (SMALL, "LlamaForCausalLM"),
    "qwen2": ({**SMALL, "num_key_value_heads": 2}, "Qwen2ForCausalLM"),
    "bert": (SMALL, "BertForSequenceClassification"),
    "gpt2": ({"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "eos_token_id": 1}, "GPT2LMHeadModel"),
    "gpt_neox": (SMALL, "GPTNeoXForCausalLM"),
    "phi3": ({**SMALL, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}, "Phi3ForCausalLM"),
    "t5": ({"vocab_size": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4},
           "T5ForConditionalGeneration"),
    "mixtral": ({**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}, "MixtralForCausalLM"),
}  # fmt: skip


def saved(family: str, folder: Path):
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    model = getattr(omniform, name)(omniform.AutoConfig.for_model(family, **keys)).eval()
    model.save_pretrained(folder)
    return model


def outputs(model):
    asked = {"input_ids": IDS, "decoder_input_ids": IDS} if model.config.is_encoder_decoder else {"input_ids": IDS}
    with torch.no_grad():
        return model(**asked).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_asked_for_saved_and_loaded(family, tmp_path):
    plain = saved(family, tmp_path / "plain")
    kind = type(plain)
    model = kind.from_pretrained(tmp_path / "plain", quantization_config=BytesConfig())
    layers = [m for m in model.modules() if isinstance(m, ByteLinear)]
    assert layers and model.is_quantized and isinstance(model.hf_quantizer, BytesQuantizer)
    expected, found = outputs(plain), outputs(model)
    assert not torch.equal(expected, found)
    assert (expected - found).abs().max() < 0.05 * expected.abs().max()

    model.save_pretrained(tmp_path / "small")
    config = json.loads((tmp_path / "small/config.json").read_text())
    assert config["quantization_config"] == BytesConfig().to_dict()
    stored = load_file(tmp_path / "small/model.safetensors")
    assert any(tensor.dtype == torch.int8 for tensor in stored.values())

    again = kind.from_pretrained(tmp_path / "small")
    assert torch.equal(outputs(again), found)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "small/model.safetensors").read_bytes()
    assert json.loads((tmp_path / "again/config.json").read_text()) == config

    back = again.dequantize()
    assert not any(isinstance(m, ByteLinear) for m in back.modules()) and not back.is_quantized
    assert torch.allclose(outputs(back), found, atol=1e-5)
    back.save_pretrained(tmp_path / "back")
    assert not json.loads((tmp_path / "back/config.json").read_text()).get("quantization_config")
    assert torch.allclose(outputs(kind.from_pretrained(tmp_path / "back")), found, atol=1e-5)


def test_a_folder_of_the_reference_reads_alike(tmp_path):
    """Its quantized tensors lie where ours do."""
    from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    @register_quantization_config("test_bytes")
    class TheirConfig(QuantizationConfigMixin):
        def __init__(self, skip=("lm_head",), **kwargs):
            self.quant_method, self.skip = "test_bytes", list(skip)

    @register_quantizer("test_bytes")
    class Theirs(HfQuantizer):
        is_trainable = True
        is_serializable = lambda self: True
        param_needs_quantization = BytesQuantizer.param_needs_quantization
        _process_model_before_weight_loading = BytesQuantizer._process_model_before_weight_loading

        def get_quantize_ops(self):
            class Op:
                def convert(self, input_dict, full_layer_name=None, missing_keys=None, **kwargs):
                    held = next(iter(input_dict.values()))
                    found = ToBytes().convert(
                        {full_layer_name: held if isinstance(held, list) else [held]},
                        model=None, full_layer_name=full_layer_name, missing_keys=missing_keys,
                    )  # fmt: skip
                    missing_keys.discard(f"{full_layer_name}_scale")
                    return {name: v[0] if isinstance(v, list) else v for name, v in found.items()}

            return Op()

    saved("llama", tmp_path / "plain")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=TheirConfig())
    theirs.save_pretrained(tmp_path / "theirs")
    ours = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert torch.allclose(outputs(ours), theirs(IDS).logits, atol=1e-5)
    mine = omniform.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=BytesConfig(["lm_head"])
    )
    mine.save_pretrained(tmp_path / "mine")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("mine", "theirs"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestAuto:
    def test_settings_by_their_method(self, tmp_path):
        found = omniform.AutoQuantizationConfig.from_dict({"quant_method": "test_bytes", "skip": ["x"]})
        assert isinstance(found, BytesConfig) and found.skip == ["x"]
        quantizer = omniform.AutoHfQuantizer.from_config(found)
        assert isinstance(quantizer, BytesQuantizer) and quantizer.pre_quantized
        assert not omniform.AutoHfQuantizer.from_config(found.to_dict(), pre_quantized=False).pre_quantized

    def test_of_a_checkpoint(self, tmp_path):
        saved("llama", tmp_path / "plain")
        with pytest.raises(ConfigError, match="not quantized"):
            omniform.AutoQuantizationConfig.from_pretrained(tmp_path / "plain")
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=BytesConfig())
        model.save_pretrained(tmp_path / "small")
        assert omniform.AutoQuantizationConfig.from_pretrained(tmp_path / "small") == BytesConfig()
        assert isinstance(omniform.AutoHfQuantizer.from_pretrained(tmp_path / "small"), BytesQuantizer)

    def test_settings_are_written_and_changed(self, tmp_path):
        config = BytesConfig()
        config.to_json_file(tmp_path / "q.json")
        assert BytesConfig.from_dict(json.loads((tmp_path / "q.json").read_text())) == config
        assert config.update(skip=["a"], nonsense=1) == {"nonsense": 1} and config.skip == ["a"]
        changed, unused = BytesConfig.from_dict({}, return_unused_kwargs=True, group=4, other=2)
        assert changed.group == 4 and unused == {"other": 2}
        with pytest.raises(UnknownArgumentError, match="group"):
            BytesConfig.from_dict({}, grup=4)

    def test_the_ecosystems_paths(self):
        from omniform.quantizers import HfQuantizer, register_quantizer
        from omniform.utils.quantization_config import QuantizationConfigMixin

        assert HfQuantizer is omniform.HfQuantizer and register_quantizer is omniform.register_quantizer
        assert QuantizationConfigMixin is omniform.QuantizationConfigMixin


class TestMistakes:
    def test_names_that_are_taken_and_what_is_none(self):
        with pytest.raises(ConfigError, match="test_bytes"):
            omniform.register_quantizer("test_bytes")(BytesQuantizer)
        with pytest.raises(ConfigError, match="test_bytes"):
            omniform.register_quantization_config("test_bytes")(BytesConfig)
        with pytest.raises(InputError, match="not a quantizer"):
            omniform.register_quantizer("other")(BytesConfig)
        with pytest.raises(InputError, match="settings"):
            omniform.register_quantization_config("other")(int)
        with pytest.raises(TypeError):  # it lacks the two that every quantizer has to say

            class Half(omniform.HfQuantizer):
                pass

            Half(BytesConfig())

    def test_settings_without_a_quantizer(self, tmp_path):
        class Lonely(omniform.QuantizationConfigMixin):
            quant_method = "lonely"

        saved("llama", tmp_path)
        with pytest.raises(ConfigError, match="lonely"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=Lonely())
        with pytest.raises(InputError, match=r"test_bytes.*unheard"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config={"quant_method": "unheard"})
        with pytest.raises(InputError, match="quant_method"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config={"bits": 4})
        with pytest.raises(InputError, match="quantization_config"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=4)

    def test_a_quantizer_that_leaves_out_a_tensor(self, tmp_path, monkeypatch):
        saved("llama", tmp_path)
        convert = ToBytes.convert
        monkeypatch.setattr(
            ToBytes,
            "convert",
            lambda self, given, **k: {k["full_layer_name"]: convert(self, given, **k)[k["full_layer_name"]]},
        )
        with pytest.raises(WeightsError, match="weight_scale"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BytesConfig())

    def test_what_the_quantizer_refuses(self, tmp_path):
        saved("llama", tmp_path)
        with pytest.raises(ValueError, match="no halves"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BytesConfig(), dtype="float16")

    def test_calibration_and_no_way_back(self, tmp_path, monkeypatch):
        saved("llama", tmp_path)
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BytesConfig())
        monkeypatch.setattr(BytesQuantizer, "_dequantize", omniform.HfQuantizer._dequantize)
        with pytest.raises(MissingPartError, match="BytesQuantizer"):
            model.dequantize()
        assert model.is_quantized
        monkeypatch.setattr(BytesQuantizer, "requires_calibration", True)
        with pytest.raises(InputError, match="calibration"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BytesConfig())
        with pytest.raises(InputError, match="not quantized"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path).dequantize()

    def test_one_that_cannot_be_saved(self, tmp_path, monkeypatch):
        saved("llama", tmp_path / "plain")
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=BytesConfig())
        monkeypatch.setattr(BytesQuantizer, "saves", False)
        with pytest.raises(InputError, match="cannot be saved"):
            model.save_pretrained(tmp_path / "small")
        assert not (tmp_path / "small").exists()

    def test_two_methods_at_once(self, tmp_path):
        @omniform.register_quantization_config("test_other")
        class Other(omniform.QuantizationConfigMixin):
            quant_method = "test_other"

        saved("llama", tmp_path / "plain")
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=BytesConfig())
        model.save_pretrained(tmp_path / "small")
        with pytest.raises(ConfigError, match=r"BytesConfig.*Other"):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "small", quantization_config=Other())


def test_adapters_are_trained_on_it(tmp_path):
    import peft

    saved("llama", tmp_path)
    model = omniform.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BytesConfig(["lm_head", "q_proj"])
    )
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    loss = tuned(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert any(p.grad is not None for p in tuned.parameters())


def test_it_generates_as_its_plain_twin(tmp_path):
    saved("llama", tmp_path)
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=BytesConfig())
    tokens = model.generate(IDS, max_new_tokens=6, do_sample=False)
    assert torch.equal(tokens, model.dequantize().generate(IDS, max_new_tokens=6, do_sample=False))


def test_the_tutorial(tmp_path, monkeypatch):
    text = (ROOT / "docs/own_quantizer.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert len(text.splitlines()) <= 60
    exec(compile(text.split("```python\n")[1].split("```")[0], "own_quantizer.md", "exec"), {"__name__": "__main__"})
