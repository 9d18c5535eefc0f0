"""Methods by their names: AutoRound's checkpoints, quanto's settings, and those that are not here."""

from __future__ import annotations

import json

import pytest
import torch
from gptq_written import written
from quantize_checkpoints import logits, plain, rewritten, same_tensors

from omniform.core.errors import ConfigError
from omniform.transforms.quantize.config import BUILT_IN, ELSEWHERE
from omniform.transforms.quantize.layers import QuantLinear
from reference import omniform, transformers

PLAIN = {"data_type": "int", "act_bits": 16}


def nibbles(codes, order):
    """Eight codes of four bits along the last axis in an int32, code ``order[i]`` in bits 4 * i. uint8 to int32."""
    eights = codes.long().unflatten(-1, (-1, 8))
    made = sum(eights[..., order[i]] << (4 * i) for i in range(8))
    return torch.where(made >= 2**31, made - 2**32, made).to(torch.int32)


def awq(name, weight):
    outs, ins = weight.shape
    codes, zeros = torch.randint(0, 16, (outs, ins)), torch.randint(0, 16, (outs, ins // 32))
    scales = (torch.rand(outs, ins // 32) * 0.02 + 0.01).half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    held = {"qweight": nibbles(codes.t(), order), "qzeros": nibbles(zeros.t(), order), "scales": scales.t()}
    wide = [one.float().repeat_interleave(32, 1) for one in (zeros, scales)]
    return held, (codes - wide[0]) * wide[1]


def gptq(v2):
    def packed(name, weight):
        bits = 8 if "down_proj" in name else 4
        held, numbers = written("x", *weight.shape, bits, 32, seed=len(name), v2=v2)
        return {key.removeprefix("x."): one for key, one in held.items() if "g_idx" not in key}, torch.from_numpy(
            numbers
        )

    return packed


@pytest.mark.parametrize(
    ("packing", "packed", "more"),
    [
        ("auto_round:auto_gptq", gptq(False), {"extra_config": {".*down_proj": {"bits": 8}}}),
        ("auto_round", gptq(True), {"extra_config": {f"model.layers.{n}.mlp.down_proj": {"bits": 8} for n in (0, 1)}}),
        ("auto_round:auto_awq", awq, {}),
    ],
)
def test_auto_round_lies_as_others_do(packing, packed, more, tmp_path):
    kind = plain("llama", tmp_path / "plain")
    said = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "packing_format": packing, **PLAIN, **more}
    rewritten(tmp_path / "plain", tmp_path / "made", said, packed, tmp_path / "twin")
    model, twin = kind.from_pretrained(tmp_path / "made"), kind.from_pretrained(tmp_path / "twin")
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(layers) == 14
    for path, layer in layers.items():
        assert torch.allclose(layer.weight, twin.get_submodule(path).weight, atol=1e-6), path
    assert (logits(model) - logits(twin)).abs().max() <= 1e-2 * max(1, logits(twin).abs().max())
    model.save_pretrained(tmp_path / "saved")
    same_tensors(tmp_path / "made", tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())["quantization_config"]
    assert said.items() <= config.items()


def test_auto_rounds_settings_are_the_ecosystems(tmp_path):
    for given in ({}, {"bits": 2, "group_size": -1, "sym": False, "iters": 200, "packing_format": "auto_round"}):
        ours, theirs = omniform.AutoRoundConfig(**given), transformers.AutoRoundConfig(**given)
        assert ours.to_dict() == {**theirs.to_dict(), "quant_method": "auto-round"}
    kind = plain("llama", tmp_path / "plain")
    said = {"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp", "act_bits": 4}
    rewritten(tmp_path / "plain", tmp_path / "made", said, lambda name, weight: None)
    with pytest.raises(ConfigError, match="mx_fp"):
        kind.from_pretrained(tmp_path / "made")


def test_quantos_settings_are_kept_and_its_quantizer_says_what_to_use(tmp_path):
    for given in ({}, {"weights": "int4", "activations": "int8", "modules_to_not_convert": ["lm_head"]}):
        theirs = {**transformers.QuantoConfig(**given).to_dict(), "quant_method": "quanto"}
        assert omniform.QuantoConfig(**given).to_dict() == theirs
    with pytest.raises(ConfigError, match="int3"):
        omniform.QuantoConfig(weights="int3")
    kind = plain("llama", tmp_path / "plain")
    with pytest.raises(ConfigError, match="HqqConfig"):
        kind.from_pretrained(tmp_path / "plain", quantization_config=omniform.QuantoConfig(weights="int4"))


def test_every_method_of_the_ecosystem_is_read_or_named(tmp_path):

    methods = {str(one.value) for one in transformers.utils.quantization_config.QuantizationMethod}
    assert methods <= BUILT_IN.keys() | ELSEWHERE.keys() | {"gguf"} and not BUILT_IN.keys() & ELSEWHERE.keys()
    kind = plain("llama", tmp_path / "plain")
    file = tmp_path / "plain" / "config.json"
    config = json.loads(file.read_text())
    for method in [*sorted(ELSEWHERE), "my-own"]:
        file.write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
        for asked in (lambda: kind.from_pretrained(tmp_path / "plain"),
                      lambda: omniform.AutoQuantizationConfig.from_pretrained(tmp_path / "plain")):  # fmt: skip
            with pytest.raises(ConfigError) as raised:
                asked()
            error = raised.value
            assert method in str(error.found) and "gptq" in str(error.expected) and error.remedy, method
            assert "made from" in error.remedy
