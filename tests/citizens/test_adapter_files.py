"""Adapters that PEFT trains on our models and saves: the reference loads them, under its own names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_adapters import answer, pair, trained

from citizens import CITIZENS
from reference import close, omniform

# isort: split
import peft  # after the reference, whose torchvision is made importable there

pytestmark = pytest.mark.filterwarnings("ignore")

KINDS: dict[str, str] = {}
for _name, _citizen in CITIZENS.items():
    if _citizen.model_type not in ("timm_backbone", "encodec"):  # convolutions alone
        KINDS.setdefault(_citizen.model_type, _name)
OTHERS = {  # where PEFT refuses all linear layers of a model, or one of the reference's has others
    "mamba": ["in_proj", "x_proj"], "mamba2": ["in_proj"], "falcon_mamba": ["in_proj", "x_proj"],
    "falcon_h1": ["q_proj", "in_proj", "up_proj"], "bamba": ["q_proj", "in_proj", "up_proj"],
    "maskformer": r".*transformer_module.*(v_proj|fc1)", "mask2former": ["value_proj", "fc1"],
    "oneformer": ["value_proj", "fc1", "linear1"], "unispeech-sat": ["q_proj", "o_proj", "fc1"],
    "wavlm": ["fc1", "fc2"],  # whose attention reads the weights of its projections, and never calls them
}  # fmt: skip


def loaded(name: str, folder: Path) -> torch.nn.Module:
    return getattr(omniform, CITIZENS[name].architecture).from_pretrained(folder)


QUICK = {
    "gpt2", "t5", "deberta", "llava", "detr", "bloom", "gpt_bigcode", "mixtral", "qwen3_next", "granitemoe", "vit",
    "clip", "swin", "mamba", "maskformer", "unispeech-sat", "wavlm", "speecht5", "vits", "clap",
}  # fmt: skip
"""Families of each way to lie otherwise than in the reference; `make exhaustive` tries all."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The families that are tried."""
    if metafunc.function.__name__ == "test_every_family_s_adapter_is_the_reference_s":
        metafunc.parametrize("name", [name for kind, name in KINDS.items() if kind in QUICK])


