"""Native matrices give what plain ones give, notice every change, and leave files and copies alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import omniform
from omniform.core.errors import InputError
from omniform.hub.plan import plan
from omniform.native.library import library
from omniform.transforms.pack import _PACKED, NativeLinear, pack, packed_of

pytestmark = pytest.mark.skipif(library() is None, reason="no native kernels here")

CONFIG = {
    "vocab_size": 97, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def model(dtype="bfloat16", **changes):
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model("llama", **{**CONFIG, **changes})
    return omniform.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@pytest.fixture(params=["bfloat16", "float16", "float32"])
def folder(tmp_path, request):
    model(request.param).save_pretrained(tmp_path)
    return tmp_path


def scores(of, rows=3):
    ids = torch.arange(7 * rows).view(rows, 7) % 97
    with torch.no_grad():
        return of(ids).logits


def packed_layers(of):
    return {name: module for name, module in of.named_modules() if module in _PACKED}


@pytest.mark.parametrize("changes", [{}, {"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_same_numbers_before_and_after(changes, dtype):
    ours = model(dtype, **changes)
    exact = scores(copy.deepcopy(ours).double())
    before = scores(ours)
    names = {name for name, _ in ours.named_parameters()}
    assert pack(ours) == sum(isinstance(m, nn.Linear) for m in ours.modules()) == 15
    after = scores(ours)
    assert len(packed_layers(ours)) == 15
    far, near = ((x.double() - exact).abs().max() for x in (before, after))
    assert near <= 1.5 * far + 1e-5, "as exact as torch's own"
    assert {name for name, _ in ours.named_parameters()} == names


def test_loaded_halves_are_packed_when_first_used(folder):
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder)
    assert not packed_layers(ours)
    scores(ours)
    assert bool(packed_layers(ours)) is (ours.dtype is not torch.float32)
    expected = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    ours.save_pretrained(folder / "again")
    again = omniform.AutoModelForCausalLM.from_pretrained(folder / "again")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in expected.items())


def test_an_engine_packs_float32_too(folder):
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder)
    engine = omniform.Engine(ours, memory="8MB")
    engine.generate(list(range(3, 20)), max_new_tokens=4)
    assert "lm_head" in packed_layers(ours)


@pytest.mark.parametrize("counted", [True, False], ids=["torch counts it", "nobody counts it"])
def test_a_change_is_noticed(counted):
    ours = model()
    pack(ours)
    before = scores(ours)
    with torch.no_grad():
        weight = ours.lm_head.weight
        (weight if counted else weight.data).mul_(2)
    assert torch.allclose(scores(ours).float(), 2 * before.float(), rtol=1e-2)


def test_another_parameter_in_its_place():
    ours = model()
    pack(ours)
    scores(ours)
    ours.lm_head.weight = nn.Parameter(torch.zeros_like(ours.lm_head.weight))
    assert not scores(ours).any()


def test_copies_and_pickles_go_without():
    ours = model()
    pack(ours)
    before = scores(ours)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert not packed_layers(other)
        assert torch.equal(scores(other), before)


def test_gradients_are_torchs_own():
    ours = model("float32")
    expected = torch.autograd.grad(ours(torch.tensor([[5, 6, 7]])).logits.sum(), ours.lm_head.weight)[0]
    pack(ours)
    found = torch.autograd.grad(ours(torch.tensor([[5, 6, 7]])).logits.sum(), ours.lm_head.weight)[0]
    assert torch.equal(found, expected)
    assert not packed_layers(ours)


def test_derivatives_carried_forward_are_torchs_own():
    torch.manual_seed(0)
    linear = nn.Linear(128, 64)
    x, along = torch.randn(2, 3, 128)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        expected = torch.autograd.forward_ad.unpack_dual(linear(torch.autograd.forward_ad.make_dual(x, along))).tangent
        pack(linear)
        found = torch.autograd.forward_ad.unpack_dual(linear(torch.autograd.forward_ad.make_dual(x, along))).tangent
    assert torch.equal(found, expected)


def test_hooks_are_called():
    ours = model()
    pack(ours)
    seen = []
    ours.model.layers[0].self_attn.k_proj.register_forward_hook(lambda *_: seen.append(1))
    scores(ours)
    assert seen == [1]


def test_big_matrices_in_memory_are_left_to_torch_where_it_is_quick(monkeypatch):
    monkeypatch.setattr("omniform.transforms.precision.slow_dtypes", frozenset)
    monkeypatch.setattr("omniform.transforms.precision.SMALL", 1000)
    linear = nn.Linear(128, 128, dtype=torch.bfloat16)
    assert packed_of(linear) is None
    monkeypatch.setattr("omniform.transforms.precision.slow_dtypes", lambda: frozenset({torch.bfloat16}))
    assert packed_of(linear) is not None


def test_a_row_is_the_same_in_any_company():
    torch.manual_seed(0)
    linear = nn.Linear(512, 200, dtype=torch.bfloat16)
    pack(linear)
    assert type(linear) is NativeLinear
    x = torch.randn(64, 512).bfloat16()
    with torch.no_grad():
        whole = linear(x)
        for some in (slice(0, 1), slice(3, 5), slice(10, 42)):
            assert torch.equal(linear(x[some]), whole[some])


def test_without_kernels_everything_is_torchs(monkeypatch, folder):
    monkeypatch.setenv("OMNIFORM_NATIVE", "0")
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder)
    scores(ours)
    assert pack(ours) == 0 and not packed_layers(ours)
    assert not any("native" in m.kernel for m in plan(folder).matmuls)


def test_the_plan_says_so(folder):
    kernels = {m.kernel for m in plan(folder).matmuls}
    assert all(kernel.startswith("native ") and library().variant in kernel for kernel in kernels), kernels


@pytest.mark.parametrize(("bits", "far"), [(8, 0.02), (4, 0.2)])
def test_whole_numbers_are_made_at_load(bits, far, folder):
    plain = omniform.AutoModelForCausalLM.from_pretrained(folder)
    ours = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype=f"int{bits}")
    exact, found = scores(plain).double(), scores(ours).double()
    off = float((found - exact).norm() / exact.norm())
    assert 1e-4 < off < far
    kinds = {m.matrix.kind.name for layer, m in _PACKED.items() if layer in set(ours.model.modules())}
    assert kinds == {"I8" if bits == 8 else "N4"}
    assert _PACKED[ours.lm_head].matrix.kind.name == "I8"
    assert not any(p.requires_grad for p in ours.parameters())
    ours.save_pretrained(folder / "again")
    again = omniform.AutoModelForCausalLM.from_pretrained(folder / "again")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_whole_numbers_need_kernels(monkeypatch, folder):
    monkeypatch.setenv("OMNIFORM_NATIVE", "0")
    with pytest.raises(InputError, match="OMNIFORM_NATIVE=0"):
        omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="int8")


def test_the_plan_tells_whole_numbers(folder):
    kernels = {path: m.kernel for m in plan(folder, dtype="int4").matmuls for path in m.layers}
    assert kernels["lm_head"].startswith("native int8")
    assert kernels["model.layers.0.self_attn.q_proj"].startswith("native int4")
