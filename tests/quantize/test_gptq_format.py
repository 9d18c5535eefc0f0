"""GPTQ checkpoints of every width, version and order, against ones written by hand."""

from __future__ import annotations

import json
from inspect import signature

import numpy as np
import pytest
import torch
from gptq_written import written
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.hub.inspect import inspect
from omniform.hub.plan import plan
from omniform.transforms.quantize.layers import QuantLinear
from omniform.weights.formats.gptq import Gptq, packed, unpacked
from reference import omniform, transformers

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "llama": (SMALL, "LlamaForCausalLM"),
    "qwen2": ({**SMALL, "num_key_value_heads": 1}, "Qwen2ForCausalLM"),
    "gpt2": ({"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 2, "eos_token_id": 1}, "GPT2LMHeadModel"),
    "gpt_neox": (SMALL, "GPTNeoXForCausalLM"),
    "phi3": ({**SMALL, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}, "Phi3ForCausalLM"),
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11]])
KINDS = {
    "v1": {},
    "v2": {"v2": True},
    "symmetric": {"sym": True},
    "act-order": {"act": True},
    "act-order, v2, symmetric": {"act": True, "v2": True, "sym": True},
}


def numbers(model):
    with torch.no_grad():
        return model(IDS).logits


def made(family, folder, bits=4, group=32, head=False, **how):
    """A random checkpoint of which every layer of the blocks is quantized, and its plain twin."""
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    kind = getattr(transformers, name)
    config = transformers.AutoConfig.for_model(family, tie_word_embeddings=False, **keys)
    plain = kind(config).eval()
    with torch.no_grad():
        for p in plain.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    held = {}
    for seed, (path, layer) in enumerate(list(plain.named_modules())):
        conv = type(layer).__name__ == "Conv1D"
        if not (conv or isinstance(layer, torch.nn.Linear)) or (
            "layers" not in path and ".h." not in path and not head
        ):
            continue
        outs, ins = layer.weight.shape[::-1] if conv else layer.weight.shape
        tensors, whole = written(path, outs, ins, bits, group, seed=seed, **how)
        held |= tensors
        weight = torch.from_numpy(whole).float()
        with torch.no_grad():
            layer.weight.copy_(weight.t() if conv else weight)
    quantized = {key.rsplit(".", 1)[0] for key in held}
    rest = {k: v for k, v in plain.state_dict().items() if k.removesuffix(".weight") not in quantized}
    config.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    raw["architectures"] = [name]
    settings = {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": how.get("act", False),
                "sym": how.get("sym", False), "checkpoint_format": "gptq_v2" if how.get("v2") else "gptq"}  # fmt: skip
    raw["quantization_config"] = settings
    (folder / "config.json").write_text(json.dumps(raw))
    save_file({k: v.contiguous() for k, v in (held | rest).items()}, folder / "model.safetensors", {"format": "pt"})
    return plain


def close(found, expected):
    assert (found - expected).abs().max() <= 2e-3 * max(1, expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", (2, 3, 4, 8))
@pytest.mark.parametrize("group", (32, 48, -1, 40))
def test_one_layer_of_every_kind(bits, kind, group):
    held, whole = written("x", 64, 96, bits, group, seed=bits, **KINDS[kind])
    tensors = {key.removeprefix("x."): value for key, value in held.items()}
    format = Gptq(bits, group, 2 if KINDS[kind].get("v2") else 1)
    assert np.array_equal(format.numbers(tensors, 64, 96).double().numpy(), whole)
    layer = QuantLinear(96, 64, format, bias=False)
    layer.fill(tensors)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1))
    expected = x.double() @ torch.from_numpy(whole).t()
    with torch.no_grad():
        assert torch.allclose(
            layer(x).double(), expected, atol=1e-3 * expected.abs().max()
        )  # inputs are rounded on the way
    assert torch.allclose(torch.cat(list(layer.rows())).double(), torch.from_numpy(whole), atol=0, rtol=0)


@pytest.mark.parametrize("bits", (2, 3, 4, 8))
def test_words_and_back(bits):
    codes = torch.randint(0, 2**bits, (96, 7), generator=torch.Generator().manual_seed(bits), dtype=torch.int32)
    assert torch.equal(unpacked(packed(codes, bits), bits), codes)


