"""Blocks to numbers, beside the gguf package's own arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omniform.core.errors import WeightsError
from omniform.weights.gguf import codes
from omniform.weights.gguf.codes import codes_of
from omniform.weights.gguf.dequantize import BY_NAME, dequantize
from omniform.weights.gguf.types import TYPES

gguf = pytest.importorskip("gguf")

PACKED = {kind.name: number for number, kind in TYPES.items() if kind.is_packed and kind.read}


def test_sizes_are_the_formats_own():
    theirs = {int(number): (number.name, *sizes) for number, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: (kind.name, kind.numbers, kind.nbytes) for number, kind in TYPES.items()} == theirs


def test_every_packed_type_is_known_by_name():
    assert {*BY_NAME} == {*PACKED}


@pytest.mark.parametrize("name", PACKED)
def test_random_bytes(name):
    """Any byte may stand anywhere: scales that are infinite, not a number, or too small to be normal among them."""
    number = PACKED[name]
    kind = TYPES[number]
    raw = np.random.default_rng(0).integers(0, 256, (64, 16 * kind.nbytes), np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(raw, gguf.GGMLQuantizationType(number))
    found = dequantize(torch.from_numpy(raw), kind)
    assert found.dtype is torch.float32
    assert expected.shape == found.shape == (64, 16 * kind.numbers)
    assert np.isnan(expected).any() or name == "MXFP4"
    np.testing.assert_array_equal(found.numpy(), expected)


WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")
"""What the package can quantize to."""


@pytest.mark.parametrize("name", WRITABLE)
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 1e5])
def test_numbers_that_were_quantized(name, spread):
    number = PACKED[name]
    kind = TYPES[number]
    values = (np.random.default_rng(1).standard_normal((8, 512)) * spread).astype(np.float32)
    with np.errstate(over="ignore"):
        raw = gguf.quantize(values, gguf.GGMLQuantizationType(number))
    found = dequantize(torch.from_numpy(raw), kind)
    np.testing.assert_array_equal(found.numpy(), gguf.dequantize(raw, gguf.GGMLQuantizationType(number)))


@pytest.mark.parametrize("number", [number for number, kind in TYPES.items() if not kind.is_packed])
def test_plain_types_are_views(number):
    kind = TYPES[number]
    raw = torch.arange(kind.nbytes * 8, dtype=torch.uint8).view(2, -1)
    found = dequantize(raw, kind)
    assert found.dtype is kind.dtype
    assert found.shape == (2, 4)
    assert found.data_ptr() == raw.data_ptr()


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if not kind.read], ids=lambda kind: kind.name)
def test_types_known_by_name_only_are_refused(kind):
    with pytest.raises(WeightsError, match=f"found {kind.name}.*another quantization"):
        dequantize(torch.zeros(1, kind.nbytes, dtype=torch.uint8), kind, "blk.0.ffn_up.weight")


def test_every_packed_type_has_codes():
    assert {*codes.BY_NAME} == {*PACKED}


@pytest.mark.parametrize("name", PACKED)
def test_codes_mean_the_same_numbers(name):
    kind = TYPES[PACKED[name]]
    raw = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (16, 8 * kind.nbytes), np.uint8))
    found = codes_of(raw, kind)
    assert found.codes.shape == (16, 8 * kind.numbers)
    assert found.scales.shape == (16, 8 * kind.numbers // found.group)
    assert found.codes.dtype is (torch.uint8 if found.bits == 4 else torch.int8)
    assert found.bits == 8 or int(found.codes.max()) < 16
    np.testing.assert_array_equal(found.dequantized().numpy(), dequantize(raw, kind).numpy())


@pytest.mark.parametrize("name", PACKED)
def test_half_scales_err_by_half_a_unit(name):
    """Scales that are products of two become float16 with an error of at most 2 ** -11 of each; others have none."""
    kind = TYPES[PACKED[name]]
    rng = np.random.default_rng(3)
    raw = torch.from_numpy(rng.integers(0, 256, (16, 8 * kind.nbytes), np.uint8))
    whole = codes_of(raw, kind)
    fits = torch.isfinite(whole.scales.float()) & (whole.scales.abs() < 6e4) & (whole.scales.abs() > 1e-4)
    fits &= torch.ones_like(fits) if whole.minima is None else whole.minima.abs().clamp(min=1e-4) < 6e4
    rows = fits.unflatten(-1, (-1, 1))[..., 0]
    scales = torch.where(rows, whole.scales, torch.ones_like(whole.scales))
    minima = None if whole.minima is None else torch.where(rows, whole.minima, torch.zeros_like(whole.minima))
    tame = codes.Codes(whole.codes, scales, minima, whole.codebook, whole.group, whole.bits)
    halved = tame.halved()
    error = (halved.dequantized() - tame.dequantized()).abs()
    size = tame.codes.float().abs() if tame.codebook is None else torch.tensor(tame.codebook)[tame.codes.int()].abs()
    size = size.unflatten(-1, (-1, tame.group)) * scales.float().abs()[..., None]
    size = (size if minima is None else size + minima.float().abs()[..., None] + 1e-4).flatten(-2)
    assert bool((error <= size * 2**-11 + 1e-30).all())
    assert bool((error > 0).any()) == (whole.scales.dtype is torch.float32 and name != "MXFP4")


def test_a_scale_beyond_half_is_refused():
    kind = TYPES[PACKED["MXFP4"]]
    raw = torch.full((1, kind.nbytes), 254, dtype=torch.uint8)
    with pytest.raises(WeightsError, match="too large for float16"):
        codes_of(raw, kind).halved()


def test_floats_have_no_codes():
    with pytest.raises(WeightsError, match="has no codes"):
        codes_of(torch.zeros(1, 4, dtype=torch.uint8), TYPES[0])
