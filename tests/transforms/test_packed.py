"""Layers whose matrices stay in a file's blocks."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import omniform
from omniform.native.library import library
from omniform.transforms import packed
from omniform.transforms.lower import lower, lowered_reason
from omniform.transforms.packed import PackedEmbedding, PackedLinear, matrix_of
from omniform.weights.gguf.types import TYPES

KINDS = {kind.name: kind for kind in TYPES.values() if kind.is_packed and kind.read}
SCALES = {"Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
          "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}  # fmt: skip
"""Where blocks have scales, which are made tame."""


def tame(kind, rows, width, seed=0):
    """Random blocks with scales about one. Shape: [rows, bytes of a row]."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows * width // kind.numbers, kind.nbytes), np.uint8)
    for at in SCALES.get(kind.name, ()):
        scale = rng.uniform(0.5, 2.0, (len(raw), 1)).astype(np.float16)
        raw[:, at : at + 2] = scale.view(np.uint8)
    if kind.name == "MXFP4":
        raw[:, 0] = rng.integers(120, 130, len(raw))
    return torch.from_numpy(raw).view(rows, -1)


def layer(kind, ins=512, outs=70, bias=True):
    made = PackedLinear(ins, outs, kind, bias=bias)
    made._buffers["packed"] = tame(kind, outs, ins)
    if bias:
        made.bias = torch.nn.Parameter(torch.randn(outs, generator=torch.Generator().manual_seed(1)))
    return made.requires_grad_(False).eval()


@pytest.fixture
def without_kernels(monkeypatch):
    monkeypatch.setattr(packed, "library", lambda: None)


@pytest.mark.parametrize("name", KINDS)
def test_without_kernels_it_is_the_plain_layer(name, without_kernels, monkeypatch):
    made = layer(KINDS[name])
    x = torch.randn(3, 5, 512, generator=torch.Generator().manual_seed(2))
    expected = F.linear(x, made.weight, made.bias)
    assert matrix_of(made) is None
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-3)
    monkeypatch.setattr(packed, "AT_ONCE", 512 * 16)  # a few rows at a time, the last of them fewer
    torch.testing.assert_close(made(x), expected, rtol=1e-4, atol=1e-3)
    half = copy.deepcopy(made).bfloat16()(x.bfloat16())
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


@pytest.mark.skipif(library() is None, reason="no kernels are compiled here")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rows", [1, 7])
def test_with_kernels_it_errs_by_twelve_bits(name, rows):
    made = layer(KINDS[name])
    x = torch.randn(rows, 512, generator=torch.Generator().manual_seed(2))
    expected = F.linear(x.double(), made.weight.double(), made.bias.double())
    found = made(x)
    assert matrix_of(made) is not None
    # A row is rounded to 1 / 2047 of its greatest number; errors of 512 of them mostly cancel.
    bound = x.abs().amax(-1, keepdim=True) / 4094 * made.weight.norm(dim=1) * 5
    assert bool(((found - expected).abs() <= bound + 1e-4 * expected.abs()).all())
    together = made(torch.cat((x, x)))
    assert torch.equal(together[:rows], found)
    assert torch.equal(made(x[:1]), found[:1])


@pytest.mark.skipif(library() is None, reason="no kernels are compiled here")
def test_a_matrix_is_packed_anew_when_its_bytes_change():
    made = layer(KINDS["Q4_0"])
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(2))
    before = made(x)
    made.packed.copy_(tame(KINDS["Q4_0"], 70, 512, seed=5))
    after = made(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, F.linear(x, made.weight, made.bias), rtol=0.01, atol=1.0)


def test_who_learns_goes_torchs_way():
    made = layer(KINDS["Q6_K"], bias=False)
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(2), requires_grad=True)
    made(x).sum().backward()
    torch.testing.assert_close(x.grad, made.weight.sum(0).expand(2, -1), rtol=1e-4, atol=1e-2)


def test_copies_and_pickles():
    made = layer(KINDS["Q5_K"])
    x = torch.randn(2, 512, generator=torch.Generator().manual_seed(2))
    expected = made(x)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(x), expected)


@pytest.mark.parametrize("name", KINDS)
def test_an_embedding_gives_rows(name):
    kind = KINDS[name]
    table = PackedEmbedding(9, 256, kind, torch.bfloat16, None)
    table._buffers["packed"] = tame(kind, 9, 256)
    ids = torch.tensor([[3, 3, 8], [0, 1, 2]])
    found = table(ids)
    assert found.shape == (2, 3, 256)
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, table.weight[ids].bfloat16())


def test_a_stack_of_layers_in_blocks_is_a_program():
    """Matrices in blocks are multiplied by in one call of the library a step, as those of floats are."""
    if library() is None:
        pytest.skip("no native kernels here")
    config = omniform.AutoConfig.for_model(
        "llama", vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    ours = omniform.AutoModelForCausalLM.from_config(config).eval()
    for path, module in list(ours.model.layers.named_modules()):
        if isinstance(module, torch.nn.Linear):
            parent, _, name = path.rpartition(".")
            made = layer(KINDS["Q8_0"], module.in_features, module.out_features, bias=False)
            setattr(ours.model.layers.get_submodule(parent), name, made)
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = ours(ids).logits
        assert lower(ours) == 1
        torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    engine = omniform.Engine(ours, memory="4MB")
    engine.generate([3, 4, 5], max_new_tokens=3)
    assert lowered_reason(ours.model.layers) == "" and "model.layers: one native program" in repr(engine)
    assert "Q8_0" in repr(engine)


@pytest.mark.skipif(library() is None, reason="there are no native kernels")
def test_a_native_matrix_is_that_of_its_bytes_and_bias_as_they_are_now():
    made = layer(KINDS["Q4_0"])
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(2))

    def moved(name):
        given = getattr(made, name)
        given.data = given.data.flip(0).contiguous()

    def written(name):
        getattr(made, name).data.copy_(getattr(made, name).data.flip(0))

    for edit, name in ((moved, "bias"), (written, "bias"), (moved, "packed"), (written, "packed")):
        before = made(x)
        held = matrix_of(made)
        edit(name)
        if (edit, name) == (written, "packed"):  # which only those see who look thoroughly
            assert matrix_of(made) is held
            packed.forget_written(made)
        torch.testing.assert_close(made(x), F.linear(x, made.weight, made.bias), rtol=1e-2, atol=0.5)
        assert (made(x) - before).abs().max() > 1
    held = matrix_of(made)
    packed.forget_written(made)
    assert matrix_of(made) is held