@pytest.mark.parametrize(
    ("family", "bits", "kind", "group"),
    [
        *((family, 4, "v1", 32) for family in FAMILIES),
        *((family, 3, "act-order", 32) for family in ("llama", "phi3", "gpt2", "gpt_neox")),
        ("llama", 8, "symmetric", -1), ("qwen2", 2, "v2", 16), ("phi3", 4, "act-order, v2, symmetric", 64),
        ("gpt2", 8, "v2", 32), ("gpt_neox", 4, "symmetric", 32),
    ],
)  # fmt: skip
def test_whole_models(family, bits, kind, group, tmp_path):
    if KINDS[kind].get("act") and family == "phi3":
        kind = {"act-order": "v1"}.get(kind, kind)
    expected = numbers(made(family, tmp_path / "one", bits, group, **KINDS[kind]))
    model = getattr(omniform, FAMILIES[family][1]).from_pretrained(tmp_path / "one")
    assert sum(isinstance(m, QuantLinear) for m in model.modules()) >= 8
    close(numbers(model), expected)
    model.save_pretrained(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        assert one[key].dtype == two[key].dtype and torch.equal(one[key], two[key]), key
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert torch.equal(numbers(again), numbers(model))
    again.save_pretrained(tmp_path / "three")
    for file in sorted(p.name for p in (tmp_path / "two").iterdir()):
        assert (tmp_path / "two" / file).read_bytes() == (tmp_path / "three" / file).read_bytes(), file
    back = again.dequantize()
    close(numbers(back), expected)
    back.save_pretrained(tmp_path / "plain")
    close(numbers(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")), expected)


def test_a_quantized_head(tmp_path):
    expected = numbers(made("llama", tmp_path, head=True))
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(model.lm_head, QuantLinear)
    close(numbers(model), expected)
    base = omniform.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(base(IDS).last_hidden_state, model.model(IDS).last_hidden_state)


def test_without_an_order(tmp_path):
    expected = numbers(made("llama", tmp_path))
    held = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in held.items() if not k.endswith("g_idx")}, tmp_path / "model.safetensors")
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    close(numbers(model), expected)
    model.save_pretrained(tmp_path / "again")
    assert not any(k.endswith("g_idx") for k in load_file(tmp_path / "again/model.safetensors"))


def test_what_is_told_without_loading(tmp_path):
    made("llama", tmp_path)
    told = inspect(tmp_path)
    size = sum(x.nbytes for x in load_file(tmp_path / "model.safetensors").values())
    assert told.nbytes == size
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.is_quantized and model.config.quantization_config.bits == 4
    assert plan(tmp_path).weights == size


FIELDS = [
    {"bits": 4}, {"bits": 2, "group_size": -1, "sym": False}, {"bits": 8, "desc_act": True, "damp_percent": 0.01},
    {"bits": 3, "checkpoint_format": "GPTQ_V2"}, {"bits": 4, "format": "gptq_v2", "backend": "MARLIN"},
    {"bits": 4, "dataset": ["a", "b"], "tokenizer": "there", "model_seqlen": 8, "batch_size": 2, "pad_token_id": 0},
    {"bits": 4, "dataset": "c4", "block_name_to_quantize": "model.layers", "cache_block_outputs": False},
    {"bits": 4, "module_name_preceding_first_block": ["model.embed_tokens"], "true_sequential": False},
    {"bits": 4, "meta": {"quantizer": ["x:1"]}, "max_input_length": 9, "act_group_aware": False, "unknown": 3},
]  # fmt: skip


@pytest.mark.parametrize("given", FIELDS)
def test_settings_are_the_references(given):
    from transformers import GPTQConfig as Theirs

    ours, theirs = omniform.GPTQConfig(**given), Theirs(**given)
    assert ours.to_dict() == theirs.to_dict()
    assert ours.get_loading_attributes() == theirs.get_loading_attributes()
    assert omniform.GPTQConfig.from_dict(theirs.to_dict()).to_dict() == Theirs.from_dict(ours.to_dict()).to_dict()
    assert json.loads(ours.to_json_string(use_diff=False)) == json.loads(theirs.to_json_string(use_diff=False))


def test_every_setting_of_the_references_is_taken():
    from transformers import GPTQConfig as Theirs

    names = [set(signature(kind.__init__).parameters) for kind in (Theirs, omniform.GPTQConfig)]
    assert names[0] <= names[1]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"bits": 5}, "2, 3, 4 or 8"), ({"bits": 4, "group_size": 0}, "group_size"),
     ({"bits": 4, "damp_percent": 1}, "damp_p"),
     ({"bits": 4, "batch_size": 0}, "batch_size"), ({"bits": 4, "dataset": 7}, "dataset")],
)  # fmt: skip
def test_settings_that_cannot_be(given, said):
    with pytest.raises(ConfigError, match=said):
        omniform.GPTQConfig(**given)


