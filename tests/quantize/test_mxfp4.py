"""Floats of four bits: gpt-oss beside the reference's dequantized, saved as it was read, made from plain weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import ConfigError, WeightsError
from omniform.hub.inspect import inspect as summary_of
from omniform.native.library import library
from omniform.transforms.quantize.stacks import QuantStack
from omniform.weights.formats.mxfp4 import Mxfp4
from reference import omniform, transformers

KEYS = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 16, "num_key_value_heads": 2, "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"], "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


def packed_checkpoint(folder, seed=3):
    """A gpt-oss as it is published: random bytes for its experts, and powers around one for their groups."""
    torch.manual_seed(seed)
    kind = omniform.GptOssForCausalLM
    model = kind(omniform.AutoConfig.for_model("gpt_oss", **KEYS)).to(torch.bfloat16).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.1 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    held = load_file(path)
    for key in [key for key in held if key.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, ins, outs = held.pop(key).shape
        held[f"{key}_blocks"] = torch.randint(0, 256, (experts, outs, ins // 32, 16), dtype=torch.uint8)
        held[f"{key}_scales"] = torch.randint(121, 126, (experts, outs, ins // 32), dtype=torch.uint8)
    save_file(held, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config))
    return kind


def numbers(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def test_whole_models_beside_the_reference(tmp_path):
    kind = packed_checkpoint(tmp_path / "q")
    how = {"quantization_config": transformers.Mxfp4Config(dequantize=True), "dtype": torch.float32}
    theirs = transformers.GptOssForCausalLM.from_pretrained(tmp_path / "q", attn_implementation="eager", **how).eval()
    expected = numbers(theirs)
    ours = kind.from_pretrained(tmp_path / "q", dtype=torch.float32)
    stacks = {p: m for p, m in ours.named_modules() if isinstance(m, QuantStack)}
    assert len(stacks) == 4
    for path, stack in stacks.items():
        plain = theirs.get_parameter(path)
        assert torch.equal(stack.weight, plain.detach().transpose(1, 2).float()), path
    assert (numbers(ours) - expected).abs().max() <= 3e-3 * expected.abs().max()
    assert torch.equal(
        ours.generate(IDS, max_new_tokens=8, do_sample=False), theirs.generate(IDS, max_new_tokens=8, do_sample=False)
    )
    if library() is not None:
        from omniform.transforms.stacks import matrices_of

        packed = matrices_of(next(iter(stacks.values())))
        experts, outs, ins = next(iter(stacks.values())).shape
        assert packed.nbytes <= experts * (outs * ins // 2 + outs * (ins // 32) * 4 + 128)
    asked = kind.from_pretrained(
        tmp_path / "q", quantization_config=omniform.Mxfp4Config(dequantize=True), dtype=torch.float32
    )
    assert not asked.is_quantized and (numbers(asked) - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_saved_as_it_was_read(tmp_path):
    kind = packed_checkpoint(tmp_path / "q")
    model = kind.from_pretrained(tmp_path / "q")
    model.save_pretrained(tmp_path / "again")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("q", "again"))
    assert first.keys() == second.keys() and all(torch.equal(x, second[k]) for k, x in first.items())
    again = kind.from_pretrained(tmp_path / "again")
    assert torch.equal(numbers(again), numbers(model))
    again.save_pretrained(tmp_path / "third")
    for file in sorted(p.name for p in (tmp_path / "again").iterdir()):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "third" / file).read_bytes(), file
    summary = summary_of(tmp_path / "q")
    assert summary.parameters == model.num_parameters()
    plain = kind(omniform.AutoConfig.for_model("gpt_oss", **KEYS))
    assert model.num_parameters() == plain.num_parameters()


def test_numbers_go_to_the_nearest():
    """Beside every choice: no code is nearer, and no smaller power holds the largest."""
    torch.manual_seed(2)
    weight = torch.randn(24, 64) * torch.logspace(-12, 6, 24)[:, None]
    weight[3], weight[4, :32] = 0, 6 * 2.0**-9
    format = Mxfp4()
    held = format.encoded(weight)
    made = format.numbers(held, 24, 64)
    grid = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    grid = torch.cat([grid, -grid])
    powers = torch.exp2(held["scales"].double() - 127).repeat_interleave(32, -1)
    nearest = ((weight.double() / powers)[..., None] - grid).abs().amin(-1) * powers
    assert torch.equal((made.double() - weight).abs(), nearest)
    most = weight.view(24, 2, 32).abs().amax(-1).double()
    power = torch.exp2(held["scales"].double() - 127)
    assert (most <= 6 * power).all() and (most[most > 0] > 3 * power[most > 0]).all()
    again = format.encoded(made)
    assert torch.equal(format.numbers(again, 24, 64), made)


def test_made_from_plain_weights(tmp_path):
    packed_checkpoint(tmp_path / "q")
    kind = omniform.GptOssForCausalLM
    plain = kind.from_pretrained(tmp_path / "q", dtype=torch.float32).dequantize()
    plain.save_pretrained(tmp_path / "plain")
    made = kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.Mxfp4Config(), dtype=torch.float32)
    assert sum(isinstance(m, QuantStack) for m in made.modules()) == 4
    assert (numbers(made) - numbers(plain)).abs().max() <= 3e-3 * numbers(plain).abs().max()
    made.save_pretrained(tmp_path / "made")
    keys = load_file(tmp_path / "made/model.safetensors").keys()
    assert keys == load_file(tmp_path / "q/model.safetensors").keys()


def test_scales_that_do_not_fit(tmp_path):
    kind = packed_checkpoint(tmp_path)
    path, key = tmp_path / "model.safetensors", "model.layers.1.mlp.experts.down_proj_scales"
    held = load_file(path)
    save_file({**held, key: held[key][..., :2].contiguous()}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=r"layers\.1\.mlp\.experts\.down_proj_scales.*\[4, 64, 3\].*\[4, 64, 2\]"):
        kind.from_pretrained(tmp_path)


def test_inputs_that_are_no_groups():
    with pytest.raises(ConfigError, match="multiples of 32"):
        Mxfp4().parts(64, 40)
