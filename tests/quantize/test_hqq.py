"""HQQ: the package's own bytes, checkpoints of several families, settings, and what does not fit."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
import torch
from quantize_checkpoints import FAMILIES, IDS, logits, plain, rewritten, same_tensors
from safetensors.torch import load, load_file, save_file

from omniform.core.errors import ConfigError, OmniformError, WeightsError
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.stacks import QuantStack
from omniform.weights.formats.hqq import Hqq
from reference import omniform

# Of hqq 0.2.8.post1 on the CPU: for each case HQQLinear(linear, BaseQuantizeConfig(...), compute_dtype=, device="cpu")
# of a linear layer with "weight" cast to compute_dtype; its state_dict(), and "numbers", what dequantize() gave.
MADE = load(gzip.decompress((Path(__file__).parent / "hqq_made.safetensors.gz").read_bytes()))
CASES = sorted({key.partition("/")[0] for key in MADE if "/" in key})


def case(name):
    """The format that a case's name says, its tensors, and its numbers."""
    held = {key.partition("/")[2]: one for key, one in MADE.items() if key.startswith(f"{name}/")}
    numbers = held.pop("numbers")
    bits, group, axis, *rest = name.split("-")
    size = None if group == "None" else int(group)
    number = float(bits) if "." in bits else int(bits)
    return Hqq(number, size, int(axis), held["scale"].dtype, "float" in rest), held, numbers


@pytest.mark.parametrize("name", CASES)
def test_the_package_makes_the_same_bytes(name):
    format, held, _ = case(name)
    made = {name.removeprefix("said_"): one for name, one in format.encoded(MADE["weight"].to(format.compute)).items()}
    parts = {part.key: part for part in format.parts(24, 32).values()}
    assert made.keys() == held.keys() == parts.keys()
    for key, one in held.items():
        assert made[key].dtype is one.dtype and made[key].shape == one.shape, key
        assert torch.equal(made[key].reshape(-1).view(torch.uint8), one.reshape(-1).view(torch.uint8)), key
        assert (parts[key].shape, parts[key].dtype) == (tuple(one.shape), one.dtype), key


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_kernels(name):
    format, held, numbers = case(name)
    found = format.numbers(held, 24, 32)
    # The package computes them in the dtype of the scales: a difference of codes is rounded, and a product.
    eps = torch.finfo(format.compute).eps if format.compute is not torch.float32 else 0.0
    assert (
        (found - numbers.float()).abs() <= eps * (2 * numbers.float().abs() + 16 * held["scale"].max().float())
    ).all()
    if format.compute is torch.float32:
        assert torch.equal(found, numbers)
    matrix, order = format.matrix(held, 24, 32)
    assert order is None
    x = torch.randn(3, 32)
    wrong = (matrix.multiply(x) - x @ found.T).abs()
    # Rows are rounded to twelve bits, and so is where a small group of four bits begins.
    first = (held["zero"].float() * held["scale"].float()).abs().max() * x.abs().sum(1, keepdim=True)
    assert (wrong <= found.abs().sum(1) * x.abs().amax(1, keepdim=True) * 2**-12 + first * 2**-12).all()
    if format.axis and format.bits <= 4 and format.group and format.group >= 32:
        assert matrix.nbytes < 24 * 32 * 2, "it stays in four bits"


def own(bits, group, axis):
    """A packer of the test's own: from the least of a group to its most, halves and quarters as the layout says."""
    per = {8: 1, 4: 2, 2: 4, 1: 8, 3: 10}[bits]

    def packed(name, weight):
        outs, ins = weight.shape
        x = weight.float().reshape(-1, group) if axis else weight.float().reshape(group, -1)
        low, high = x.amin(axis, keepdim=True), x.amax(axis, keepdim=True)
        scale = (high - low) / (2**bits - 1)
        zero = -low / scale
        codes = (x / scale + zero).round().clamp(0, 2**bits - 1)
        rows = math.ceil(len(codes) / per)
        padded = torch.zeros(rows * per, codes.shape[1], dtype=torch.int64)
        padded[: len(codes)] = codes.long()
        words = sum(padded[n * rows : (n + 1) * rows] * 2 ** (bits * (per - 1 - n)) for n in range(per))
        words = words.to(torch.int32 if bits == 3 else torch.uint8)
        text = lambda said: torch.tensor([ord(c) for c in said], dtype=torch.uint8)
        held = {"W_q": words, "scale": scale, "zero": zero, "nbits": torch.tensor(bits, dtype=torch.int32),
                "group_size": torch.tensor(group, dtype=torch.int32), "axis": torch.tensor(axis, dtype=torch.int32),
                "shape": torch.tensor([outs, ins]), "packing": text({3: "3bit_32"}.get(bits, f"{bits}bit_u8")),
                "compute_dtype": text("torch.float32")}  # fmt: skip
        return held, ((codes - zero) * scale).reshape(outs, ins)

    return packed


