"""AWQ checkpoints of every packing, made here as AutoAWQ and llm-awq describe them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantize_checkpoints import FAMILIES, IDS, logits, plain, rewritten, same_tensors

from omniform.core.errors import ConfigError, OmniformError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.stacks import QuantStack
from reference import omniform


def nibbles(codes, order):
    """Eight codes of an axis in an int32: code ``order[i]`` of each eight in bits 4 * i."""
    eights = codes.astype(np.int64).reshape(*codes.shape[:-1], -1, 8)
    made = sum(eights[..., order[i]] << (4 * i) for i in range(8))
    return torch.from_numpy(made.astype(np.uint32).view(np.int32).copy())


GEMM_ORDER, PLAIN_ORDER = (0, 2, 4, 6, 1, 3, 5, 7), tuple(range(8))


def padded(x, width):
    return np.pad(x, ((0, 0), (0, width - x.shape[1])))


def fast(codes):
    """Four outputs in an int16; blocks of 32 inputs as llm-awq's kernels read them."""
    outs, ins = codes.shape
    made = np.zeros((outs // 4, ins), np.int64)
    within = [8 * run + 2 * pair + odd for pair in range(4) for run in range(4) for odd in range(2)]
    within = [within[8 * eight + at] for eight in range(4) for at in GEMM_ORDER]
    for row in range(outs // 4):
        for block in range(ins // 64):
            flat = [
                codes[4 * row + r, 64 * block + 32 * half + within[i]]
                for r in range(4) for half in range(2) for i in range(32)
            ]  # fmt: skip
            for i in range(64):
                made[row, 64 * block + i] = sum(int(flat[4 * i + k]) << (4 * k) for k in range(4))
    return torch.from_numpy(made.astype(np.uint16).view(np.int16).copy())


def packer(version, group, zeros=True):
    def packed(name, weight):
        outs, ins = weight.shape
        each = ins if group == -1 else group
        x = weight.float().numpy().reshape(outs, ins // each, each)
        if zeros:
            low, high = np.minimum(x.min(-1), 0), np.maximum(x.max(-1), 0)
            scales = ((high - low) / 15).astype(np.float16)
            zero = np.clip(np.round(-low / scales.astype(np.float32)), 0, 15)
        else:
            scales, zero = (np.abs(x).max(-1) / 7).astype(np.float16), np.full(x.shape[:2], 8.0)
        wide = scales.astype(np.float32)[..., None]
        codes = np.clip(np.round(x / wide) + zero[..., None], 0, 15)
        numbers = torch.from_numpy(((codes - zero[..., None]) * wide).reshape(outs, ins))
        codes = codes.reshape(outs, ins).astype(np.uint8)
        groups, unit = ins // each, 1 if each >= 128 else 2 if each == 64 else 4
        width = -(-groups // (8 * unit)) * unit
        if version == "gemm":
            held = {"qweight": nibbles(codes.T, GEMM_ORDER), "scales": torch.from_numpy(scales.T.copy())}
            return (held | {"qzeros": nibbles(zero.T, GEMM_ORDER)} if zeros else held), numbers
        if version == "gemv":
            held = {
                "qweight": nibbles(codes, PLAIN_ORDER),
                "qzeros": nibbles(padded(zero, width * 8), PLAIN_ORDER),
                "scales": torch.from_numpy(padded(scales, width * 8)),
            }
            return held, numbers
        held = {"qweight": fast(codes), "scales": torch.from_numpy(padded(scales, width * 8).T.copy())}
        lows = -(scales.astype(np.float32) * zero).astype(np.float16)
        numbers = torch.from_numpy(
            (codes.reshape(x.shape) * wide + lows[..., None].astype(np.float32)).reshape(outs, ins)
        )
        return held | {"scaled_zeros": torch.from_numpy(padded(lows, width * 8).T.copy())}, numbers

    return packed


def settings(version, group, zeros=True, **more):
    return {"quant_method": "awq", "bits": 4, "group_size": group, "version": version, "zero_point": zeros, **more}


CASES = [
    *((family, "gemm", "gemm", 32, True) for family in FAMILIES if family != "mixtral"),
    ("mixtral", "gemm", "gemm", 32, True),
    ("llama", "gemm", "gemm", -1, True),
    ("llama", "gemm", "gemm", 64, False),
    ("llama", "llm-awq", "gemm", 32, True),
    *((family, "gemv", "gemv", 32, True) for family in ("llama", "phi3")),
    ("qwen2", "gemv", "gemv", 64, True),
    ("llama", "gemv", "gemv", -1, True),
    ("llama", "gemv_fast", "fast", 32, True),
    ("phi3", "llm-awq", "fast", 64, True),
]


@pytest.mark.parametrize(("family", "version", "layout", "group", "zeros"), CASES)
def test_read_computed_and_saved(family, version, layout, group, zeros, tmp_path):
    kind = plain(family, tmp_path / "plain")
    layers = rewritten(
        tmp_path / "plain", tmp_path / "awq", settings(version, group, zeros),
        packer(layout, group, zeros), tmp_path / "twin",
    )  # fmt: skip
    model, twin = kind.from_pretrained(tmp_path / "awq"), kind.from_pretrained(tmp_path / "twin")
    quantized = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    stacks = {path: m for path, m in model.named_modules() if isinstance(m, QuantStack)}
    assert len(layers) >= 8 and len(quantized) + len(stacks) >= (12 if family == "mixtral" else len(layers))
    for path, stack in stacks.items():
        assert torch.allclose(stack.weight, twin.get_submodule(path).weight, atol=1e-6), path
    for path, layer in quantized.items():
        whole = twin.get_submodule(path).weight
        assert torch.allclose(layer.weight, whole, atol=1e-6), path
        x = torch.randn(3, layer.in_features)
        with torch.no_grad():  # rows are rounded to twelve bits
            wrong = layer(x) - torch.nn.functional.linear(x, whole, layer.bias)
        assert (wrong.abs() <= whole.abs().sum(1) * x.abs().amax(1, keepdim=True) * 2**-12).all(), path
    expected = logits(twin)
    assert (logits(model) - expected).abs().max() <= 1e-2 * max(1, expected.abs().max())
    model.save_pretrained(tmp_path / "saved")
    same_tensors(tmp_path / "awq", tmp_path / "saved")
    kind.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    for file in (p.name for p in (tmp_path / "saved").iterdir()):
        assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    back = model.dequantize()
    assert not any(isinstance(m, QuantLinear | QuantStack) for m in back.modules())
    back.save_pretrained(tmp_path / "back")
    assert (logits(kind.from_pretrained(tmp_path / "back")) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_modules_that_are_not_converted_and_adapters(tmp_path):
    import peft

    kind = plain("llama", tmp_path / "plain")
    pack = packer("gemm", 32)
    rewritten(
        tmp_path / "plain", tmp_path / "awq", settings("gemm", 32, modules_to_not_convert=["down_proj"]),
        lambda name, weight: None if "down_proj" in name else pack(name, weight),
    )  # fmt: skip
    model = kind.from_pretrained(tmp_path / "awq")
    assert type(model.model.layers[0].mlp.down_proj) is torch.nn.Linear
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantLinear)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["down_proj"], r=2))
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None for p in tuned.parameters())


def damaged(tmp_path, change):
    kind = plain("llama", tmp_path / "plain")
    pack = packer("gemm", 32)

    def packed(name, weight):
        held, numbers = pack(name, weight)
        return (change(held) if name.endswith("layers.1.mlp.up_proj") else held), numbers

    rewritten(tmp_path / "plain", tmp_path / "awq", settings("gemm", 32), packed)
    return kind, tmp_path / "awq"


@pytest.mark.parametrize(
    ("change", "said"),
    (
        (lambda h: {**h, "scales": h["scales"][:1]}, r"layers\.1\.mlp\.up_proj\.scales.*2.*1"),
        (lambda h: {**h, "qzeros": h["qzeros"][:, :-1]}, r"layers\.1\.mlp\.up_proj\.qzeros.*16.*15"),
        (lambda h: {**h, "qweight": h["qweight"].t()}, r"layers\.1\.mlp\.up_proj\.qweight.*64.*16"),
    ),
)
def test_tensors_that_do_not_fit(change, said, tmp_path):
    kind, folder = damaged(tmp_path, change)
    with pytest.raises(WeightsError, match=f"(?s){said}"):
        kind.from_pretrained(folder)


def test_a_missing_tensor_is_named(tmp_path):
    kind, folder = damaged(tmp_path, lambda h: {n: t for n, t in h.items() if n != "qzeros"})
    with pytest.raises(OmniformError, match=r"layers\.1\.mlp\.up_proj\.qzeros"):
        kind.from_pretrained(folder)


def test_groups_that_do_not_fill_a_layer(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    rewritten(tmp_path / "plain", tmp_path / "awq", settings("gemm", 48), packer("gemm", 32))
    with pytest.raises(ConfigError, match=r"(?s)layers\.0.*64.*48"):
        kind.from_pretrained(tmp_path / "awq")


class TestSettings:
    @pytest.mark.parametrize(
        "given",
        (
            {}, {"group_size": -1, "zero_point": False}, {"version": "GEMV"}, {"backend": "autoawq"},
            {"backend": "llm-awq"}, {"modules_to_not_convert": ["a"], "backend": "gemv_fast", "format": "gemv_fast"},
            {"desc_act": True, "damp_percent": 0.2, "sym": False, "meta": {"a": 1}, "pad_token_id": 3},
        ),
    )  # fmt: skip
    def test_as_theirs(self, given):
        from transformers import AwqConfig

        theirs = {k: getattr(v, "value", v) for k, v in AwqConfig(**given).to_dict().items()}
        assert omniform.AwqConfig(**given).to_dict() == theirs
        again = omniform.AutoQuantizationConfig.from_dict(theirs)
        assert again.to_dict() == theirs

    @pytest.mark.parametrize(
        ("given", "said"),
        (({"bits": 3}, "bits"), ({"version": "x"}, "gemv"), ({"backend": "x"}, "marlin"), ({"group_size": 0}, "-1")),
    )
    def test_refused(self, given, said):
        with pytest.raises(ConfigError, match=said):
            omniform.AwqConfig(**given)

    def test_it_only_reads(self, tmp_path):
        kind = plain("llama", tmp_path)
        with pytest.raises(omniform.OmniformError, match="calibration"):
            kind.from_pretrained(tmp_path, quantization_config=omniform.AwqConfig())
