"""Stacks of experts whose matrices are quantized: read one by one, made, computed, saved and taken back."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.stacks import QuantStack
from omniform.weights.keymap import KeyMap
from omniform.weights.links import Link
from reference import omniform

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "mixtral": ({**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}, "MixtralForCausalLM"),
    "qwen3_moe": ({**SMALL, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16,
                   "num_key_value_heads": 2}, "Qwen3MoeForCausalLM"),
    "gpt_oss": ({**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "num_key_value_heads": 2,
                 "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}, "GptOssForCausalLM"),
    "granitemoe": ({**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2},
                   "GraniteMoeForCausalLM"),
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def saved(family, folder, dtype=torch.float32):
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    kind = getattr(omniform, name)
    model = kind(omniform.AutoConfig.for_model(family, **keys)).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    return kind, model


def numbers(model):
    with torch.no_grad():
        return model(IDS).logits


def stacks(model):
    return {path: m for path, m in model.named_modules() if isinstance(m, QuantStack)}


@pytest.mark.parametrize("bits", (8, 4))
@pytest.mark.parametrize("family", FAMILIES)
def test_made_saved_and_loaded(family, bits, tmp_path):
    kind, plain = saved(family, tmp_path / "plain")
    made = kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.NativeConfig(bits=bits, group_size=32))
    found = stacks(made)
    assert len(found) == 4
    for path, stack in found.items():
        whole = plain.get_submodule(path).weight
        assert (stack.weight - whole).abs().max() <= whole.abs().max() / (250 if bits == 8 else 7.9)
    by_hand = kind.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        for path, layer in made.named_modules():
            if hasattr(layer, "KEPT") and hasattr(layer, "numbers"):
                by_hand.get_submodule(path).weight.copy_(layer.weight)
    expected = numbers(by_hand)
    assert (numbers(made) - expected).abs().max() <= 2e-3 * max(1, expected.abs().max())
    made.save_pretrained(tmp_path / "made")
    again = kind.from_pretrained(tmp_path / "made")
    assert len(stacks(again)) == 4 and torch.equal(numbers(again), numbers(made))
    assert again.num_parameters() == plain.num_parameters()
    again.save_pretrained(tmp_path / "again")
    for file in sorted(p.name for p in (tmp_path / "made").iterdir()):
        assert (tmp_path / "made" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    back = again.dequantize()
    assert not stacks(back)
    assert (numbers(back) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())
    back.save_pretrained(tmp_path / "back")
    assert (
        load_file(tmp_path / "back/model.safetensors").keys() == load_file(tmp_path / "plain/model.safetensors").keys()
    )


def test_experts_of_a_file_stay_where_they_lie(tmp_path):
    kind, _ = saved("mixtral", tmp_path / "plain")
    kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.NativeConfig()).save_pretrained(
        tmp_path / "q"
    )
    keys = load_file(tmp_path / "q/model.safetensors").keys()
    assert "model.layers.0.block_sparse_moe.experts.3.w1.weight_codes" in keys
    from omniform.weights.pages import span_of

    model = kind.from_pretrained(tmp_path / "q")
    stack = next(iter(stacks(model).values()))
    assert len(stack._buffers) == 16
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if str(tmp_path / "q") in line]
    for tensor in stack._buffers.values():
        at = tensor.data_ptr()
        assert any(int(a, 16) <= at < int(b, 16) for a, b in spans), span_of(tensor)


def test_rows_learn_through_experts(tmp_path):
    kind, _ = saved("mixtral", tmp_path)
    model = kind.from_pretrained(tmp_path, quantization_config=omniform.NativeConfig())
    back = kind.from_pretrained(tmp_path, quantization_config=omniform.NativeConfig()).dequantize()
    grads = []
    for one in (model, back):
        x = one.get_input_embeddings().weight.detach()[IDS].clone().requires_grad_()
        one(inputs_embeds=x).logits.square().sum().backward()
        grads.append(x.grad)
    assert torch.allclose(*grads, rtol=1e-3, atol=1e-4 * grads[0].abs().max())


def test_only_some_experts_are_quantized(tmp_path):
    kind, _ = saved("mixtral", tmp_path / "plain")
    kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.NativeConfig()).save_pretrained(
        tmp_path / "q"
    )
    path = tmp_path / "q/model.safetensors"
    held = load_file(path)
    held = {key: x for key, x in held.items() if ".1.block_sparse_moe.experts.2.w1." not in key}
    save_file(held, path, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"layers\.1\.mlp\.experts\.gate_up_proj.*all 8 matrices.*7"):
        kind.from_pretrained(tmp_path / "q")


def test_rules_without_numbers_are_found_by_name():
    """As the longest that matches the head of a path, among those with numbers."""
    rules = {
        "a.{i}": "x.{i}", "a.{i}.b": "y.{i}", "a.3.b": Link("z"), "": "all", "a.{i}.b.c.d": "deep.{i}", "q": "r",
    }  # fmt: skip
    keys = KeyMap(rules)
    for path, key in {
        "a.3.b.weight": "z.weight", "a.4.b.weight": "y.4.weight", "a.4.bb": "x.4.bb", "a.3": "x.3",
        "a.3.b.c.d": "deep.3", "q": "r", "qq.w": "all.qq.w", "a": "all.a",
    }.items():  # fmt: skip
        assert keys.places(path)[0].key == key == keys.spelled([path])[path]
