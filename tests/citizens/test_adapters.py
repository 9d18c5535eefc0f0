"""PEFT on our models by itself: it finds the layers by the Hub's names, and takes the reference's adapters."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from citizens import CITIZENS
from omniform.core.errors import InputError
from reference import close, omniform, saved_reference, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

TARGETS = {
    "llama": ["q_proj", "v_proj"], "mistral": ["down_proj"], "gpt2": ["c_attn", "c_proj"], "bert": ["query", "value"],
    "t5": ["q", "v"], "whisper": ["q_proj", "out_proj"], "phi3": ["qkv_proj", "gate_up_proj"],
    "vit": ["q_proj", "o_proj"], "llava": ["q_proj"], "deberta-v2": ["query_proj"], "detr": ["q_proj"],
}  # fmt: skip


def pair(name: str, folder: Path) -> tuple[nn.Module, nn.Module]:
    """A model of the reference's, and ours of the same weights."""
    citizen = CITIZENS[name]
    kind = getattr(transformers, citizen.architecture)
    theirs = saved_reference(kind, kind.config_class(**citizen.config), folder)
    return theirs, getattr(omniform, citizen.architecture).from_pretrained(folder)


def trained(model: nn.Module, **config: object) -> nn.Module:
    """The model with an adapter that changes something."""
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **config)).eval()
    generator = torch.Generator().manual_seed(7)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapted


@torch.no_grad()
def answer(model: nn.Module, name: str) -> Tensor:
    out = model(**CITIZENS[name].asks.inputs()).to_tuple()
    held = [t for one in out for t in (one if isinstance(one, tuple) else (one,))]
    return next(t for t in held if isinstance(t, Tensor) and t.dim())


@pytest.mark.parametrize("name", TARGETS)
def test_the_reference_s_adapter(name, tmp_path):
    theirs, ours = pair(name, tmp_path / "base")
    theirs = trained(theirs, target_modules=TARGETS[name], use_dora=name in ("bert", "gpt2"))
    theirs.save_pretrained(tmp_path / "adapter")
    plain = answer(ours, name)
    ours = peft.PeftModel.from_pretrained(ours, tmp_path / "adapter").eval()
    found = answer(ours, name)
    close(found, answer(theirs, name))
    assert not torch.allclose(found, plain, atol=1e-3)
    ours.save_pretrained(tmp_path / "ours")
    again = getattr(omniform, CITIZENS[name].architecture).from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(again, tmp_path / "ours").eval()
    assert torch.equal(answer(again, name), found)
    merged = ours.merge_and_unload()
    close(answer(merged, name), found)
    merged.save_pretrained(tmp_path / "merged")
    loaded = getattr(omniform, CITIZENS[name].architecture).from_pretrained(tmp_path / "merged")
    assert torch.equal(answer(loaded, name), answer(merged, name))


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        ("bert", {"target_modules": ["query", "value"]}, 4),
        ("bert", {"target_modules": ["attention.self.query"], "layers_to_transform": [1]}, 1),
        ("bert", {"target_modules": ["query", "q_proj"]}, 2),
        ("bert", {"target_modules": ["dense"], "exclude_modules": ["output.dense"]}, 3),
        ("gpt2", {"target_modules": ["c_attn"]}, 6),
        ("gpt2", {"target_modules": ["transformer.h.1.mlp.c_fc"]}, 1),
        ("phi3", {"target_modules": ["gate_up_proj"]}, 4),
        ("t5", {"target_modules": ["wo"]}, 4),
        ("llama", {}, 4), ("gpt2", {}, 6), ("t5", {}, 12), ("deberta-v2", {}, 4),
        ("llama", {"target_modules": "all-linear"}, 14),
    ],
)  # fmt: skip
def test_layers_are_found(name, config, count):
    model = peft.get_peft_model(CITIZENS[name].build(), peft.LoraConfig(r=2, **config))
    assert sum(isinstance(module, peft.tuners.lora.LoraLayer) for module in model.modules()) == count
    model.train()
    model(**CITIZENS[name].asks.taught(CITIZENS[name].asks.inputs())).loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_what_else_is_trained_is_found_and_loaded(tmp_path):
    """A head that the reference calls otherwise (``score``), beside the adapter."""
    kind = transformers.LlamaForSequenceClassification
    theirs = saved_reference(kind, kind.config_class(**CITIZENS["llama, rows"].config), tmp_path / "base")
    theirs = trained(theirs, target_modules=["q_proj"], modules_to_save=["score"], task_type="SEQ_CLS")
    theirs.save_pretrained(tmp_path / "adapter")
    load = omniform.LlamaForSequenceClassification.from_pretrained
    ours = peft.PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapter").eval()
    close(answer(ours, "llama, rows"), answer(theirs, "llama, rows"))
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["score"])
    assert any("modules_to_save" in n for n, _ in peft.get_peft_model(load(tmp_path / "base"), config).named_modules())