def settings(bits, group, axis, skip=("lm_head",)):
    own = {"nbits": bits, "channel_wise": True, "group_size": group, "optimize": True, "round_zero": bits == 4,
           "axis": axis, "view_as_float": False}  # fmt: skip
    held = {"weight_quant_params": own, "scale_quant_params": None, "zero_quant_params": None, "offload_meta": False}
    return {"quant_method": "hqq", "quant_config": held, "skip_modules": list(skip)}


READ = [*((family, 4, 32, 1) for family in FAMILIES), ("phi3", 8, 16, 0), ("gpt_neox", 2, 16, 1),
        ("llama", 4, 32, 0), ("qwen2", 1, 8, 1), ("phi3", 3, 32, 1), ("mixtral", 3, 16, 0)]  # fmt: skip


@pytest.mark.parametrize(("family", "bits", "group", "axis"), READ)
def test_read_computed_and_saved(family, bits, group, axis, tmp_path):
    kind = plain(family, tmp_path / "plain")
    said = settings(bits, group, axis)
    layers = rewritten(tmp_path / "plain", tmp_path / "hqq", said, own(bits, group, axis), tmp_path / "twin")
    model, twin = kind.from_pretrained(tmp_path / "hqq"), kind.from_pretrained(tmp_path / "twin")
    quantized = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    stacks = {path: m for path, m in model.named_modules() if isinstance(m, QuantStack)}
    assert len(layers) >= 8 and len(quantized) + len(stacks) >= (12 if family == "mixtral" else len(layers))
    for path, layer in [*quantized.items(), *stacks.items()]:
        assert torch.allclose(layer.weight, twin.get_submodule(path).weight, atol=1e-6), path
    expected = logits(twin)
    assert (logits(model) - expected).abs().max() <= 1e-2 * max(1, expected.abs().max())
    model.save_pretrained(tmp_path / "saved")
    same_tensors(tmp_path / "hqq", tmp_path / "saved")
    kind.from_pretrained(tmp_path / "saved").save_pretrained(tmp_path / "again")
    for file in (p.name for p in (tmp_path / "saved").iterdir()):
        assert (tmp_path / "saved" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    back = model.dequantize()
    assert not any(isinstance(m, QuantLinear | QuantStack) for m in back.modules())
    assert (logits(back) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("family", "axis"), [*((family, 1) for family in sorted(FAMILIES)), ("phi3", 0), ("llama", 0)])
def test_quantized_when_loaded(family, axis, tmp_path):
    kind = plain(family, tmp_path / "plain", torch.bfloat16)
    asked = omniform.HqqConfig(nbits=4, group_size=16, axis=axis)
    model = kind.from_pretrained(tmp_path / "plain", quantization_config=asked, dtype=torch.bfloat16)
    assert sum(isinstance(m, QuantLinear) for m in model.modules()) >= 8
    assert not isinstance(model.lm_head, QuantLinear)
    model.save_pretrained(tmp_path / "made")
    said = json.loads((tmp_path / "made" / "config.json").read_text())["quantization_config"]
    assert said == {**settings(4, 16, axis)}
    again = kind.from_pretrained(tmp_path / "made")
    assert torch.equal(logits(again), logits(model))
    again.save_pretrained(tmp_path / "again")
    same_tensors(tmp_path / "made", tmp_path / "again")
    tensors, whole = load_file(tmp_path / "made" / "model.safetensors"), load_file(tmp_path / "plain/model.safetensors")
    matrices = [key.removesuffix(".W_q") for key in tensors if key.endswith(".W_q")]
    for name in matrices:  # what the file says of itself is what it is
        outs, ins = tensors[f"{name}.shape"].tolist()
        assert (outs, ins) == tuple(whole[f"{name}.weight"].shape) and f"{name}.weight" not in tensors
        assert bytes(tensors[f"{name}.compute_dtype"].tolist()) == b"torch.bfloat16"
        held = {part: tensors[f"{name}.{part}"] for part in ("W_q", "scale", "zero")}
        made = Hqq(4, 16, axis, torch.bfloat16).encoded(whole[f"{name}.weight"])
        assert all(torch.equal(held[part], made[part]) for part in held), name
    dense = kind.from_pretrained(tmp_path / "plain")
    wrong = (logits(again) - logits(dense)).abs().mean() / logits(dense).abs().mean()
    assert wrong < 0.35


def test_the_solver_betters_the_sum_that_it_is_for(tmp_path):
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(3.0).sample((64, 256)) * 0.02
    for bits in (1, 2, 3):
        format = Hqq(bits, 64, 1, torch.float32)
        solved = (format.numbers(format.encoded(weight), 64, 256) - weight).abs().pow(0.7).mean()
        plainly = (own(bits, 64, 1)("", weight)[1] - weight).abs().pow(0.7).mean()
        assert solved < 0.99 * plainly, bits


def test_layers_with_settings_of_their_own(tmp_path, caplog):
    kind = plain("llama", tmp_path / "plain")
    asked = omniform.HqqConfig(
        dynamic_config={"self_attn.q_proj": {"nbits": 8, "group_size": 64}, "mlp.up_proj": {"nbits": 3, "axis": 0,
                        "group_size": 16}, "mlp.gone": {"nbits": 4}}
    )  # fmt: skip
    with caplog.at_level("WARNING", "omniform"):
        model = kind.from_pretrained(tmp_path / "plain", quantization_config=asked)
    assert "mlp.gone" in caplog.text
    layer = model.model.layers[1]
    assert layer.self_attn.q_proj.format.bits == 8 and layer.mlp.up_proj.format.axis == 0
    assert not isinstance(layer.mlp.down_proj, QuantLinear) and not isinstance(layer.self_attn.k_proj, QuantLinear)
    model.save_pretrained(tmp_path / "made")
    assert torch.equal(logits(kind.from_pretrained(tmp_path / "made")), logits(model))


def test_skipped_and_adapters(tmp_path):
    import peft

    kind = plain("llama", tmp_path / "plain")
    asked = omniform.HqqConfig(nbits=4, group_size=32, skip_modules=["lm_head", "mlp.down_proj"])
    model = kind.from_pretrained(tmp_path / "plain", quantization_config=asked)
    assert not isinstance(model.model.layers[0].mlp.down_proj, QuantLinear)
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"], r=2))
    tuned(input_ids=IDS, labels=IDS).loss.backward()
    assert any(p.grad is not None for p in tuned.parameters())


def test_settings_are_the_ecosystems(monkeypatch):
    """The reference refuses to make any without the package, of which it takes one function."""
    made = omniform.HqqConfig()
    assert made.to_dict() == settings(4, 64, 1)
    assert omniform.HqqConfig(nbits=2, group_size=16, view_as_float=True, axis=0, skip_modules=[]).to_dict() == {
        "quant_method": "hqq", "skip_modules": [],
        "quant_config": {"weight_quant_params": {"nbits": 2, "channel_wise": True, "group_size": 16, "optimize": True,
                                                 "round_zero": False, "axis": 0, "view_as_float": True},
                         "scale_quant_params": None, "zero_quant_params": None, "offload_meta": False},
    }  # fmt: skip
    from reference import transformers

    theirs = transformers.HqqConfig.__new__(transformers.HqqConfig)  # its constructor asks for the package
    theirs.quant_config, theirs.quant_method, theirs.skip_modules = made.quant_config, "hqq", made.skip_modules
    assert theirs.to_dict() == made.to_dict()
    again = omniform.AutoQuantizationConfig.from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made and again.to_diff_dict() == {}
    old = omniform.HqqConfig(dynamic_config={"mlp.up_proj": {"quant_zero": True, "quant_scale": True}}).quant_config
    assert old["mlp.up_proj"]["scale_quant_params"]["group_size"] == 128
    assert old["mlp.up_proj"]["zero_quant_params"]["channel_wise"] is False


@pytest.mark.parametrize(
    "given",
    [{"nbits": 7}, {"group_size": 12}, {"group_size": 0}, {"axis": 2}, {"dynamic_config": {"q_proj": {"bits": 4}}},
     {"dynamic_config": {"q_proj": {"nbits": 9}}}],
)  # fmt: skip
def test_settings_that_cannot_be(given):
    with pytest.raises(ConfigError):
        omniform.HqqConfig(**given)


def test_layers_that_groups_do_not_fill(tmp_path):
    kind = plain("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"layers\.0.*4096.*88") as raised:
        kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.HqqConfig(group_size=88))
    assert "skip_modules" in str(raised.value)


DAMAGE = {
    "W_q cut": ("W_q", lambda x: x[:-1].contiguous()),
    "scales cut": ("scale", lambda x: x[:-1].contiguous()),
    "zeros of another dtype": ("zero", lambda x: x.half()),
    "codes of another dtype": ("W_q", lambda x: x.int()),
    "no scales": ("scale", lambda x: None),
    "other bits": ("nbits", lambda x: x - 1),
    "another axis": ("axis", lambda x: 1 - x),
    "another shape": ("shape", lambda x: x.flip(0).contiguous() + 1),
    "scales in codes": ("quant_scale", lambda x: x + 1),
}


@pytest.mark.parametrize(
    ("family", "what"),
    [*(("llama", what) for what in sorted(DAMAGE)), ("phi3", "scales cut"), ("phi3", "another shape")],
)
def test_what_does_not_fit_is_named(family, what, tmp_path):
    kind = plain(family, tmp_path / "plain")
    model = kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.HqqConfig(group_size=32))
    model.save_pretrained(tmp_path / "made")
    file = tmp_path / "made" / "model.safetensors"
    tensors = load_file(file)
    part, change = DAMAGE[what]
    key = next(
        key for key in sorted(tensors) if key.endswith(f"self_attn.{'qkv' if family == 'phi3' else 'q'}_proj.{part}")
    )
    changed = change(tensors.pop(key))
    save_file(tensors if changed is None else {**tensors, key: changed}, file, {"format": "pt"})
    with pytest.raises((WeightsError, ConfigError), match=r"layers\.0\.self_attn") as raised:
        kind.from_pretrained(tmp_path / "made")
    assert isinstance(raised.value, OmniformError) and raised.value.expected and raised.value.found