def changed(folder, **tensors):
    held = load_file(folder / "model.safetensors")
    for key, change in tensors.items():
        key = f"model.layers.1.mlp.up_proj.{key}"
        held[key] = change(held[key]).contiguous()
    save_file(held, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scales": lambda x: x[:1]}, r"layers\.1\.mlp\.up_proj\.scales.*(1.*2|2.*1)"),
        ({"qzeros": lambda x: x[:, :5]}, r"layers\.1\.mlp\.up_proj\.qzeros.*(5.*12|12.*5)"),
        ({"qweight": lambda x: x[:7]}, r"layers\.1\.mlp\.up_proj\.qweight.*(7.*8|8.*7)"),
        ({"g_idx": lambda x: x * 0}, r"layers\.1\.mlp\.up_proj\.g_idx.*32 inputs in group 1; found 0"),
        ({"g_idx": lambda x: x + 5}, r"layers\.1\.mlp\.up_proj\.g_idx.*5 to 6"),
    ],
)
def test_tensors_that_do_not_fit(change, said, tmp_path):
    made("llama", tmp_path)
    changed(tmp_path, **change)
    with pytest.raises(WeightsError, match=said):
        omniform.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_other_mistakes(tmp_path):
    made("llama", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    for name, value, said in (
        ("checkpoint_format", "marlin", "gptq or gptq_v2"),
        ("bits", 6, "2, 3, 4 or 8"),
        ("group_size", 64, r"down_proj\.qzeros has .* expected .2, 8., found .3, 8."),
        ("bits", 8, "qweight"),
    ):
        settings = {**raw["quantization_config"], name: value}
        (tmp_path / "config.json").write_text(json.dumps({**raw, "quantization_config": settings}))
        with pytest.raises((ConfigError, WeightsError), match=said):
            omniform.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_layers_of_their_own(tmp_path):
    """A rule for some layers (GPTQModel's ``dynamic``): other bits, or none."""
    plain = made("llama", tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    name = "model.layers.0.mlp.up_proj"
    tensors, whole = written(name, 96, 64, 8, 64, seed=99)
    weight = torch.from_numpy(whole).float()
    with torch.no_grad():
        plain.get_submodule(name).weight.copy_(weight)
    save_file({**held, **tensors}, tmp_path / "model.safetensors", {"format": "pt"})
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["quantization_config"]["dynamic"] = {r"+:.*\.0\.mlp\.up_proj": {"bits": 8, "group_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    close(numbers(model), numbers(plain))
    model.save_pretrained(tmp_path / "again")
    close(numbers(omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "again")), numbers(plain))


@pytest.mark.parametrize("kind", ("v1", "symmetric", "act-order"))
def test_experts(kind, tmp_path):
    keys = {**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}
    torch.manual_seed(1)
    plain = omniform.MixtralForCausalLM(omniform.AutoConfig.for_model("mixtral", **keys)).eval()
    plain.save_pretrained(tmp_path / "one")
    held = load_file(tmp_path / "one/model.safetensors")
    whole = dict(held)
    for seed, key in enumerate([k for k in held if ".experts." in k and k.endswith(".weight")]):
        outs, ins = held.pop(key).shape
        tensors, numbers_ = written(key.removesuffix(".weight"), outs, ins, 4, 32, seed=seed, **KINDS[kind])
        held |= tensors
        whole[key] = torch.from_numpy(numbers_).float()
    plain.save_pretrained(tmp_path / "plain")
    save_file(whole, tmp_path / "plain/model.safetensors", {"format": "pt"})
    save_file(held, tmp_path / "one/model.safetensors", {"format": "pt"})
    raw = json.loads((tmp_path / "one/config.json").read_text())
    raw["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (tmp_path / "one/config.json").write_text(json.dumps(raw))
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    close(numbers(model), numbers(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain")))
    model.save_pretrained(tmp_path / "two")
    again = load_file(tmp_path / "two/model.safetensors")
    assert again.keys() == held.keys() and all(torch.equal(again[key], held[key]) for key in held)


def test_without_texts(tmp_path):
    made("llama", tmp_path / "x").save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="dataset"):
        omniform.AutoModelForCausalLM.from_pretrained(
            tmp_path / "plain", quantization_config=omniform.GPTQConfig(bits=4)
        )
