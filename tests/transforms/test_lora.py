"""Low-rank adapters without PEFT: the same numbers, the same files, the same methods."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent.parent / "citizens"))
from test_adapters import answer, pair, trained

from citizens import CITIZENS
from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.transforms.lora_layers import LoraLinear
from reference import close, omniform

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS = {
    "llama": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "rooted": ("llama", {"target_modules": ["v_proj"], "use_rslora": True, "lora_alpha": 5}),
    "weighed": ("bert", {"target_modules": ["query", "dense"], "use_dora": True}),
    "fused": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "rank_pattern": {"c_attn": 3}, "alpha_pattern": {
        r"h\.0\.attn\.c_attn": 7}}),
    "fused, weighed": ("gpt2", {"target_modules": ["c_attn"], "use_dora": True}),
    "by groups": ("bloom", {"target_modules": ["query_key_value"], "lora_bias": True}),
    "head": ("llama, rows", {"target_modules": ["q_proj"], "modules_to_save": ["score"]}),
    "table": ("gpt2", {"target_modules": ["wte", "c_fc"]}),
    "projection": ("llama", {"target_modules": ["lm_head"]}),
    "pictures": ("llava", {"target_modules": ["q_proj"]}),
    "detector": ("detr", {"target_modules": ["q_proj", "fc1"]}),
}  # fmt: skip


@pytest.fixture
def alone(monkeypatch):
    """As where PEFT is not installed."""
    monkeypatch.setitem(sys.modules, "peft", None)


def fresh(name, folder):
    return getattr(omniform, CITIZENS[name].architecture).from_pretrained(folder)


def saved(name, folder, number=0, **config):
    """The reference's model with an adapter, saved; its answer."""
    theirs, _ = pair(name, folder / "base")
    theirs = trained(theirs, **config)
    for parameter in theirs.parameters():
        parameter.data *= 1 if not (number and parameter.requires_grad) else 0.7
    theirs.peft_config["default"].base_model_name_or_path = str(folder / "base")
    theirs.save_pretrained(folder / f"adapter{number}")
    return answer(theirs, name)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_files_and_merging_are_peft_s(kind, tmp_path, monkeypatch):
    name, config = KINDS[kind]
    expected = saved(name, tmp_path, **config)
    monkeypatch.setitem(sys.modules, "peft", None)
    ours = fresh(name, tmp_path / "base")
    plain = answer(ours, name)
    ours.load_adapter(tmp_path / "adapter0")
    close(answer(ours, name), expected)
    assert not torch.allclose(plain, expected, atol=1e-3)
    assert not any(p.requires_grad for key, p in ours.named_parameters() if "lora_" in key)
    ours.save_pretrained(tmp_path / "again")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter0" / file).read_bytes()
    ours.disable_adapters()
    assert torch.equal(answer(ours, name), plain)
    ours.enable_adapters()
    if kind == "table":
        with pytest.raises(InputError, match="tied to another"):
            ours.merge_adapters()
        return
    ours.merge_adapters()
    close(answer(ours, name), expected)
    ours.unmerge_adapters()
    close(answer(ours, name), expected)
    ours.merge_adapters(unload=True)
    close(answer(ours, name), expected)
    ours.save_pretrained(tmp_path / "whole")
    close(answer(fresh(name, tmp_path / "whole"), name), expected)
    assert not any(isinstance(module, LoraLinear) for module in ours.modules())
    loaded = getattr(omniform, CITIZENS[name].architecture).from_pretrained(tmp_path / "adapter0")
    close(answer(loaded, name), expected)


