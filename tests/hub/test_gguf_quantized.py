"""Quantizers of GGUF's types, beside those of the gguf package; and files that cannot be written."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import omniform
from omniform.core.errors import InputError, RepoError, WeightsError
from omniform.weights.gguf.dequantize import dequantize
from omniform.weights.gguf.quantize import BY_NAME, quantize
from omniform.weights.gguf.types import TYPES

pytest.importorskip("gguf")
import gguf
import gguf_written

KINDS = {kind.name: kind for kind in TYPES.values()}
# The mean squared error that llama.cpp (libggml 0.25.3, no importance matrix) comes to on the numbers below.
THEIRS = {
    "Q2_K": 0.08793,
    "Q3_K": 0.02294,
    "Q4_K": 0.005078,
    "Q5_K": 0.001314,
    "Q6_K": 0.0003148,
    "IQ4_NL": 0.005861,
    "IQ4_XS": 0.005955,
}


def numbers(kind, rows=64):
    x = torch.randn(rows, 512, generator=torch.Generator().manual_seed(0)) * 0.05
    x[0], x[1, :256], x[2, 3] = 0, 0.25, 40.0
    return x


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "BF16", "F16"])
def test_rounded_as_the_reference_does(name):
    x = numbers(name)
    theirs = gguf.quantize(x.numpy(), gguf.GGMLQuantizationType[name]).view(np.uint8)
    assert np.array_equal(quantize(x, KINDS[name]).numpy(), theirs)


@pytest.mark.parametrize("name", BY_NAME)
def test_numbers_come_back(name):
    x = numbers(name)
    raw = quantize(x, KINDS[name])
    theirs = gguf.dequantize(raw.numpy(), gguf.GGMLQuantizationType[name])
    made = dequantize(raw, KINDS[name])
    assert np.array_equal(made.numpy(), theirs)
    assert torch.equal(made[0], x[0])
    if name in THEIRS:
        plain = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1))
        lost = (dequantize(quantize(plain, KINDS[name]), KINDS[name]) - plain).square().mean()
        assert lost < THEIRS[name]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
def test_numbers_that_no_type_holds(bad):
    x = torch.zeros(2, 32)
    x[1, 5] = bad
    with pytest.raises(WeightsError, match="blk"):
        quantize(x, KINDS["F16"], "blk.0.ffn_up.weight")


def test_a_file_of_a_whole_model(tmp_path):
    tiny = gguf_written.tiny(tmp_path / "tiny.gguf")
    tokenizer = omniform.AutoTokenizer.from_pretrained(tiny)
    model = omniform.AutoModelForCausalLM.from_pretrained(tiny)
    model.save_gguf(tmp_path / "a.gguf", type="F32", tokenizer=tokenizer)
    again = omniform.AutoTokenizer.from_pretrained(tmp_path / "a.gguf")
    text = "hello world 123 <|im_start|>x"
    assert again.encode(text) == tokenizer.encode(text) and again.get_vocab() == tokenizer.get_vocab()
    other = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "a.gguf")
    other.save_gguf(tmp_path / "b.gguf", type="F32", tokenizer=again)
    names = {f.name: omniform.AutoModelForCausalLM.from_pretrained(f).state_dict() for f in tmp_path.glob("[ab].gguf")}
    assert all(torch.equal(names["a.gguf"][key], names["b.gguf"][key]) for key in names["a.gguf"])
    with pytest.raises(InputError, match="Q4_K_M"):
        model.save_gguf(tmp_path / "c.gguf", type="Q4_K_N")
    with pytest.raises(RepoError):
        model.save_gguf(tmp_path, type="F16")
