"""Transforms compose: int8 layers, as a quantizer would be written, with offloading, through the key table."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import omniform
from omniform.core.errors import WeightsError
from omniform.hub import checkpoint
from omniform.hub.checkpoint import load_as_saved
from omniform.hub.plan import plan
from omniform.weights.keymap import KeyMap
from omniform.weights.transform import Transform


class Int8Linear(nn.Module):
    """A linear layer of whole numbers, with a scale for each row."""

    KEPT: ClassVar[frozenset[str]] = frozenset({"weight_scale"})

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(linear.weight.shape, dtype=torch.int8))
        self.register_buffer("weight_scale", torch.empty(linear.out_features, 1))
        self.bias = linear.bias

    def forward(self, x):
        return F.linear(x, (self.weight * self.weight_scale).to(x.dtype), self.bias)


class Int8(Transform):
    """Weight-only int8 for every linear layer of the decoder's layers."""

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        for path, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and ".layers." in path:
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, Int8Linear(module))
        return keys

    def written(self, config):
        return {**config, "quantization_config": {"quant_method": "rows"}}


class Renamed(Transform):
    """A second one, that tells where modules live."""

    def prepare(self, model: nn.Module, keys: KeyMap) -> KeyMap:
        return keys | KeyMap({"lm_head": "head.inner"})


def quantized(tensors):
    """A checkpoint's tensors with each of the layers' matrices packed."""
    found = {}
    for key, tensor in tensors.items():
        if ".layers." in key and key.endswith("weight") and tensor.dim() == 2:
            scale = tensor.abs().amax(1, keepdim=True).float() / 127
            found[key] = (tensor / scale).round().to(torch.int8)
            found[f"{key}_scale"] = scale
        else:
            found[key] = tensor
    return found


SIZES = {
    "llama": {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "initializer_range": 0.3, "max_position_embeddings": 64,
    },
    "gpt2": {"vocab_size": 60, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
}  # fmt: skip


@pytest.fixture
def with_transforms(monkeypatch):
    """Has whatever is loaded from now on transformed."""

    def use(*transforms):
        real = checkpoint.Loading
        monkeypatch.setattr(checkpoint, "Loading", lambda **how: real(**{**how, "transforms": transforms}))

    return use


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **SIZES["llama"]))
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "rows")
    file = tmp_path / "rows" / "model.safetensors"
    save_file(quantized(load_file(file)), file)
    return tmp_path


IDS = torch.tensor([[5, 9, 33, 7, 12, 40, 3, 8, 20]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_packed_tensors_load_and_save_through_the_key_table(folder, with_transforms):
    plain = load_as_saved(folder / "plain")
    with pytest.raises(WeightsError, match="weight_scale"):
        load_as_saved(folder / "rows")
    with_transforms(Int8())
    model = load_as_saved(folder / "rows")
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, Int8Linear) and layer.weight.dtype == torch.int8
    assert torch.allclose(logits(model), logits(plain), atol=0.05 * float(logits(plain).abs().max()))
    assert not torch.equal(logits(model), logits(plain))
    model.save_pretrained(folder / "again")
    saved, first = (load_file(folder / name / "model.safetensors") for name in ("again", "rows"))
    assert saved.keys() == first.keys() and all(torch.equal(saved[key], first[key]) for key in first)
    written = json.loads((folder / "again" / "config.json").read_text())
    assert written.pop("quantization_config") == {"quant_method": "rows"}
    assert written == json.loads((folder / "rows" / "config.json").read_text())


def test_a_tensor_may_keep_its_dtype(folder, with_transforms):
    with_transforms(Int8())
    model = load_as_saved(folder / "rows", dtype="bfloat16")
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight_scale.dtype == torch.float32 and layer.weight.dtype == torch.int8
    assert model.dtype == torch.bfloat16 and logits(model).dtype == torch.bfloat16
    model.save_pretrained(folder / "half")
    saved, first = (load_file(folder / name / "model.safetensors") for name in ("half", "rows"))
    for key, tensor in saved.items():
        as_it_was = key.endswith("weight_scale") or first[key].dtype == torch.int8
        assert tensor.dtype == (first[key].dtype if as_it_was else torch.bfloat16), key
        assert not as_it_was or torch.equal(tensor, first[key]), key
    config = json.loads((folder / "half" / "config.json").read_text())
    config.pop("quantization_config")  # this quantizer is the test's own
    (folder / "half" / "config.json").write_text(json.dumps(config))
    again = load_as_saved(folder / "half")
    assert again.model.layers[0].mlp.up_proj.weight_scale.dtype == torch.float32
    assert again.dtype == torch.bfloat16 and torch.equal(logits(again), logits(model))


def test_they_compose_with_each_other_and_with_offloading(folder, with_transforms):
    file = folder / "rows" / "model.safetensors"
    held = load_file(file)
    held["head.inner.weight"] = held.pop("lm_head.weight")
    save_file(held, file)
    with_transforms(Int8(), Renamed())
    whole, parted = (
        load_as_saved(folder / "rows"),
        load_as_saved(folder / "rows", device_map={"": "cpu", "model.layers.1": "disk"}),
    )
    assert torch.equal(logits(whole), logits(parted)) and set(parted.hf_device_map.values()) == {"cpu", "disk"}
    whole.save_pretrained(folder / "again")
    assert load_file(folder / "again" / "model.safetensors").keys() == held.keys()
    planned = plan(folder / "rows")
    assert planned.weights == sum(tensor.nbytes for tensor in held.values()) == whole.get_memory_footprint()


def test_an_engine_answers_with_them_and_sees_them_change(folder, with_transforms):
    with_transforms(Int8())
    model = load_as_saved(folder / "rows")
    engine = omniform.Engine(model, memory="4MB")
    how = {"max_new_tokens": 5, "eos_token_id": -1}
    before = engine.generate(IDS[0].tolist(), **how).tokens
    model.model.layers[0].self_attn.v_proj.weight_scale.data.mul_(-1)
    fresh = omniform.Engine(model, memory="4MB").generate(IDS[0].tolist(), **how).tokens
    assert engine.generate(IDS[0].tolist(), **how).tokens == fresh != before
