"""Checkpoints of bitsandbytes, theirs and ours: made, read, answered, saved, taken back, adapted."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from reference import omniform, transformers

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
FAMILIES = {
    "llama": SMALL,
    "qwen2": {**SMALL, "num_key_value_heads": 2},
    "phi3": SMALL,
    "gpt_neox": SMALL,
    "gpt2": {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
}
ASKED = {
    "int8": {"load_in_8bit": True},
    "int8-all": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "nf4-bf16": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "bfloat16"},
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def saved(family, folder, dtype=torch.float32):
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)


def quantized(library, folder, asked, **more):
    settings = library.BitsAndBytesConfig(**ASKED[asked])
    return library.AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, **more).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def near(found, expected, asked="nf4"):
    """Kernels of integers round their inputs; in eight bits a code may fall to the other side, as it does in theirs."""
    bound = 4e-2 if asked.startswith("int8") else 2e-3
    assert (found - expected).abs().max() <= bound * max(1.0, float(expected.abs().max()))


def tensors(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_alike_and_read_by_each_other(family, asked, tmp_path):
    saved(family, tmp_path / "plain")
    theirs = quantized(transformers, tmp_path / "plain", asked)
    expected = logits(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    if asked == "nf4-double" and family in ("phi3", "gpt_neox", "gpt2"):
        # Blocks of blocks are of 16384 numbers, and hold several of these small layers.
        with pytest.raises(ConfigError, match="pieces that belong to several layers"):
            quantized(omniform, tmp_path / "plain", asked)
        with pytest.raises((ConfigError, WeightsError)):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
        return
    ours = quantized(omniform, tmp_path / "plain", asked)
    assert sum(isinstance(m, QuantLinear) for m in ours.modules()) >= 8
    near(logits(ours), expected, asked)
    ours.save_pretrained(tmp_path / "ours")
    one, other = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert tensor.dtype == other[key].dtype and tensor.shape == other[key].shape, key
        assert torch.equal(tensor.reshape(-1).view(torch.uint8), other[key].reshape(-1).view(torch.uint8)), key
    told = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("theirs", "ours")
    ]
    assert told[0] == told[1]
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert torch.equal(logits(again), logits(ours))
    near(logits(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()), expected, asked)
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "ours/model.safetensors").read_bytes()


@pytest.mark.parametrize("asked", ("int8", "nf4"))
def test_taken_back(asked, tmp_path):
    saved("llama", tmp_path / "plain", torch.bfloat16)
    theirs = quantized(transformers, tmp_path / "plain", asked).dequantize()
    ours = quantized(omniform, tmp_path / "plain", asked).dequantize()
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found.keys() == expected.keys()
    for key, tensor in found.items():
        # Of eight bits theirs are floats of 32 bits, ours the model's dtype.
        assert torch.equal(tensor.to(torch.bfloat16), expected[key].to(torch.bfloat16)), key
    ours.save_pretrained(tmp_path / "back")
    assert json.loads((tmp_path / "back/config.json").read_text()).get("quantization_config") is None


@pytest.mark.parametrize("asked", ("int8", "nf4-double"))
def test_adapters_learn_on_it(asked, tmp_path):
    import peft

    saved("llama", tmp_path / "plain")
    model = quantized(omniform, tmp_path / "plain", asked)
    assert getattr(model, "is_loaded_in_8bit" if asked == "int8" else "is_loaded_in_4bit")
    model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(model, config).train()
    plain = quantized(omniform, tmp_path / "plain", asked).dequantize()
    other = peft.get_peft_model(plain, config).train()
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in other.named_parameters():
            if name in learned:
                p.copy_(learned[name])
    for one in (model, other):
        one(IDS, labels=IDS).loss.backward()
    twins = dict(other.named_parameters())
    assert len(learned) == 12
    for name, p in learned.items():
        assert torch.allclose(p.grad, twins[name].grad, rtol=1e-2, atol=1e-3), name
    steps = torch.optim.AdamW(learned.values(), lr=1e-2)
    losses = []
    for _ in range(15):
        steps.zero_grad()
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    after = {name.replace("base_layer.", ""): t for name, t in model.base_model.model.state_dict().items()}
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


def test_keywords_ask_for_it(tmp_path):
    saved("llama", tmp_path)
    kind = omniform.AutoModelForCausalLM
    eight = kind.from_pretrained(tmp_path, load_in_8bit=True)
    assert torch.equal(logits(eight), logits(quantized(omniform, tmp_path, "int8")))
    four = kind.from_pretrained(tmp_path, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    assert torch.equal(logits(four), logits(quantized(omniform, tmp_path, "nf4")))
    mapped = kind.from_pretrained(tmp_path, quantization_config={"load_in_4bit": True})
    assert torch.equal(logits(mapped), logits(quantized(omniform, tmp_path, "fp4")))
    assert four.quantization_method == "bitsandbytes" and four.is_quantized
    assert not any(isinstance(m, QuantLinear) for m in kind.from_pretrained(tmp_path, load_in_8bit=False).modules())
    with pytest.raises(ConfigError, match="8 and 4 bits"):
        kind.from_pretrained(tmp_path, load_in_8bit=True, load_in_4bit=True)
    with pytest.raises(InputError, match="twice"):
        kind.from_pretrained(tmp_path, load_in_8bit=True, quantization_config=omniform.BitsAndBytesConfig())
    with pytest.raises(ConfigError, match="neither"):
        kind.from_pretrained(tmp_path, quantization_config=omniform.BitsAndBytesConfig())
    with pytest.raises(InputError, match="load_in_8bit"):
        kind.from_pretrained(tmp_path, load_in_8bit="yes")


def test_skipped_modules(tmp_path, caplog):
    saved("llama", tmp_path)
    settings = omniform.BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["q_proj", "lm_head", "nowhere"])
    with caplog.at_level(logging.WARNING, "omniform"):
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings)
    assert "nowhere" in caplog.text and "q_proj" not in caplog.text
    for path, layer in model.named_modules():
        if path.endswith("_proj"):
            assert isinstance(layer, QuantLinear) != path.endswith("q_proj"), path


def test_weights_may_stay_whole(tmp_path):
    saved("llama", tmp_path / "plain", torch.float16)
    settings = omniform.BitsAndBytesConfig(load_in_8bit=True, llm_int8_has_fp16_weight=True)
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "plain", quantization_config=settings)
    expected = logits(quantized(omniform, tmp_path / "plain", "int8"))
    assert torch.equal(logits(model), expected)
    model.save_pretrained(tmp_path / "made")
    one, other = tensors(tmp_path / "plain"), tensors(tmp_path / "made")
    assert one.keys() == other.keys() and all(torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert torch.equal(logits(omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")), expected)


@pytest.mark.parametrize("asked", ("int8", "nf4-double"))
def test_placed_planned_and_counted(asked, tmp_path):
    saved("llama", tmp_path / "plain")
    model = quantized(omniform, tmp_path / "plain", asked)
    model.save_pretrained(tmp_path / "made")
    held = sum(tensor.nbytes for tensor in tensors(tmp_path / "made").values())
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert abs(again.get_memory_footprint() - held) <= 0.1 * held
    assert again.num_parameters() == omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").num_parameters()
    planned = omniform.plan(tmp_path / "made")
    assert planned is not None
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu",
              "model.rotary_emb": "cpu", "lm_head": "cpu"}  # fmt: skip
    apart = omniform.AutoModelForCausalLM.from_pretrained(
        tmp_path / "made", device_map=places, offload_folder=tmp_path / "off"
    )
    near(logits(apart), logits(again), asked)
    settings = omniform.BitsAndBytesConfig(**ASKED[asked], llm_int8_enable_fp32_cpu_offload=True)
    placed = omniform.AutoModelForCausalLM.from_pretrained(
        tmp_path / "plain", quantization_config=settings, device_map={"": "cpu"}
    )
    near(logits(placed), logits(model), asked)


def damaged(folder, change):
    held = dict(tensors(folder))
    change(held)
    save_file(held, folder / "model.safetensors", {"format": "pt"})


NAME = "model.layers.1.mlp.up_proj"
FAULTS = {
    "codes": (lambda h: h.update({f"{NAME}.weight": h[f"{NAME}.weight"][:-8].clone()}), ("too short", "6144", "6128")),
    "more": (lambda h: h.update({f"{NAME}.weight": h[f"{NAME}.weight"].repeat(2, 1)}), (NAME, "6144", "3072")),
    "scales": (
        lambda h: h.update({f"{NAME}.weight.absmax": h[f"{NAME}.weight.absmax"][:-5].clone()}),
        (NAME, "96", "91"),
    ),
    "no-state": (lambda h: h.pop(f"{NAME}.weight.quant_state.bitsandbytes__nf4"), (f"{NAME}.weight.quant_state",)),
    "json": (lambda h: h[f"{NAME}.weight.quant_state.bitsandbytes__nf4"][2:9].fill_(255), (NAME, "damaged")),
    "map": (lambda h: h.update({f"{NAME}.weight.quant_map": torch.zeros(8)}), (NAME, "16", "8")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_do_not_fit(fault, tmp_path):
    saved("llama", tmp_path / "plain")
    quantized(omniform, tmp_path / "plain", "nf4").save_pretrained(tmp_path / "made")
    change, words = FAULTS[fault]
    damaged(tmp_path / "made", change)
    with pytest.raises(WeightsError) as error:
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    for word in words:
        assert word in str(error.value), str(error.value)


def test_a_text_that_tells_of_other_blocks_is_refused(tmp_path):
    saved("llama", tmp_path / "plain")
    quantized(omniform, tmp_path / "plain", "nf4").save_pretrained(tmp_path / "made")
    key = f"{NAME}.weight.quant_state.bitsandbytes__nf4"

    def change(held):
        text = bytes(held[key].tolist()).replace(b'"blocksize": 64', b'"blocksize": 128')
        held[key] = torch.tensor(list(text), dtype=torch.uint8)

    damaged(tmp_path / "made", change)
    with pytest.raises(WeightsError, match="blocks of 128"):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made")


ARGUMENTS = (
    {}, *ASKED.values(), {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
    {"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"], "llm_int8_enable_fp32_cpu_offload": True},
    {"load_in_8bit": True, "llm_int8_has_fp16_weight": True, "unknown_of_later": 3},
)  # fmt: skip


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_settings_are_theirs(arguments, tmp_path):
    ours, theirs = omniform.BitsAndBytesConfig(**arguments), transformers.BitsAndBytesConfig(**arguments)
    assert ours.to_dict() == theirs.to_dict()
    assert ours.to_diff_dict() == theirs.to_diff_dict()
    assert ours.quantization_method() == theirs.quantization_method()
    assert ours.is_quantizable() == theirs.is_quantizable()
    assert omniform.BitsAndBytesConfig.from_dict(theirs.to_dict()) == ours
    ours.to_json_file(tmp_path / "ours.json")
    theirs.to_json_file(tmp_path / "theirs.json")
    assert json.loads((tmp_path / "ours.json").read_text()) == json.loads((tmp_path / "theirs.json").read_text())


@pytest.mark.parametrize("arguments", (
    {"load_in_8bit": True, "load_in_4bit": True}, {"llm_int8_threshold": 6}, {"llm_int8_skip_modules": "lm_head"},
    {"bnb_4bit_compute_dtype": 3}, {"bnb_4bit_quant_storage": "int4"}, {"bnb_4bit_quant_type": "nf5"},
    {"bnb_4bit_use_double_quant": 1}, {"load_in_4bit": "yes"}, {"llm_int8_threshold": -1.0},
))  # fmt: skip
def test_settings_that_cannot_be(arguments):
    with pytest.raises((ConfigError, InputError)):
        omniform.BitsAndBytesConfig(**arguments)
    settings = omniform.BitsAndBytesConfig(load_in_8bit=True)
    with pytest.raises(ConfigError):
        settings.load_in_4bit = True
