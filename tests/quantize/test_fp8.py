"""Floats of eight bits: formulas, whole models beside the reference's dequantized, files saved as they were read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, InputError, WeightsError
from omniform.hub.inspect import inspect as summary_of
from omniform.native.library import library
from omniform.transforms.quantize.layers import QuantLinear
from omniform.transforms.quantize.stacks import QuantStack
from omniform.weights.formats.fp8 import Fp8
from reference import omniform, transformers

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": ({**SMALL, "num_key_value_heads": 2}, "LlamaForCausalLM"),
    "mixtral": ({**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}, "MixtralForCausalLM"),
    "deepseek_v3": ({**SMALL, "moe_intermediate_size": 32, "n_routed_experts": 8, "n_shared_experts": 1, "n_group": 2,
                     "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "kv_lora_rank": 48,
                     "q_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
                     "num_key_value_heads": 4}, "DeepseekV3ForCausalLM"),
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def saved(family, folder, dtype=torch.float32):
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    kind = getattr(omniform, name)
    model = kind(omniform.AutoConfig.for_model(family, **keys)).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    return kind, model


def numbers(model):
    with torch.no_grad():
        return model(IDS).logits


def rewritten(folder, change, settings=None):
    """A checkpoint with other tensors, and other settings."""
    path = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path, {"format": "pt"})
    if settings is not None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = settings
        (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_beside_the_reference(family, tmp_path):
    """Made by us from plain weights, read by the reference, which computes with what the bytes stand for."""
    kind, plain = saved(family, tmp_path / "plain")
    settings = omniform.FineGrainedFP8Config(weight_block_size=(32, 16))
    made = kind.from_pretrained(tmp_path / "plain", quantization_config=settings)
    held = [m for m in made.modules() if isinstance(m, QuantLinear | QuantStack)]
    assert len(held) >= 14 - 6 * (family != "llama")
    made.save_pretrained(tmp_path / "made")
    again = kind.from_pretrained(tmp_path / "made")
    assert torch.equal(numbers(again), numbers(made))
    again.save_pretrained(tmp_path / "again")
    for file in sorted(p.name for p in (tmp_path / "made").iterdir()):
        assert (tmp_path / "made" / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    theirs = getattr(transformers, kind.__name__).from_pretrained(tmp_path / "made", dtype=torch.float32).eval()
    expected = numbers(theirs)
    assert (numbers(plain) - expected).abs().max() > 1e-2 * expected.abs().max()  # it does tell eight bits from more
    assert (numbers(again) - expected).abs().max() <= 1e-3 * expected.abs().max()
    back = again.dequantize()
    assert (numbers(back) - expected).abs().max() <= 1e-4 * expected.abs().max()
    asked = kind.from_pretrained(tmp_path / "made", quantization_config=omniform.FineGrainedFP8Config(dequantize=True))
    assert not asked.is_quantized and torch.equal(numbers(asked), numbers(back))


@pytest.mark.parametrize("scale_fmt", ("float", "ue8m0"))
def test_quantizing_is_the_references(scale_fmt):
    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    class Holder:
        quantization_config = transformers.FineGrainedFP8Config(weight_block_size=(16, 32), scale_fmt=scale_fmt)

    torch.manual_seed(0)
    weight = torch.randn(64, 96) * torch.logspace(-3, 3, 96)
    weight[:16, :32] = 0
    theirs = Fp8Quantize(Holder()).convert({"a.weight": weight})
    dtype = torch.float8_e8m0fnu if scale_fmt == "ue8m0" else torch.float32
    ours = Fp8(block=(16, 32), scale_dtype=dtype).encoded(weight)
    assert torch.equal(ours["codes"].view(torch.uint8), theirs["a.weight"].view(torch.uint8))
    assert torch.equal(ours["scales"].float(), theirs["a.weight_scale_inv"].float())


@pytest.mark.parametrize("kind", (torch.float8_e4m3fn, torch.float8_e5m2))
@pytest.mark.parametrize(
    ("block", "outs", "ins"),
    [
        ((128, 128), 200, 300),
        ((128, 128), 64, 40),
        ((16, 12), 48, 60),
        ((1, 0), 40, 72),
        ((0, 0), 40, 72),
        ((3, 8), 50, 24),
    ],
)
def test_products_are_those_of_the_numbers(kind, block, outs, ins):
    torch.manual_seed(1)
    format = Fp8(kind, block)
    weight = torch.randn(outs, ins) * 0.1
    layer = QuantLinear(ins, outs, format, bias=False)
    layer.fill(format.encoded(weight))
    bound = weight.abs().max() * (0.08 if kind is torch.float8_e4m3fn else 0.15)
    assert (layer.weight - weight).abs().max() <= bound
    # each number by hand, from its byte and the scale of its block
    rows, columns = block[0] or outs, block[1] or ins
    scales = layer.held["scales"].reshape(-(-outs // rows), -(-ins // columns))
    one = torch.tensor([[layer.held["codes"][o, i].float() * scales[o // rows, i // columns] for i in range(ins)]
                        for o in range(0, outs, 7)])  # fmt: skip
    assert torch.equal(layer.weight[::7], one)
    x = torch.randn(5, ins)
    expected = (x.double() @ layer.weight.double().T).float()
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-4)
        if library() is not None and block != (16, 12):
            from omniform.transforms.quantize.layers import matrix_of

            # a byte each, outputs and inputs padded to panels and steps, and the scales
            assert matrix_of(layer).matrix.nbytes < 2.7 * outs * ins + 4096


def test_files_of_others_lie_in_other_ways(tmp_path):
    """One scale, of both shapes, scales of outputs, static activations, e5m2, skipped layers: told by the headers."""
    kind, _ = saved("llama", tmp_path, torch.bfloat16)
    whole = {}

    def change(held):
        made = {}
        for key, x in held.items():
            stem, _, own = key.rpartition(".")
            if own != "weight" or "proj" not in stem or "o_proj" in stem:
                made[key] = x
                continue
            dtype = torch.float8_e5m2 if "down" in stem else torch.float8_e4m3fn
            scale = x.float().abs().amax(1, keepdim=True) / 400 if "up" in stem else x.float().abs().max() / 400
            made[key] = (x.float() / scale).to(dtype)
            made[f"{stem}.weight_scale"] = scale.reshape(1) if "gate" in stem else scale
            if "q_proj" in stem:
                made[f"{stem}.input_scale"] = torch.tensor(0.25)
            whole[key] = made[key].float() * scale
        return made

    rewritten(tmp_path, change, {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"],
                                 "weight_block_size": None})  # fmt: skip
    model = kind.from_pretrained(tmp_path)
    found = {p: m for p, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(found) == len(whole) == 12
    for path, layer in found.items():
        assert torch.equal(layer.weight, whole[f"{path}.weight"]), path
    model.save_pretrained(tmp_path / "again")
    first, second = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(x.view(torch.uint8), second[k].view(torch.uint8)) for k, x in first.items() if x.dim())
    summary = summary_of(tmp_path)
    assert summary.parameters == model.num_parameters() and "float8_e5m2" in str(summary.dtypes)


class TestMistakes:
    def made(self, tmp_path):
        kind, _ = saved("llama", tmp_path / "plain")
        settings = omniform.FineGrainedFP8Config(weight_block_size=(32, 32))
        kind.from_pretrained(tmp_path / "plain", quantization_config=settings).save_pretrained(tmp_path / "q")
        return kind, tmp_path / "q"

    def test_scales_of_other_blocks(self, tmp_path):
        kind, folder = self.made(tmp_path)
        key = "model.layers.1.mlp.up_proj.weight_scale_inv"
        rewritten(folder, lambda held: {**held, key: held[key][:2]})
        with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight_scale_inv.*\[3, 2\].*\[2, 2\]"):
            kind.from_pretrained(folder)

    def test_no_scales(self, tmp_path):
        kind, folder = self.made(tmp_path)
        key = "model.layers.1.mlp.up_proj.weight_scale_inv"
        rewritten(folder, lambda held: {k: x for k, x in held.items() if k != key})
        with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.up_proj\.weight.*no scales"):
            kind.from_pretrained(folder)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"activation_scheme": "none"}, "dynamic or static"),
            ({"weight_block_size": (128,)}, "two numbers"),
            ({"weight_block_size": (128, 0)}, "two numbers"),
            ({"scale_fmt": "e4m3"}, "float or ue8m0"),
            ({"expert_dtype": "fp4"}, "expert_dtype"),
            ({"modules_to_convert": ["embed"]}, "tables of vectors"),
            ({"fmt": "e3m4"}, "e4m3 or e5m2"),
        ],
    )
    def test_settings_that_cannot_be(self, given, said):
        with pytest.raises(ConfigError, match=said):
            omniform.FineGrainedFP8Config(**given)

    def test_static_activations_are_calibrated(self, tmp_path):
        kind, _ = saved("llama", tmp_path)
        with pytest.raises(InputError, match="calibration"):
            kind.from_pretrained(
                tmp_path, quantization_config=omniform.FineGrainedFP8Config(activation_scheme="static")
            )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("FineGrainedFP8Config", {}),
        ("FineGrainedFP8Config", {"weight_block_size": [64, 64], "scale_fmt": "ue8m0", "activation_scheme": "STATIC"}),
        ("FineGrainedFP8Config", {"ignored_layers": ["a"], "dequantize": True, "fmt": "e4m3"}),
        ("FineGrainedFP8Config", {"weight_block_size": None, "modules_to_not_convert": ["b"]}),
        ("FbgemmFp8Config", {}),
        ("FbgemmFp8Config", {"activation_scale_ub": 10.0, "modules_to_not_convert": ["b"]}),
        ("Mxfp4Config", {}),
        ("Mxfp4Config", {"modules_to_not_convert": ["b"], "dequantize": True}),
    ],
)
def test_settings_are_the_references(name, given):
    ours, theirs = getattr(omniform, name)(**given), getattr(transformers, name)(**given)
    expected = {k: getattr(v, "value", v) for k, v in theirs.to_dict().items()}
    assert ours.to_dict() == expected
    assert ours.get_loading_attributes() == theirs.get_loading_attributes()


def test_scales_of_outputs_are_made(tmp_path):
    kind, plain = saved("llama", tmp_path / "plain")
    made = kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.FbgemmFp8Config())
    path = "model.layers.1.mlp.down_proj"
    layer, weight = made.get_submodule(path), plain.get_submodule(path).weight.detach()
    scale = weight.abs().amax(1, keepdim=True) / 448
    assert torch.allclose(layer.held["scales"], scale, rtol=1e-6)
    assert ((layer.weight - weight).abs() <= weight.abs() / 16 + scale / 500).all()
    made.save_pretrained(tmp_path / "q")
    held = load_file(tmp_path / "q/model.safetensors")
    assert held[f"{path}.weight"].dtype is torch.float8_e4m3fn and held[f"{path}.weight_scale"].shape == (64, 1)
    assert torch.equal(numbers(kind.from_pretrained(tmp_path / "q")), numbers(made))
