"""FP4, NF4 and LLM.int8() bit for bit as the package of bitsandbytes makes and reads them on the CPU."""

from __future__ import annotations

import bitsandbytes
import pytest
import torch
from bitsandbytes import functional

from omniform.core.errors import WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.weights.formats.bitsandbytes import FourBit
from omniform.weights.formats.llm_int8 import LlmInt8

SHAPES = ((48, 64), (33, 96), (16, 100), (300, 512), (5, 24))


def weights(shape, dtype, seed=0):
    torch.manual_seed(seed)
    made = torch.randn(shape) * torch.logspace(-3, 1, shape[0])[:, None]
    made[:, ::7] = 0
    made[0] = 0
    made[1, :8] = -made[1, :8].abs().max()
    return made.to(dtype)


def theirs(weight, table, nested, storage=torch.uint8):
    packed, state = functional.quantize_4bit(
        weight, blocksize=64, compress_statistics=nested, quant_type=table, quant_storage=storage
    )
    return {"weight": packed} | {f"weight.{k}": v for k, v in state.as_dict(packed=True).items()}, packed, state


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("nested", (False, True))
@pytest.mark.parametrize("table", ("nf4", "fp4"))
@pytest.mark.parametrize("shape", SHAPES)
def test_four_bits_are_made_and_read_bit_for_bit(shape, table, nested, dtype):
    weight = weights(shape, dtype)
    expected, packed, state = theirs(weight, table, nested)
    format = FourBit(table, nested)
    made = format.encoded(weight)
    parts = format.fitted(made).parts(*shape)
    assert {part.key for part in parts.values()} == set(expected)
    for name, part in parts.items():
        assert made[name].shape == part.shape == expected[part.key].shape, name
        assert made[name].dtype == part.dtype == expected[part.key].dtype, name
        assert torch.equal(made[name].view(torch.uint8), expected[part.key].view(torch.uint8)), name
    numbers = format.numbers(made, *shape)
    assert torch.equal(numbers.to(dtype), functional.dequantize_4bit(packed, state))
    matrix, order = format.matrix(made, *shape)
    assert order is None
    assert torch.equal(matrix.unpack(), numbers)


@pytest.mark.parametrize("storage", (torch.int8, torch.bfloat16, torch.float16, torch.float32, torch.float64))
def test_packed_bytes_are_kept_as_any_dtype(storage):
    weight = weights((48, 64), torch.float32)
    _, packed, state = theirs(weight, "nf4", True, storage)
    format = FourBit("nf4", True, storage=storage)
    made = format.encoded(weight)
    assert made["packed"].dtype == storage
    assert made["packed"].shape == packed.shape == format.parts(48, 64)["packed"].shape
    assert torch.equal(made["packed"].view(torch.uint8), packed.view(torch.uint8))
    assert torch.equal(format.numbers(made, 48, 64), functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize("size", (32, 128, 512, 4096))
def test_blocks_of_other_sizes_are_read(size):
    weight = weights((48, 96), torch.float32)
    packed, state = functional.quantize_4bit(weight, blocksize=size, quant_type="nf4")
    held = {"packed": packed} | state.as_dict(packed=True)
    numbers = FourBit("nf4", block=size).numbers(held, 48, 96)
    assert torch.equal(numbers, functional.dequantize_4bit(packed, state))


def filled(format, weight, bias=None):
    outs, ins = weight.shape
    made = format.encoded(weight)
    layer = QuantLinear(ins, outs, format.fitted(made), bias=bias is not None, dtype=weight.dtype)
    layer.fill(made)
    if bias is not None:
        layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    return layer.eval()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("shape", ((300, 512), (33, 96), (16, 100)))
@pytest.mark.parametrize("rows", (1, 9))
def test_a_layer_of_four_bits_answers_as_theirs(shape, rows, dtype):
    weight, bias = torch.randn(shape).to(dtype) * 0.1, torch.randn(shape[0]).to(dtype)
    layer = filled(FourBit("nf4", True), weight, bias)
    other = bitsandbytes.nn.Linear4bit(shape[1], shape[0], quant_type="nf4", compute_dtype=dtype)
    other.weight = bitsandbytes.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4")
    other.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
    other = other.to("cpu").eval()
    x = torch.randn(2, rows, shape[1]).to(dtype)
    expected = other(x)
    bound = (1e-3 if dtype == torch.float32 else 2e-2) * expected.abs().max()
    found = layer(x)
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= bound


@pytest.mark.parametrize("shape", ((48, 64), (33, 96), (300, 512)))
def test_eight_bits_are_made_bit_for_bit(shape):
    weight = weights(shape, torch.float32)
    codes, scales, _ = functional.int8_vectorwise_quant(weight.half())
    made = LlmInt8().encoded(weight)
    assert torch.equal(made["codes"], codes)
    assert torch.equal(made["SCB"], scales)
    assert torch.equal(LlmInt8().numbers(made, *shape), functional.int8_vectorwise_dequant(codes, scales))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
@pytest.mark.parametrize(("threshold", "outliers"), ((6.0, 0), (6.0, 3), (0.0, 3), (2.5, 0)))
@pytest.mark.parametrize("rows", (1, 9))
@pytest.mark.parametrize("training", (False, True))
def test_a_layer_of_eight_bits_answers_as_theirs(threshold, outliers, rows, training, dtype):
    torch.manual_seed(5)
    weight, bias = torch.randn(96, 128).to(dtype) * 0.1, torch.randn(96).to(dtype)
    layer = filled(LlmInt8(threshold), weight, bias).train(training)
    other = bitsandbytes.nn.Linear8bitLt(128, 96, has_fp16_weights=False, threshold=threshold)
    other.weight = bitsandbytes.nn.Int8Params(weight.clone(), requires_grad=False, has_fp16_weights=False)
    other.bias = torch.nn.Parameter(bias.clone(), requires_grad=False)
    other = other.to("cpu").train(training)
    x = torch.randn(rows, 128).to(dtype)
    x[0, 5 : 5 + outliers] = 40
    expected = other(x)
    found = layer(x)
    assert found.dtype == dtype
    bound = (1e-3 if dtype == torch.float32 else 2e-2) * expected.float().abs().max()
    assert (found.float() - expected.float()).abs().max() <= bound
    if outliers and threshold and dtype == torch.float32:  # rounding them too is another answer
        other = filled(LlmInt8(0.0), weight, bias)
        assert training or (other(x).float() - expected.float()).abs().max() > bound


def test_gradients_are_those_through_plain_numbers():
    for format in (FourBit("nf4"), LlmInt8()):
        weight = torch.randn(64, 96)
        layer = filled(format, weight).train()
        x = torch.randn(5, 96, requires_grad=True)
        layer(x).square().sum().backward()
        y = x.detach().clone().requires_grad_()
        torch.nn.functional.linear(y, layer.weight).square().sum().backward()
        assert torch.allclose(x.grad, y.grad, rtol=1e-4, atol=1e-3)


def test_numbers_that_are_none_are_refused():
    weight = torch.randn(8, 64)
    weight[3, 3] = float("nan")
    for format in (FourBit("nf4"), LlmInt8()):
        with pytest.raises(WeightsError, match="no number"):
            format.encoded(weight)
    with pytest.raises(WeightsError, match="too large for float16"):
        LlmInt8().encoded(torch.full((8, 64), 1e6))


def test_a_damaged_text_is_said():
    format = FourBit("nf4", True)
    made = format.encoded(torch.randn(8, 64))
    made["quant_state"][3] = 255
    with pytest.raises(WeightsError, match="damaged"):
        format.numbers(made, 8, 64)
