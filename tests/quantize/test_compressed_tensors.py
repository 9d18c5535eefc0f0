"""Checkpoints of compressed-tensors, packed here as its description says, beside the numbers that they stand for."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from quantize_checkpoints import logits, plain, rewritten, same_tensors
from safetensors.torch import load_file, save_file

from omniform import CompressedTensorsConfig
from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from reference import omniform


def words(codes, bits):
    """Numbers from 0 as words of 32 bits along the last axis, the first lowest: written bit by bit."""
    rows, count = codes.shape
    made = np.zeros((rows, math.ceil(count * bits / 32)), np.uint64)
    for n in range(count):
        for bit in range(bits):
            at = n * bits + bit
            made[:, at // 32] |= (codes[:, n].astype(np.uint64) >> np.uint64(bit) & np.uint64(1)) << np.uint64(at % 32)
    return torch.from_numpy(made.astype(np.uint32).view(np.int32).copy())


def scales_of(weight, bits, group, symmetric):
    """Scales, zeros and codes of a matrix, each group by itself."""
    outs, ins = weight.shape
    group = ins if group == -1 else group
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    each = weight.float().view(outs, -1, group)
    if symmetric:
        scales = (each.abs().amax(-1) / ((most - least) / 2)).bfloat16().float()
        zeros = torch.zeros_like(scales)
    else:
        low, high = each.amin(-1).clamp(max=0), each.amax(-1).clamp(min=0)
        scales = ((high - low) / (most - least)).bfloat16().float()
        zeros = (least - low / scales).round().clamp(least, most)
    codes = (each / scales[..., None] + zeros[..., None]).round().clamp(least, most)
    numbers = ((codes - zeros[..., None]) * scales[..., None]).view(outs, ins)
    return scales.bfloat16(), zeros.to(torch.int8), codes.view(outs, ins).to(torch.int8), numbers


def packed(bits, group, symmetric, *, ordered=False):
    def made(name, weight):
        order = torch.from_numpy(np.random.default_rng(len(name)).permutation(weight.shape[1]))
        scales, zeros, codes, numbers = scales_of(weight[:, order] if ordered else weight, bits, group, symmetric)
        if ordered:
            back = order.argsort()
            codes, numbers = codes[:, back], numbers[:, back]
        half = 2 ** (bits - 1)
        held = {
            "weight_packed": words(codes.numpy().astype(np.int64) + half, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(weight.shape),
        }
        if not symmetric:
            held["weight_zero_point"] = words(zeros.numpy().T.astype(np.int64) + half, bits).t()
        if ordered:
            held["weight_g_idx"] = (torch.arange(weight.shape[1]) // group)[back].int()
        return held, numbers

    return made


def naive(bits, group, symmetric, *, active=False):
    def made(name, weight):
        scales, zeros, codes, numbers = scales_of(weight, bits, group, symmetric)
        held = {"weight": codes, "weight_scale": scales}
        if not symmetric:
            held["weight_zero_point"] = zeros
        if active:
            held["input_scale"] = torch.tensor([0.5])
        return held, numbers

    return made


def eight(shape):
    def made(name, weight):
        outs, ins = weight.shape
        rows, columns = shape
        wide = weight.float().view(
            outs // rows if rows else 1, rows or outs, ins // columns if columns else 1, columns or ins
        )
        scales = wide.abs().amax((1, 3)) / 448
        codes = (wide / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        numbers = (codes.float() * scales[:, None, :, None]).view(outs, ins)
        return {"weight": codes.view(outs, ins), "weight_scale": scales if any(shape) else scales.view(1)}, numbers

    return made


def settings(format, bits, group, symmetric, *, kind="int", strategy=None, structure=None, active=None):
    strategy = strategy or ("channel" if group == -1 else "group")
    weights = {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "dynamic": False,
               "group_size": None if group == -1 else group, "block_structure": structure}  # fmt: skip
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": active, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
            "config_groups": {"group_0": scheme}, "ignore": ["lm_head"], "kv_cache_scheme": None,
            "global_compression_ratio": None}  # fmt: skip


CASES = {
    "packed 4": ("pack-quantized", 4, 32, True, packed(4, 32, True)),
    "packed 4, zeros": ("pack-quantized", 4, 32, False, packed(4, 32, False)),
    "packed 4, outputs": ("pack-quantized", 4, -1, True, packed(4, -1, True)),
    "packed 4, order": ("pack-quantized", 4, 32, False, packed(4, 32, False, ordered=True)),
    "packed 8": ("pack-quantized", 8, 32, True, packed(8, 32, True)),
    "packed 8, zeros": ("pack-quantized", 8, 64, False, packed(8, 64, False)),
    "packed 2": ("pack-quantized", 2, 16, True, packed(2, 16, True)),
    "int 8": ("int-quantized", 8, -1, True, naive(8, -1, True, active=True)),
    "int 8, zeros": ("int-quantized", 8, 32, False, naive(8, 32, False)),
    "int 4": ("naive-quantized", 4, 32, True, naive(4, 32, True)),
}
EIGHT = {"one": ((0, 0), "tensor", None), "outputs": ((1, 0), "channel", None), "blocks": ((32, 32), "block", [32, 32])}


def check(kind, folder, twin, layers):
    model = kind.from_pretrained(folder)
    expected = kind.from_pretrained(twin)
    found = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(found) >= len(layers)
    for path, layer in found.items():
        assert torch.allclose(layer.weight, expected.get_submodule(path).weight, rtol=1e-5, atol=1e-6), path
    want = logits(expected)
    assert (logits(model) - want).abs().max() <= 3e-3 * max(1, want.abs().max())
    model.save_pretrained(folder.parent / "again")
    same_tensors(folder, folder.parent / "again")
    kind.from_pretrained(folder.parent / "again").save_pretrained(folder.parent / "third")
    for file in sorted(p.name for p in (folder.parent / "again").iterdir()):
        assert (folder.parent / "again" / file).read_bytes() == (folder.parent / "third" / file).read_bytes(), file
    back = logits(model.dequantize())
    assert (back - want).abs().max() <= 1e-4 * max(1, want.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_every_layout(case, tmp_path):
    format, bits, group, symmetric, made = CASES[case]
    kind = plain("llama", tmp_path / "plain")
    said = settings(format, bits, group, symmetric)
    layers = rewritten(tmp_path / "plain", tmp_path / "made", said, made, tmp_path / "twin")
    check(kind, tmp_path / "made", tmp_path / "twin", layers)


@pytest.mark.parametrize("case", EIGHT)
def test_floats_of_eight_bits(case, tmp_path):
    shape, strategy, structure = EIGHT[case]
    kind = plain("llama", tmp_path / "plain")
    said = settings("float-quantized", 8, -1, True, kind="float", strategy=strategy, structure=structure)
    layers = rewritten(tmp_path / "plain", tmp_path / "made", said, eight(shape), tmp_path / "twin")
    check(kind, tmp_path / "made", tmp_path / "twin", layers)


@pytest.mark.parametrize("family", ("qwen2", "phi3", "gpt_neox", "mixtral"))
@pytest.mark.parametrize("case", ("packed 4, zeros", "int 8"))
def test_fused_and_stacked_matrices(case, family, tmp_path):
    format, bits, group, symmetric, made = CASES[case]
    kind = plain(family, tmp_path / "plain")
    said = settings(format, bits, group, symmetric)
    layers = rewritten(tmp_path / "plain", tmp_path / "made", said, made, tmp_path / "twin")
    model, expected = kind.from_pretrained(tmp_path / "made"), kind.from_pretrained(tmp_path / "twin")
    assert layers
    want = logits(expected)
    assert (logits(model) - want).abs().max() <= 3e-3 * max(1, want.abs().max())
    model.save_pretrained(tmp_path / "again")
    same_tensors(tmp_path / "made", tmp_path / "again")


def test_what_is_said_of_how_it_differs(tmp_path, caplog):
    kind = plain("llama", tmp_path / "plain")
    active = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True, "symmetric": True}
    said = settings("int-quantized", 8, -1, True, active=active) | {"kv_cache_scheme": active}
    rewritten(tmp_path / "plain", tmp_path / "made", said, naive(8, -1, True))
    with caplog.at_level("WARNING", "omniform"):
        model = kind.from_pretrained(tmp_path / "made")
        assert "activations stay floats" not in caplog.text and "cache_dtype" in caplog.text
        asked = CompressedTensorsConfig(round_activations=False)
        kind.from_pretrained(tmp_path / "made", quantization_config=asked)
    assert "activations stay floats" in caplog.text
    assert model.config.quantization_config.config_groups == said["config_groups"]


def test_plain_ones_when_asked_for(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "made", settings("pack-quantized", 4, 32, True), packed(4, 32, True))
    found = kind.from_pretrained(
        tmp_path / "made", quantization_config=omniform.CompressedTensorsConfig(dequantize=True)
    )
    assert not any(isinstance(m, QuantLinear) for m in found.modules())


@pytest.mark.parametrize(
    ("changed", "said"),
    (
        ({"format": "sparse-bitmask"}, "sparse-bitmask"),
        ({"format": "marlin-24"}, "marlin-24"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"transform_config": {"config_groups": {"R1": {}}}}, "transform_config"),
    ),
)
def test_layouts_that_are_not_read(changed, said, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(
        tmp_path / "plain", tmp_path / "made", settings("pack-quantized", 4, 32, True) | changed, packed(4, 32, True)
    )
    with pytest.raises(ConfigError, match=said):
        kind.from_pretrained(tmp_path / "made")


def changed(**weights):
    said = settings("pack-quantized", 4, 32, True)
    said["config_groups"]["group_0"]["weights"] |= weights
    return said


@pytest.mark.parametrize(
    ("weights", "said"),
    (
        ({"strategy": "row"}, r"group_0\.weights\.strategy.*tensor, channel.*row"),
        ({"type": "complex"}, r"weights\.type.*int, float.*complex"),
        ({"num_bits": 0}, r"weights\.num_bits.*1 to 16.*0"),
        ({"num_bits": "4"}, r"weights\.num_bits.*1 to 16.*'4'"),
        ({"dynamic": "global"}, r"weights\.dynamic.*local.*global"),
        ({"group_size": 0}, r"weights\.group_size.*above zero.*0"),
        ({"group_size": None}, "contradict.*group_size above zero.*None"),
        ({"strategy": "channel"}, "contradict.*no group_size.*32"),
        ({"type": "float"}, r"layers\.\d\..*int of 1 to 8 bits.*float"),
        ({"symmetric": False}, r"layers\.\d\..*symmetric: false.*no such tensor"),
        ({"group_size": 16}, r"layers\.\d\..*weight_scale.*4, one for each 16 of 64 inputs.*2 scales"),
        ({"num_bits": 3}, r"layers\.\d\..*weight_packed.*\[64, 6\].*\[64, 8\]"),
    ),
)  # fmt: skip
def test_settings_that_contradict_each_other_or_the_file(weights, said, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "made", changed(**weights), packed(4, 32, True))
    with pytest.raises((ConfigError, WeightsError), match=f"(?s){said}"):
        kind.from_pretrained(tmp_path / "made")


def test_a_name_goes_before_an_expression_and_that_before_a_class():
    groups = {
        "a": {"targets": ["Linear"], "weights": {"num_bits": 2}},
        "b": {"targets": ["re:.*up_proj"], "weights": {"num_bits": 3}},
        "c": {"targets": [LAYER], "weights": {"num_bits": 4}},
    }
    found = omniform.CompressedTensorsConfig(groups, "pack-quantized", ignore=["lm_head", "re:.*gate"])
    bits = {name: found.group_of(name)["weights"]["num_bits"] for name in (LAYER, "a.up_proj", "a.down_proj")}
    assert bits == {LAYER: 4, "a.up_proj": 3, "a.down_proj": 2}
    assert found.group_of("lm_head") is None and found.group_of("mlp.gate") is None


LAYER = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("harm", "said"),
    (
        (lambda held: held.pop(f"{LAYER}.weight_scale"), f"{LAYER}.*weight_scale"),
        (lambda held: held.update({f"{LAYER}.weight_scale": torch.ones(128, 3)}), f"{LAYER}.*3"),
        (lambda held: held.update({f"{LAYER}.weight_packed": torch.ones(128, 7, dtype=torch.int32)}), LAYER),
        (lambda held: held.update({f"{LAYER}.weight_packed": torch.ones(128, 8)}), "int32"),
        (lambda held: held.update({f"{LAYER}.weight_zero_point": torch.ones(3, 2, dtype=torch.int32)}), LAYER),
    ),
)
def test_tensors_that_do_not_fit(harm, said, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "made", settings("pack-quantized", 4, 32, True), packed(4, 32, True))
    held = load_file(tmp_path / "made/model.safetensors")
    harm(held)
    save_file(held, tmp_path / "made/model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=said):
        kind.from_pretrained(tmp_path / "made")


def test_making_is_refused(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    with pytest.raises(InputError, match="calibration"):
        kind.from_pretrained(
            tmp_path / "plain",
            quantization_config=omniform.CompressedTensorsConfig(
                settings("pack-quantized", 4, 32, True)["config_groups"]
            ),
        )


def test_settings_come_back_as_they_were(tmp_path):
    said = settings("pack-quantized", 4, 32, True) | {"version": "0.20.0"}
    read = omniform.AutoQuantizationConfig.from_dict(json.loads(json.dumps(said)))
    written = read.to_dict()
    assert {name: written[name] for name in said} == said
