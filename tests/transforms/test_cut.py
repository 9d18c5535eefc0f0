"""Stacks with layers that are no program: the others are programs all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import omniform
from omniform.native.library import library
from omniform.transforms.cut import cut, told
from omniform.transforms.lower import LoweredLayers, computed_by, lower
from omniform.transforms.runnable import Runnable

pytestmark = pytest.mark.skipif(library() is None, reason="there are no native kernels")

TEXT = {
    "vocab_size": 41, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.tensor([[3, 4, 9, 1, 30], [7, 7, 1, 2, 5]])


class Doubled(nn.Module):
    """Says nothing of how it is lowered."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * 2


def made(*odd: int) -> omniform.Model:
    torch.manual_seed(3)
    model = omniform.AutoModelForCausalLM.from_config(omniform.AutoConfig.for_model("llama", **TEXT)).eval()
    for layer in odd:
        model.model.layers[layer].mlp = Doubled(model.model.layers[layer].mlp)
    return model


@pytest.fixture
def runs(monkeypatch):
    """How many programs were run."""
    count = []
    run = Runnable.run
    monkeypatch.setattr(Runnable, "run", lambda *args: count.append(1) or run(*args))
    return count


@pytest.mark.parametrize(
    ("odd", "pieces"), [((), 1), ((0,), 1), ((4,), 1), ((1,), 2), ((0, 4), 1), ((1, 3), 3), ((1, 2), 2)]
)
@torch.no_grad()
def test_the_rest_of_a_stack_is_programs(odd, pieces, runs):
    model = made(*odd)
    expected = model(IDS).logits
    assert lower(model) == 1
    found = model(IDS).logits
    assert len(runs) == pieces
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    written = model.generate(IDS, max_new_tokens=4, do_sample=False)
    assert torch.equal(made(*odd)(written[:, :-1]).logits.argmax(-1)[:, 4:], written[:, 5:])
    (stack,) = (m for m in model.modules() if isinstance(m, LoweredLayers))
    assert ("Doubled" in computed_by(stack)) == bool(odd)
    assert "programs" in computed_by(stack) if odd else computed_by(stack) == "one native program"


@torch.no_grad()
def test_of_none_that_is_a_program_torch_computes_all(runs):
    model = made(*range(5))
    expected = model(IDS).logits
    lower(model)
    assert torch.equal(model(IDS).logits, expected) and not runs


def test_what_is_said_of_a_cut():
    found = cut([*made(1, 3).model.layers], 64, memory=False)
    assert [(run.first, run.stop, bool(run.why)) for run in found] == [
        (0, 1, False), (1, 2, True), (2, 3, False), (3, 4, True), (4, 5, False)
    ]  # fmt: skip
    assert told(found).startswith("2 layers by torch: Doubled")
    assert told(cut([*made(2).model.layers], 64, memory=False)).startswith("layer 2 by torch: Doubled")
