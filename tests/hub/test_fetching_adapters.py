"""Adapters from the Hub: put into a model, and loaded with the base model that they name."""

from __future__ import annotations

import json

import pytest
import torch

from omniform.core.errors import ConfigError, InputError, RepoError, WeightsError
from omniform.hub.inspect import inspect
from reference import close, omniform, saved_reference, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
IDS = torch.tensor([[5, 9, 3]])
Llama = omniform.AutoModelForCausalLM


@pytest.fixture
def held(hub, tmp_path):
    """A base model and an adapter of it on a Hub; what the reference computes with both."""
    theirs = saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), tmp_path / "base")
    hub.upload("ann/base", tmp_path / "base")
    adapted = peft.get_peft_model(theirs, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_()
    adapted.peft_config["default"].base_model_name_or_path = "ann/base"
    adapted.save_pretrained(tmp_path / "adapter")
    hub.upload("ann/adapter", tmp_path / "adapter")
    with hub.connected(cache=tmp_path / "home"), torch.no_grad():
        yield hub, adapted(IDS).logits


@torch.no_grad()
def test_into_a_model(held, tmp_path):
    hub, expected = held
    for name in ("ann/adapter", tmp_path / "adapter"):
        model = Llama.from_pretrained("ann/base")
        plain = model(IDS).logits
        model.load_adapter(name)
        close(model(IDS).logits, expected)
        assert not torch.allclose(plain, expected) and not any(
            p.requires_grad for n, p in model.named_parameters() if "lora" in n
        )
        with pytest.raises(InputError, match="already"):
            model.load_adapter(name)
    with hub.watch() as log:
        Llama.from_pretrained("ann/base").load_adapter("ann/adapter", "mine", is_trainable=True)
    assert len(log) == 2, str(log)


@torch.no_grad()
def test_with_its_base_model(held, tmp_path):
    hub, expected = held
    close(Llama.from_pretrained("ann/adapter")(IDS).logits, expected)
    for door in (omniform.AutoConfig.from_pretrained, omniform.plan, inspect):
        for name in ("ann/adapter", tmp_path / "adapter"):
            with pytest.raises(RepoError, match=r"adapter.*base model is ann/base"):
                door(name)
    close(Llama.from_pretrained(tmp_path / "adapter")(IDS).logits, expected)
    with hub.watch() as log:
        close(omniform.LlamaForCausalLM.from_pretrained("ann/adapter")(IDS).logits, expected)
    assert len(log) == 2, str(log)
    with hub.quiet():
        model, report = Llama.from_pretrained("ann/adapter", local_files_only=True, output_loading_info=True)
    close(model(IDS).logits, expected)
    assert not report["missing_keys"]


def test_what_does_not_fit(held, tmp_path):
    hub, _ = held
    model = Llama.from_pretrained("ann/base")
    with pytest.raises(RepoError, match=r"no adapter_config.json"):
        model.load_adapter("ann/base")
    with pytest.raises(InputError, match="no adapter to load"):
        model.load_adapter()
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    hub.upload("ann/odd", tmp_path / "adapter")
    hub.upload("ann/odd", {"adapter_config.json": json.dumps({**config, "target_modules": ["nowhere"]})})
    with pytest.raises(WeightsError, match=r"ann/odd.*does not fit"):
        model.load_adapter("ann/odd")
    hub.upload("ann/odd", {"adapter_config.json": json.dumps({**config, "r": 3})})
    with pytest.raises(WeightsError, match=r"ann/odd.*does not fit"):
        Llama.from_pretrained("ann/odd")
    hub.upload("ann/odd", {"adapter_config.json": json.dumps({**config, "base_model_name_or_path": None})})
    with pytest.raises(ConfigError, match="names no base model"):
        Llama.from_pretrained("ann/odd")
    hub.upload("ann/odd", {"adapter_config.json": "{"})
    with pytest.raises(ConfigError, match="not JSON"):
        model.load_adapter("ann/odd")
