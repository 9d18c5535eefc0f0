"""Whole numbers of this library's own, from loading to saving; what holds for every known format is tried on them."""

from __future__ import annotations

import pytest
import torch

from omniform.core.errors import ConfigError
from omniform.native.library import library
from omniform.transforms.quantize.layers import QuantLinear
from omniform.weights.formats.codes import Codes
from omniform.weights.formats.native import Native
from reference import omniform

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": (SMALL, "LlamaForCausalLM"),
    "qwen2": ({**SMALL, "num_key_value_heads": 2}, "Qwen2ForCausalLM"),
    "gpt2": ({"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "eos_token_id": 1}, "GPT2LMHeadModel"),
    "gpt_neox": (SMALL, "GPTNeoXForCausalLM"),
    "phi3": ({**SMALL, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}, "Phi3ForCausalLM"),
    "bert": (SMALL, "BertForSequenceClassification"),
    "t5": ({"vocab_size": 96, "d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2, "num_heads": 4},
           "T5ForConditionalGeneration"),
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9]])


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
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        return model(IDS, **more).logits


@pytest.mark.parametrize("bits", (8, 4))
@pytest.mark.parametrize("family", FAMILIES)
def test_made_saved_and_loaded(family, bits, tmp_path):
    kind, plain = saved(family, tmp_path / "plain")
    settings = omniform.NativeConfig(bits=bits, group_size=32)
    made = kind.from_pretrained(tmp_path / "plain", quantization_config=settings)
    layers = {path: m for path, m in made.named_modules() if isinstance(m, QuantLinear)}
    assert len(layers) >= 8
    for path, layer in layers.items():
        whole = plain.get_submodule(path).weight
        bound = whole.abs().max() / (250 if bits == 8 else 7.9)
        assert (layer.weight - whole).abs().max() <= bound
    by_hand = kind.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        for path, layer in layers.items():
            by_hand.get_submodule(path).weight.copy_(layer.weight)
    expected = numbers(by_hand)
    assert (numbers(made) - expected).abs().max() <= 2e-3 * max(1, expected.abs().max())
    made.save_pretrained(tmp_path / "made")
    again = kind.from_pretrained(tmp_path / "made")
    for one, other in zip(made.state_dict().items(), again.state_dict().items(), strict=True):
        assert one[0] == other[0] and torch.equal(one[1], other[1])
    assert torch.equal(numbers(again), numbers(made))
    again.save_pretrained(tmp_path / "again")
    for file in sorted(p.name for p in (tmp_path / "made").iterdir()):
        assert (tmp_path / "made" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    back = again.dequantize()
    assert torch.equal(back.get_submodule(next(iter(layers))).weight, next(iter(layers.values())).weight)
    back.save_pretrained(tmp_path / "back")
    found = kind.from_pretrained(tmp_path / "back")
    assert found.state_dict().keys() == plain.state_dict().keys()
    assert (numbers(found) - expected).abs().max() <= 1e-4 * max(1, expected.abs().max())


def test_its_rows_learn_through_it(tmp_path):
    layer = QuantLinear(64, 48, Native(4, 32), bias=True)
    torch.manual_seed(1)
    layer.fill(layer.format.encoded(torch.randn(48, 64)))
    with torch.no_grad():
        layer.bias.zero_()
    x = torch.randn(5, 64, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    plain = torch.nn.functional.linear(x.detach(), layer.weight)
    assert torch.allclose(y, plain, atol=1e-5)
    assert torch.allclose(x.grad, 2 * plain @ layer.weight, atol=1e-3)
    assert layer.bias.grad is not None


@pytest.mark.parametrize(("asked", "said"), (({"bits": 3}, "8 or 4"), ({"group_size": 20}, "8, 16, 32")))
def test_numbers_that_cannot_be(asked, said):
    with pytest.raises(ConfigError, match=said):
        omniform.NativeConfig(**asked)


@pytest.mark.skipif(library() is None, reason="there are no native kernels")
@pytest.mark.parametrize("group", (8, 20, 48, 96, 100, 128, 160, 300, 512))
@pytest.mark.parametrize("bits", (8, 4))
def test_groups_of_any_size_are_multiplied(bits, group):
    torch.manual_seed(0)
    outs, ins = 24, 320
    groups = -(-ins // group)
    codes = torch.randint(0, 16, (outs, ins), dtype=torch.uint8)
    scales, minima = torch.rand(outs, groups) + 0.1, torch.randn(outs, groups)
    made = Codes(codes if bits == 4 else codes.view(torch.int8), scales, minima, None, group, bits)
    x = torch.randn(3, ins)
    expected = x.double() @ made.dequantized().double().T
    bound = 2**-11 * float(x.abs().max()) * made.dequantized().abs().sum(1)
    assert ((made.matrix().multiply(x) - expected).abs() <= bound).all()