def test_an_adapter_of_one_matrix_that_cannot_be_divided(tmp_path):
    theirs, ours = pair("gpt2", tmp_path / "base")
    config = peft.IA3Config(target_modules=["c_attn"], feedforward_modules=[])
    peft.get_peft_model(theirs, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"c_attn.*cannot be divided"):
        peft.PeftModel.from_pretrained(ours, tmp_path / "adapter")


@pytest.mark.parametrize(("name", "targets"), [("bert", ["query"]), ("gpt2", ["c_attn"])])
def test_two_adapters(name, targets, tmp_path):
    """The second one's tensors come under the reference's names, without the adapter's own."""
    theirs, ours = pair(name, tmp_path / name)
    theirs = trained(theirs, target_modules=targets)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = peft.PeftModel.from_pretrained(ours, tmp_path / "adapter", adapter_name="default").eval()
    ours.save_pretrained(tmp_path / "ours")
    ours.load_adapter(tmp_path / "adapter", adapter_name="second")
    ours.load_adapter(tmp_path / "ours", adapter_name="third")
    for one in ("second", "third"):
        ours.set_adapter(one)
        close(answer(ours, name), answer(theirs, name))


def test_generate_with_an_adapter():
    model = trained(CITIZENS["gpt2"].build(), target_modules=["c_attn"], task_type="CAUSAL_LM")
    ids = CITIZENS["gpt2"].asks.inputs()["input_ids"]
    written = model.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    again = ids
    for _ in range(4):
        with torch.no_grad():
            again = torch.cat((again, model(input_ids=again).logits[:, -1:].argmax(-1)), 1)
    assert torch.equal(written, again)


def test_names_are_plain_texts_in_all_else():
    model = CITIZENS["bert"].build()
    names = dict(model.named_modules())
    assert sum(1 for _ in model.modules()) == len(names) == len({id(m) for m in names.values()})
    name = next(name for name in names if name.endswith(".query"))
    assert name == "model.layers.0.self_attn.q_proj" and name.endswith("q_proj") and not name.endswith("key")
    assert model.get_submodule(name) is names[name]
    assert type(pickle.loads(pickle.dumps(name))) is str and type(f"{name}.weight") is str
    assert all(type(n) is str for n, _ in model.named_parameters())


def test_a_state_dict_of_the_hub_s_inside_another_module(tmp_path):
    theirs, ours = pair("bert", tmp_path)
    wrapped = nn.ModuleDict({"inner": CITIZENS["bert"].build()})
    wrapped.load_state_dict({f"inner.{key}": tensor for key, tensor in theirs.state_dict().items()})
    assert torch.equal(answer(wrapped["inner"], "bert"), answer(ours, "bert"))


def test_no_warning_of_tensors_that_were_not_found(tmp_path):
    theirs, ours = pair("bert", tmp_path / "base")
    trained(theirs, target_modules=["query"]).save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.PeftModel.from_pretrained(ours, tmp_path / "adapter")
