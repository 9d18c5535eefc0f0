"""Bad input of every format: what is told names the layer and both numbers."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from quantize_checkpoints import plain, rewritten
from safetensors.torch import load_file, save_file
from test_awq_format import packer, settings
from test_gptq_making import ROWS

from omniform.core.errors import ConfigError, OmniformError, WeightsError
from reference import omniform

LAYER = "model.layers.1.mlp.up_proj"
MADE = {
    "native-8": lambda: omniform.NativeConfig(bits=8, group_size=32),
    "native-4": lambda: omniform.NativeConfig(bits=4, group_size=32),
    "gptq-4": lambda: omniform.GPTQConfig(4, group_size=32, dataset=ROWS[:4]),
    "gptq-3": lambda: omniform.GPTQConfig(3, group_size=32, dataset=ROWS[:4]),
    "llm-int8": lambda: omniform.BitsAndBytesConfig(load_in_8bit=True),
    "nf4": lambda: omniform.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp8": lambda: omniform.FineGrainedFP8Config(weight_block_size=(32, 32)),
}
READ = {"awq-gemm": ("gemm", 32), "awq-gemv": ("gemv", 32), "awq-gemv-fast": ("gemv_fast", 32)}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=[*MADE, *READ])
def quantized(request, tmp_path_factory):
    """A checkpoint of a format: its class, its folder, its tensors and its config."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = plain("llama", folder / "plain")
    if request.param in MADE:
        made = kind.from_pretrained(folder / "plain", quantization_config=MADE[request.param]())
        made.save_pretrained(folder / "made")
    else:
        version, group = READ[request.param]
        layout = "fast" if version == "gemv_fast" else version
        rewritten(folder / "plain", folder / "made", settings(version, group), packer(layout, group))
    held = load_file(folder / "made/model.safetensors")
    return kind, held, json.loads((folder / "made/config.json").read_text())


def written(folder, held, config):
    (folder / "config.json").write_text(json.dumps(config))
    save_file({key: x.contiguous() for key, x in held.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_a_tensor_cut_short(quantized, tmp_path):
    kind, held, config = quantized
    own = [key for key in held if key.startswith(f"{LAYER}.") and held[key].dim() and "quant_map" not in key]
    assert len(own) >= 2
    for key in own:
        cut = held[key][:-1]
        with pytest.raises(OmniformError) as caught:
            kind.from_pretrained(written(tmp_path, {**held, key: cut}, config))
        text = str(caught.value)
        assert isinstance(caught.value, WeightsError | ConfigError) and LAYER in text, text
        if "quant_state" not in key:  # text, not numbers
            told = {len(held[key]), held[key].numel(), 2 * held[key].numel()}
            assert any(str(number) in text for number in told), (key, text)


def test_a_tensor_that_is_not_there(quantized, tmp_path):
    kind, held, config = quantized
    own = [key for key in held if key.startswith(f"{LAYER}.") and "weight_format" not in key and "g_idx" not in key]
    for key in own:
        with pytest.raises(OmniformError, match=LAYER.replace(".", r"\.")):
            kind.from_pretrained(written(tmp_path, {k: x for k, x in held.items() if k != key}, config))


@pytest.mark.parametrize(
    ("asked", "said"),
    (
        (lambda: omniform.GPTQConfig(4, group_size=12, dataset=ROWS[:4]), r"q_proj.*multiple of 8.*12"),
        (lambda: omniform.GPTQConfig(5), "2, 3, 4 or 8.*5"),
        (lambda: omniform.NativeConfig(bits=3), "8 or 4.*3"),
        (lambda: omniform.AwqConfig(bits=8), "expected 4.*8"),
        (lambda: omniform.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf5"), "nf5"),
    ),
)
def test_bits_and_groups_that_a_format_lacks(asked, said, tmp_path):
    kind = plain("llama", tmp_path)
    with pytest.raises((OmniformError, ValueError), match=said):
        kind.from_pretrained(tmp_path, quantization_config=asked())


@pytest.mark.parametrize("name", (*(one for one in MADE if "gptq" not in one),))
def test_a_weight_that_is_no_number_is_named(name, tmp_path):
    kind = plain("llama", tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held[f"{LAYER}.weight"][3, 5] = torch.nan
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(WeightsError, match=LAYER.replace(".", r"\.")):
        kind.from_pretrained(written(tmp_path, held, config), quantization_config=MADE[name]())


@pytest.mark.parametrize(
    "asked",
    (
        lambda: omniform.NativeConfig(modules_to_not_convert=["lm_head", "nobody"]),
        lambda: omniform.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head", "nobody"]),
        lambda: omniform.FineGrainedFP8Config(weight_block_size=(32, 32), modules_to_not_convert=["nobody"]),
        lambda: omniform.GPTQConfig(4, group_size=32, dataset=ROWS[:4], dynamic={"-:nobody": {}}),
    ),
)
def test_a_skip_list_that_matches_nothing_is_said(asked, tmp_path, caplog):
    kind = plain("llama", tmp_path)
    with caplog.at_level(logging.WARNING, "omniform"):
        kind.from_pretrained(tmp_path, quantization_config=asked())
    assert "nobody" in caplog.text