def test_several_adapters(tmp_path, alone, monkeypatch):
    monkeypatch.undo()
    first = saved("gpt2", tmp_path, target_modules=["c_attn"])
    second = saved("gpt2", tmp_path, 1, target_modules=["c_fc"])
    monkeypatch.setitem(sys.modules, "peft", None)
    ours = fresh("gpt2", tmp_path / "base")
    plain = answer(ours, "gpt2")
    ours.load_adapter(tmp_path / "adapter0", "a")
    ours.load_adapter(tmp_path / "adapter1", "b")
    close(answer(ours, "gpt2"), second)
    ours.set_adapter("a")
    close(answer(ours, "gpt2"), first)
    assert ours.active_adapters() == ["a"] and ours.active_adapter() == "a" and ours._hf_peft_config_loaded
    ours.set_adapter(["a", "b"])
    both = answer(ours, "gpt2")
    assert not torch.allclose(both, first, atol=1e-3)
    with pytest.raises(InputError, match="several adapters"):
        ours.save_pretrained(tmp_path / "both")
    ours.add_weighted_adapter(["a", "b"], [1.0, 1.0], "sum")
    ours.set_adapter("sum")
    close(answer(ours, "gpt2"), both)
    with pytest.raises(InputError, match="no such adapter"):
        ours.set_adapter("aa")
    with pytest.raises(InputError, match="already"):
        ours.load_adapter(tmp_path / "adapter0", "a")
    ours.load_adapter(tmp_path / "adapter1", "a", hotswap=True)
    close(answer(ours, "gpt2"), second)
    ours.delete_adapter(["a", "sum"])
    ours.delete_adapter("b")
    assert torch.equal(answer(ours, "gpt2"), plain) and not ours._hf_peft_config_loaded
    with pytest.raises(InputError, match="no adapters"):
        ours.set_adapter("b")


def test_a_new_adapter_is_trained_and_saved_for_the_reference(tmp_path, monkeypatch):
    theirs, ours = pair("gpt2", tmp_path / "base")
    monkeypatch.setitem(sys.modules, "peft", None)
    ours.add_adapter({"r": 2, "lora_alpha": 4, "target_modules": ["c_attn"]}, "mine")
    given = CITIZENS["gpt2"].asks.inputs()
    weights = [p for p in ours.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        ours(**given, labels=given["input_ids"]).loss.backward()
        optimizer.step()
    assert len(weights) == 2 * 3 * 2
    ours.save_pretrained(tmp_path / "adapter")
    monkeypatch.undo()
    raw = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert raw["r"] == 6 and raw["lora_alpha"] == 12 and raw["base_model_name_or_path"] == str(tmp_path / "base")
    close(answer(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval(), "gpt2"), answer(ours, "gpt2"))


def test_what_needs_peft_says_so(tmp_path, monkeypatch):
    theirs, ours = pair("llama", tmp_path / "base")
    config = peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[])
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="needs the package peft"):
        ours.load_adapter(tmp_path / "adapter")


def test_an_adapter_of_another_model(tmp_path, monkeypatch):
    saved("llama", tmp_path, target_modules=["q_proj"])
    monkeypatch.setitem(sys.modules, "peft", None)
    other = CITIZENS["t5"].build()
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises((WeightsError, InputError), match=r"does not (fit|have)"):
        other.load_adapter(tmp_path / "adapter0")
    assert other.state_dict().keys() == before.keys()


@pytest.mark.parametrize("backend", ["peft", "own"])
def test_methods_are_the_ecosystem_s(backend, tmp_path, monkeypatch):
    """The same script, whoever's layers they are."""
    expected = saved("bert", tmp_path, target_modules=["query"])
    config = peft.LoraConfig(r=2, target_modules=["query"])
    if backend == "own":
        monkeypatch.setitem(sys.modules, "peft", None)
        config = {"r": 2, "target_modules": ["query"]}
    ours = fresh("bert", tmp_path / "base")
    plain = answer(ours, "bert")
    report = ours.load_adapter(str(tmp_path / "adapter0"), adapter_name="a")
    assert not report.missing_keys and not report.unexpected_keys
    close(answer(ours, "bert"), expected)
    state = ours.get_adapter_state_dict("a")
    assert len(state) == 4
    ours.add_adapter(config, adapter_name="b")
    assert ours.active_adapters() == ["b"]
    ours.set_adapter(["a", "b"])
    assert ours.active_adapters() == ["a", "b"]
    ours.set_adapter("a")
    ours.disable_adapters()
    assert torch.equal(answer(ours, "bert"), plain)
    ours.enable_adapters()
    close(answer(ours, "bert"), expected)
    ours.delete_adapter("b")
    ours.save_pretrained(tmp_path / "saved")
    raw = json.loads((tmp_path / "saved/adapter_config.json").read_text())
    assert raw["target_modules"] == ["query"] and raw["base_model_name_or_path"] == str(tmp_path / "base")
    again = omniform.BertForMaskedLM.from_pretrained(tmp_path / "saved", adapter_name="mine")
    assert again.active_adapters() == ["mine"]
    close(answer(again, "bert"), expected)
    again = fresh("bert", tmp_path / "base")
    again.load_adapter(peft_config=ours.peft_config["a"], adapter_state_dict=state)
    close(answer(again, "bert"), expected)
