"""Slow halves in float32 tiles: as exact as torch's own, seen by nobody else, and chosen where the CPU asks for it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import omniform
from omniform.hub.plan import plan
from omniform.transforms import widen as widening
from omniform.transforms.widen import ROWS, WidenedConv2d, WidenedLinear, widen

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def slow(monkeypatch):
    """A CPU without any such instructions, and no native kernels."""
    found = frozenset(HALVES)
    monkeypatch.setenv("OMNIFORM_NATIVE", "0")
    monkeypatch.setattr(widening, "slow_dtypes", lambda: found)
    monkeypatch.setattr("omniform.hub.kernels.slow_dtypes", lambda: found)
    return found


@pytest.fixture
def counted(monkeypatch):
    """How often tiles were multiplied."""
    calls = []
    real = widening.multiplied
    monkeypatch.setattr(widening, "multiplied", lambda *args: (calls.append(1), real(*args))[1])
    return calls


def linear(n, k, *, bias, dtype):
    torch.manual_seed(0)
    layer = nn.Linear(k, n, bias=bias, dtype=dtype)
    assert widen(layer) == 1 and type(layer) is WidenedLinear
    return layer


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "n"), [((8, 64), 48), ((2, 9, 640), 1000), ((3, 3, 4097), 130), ((16, 300_000), 3), ((1, 33, 7), 1)]
)
def test_as_exact_as_float32_rounded_once(dtype, bias, shape, n, counted):
    layer = linear(n, shape[-1], bias=bias, dtype=dtype)
    x = torch.randn(shape).to(dtype)
    with torch.no_grad():
        found = layer(x)
        exact = F.linear(x.double(), layer.weight.double(), None if not bias else layer.bias.double())
        theirs = F.linear(x, layer.weight, layer.bias)
    assert len(counted) == 1 and found.dtype == dtype and found.shape == theirs.shape and found.is_contiguous()
    eps = torch.finfo(dtype).eps
    bound = eps * exact.abs() + 1e-5 * shape[-1] ** 0.5
    assert bool(((found.double() - exact).abs() <= bound).all())
    assert torch.allclose(found.float(), theirs.float(), rtol=2 * eps, atol=0.02)


def test_a_row_is_the_same_in_any_company():
    layer = linear(200, 512, bias=False, dtype=torch.bfloat16)
    x = torch.randn(64, 512).bfloat16()
    with torch.no_grad():
        whole, few = layer(x), layer(x[:ROWS])
        ones = torch.cat([layer(x[i : i + 1]) for i in range(64)])
    eps = torch.finfo(torch.bfloat16).eps
    for other in (whole[:ROWS], ones[:ROWS]):
        assert torch.allclose(few.float(), other.float(), rtol=2 * eps, atol=1e-2)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_convolutions(dtype, kind):
    torch.manual_seed(0)
    layer = kind(4, 6, 3, stride=2, padding=1, groups=2, padding_mode="reflect" if kind is not nn.Conv3d else "zeros")
    axes = int(kind.__name__[4])
    x = torch.randn(2, 4, *([9] * axes))
    with torch.no_grad():
        expected = layer.to(dtype).float()(x.to(dtype).float())
        assert widen(layer.to(dtype)) == 1 and isinstance(layer, kind)
        found = layer(x.to(dtype))
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-4)
    layer(x.to(dtype)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.dtype == dtype


def test_who_else_looks_goes_the_usual_way(counted):
    layer = linear(48, 64, bias=True, dtype=torch.bfloat16)
    x = torch.randn(16, 64).bfloat16()
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    layer(x.clone().requires_grad_()).sum().backward()
    with torch.no_grad():
        layer(x[: ROWS - 1])
        with torch.autocast("cpu", torch.bfloat16):
            layer(x.float())
        torch.func.vmap(layer)(x.view(2, 8, 64))
        torch.jit.trace(layer, x, check_trace=False)  # to check, it would run the layer as it is
        torch.export.export(layer, (x,)).module()(x)
        torch.compile(layer, backend="eager", fullgraph=True)(x)
        with torch.device("meta"):
            wide = copy.deepcopy(layer).to("meta")
            assert wide(x.to("meta")).is_meta
        layer.float()(x.float())
    assert not counted
    with torch.no_grad():
        layer.bfloat16()(x)
    assert len(counted) == 1


def test_it_stays_a_linear_layer(counted):
    layer = linear(48, 64, bias=True, dtype=torch.float16)
    assert isinstance(layer, nn.Linear) and set(layer.state_dict()) == {"weight", "bias"}
    x = torch.randn(9, 64).half()
    with torch.inference_mode():
        expected = layer(x)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        with torch.no_grad():  # the scratch that inference mode has made is of use here too
            assert type(other) is WidenedLinear and torch.equal(other(x), expected)
    assert widen(layer) == 0 and len(counted) == 3


def test_where_there_are_instructions_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(widening, "slow_dtypes", lambda: frozenset({torch.float16}))
    layers = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4), nn.Linear(4, 4).half())
    assert widen(layers) == 1
    assert [type(layer) for layer in layers] == [nn.Linear, nn.Linear, WidenedLinear]
    wide = linear(8, 8, bias=False, dtype=torch.float16).bfloat16()  # as a pickle from another machine
    with torch.no_grad():
        assert torch.equal(wide(torch.ones(9, 8).bfloat16()), F.linear(torch.ones(9, 8).bfloat16(), wide.weight))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=97, hidden_size=128, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.1, eos_token_id=-1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("llama")
    omniform.AutoModelForCausalLM.from_config(config, dtype="bfloat16").save_pretrained(path)
    return path


def test_models_are_loaded_so_and_answer_alike(folder, counted):
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {WidenedLinear}
    wide = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    assert WidenedLinear not in {type(m) for m in wide.modules()}
    rows = [list(range(3, 3 + n)) for n in (5, 17, 30, 11, 24, 9, 8, 40)]
    how = {"max_new_tokens": 2, "output_logits": True}
    together = omniform.Engine(model, memory="8MB").generate_batch(rows, **how)
    assert counted
    for row, one in zip(rows, together, strict=True):
        alone = omniform.Engine(model, memory="8MB").generate(row, **how)
        exact = wide(input_ids=torch.tensor([row])).logits[0, -1].detach()
        for found in (one, alone):
            logits = found.sequences[0].logits[0].float()
            assert torch.allclose(logits, exact, atol=0.04 * float(exact.abs().max()))
    path = folder / "again"
    model.save_pretrained(path)
    assert {n: t.shape for n, t in model.state_dict().items()} == {n: t.shape for n, t in wide.state_dict().items()}


def test_a_model_whose_dtype_changes_later(folder, counted):
    model = omniform.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    engine = omniform.Engine(model, memory="8MB")
    engine.generate(list(range(3, 20)), max_new_tokens=2)
    assert not counted
    model.half()
    engine.generate(list(range(3, 20)), max_new_tokens=2)
    assert counted


def test_encoders_gain_too(counted):
    model = omniform.AutoModelForImageTextToText.from_pretrained(omniform.bundled_checkpoint(), dtype="bfloat16")
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert convolutions and {type(m) for m in convolutions} == {WidenedConv2d}


def test_the_plan_says_so(folder, slow, monkeypatch):
    kernels = {m.kernel: m for m in plan(folder).matmuls}
    assert list(kernels) == ["bf16 in f32 tiles"] and "no bf16 instructions" in kernels["bf16 in f32 tiles"].why
    assert len(kernels["bf16 in f32 tiles"].layers) == 15
    assert [m.kernel for m in plan(folder, dtype="float32").matmuls] == ["f32, torch's own"]
    bundled = {m.kernel for m in plan(omniform.bundled_checkpoint(), dtype="float16").matmuls}
    assert bundled == {"f16 in f32 tiles", "f16 convolution in f32"}
    monkeypatch.setattr("omniform.hub.kernels.slow_dtypes", lambda: frozenset({torch.float16}))
    assert {m.kernel for m in plan(folder).matmuls} == {"oneDNN prepacked bf16"}
    assert {m.kernel for m in plan(folder, device_map="disk").matmuls} == {"oneDNN bf16"}
    assert {m.kernel for m in plan(folder, device_map={"": 0}).matmuls} == {"bf16, the device's own"}
