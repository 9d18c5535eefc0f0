"""What holds for every format: plans count it, parts go to disk, adapters attach, and it becomes plain again."""

from __future__ import annotations

import json

import every_format
import peft
import pytest
import torch
from every_format import CASES, IDS, loaded, scores
from safetensors import safe_open

from omniform.hub.plan import plan
from omniform.native.library import library
from reference import omniform

DENSE = [case for case in CASES if case[1] != "mixtral"]
PLAIN = [case for case in CASES if not case[0].startswith("gguf")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return lambda case: every_format.made(case, folder)


def keys_of(folder):
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as held:
            found |= {key: tuple(held.get_slice(key).get_shape()) for key in held.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_plan_and_placing(case, made, tmp_path):
    """From headers alone as many bytes as are in memory then; what lies on disk stays there, and says the same."""
    path = made(case)
    model = loaded(path, dtype=torch.float32)
    planned, expected = plan(path, dtype=torch.float32), scores(model)
    held = loaded(path, dtype=torch.float32).get_memory_footprint()
    assert planned.weights == held
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    native = plan(path)  # as the files hold it; GGUF files do not hold the order of rows that ours have
    assert native.weights <= sum(file.stat().st_size for file in files)
    for where in ({"device_map": "disk"}, {"device_map": "auto", "max_memory": {"cpu": held // 2}}):
        where |= {"offload_folder": tmp_path, "dtype": torch.float32}
        planned, placed = plan(path, **where), loaded(path, **where)
        assert dict(planned.device_map) == dict(placed.hf_device_map) and "disk" in placed.hf_device_map.values()
        before = placed.get_memory_footprint()
        assert planned.weights == before == held
        assert torch.equal(scores(placed), expected)
        if where["device_map"] == "disk":
            assert placed.get_memory_footprint() == before, "matrices of what lies on disk were kept"


@pytest.mark.parametrize("case", PLAIN, ids=" ".join)
def test_plain_again(case, made, tmp_path):
    path = made(case)
    model = loaded(path, dtype=torch.float32)
    flags = [name for name in ("is_loaded_in_4bit", "is_loaded_in_8bit") if getattr(model, name, False)]
    assert len(flags) == case[0].startswith("bnb") and model.is_quantized
    model.dequantize()
    assert not model.is_quantized and not any(getattr(model, name, False) for name in flags)
    expected = scores(model)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = loaded(tmp_path)
    assert not again.is_quantized
    assert (scores(again) - expected).abs().max() <= 1e-4 * expected.abs().max()
    whole = every_format.plain(case[1], tmp_path / "whole")
    assert keys_of(tmp_path) == keys_of(whole)
    assert again.get_memory_footprint() == plan(tmp_path).weights


@pytest.mark.parametrize("own", [False, True], ids=["peft", "ours"])
@pytest.mark.parametrize("case", DENSE, ids=" ".join)
def test_adapters(case, own, made, tmp_path):
    """Forward, backward, saved and loaded, beside an adapter of the plain model."""
    path = made(case)
    targets = ["q_proj", "v_proj"] + ["down_proj"] * (case[1] == "llama")
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = loaded(path, dtype=torch.float32)
    base = scores(model)
    if own:
        model.add_adapter(config)
        tuned = model
    else:
        tuned = peft.get_peft_model(model, config)
    tuned.train()
    tuned(IDS, labels=IDS).loss.backward()
    learned = {name: p.grad for name, p in tuned.named_parameters() if p.requires_grad}
    assert len(learned) == 4 * len(targets) and all("lora" in name for name in learned)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in learned.values())
    found = scores(tuned.eval())
    tuned.save_pretrained(tmp_path)

    def with_adapter(plain):
        if not own:
            return peft.PeftModel.from_pretrained(plain, tmp_path)
        plain.load_adapter(tmp_path)
        return plain

    assert torch.equal(scores(with_adapter(loaded(path, dtype=torch.float32))), found)
    plain = loaded(path, dtype=torch.float32, **({"dequantize": True} if path.is_file() else {}))
    expected = scores(with_adapter(plain if path.is_file() else plain.dequantize()))
    assert (found - base).abs().max() > 0.2 * base.abs().max()
    # LLM.int8() rounds what layers are given to eight bits; other kernels to twelve.
    bound = 5e-2 if case[0] == "bnb 8bit" else 5e-3
    assert (found - expected).abs().max() <= bound * expected.abs().max()


@pytest.mark.skipif(library() is None, reason="there are no native kernels")
@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_matrices_replace_what_a_file_holds_and_lie_beside_what_none_does(family, tmp_path, monkeypatch):
    keys, name = every_format.FAMILIES[family]
    wide = {**keys, "hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 1}
    monkeypatch.setitem(every_format.FAMILIES, family, (wide, name))
    folder = every_format.plain(family, tmp_path / "plain")
    fresh = loaded(folder, quantization_config=omniform.NativeConfig(bits=4, group_size=32))
    fresh.save_pretrained(tmp_path / "q")
    model = loaded(tmp_path / "q")
    before = model.get_memory_footprint()
    assert before == fresh.get_memory_footprint()
    packed = before - sum(p.nbytes for p in model.parameters())
    for one in (fresh, model):
        scores(one)
    # Scales are half precision in the file and floats in a matrix; pages at the ends of mapped tensors stay.
    assert before <= model.get_memory_footprint() <= before + 0.25 * packed
    assert fresh.get_memory_footprint() >= before + packed
