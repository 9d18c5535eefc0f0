"""The hooks that bring parts together. The meta device stands in for an accelerator: it computes shapes only."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from omniform.core.context import Memory, StepContext
from omniform.core.rules import Causal
from omniform.transforms.offload import Stay, attach, on
from reference import omniform

META, CPU = torch.device("meta"), torch.device("cpu")
IDS = torch.tensor([[5, 9, 3, 7]])


@pytest.fixture
def model():
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4
    )
    return omniform.AutoModelForCausalLM.from_config(config).eval()


def stay(path: str, model: nn.Module, *, layer: bool = False, visits: bool = True) -> Stay:
    tensors = tuple(f"{path}.{name}" for name in model.get_submodule(path).state_dict()) if visits else ()
    return Stay(path, tensors, META, False, layer)


def parts(model: nn.Module) -> list[Stay]:
    layers = [stay(f"model.layers.{i}", model, layer=True) for i in range(3)]
    return [stay("model.embed_tokens", model), *layers, stay("model.norm", model), stay("lm_head", model)]


def test_weights_visit_and_go_home(model):
    before = {name: (id(tensor), tensor.clone()) for name, tensor in model.named_parameters()}
    attach(model, parts(model), META)
    seen = []
    model.model.layers[1].mlp.up_proj.register_forward_hook(
        lambda module, args, out: seen.append((module.weight.device.type, args[0].device.type, out.device.type))
    )
    with torch.no_grad():
        logits = model(IDS).logits
    assert logits.device == META and logits.shape == (1, 4, 40) and seen == [("meta", "meta", "meta")]
    after = dict(model.named_parameters())
    assert all(
        id(after[name]) == identity and torch.equal(after[name], old) for name, (identity, old) in before.items()
    )
    assert {t.device.type for t in model.state_dict().values()} == {"cpu"}


def test_a_part_that_fails_leaves_nothing_behind(model):
    attach(model, parts(model), META)

    def fail(*_: object) -> None:
        raise RuntimeError("on purpose")

    handle = model.model.layers[1].mlp.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"), torch.no_grad():
        model(IDS)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    handle.remove()
    with torch.no_grad():
        assert model(IDS).logits.shape == (1, 4, 40)


def test_layers_hand_on_and_the_rest_gives_back(model):
    attach(model, [stay("model.layers.0", model, layer=True), stay("model.norm", model)], CPU)
    ctx = StepContext(positions=torch.arange(4)[None])
    with torch.no_grad():
        handed_on = model.model.layers[0](torch.randn(1, 4, 16), ctx)
    assert handed_on.device == META
    # The CPU is the main device here, and what lies on meta has no values to bring back.
    with pytest.raises(NotImplementedError, match="meta"):
        model.model.norm(handed_on)


def test_a_context_is_moved_once_for_all_layers():
    memory = Memory(torch.randn(1, 3, 8), torch.ones(1, 3, dtype=torch.bool))
    ctx = StepContext(positions=torch.arange(4)[None], memory=memory)
    here = ctx.mask(Causal(), 4, CPU)
    moved = on(ctx, META)
    assert isinstance(moved, StepContext) and moved is on(ctx, META) and moved is not ctx
    assert moved.positions.device == META and moved.memory.hidden.device == moved.memory.padding.device == META
    assert moved.taps is ctx.taps and moved.state is ctx.state
    assert moved.mask(Causal(), 4, META) is not here and ctx.mask(Causal(), 4, CPU) is here
    assert on(ctx, CPU) is ctx


def test_what_lies_there_already_stays_the_same_object():
    value = {"a": [torch.ones(2), (torch.ones(3), "text")], "b": None, "c": 3}
    assert on(value, CPU) is value
    moved = on(value, META)
    assert moved["a"][0].device == moved["a"][1][0].device == META and moved["a"][1][1] == "text" and moved["c"] == 3


def test_tied_weights_visit_twice():
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = omniform.AutoModelForCausalLM.from_config(config).eval()
    every = [stay(path, model) for path in ("model.embed_tokens", "model.norm", "lm_head")]
    attach(model, [*every, stay("model.layers.0", model, layer=True)], META)
    with torch.no_grad():
        assert model(IDS).logits.device == META
    assert model.lm_head.weight is model.model.embed_tokens.weight and model.lm_head.weight.device == CPU