def test_every_family_s_adapter_is_the_reference_s(name, tmp_path):
    """Saved from ours, loaded by PEFT over the reference's model, and by ours again."""
    theirs, ours = pair(name, tmp_path / "base")
    ours = trained(ours, target_modules=OTHERS.get(CITIZENS[name].model_type, "all-linear"), use_rslora=True)
    ours.save_pretrained(tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    found = answer(ours, name)
    close(answer(theirs, name), found)
    again = peft.PeftModel.from_pretrained(loaded(name, tmp_path / "base"), tmp_path / "adapter").eval()
    close(answer(again, name), found)
    before = answer(loaded(name, tmp_path / "base"), name)
    assert found.shape != before.shape or not torch.allclose(found, before, atol=1e-3)


CONFIGS = {
    "regex": ("bert", {"target_modules": r".*\.layer\.[01]\.attention\.self\.(query|key)"}),
    "regex, ours": ("gpt2", {"target_modules": r".*self_attn\.q_proj"}),
    "layers": ("gpt2", {"target_modules": ["c_attn"], "layers_to_transform": [1], "layers_pattern": "h"}),
    "ranks": ("gpt2", {"target_modules": ["c_attn", "c_fc"], "rank_pattern": {"h.0.attn.c_attn": 3, "mlp.c_fc": 4},
                       "alpha_pattern": {r"h\.\d+\.mlp\.c_fc": 5}}),
    "excluded": ("bert", {"target_modules": "all-linear", "exclude_modules": r".*attention\.output\.dense"}),
    "weighed": ("gpt2", {"target_modules": ["c_attn"], "use_dora": True}),
    "head": ("llama, rows", {"target_modules": ["q_proj"], "modules_to_save": ["score"], "task_type": "SEQ_CLS"}),
    "table": ("gpt2", {"target_modules": ["wte"]}),
    "tokens": ("gpt2", {"target_modules": ["c_attn"], "trainable_token_indices": {"wte": [3, 5]}}),
    "biases": ("gpt2", {"target_modules": ["c_fc"], "bias": "lora_only"}),
    "parameters": ("mixtral", {"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}),
    "stack": ("gpt_oss", {"target_modules": ["q_proj"], "target_parameters": ["gate_up_proj", "down_proj"]}),
    "old experts": ("qwen3_moe", {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
    "olora": ("bert", {"target_modules": ["query"], "init_lora_weights": "orthogonal"}),
    "gaussian": ("t5", {"init_lora_weights": "gaussian"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_whatever_a_config_says_of_layers(kind, tmp_path):
    """The same config means the same of the reference's model and of ours; files go both ways."""
    name, config = CONFIGS[kind]
    theirs, ours = pair(name, tmp_path / "base")
    ours = trained(ours, **config)
    ours.save_pretrained(tmp_path / "ours")
    read = peft.PeftModel.from_pretrained(theirs, tmp_path / "ours").eval()
    found = answer(ours, name)
    close(answer(read, name), found)
    again = peft.PeftModel.from_pretrained(loaded(name, tmp_path / "base"), tmp_path / "ours").eval()
    close(answer(again, name), found)
    if "ours" not in kind:
        theirs, _ = pair(name, tmp_path / "base")
        theirs = trained(theirs, **config)
        theirs.save_pretrained(tmp_path / "theirs")
        assert (
            load_file(tmp_path / "theirs/adapter_model.safetensors").keys()
            == load_file(tmp_path / "ours/adapter_model.safetensors").keys()
        )
        again = peft.PeftModel.from_pretrained(loaded(name, tmp_path / "base"), tmp_path / "theirs").eval()
        close(answer(again, name), answer(theirs, name))


def test_a_part_of_a_matrix_is_written_as_the_whole(tmp_path):
    """Only the queries of GPT-2's one matrix: their rows of it, and zeros for the others."""
    theirs, ours = pair("gpt2", tmp_path / "base")
    ours = trained(ours, target_modules=["q_proj"], lora_alpha=6)
    ours.save_pretrained(tmp_path / "adapter")
    raw = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert raw["target_modules"] == ["c_attn"] and (raw["r"], raw["lora_alpha"]) == (2, 6)
    close(answer(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval(), "gpt2"), answer(ours, "gpt2"))


METHODS = {
    "vera": lambda: peft.VeraConfig(r=2, target_modules=["q_proj"]),
    "oft": lambda: peft.OFTConfig(r=4, oft_block_size=0, target_modules=["q_proj"]),
    "lokr": lambda: peft.LoKrConfig(r=2, target_modules=["q_proj"]),
    "loha": lambda: peft.LoHaConfig(r=2, target_modules=["q_proj"]),
    "adalora": lambda: peft.AdaLoraConfig(init_r=3, target_r=2, total_step=9, target_modules=["q_proj"]),
    "ia3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=r".*down_proj"),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "p": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}  # fmt: skip


@pytest.mark.parametrize("kind", METHODS)
def test_other_methods(kind, tmp_path):
    """Two steps of training, the reference's answers from the file, and tokens through the engine."""
    theirs, ours = pair("llama", tmp_path / "base")
    ours = peft.get_peft_model(ours, METHODS[kind]()).train()
    given = CITIZENS["llama"].asks.inputs()
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=0.3)
    for _ in range(2):
        optimizer.zero_grad()
        ours(**given, labels=given["input_ids"]).loss.backward()
        optimizer.step()
    ours.eval().save_pretrained(tmp_path / "adapter")
    read = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    close(answer(read, "llama"), answer(ours, "llama"))
    ask = {"input_ids": given["input_ids"], "attention_mask": torch.ones_like(given["input_ids"])}
    ask |= {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(ours.generate(**ask), read.generate(**ask))
