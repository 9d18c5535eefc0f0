"""A program is that of its modules as they are now: whatever somebody does to them is seen in the next forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omniform
from omniform.native.library import library
from omniform.transforms.lower import LoweredLayers, lower, lowered_reason
from omniform.transforms.pack import pack

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels")

TEXT = {
    "vocab_size": 41, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
BIASED = {**TEXT, "attention_bias": True, "mlp_bias": True}
IDS = torch.tensor([[3, 4, 9, 1, 30]])


@pytest.fixture
def model() -> omniform.Model:
    torch.manual_seed(2)
    made = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **BIASED)).eval()
    assert lower(made) == 1
    return made


def said(model, **asked):
    with torch.no_grad():
        return model(IDS, **asked).logits


def why(model):
    (stack,) = (m for m in model.modules() if isinstance(m, LoweredLayers))
    return lowered_reason(stack)


def elsewhere(tensor):
    tensor.data = tensor.data * 1.5 + 0.25


def replaced(model):
    model.model.layers[1].input_layernorm.weight = nn.Parameter(torch.linspace(-1, 1, 64))


EDITS = {
    "a norm lies elsewhere": lambda m: elsewhere(m.model.layers[0].input_layernorm.weight),
    "the final norm lies elsewhere": lambda m: elsewhere(m.model.norm.weight),
    "a matrix lies elsewhere": lambda m: elsewhere(m.model.layers[0].mlp.down_proj.weight),
    "a bias lies elsewhere": lambda m: elsewhere(m.model.layers[1].self_attn.v_proj.bias),
    "a counted write to a norm": lambda m: nn.init.uniform_(m.model.layers[1].input_layernorm.weight),
    "an uncounted write to a norm": lambda m: m.model.norm.weight.data.mul_(torch.linspace(0, 2, 64)),
    "an uncounted write to a matrix": lambda m: m.model.layers[1].mlp.up_proj.weight.data.neg_(),
    "an uncounted write to a bias": lambda m: m.model.layers[0].self_attn.v_proj.bias.data.add_(0.5),
    "one number of a bias": lambda m: m.model.layers[0].mlp.gate_proj.bias.data[20:21].add_(30.0),
    "another parameter": replaced,
    "a setting": lambda m: setattr(m.model.norm, "eps", 10.0),
    "layers in another order": lambda m: m.model.layers.insert(0, m.model.layers.pop(1)),
    "one layer less": lambda m: m.model.layers.pop(0),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("packs", [False, True], ids=["lowered", "packed too"])
def test_what_is_done_to_modules_is_seen(model, edit, packs):
    if packs:
        assert pack(model)
    before = said(model)
    assert why(model) == ""
    with torch.no_grad():
        edit(model)
    after = said(model)
    assert why(model) == ""
    by_torch = said(model, output_hidden_states=True)  # whoever wants to see every layer's is served by torch
    torch.testing.assert_close(after, by_torch, atol=1e-5, rtol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_writes_to_experts_are_seen():
    torch.manual_seed(2)
    config = omniform.AutoConfig.for_model("mixtral", **TEXT, num_local_experts=4, num_key_value_heads=2)
    model = omniform.AutoModelForCausalLM.from_config(config).eval()
    assert lower(model) == 1
    before = said(model)
    assert why(model) == ""
    stacked = [p for path, p in model.model.layers[1].named_parameters() if p.dim() == 3]
    assert len(stacked) == 2
    for parameter in stacked:
        parameter.data.mul_(torch.linspace(-2, 2, parameter.shape[-1]))
        after = said(model)
        assert why(model) == ""
        torch.testing.assert_close(after, said(model, output_hidden_states=True), atol=1e-5, rtol=1e-5)
        assert (after - before).abs().max() > 1e-4
        before = after


PARTS = {
    "a layer": lambda m: m.model.layers[1],
    "a norm": lambda m: m.model.layers[0].input_layernorm,
    "a matrix": lambda m: m.model.layers[0].self_attn.q_proj,
    "an attention": lambda m: m.model.layers[1].self_attn,
    "the final norm": lambda m: m.model.norm,  # which is called by itself then
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("early", [False, True], ids=["afterwards", "before the first step"])
@pytest.mark.parametrize("pre", [False, True], ids=["after it", "before it"])
def test_hooks_are_called(model, part, early, pre):
    if not early:
        before = said(model)
    called = []
    hang = part(model).register_forward_pre_hook if pre else part(model).register_forward_hook
    handle = hang(lambda module, *given: called.append(module))
    for times in (1, 2):
        torch.testing.assert_close(said(model), said(model) if early else before, atol=1e-5, rtol=1e-5)
        assert len(called) == times * (2 if early else 1) and ("hook" in why(model)) is (
            part(model) is not model.model.norm
        )
    handle.remove()
    called.clear()
    said(model)
    assert not called and why(model) == ""
