"""GPTQ with texts to calibrate with: one matrix against the paper, whole models, and runs that are killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from gptq_naive import naive
from safetensors.torch import load_file

from omniform.core.errors import InputError, OmniformError, WeightsError
from omniform.transforms.quantize.gptq_solving import How, solved
from omniform.transforms.quantize.layers import QuantLinear
from omniform.weights.formats.gptq import Gptq
from reference import omniform

PLAIN = How(0.05, desc_act=False, act_group_aware=False, sym=True, static_groups=False, search=False)
SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "llama": (SMALL, "LlamaForCausalLM"),
    "qwen2": ({**SMALL, "num_key_value_heads": 1}, "Qwen2ForCausalLM"),
    "gpt2": ({"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 2, "eos_token_id": 1}, "GPT2LMHeadModel"),
    "gpt_neox": (SMALL, "GPTNeoXForCausalLM"),
    "phi3": ({**SMALL, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}, "Phi3ForCausalLM"),
}
ROWS = [torch.randint(2, 96, (32,), generator=torch.Generator().manual_seed(n)).tolist() for n in range(12)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def matrix(outs, ins, seed):
    """A matrix, and a Hessian of inputs that depend on one another and are of several sizes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * ins, ins)) @ rng.normal(size=(ins, ins)) * rng.uniform(0.2, 3, ins)
    return rng.normal(size=(outs, ins)), x.T @ x / len(x)


@pytest.mark.parametrize("sym", (True, False))
@pytest.mark.parametrize(("bits", "group"), ((4, 32), (4, -1), (3, 64), (2, 96), (8, 160), (4, 320)))
@pytest.mark.parametrize("act", (False, True))
def test_one_matrix_as_in_the_paper(bits, group, sym, act):
    weight, hessian = matrix(32, 320, bits + group)
    order = np.argsort(-np.diag(hessian), kind="stable") if act else None
    expected = naive(weight, hessian, bits, group, 0.05, sym=sym, order=order)
    format = Gptq(bits, group)
    how = How(0.05, desc_act=act, act_group_aware=False, sym=sym, static_groups=False, search=False)
    made = solved(torch.from_numpy(weight).float(), torch.from_numpy(hessian).float(), format, how)
    found = format.numbers(made.tensors, 32, 320).double().numpy()
    # A weight in the middle between two codes may fall to either side in float32, and those after it follow.
    assert np.mean(np.abs(found - expected) > 1e-6) < 0.03

    def lost(x):
        return np.trace((x - weight) @ hessian @ (x - weight).T)

    there = np.trace(weight @ hessian @ weight.T)
    assert lost(found) == pytest.approx(lost(expected), rel=0.02)
    assert made.error == pytest.approx(lost(found) / there, rel=1e-2)
    nearest = format.numbers(format.encoded(torch.from_numpy(weight)), 32, 320).double().numpy()
    assert lost(found) < 0.8 * lost(nearest)


@pytest.mark.parametrize(
    "how", ({"act_group_aware": True}, {"static_groups": True}, {"desc_act": True, "static_groups": True})
)
def test_orders_that_keep_groups(how):
    weight, hessian = matrix(32, 256, 5)
    format = Gptq(4, 32)
    settings = {
        "desc_act": False,
        "act_group_aware": False,
        "sym": True,
        "static_groups": False,
        "search": False,
        **how,
    }
    made = solved(torch.from_numpy(weight).float(), torch.from_numpy(hessian).float(), format, How(0.05, **settings))
    assert torch.equal(made.tensors["g_idx"], torch.arange(256, dtype=torch.int32) // 32)
    nearest = format.numbers(format.encoded(torch.from_numpy(weight)), 32, 256).double().numpy()
    found = format.numbers(made.tensors, 32, 256).double().numpy()
    off, worse = (np.trace((x - weight) @ hessian @ (x - weight).T) for x in (found, nearest))
    assert off < 0.6 * worse
    if settings["static_groups"]:
        assert torch.equal(made.tensors["scales"], format.encoded(torch.from_numpy(weight))["scales"])


@pytest.mark.parametrize("sym", (True, False))
@pytest.mark.parametrize(("bits", "group"), ((4, 64), (3, 64), (2, 32), (4, -1)))
@pytest.mark.parametrize("static", (False, True))
def test_scales_that_are_looked_for_lose_less(bits, group, sym, static):
    weight, hessian = (torch.from_numpy(x).float() for x in matrix(48, 256, bits + group))
    how = replace(PLAIN, sym=sym, static_groups=static)
    format = Gptq(bits, group)
    plain, sought = (solved(weight, hessian, format, replace(how, search=search)) for search in (False, True))
    assert sought.error < plain.error * (0.97 if bits < 8 else 1.0)
    assert sought.most <= plain.most


def test_hessians_that_are_wanting():
    weight, hessian = (torch.from_numpy(x).float() for x in matrix(32, 64, 1))
    dead = hessian.clone()
    dead[3], dead[:, 3] = 0, 0
    made = solved(weight, dead, Gptq(4, 32), PLAIN)
    assert "1 inputs are always nought" in made.notes[0] and made.error < 0.1
    lost = hessian.clone()
    lost[5, 7] = lost[7, 5] = torch.nan
    made = solved(weight, lost, Gptq(4, 32), PLAIN)
    assert "no numbers: dampened" in made.notes[0] and made.error < 0.1
    singular = hessian - 0.2 * hessian.diagonal().mean() * torch.eye(64)
    made = solved(weight, singular, Gptq(4, 32), PLAIN)
    assert "instead of 0.05" in made.notes[-1]
    with pytest.raises(WeightsError, match="finite numbers"):
        solved(weight * torch.inf, hessian, Gptq(4, 32), PLAIN)


def saved(family, folder, dtype=torch.float32):
    keys, name = FAMILIES[family]
    torch.manual_seed(3)
    kind = getattr(omniform, name)
    model = kind(omniform.AutoConfig.for_model(family, tie_word_embeddings=False, **keys)).to(dtype).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.15 + (1.0 if p.dim() == 1 else 0.0))
    model.save_pretrained(folder)
    return kind, model


def numbers(model):
    with torch.no_grad():
        return model(torch.tensor(ROWS[:4])).logits


def made(kind, folder, **settings):
    given = {"bits": 4, "group_size": 32, "dataset": ROWS, **settings}
    return kind.from_pretrained(folder, quantization_config=omniform.GPTQConfig(**given))


def off(model, plain):
    expected = numbers(plain)
    return float((numbers(model) - expected).square().mean() / expected.var())


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models(family, tmp_path):
    kind, plain = saved(family, tmp_path / "plain")
    model = made(kind, tmp_path / "plain")
    layers = {path: m for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(layers) >= 8 and len(model.hf_quantizer.reports) == len(layers)
    assert all(0 < one.error < 0.1 and 0 < one.least <= one.most for one in model.hf_quantizer.reports)
    nearest = kind.from_pretrained(tmp_path / "plain")
    with torch.no_grad():
        for path in layers:
            layer = nearest.get_submodule(path)
            outs, ins = layer.weight.shape
            format = Gptq(4, 32)
            layer.weight.copy_(format.numbers(format.encoded(layer.weight), outs, ins))
    assert off(model, plain) < 0.9 * off(nearest, plain)
    model.save_pretrained(tmp_path / "made")
    again = kind.from_pretrained(tmp_path / "made")
    assert torch.equal(numbers(again), numbers(model))
    assert any(key.endswith("g_idx") for key in load_file(tmp_path / "made/model.safetensors"))


@pytest.mark.parametrize(
    "settings",
    [
        {"desc_act": True}, {"true_sequential": False}, {"sym": False}, {"bits": 3}, {"bits": 8, "format": "gptq_v2"},
        {"group_size": -1}, {"batch_size": 5}, {"static_groups": True}, {"model_seqlen": 16},
        {"block_name_to_quantize": "model.layers", "module_name_preceding_first_block": ["model.embed_tokens"]},
    ],
)  # fmt: skip
def test_settings(settings, tmp_path):
    kind, plain = saved("llama", tmp_path / "plain")
    model = made(kind, tmp_path / "plain", **settings)
    assert off(model, plain) < {3: 0.6, 8: 1e-3}.get(settings.get("bits"), 0.15)
    model.save_pretrained(tmp_path / "made")
    assert torch.equal(numbers(kind.from_pretrained(tmp_path / "made")), numbers(model))


def test_inputs_computed_anew_are_the_same(tmp_path):
    kind, _ = saved("llama", tmp_path)
    one, other = (made(kind, tmp_path, cache_block_outputs=kept).state_dict() for kept in (True, False))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_filled_rows_count_for_what_they_are(tmp_path):
    kind, _ = saved("llama", tmp_path)
    rows = [row[: 20 + n] for n, row in enumerate(ROWS[:6])]
    one = made(kind, tmp_path, dataset=rows).hf_quantizer.reports
    other = made(kind, tmp_path, dataset=rows, batch_size=3, pad_token_id=0).hf_quantizer.reports
    assert [a.error for a in one] == pytest.approx([b.error for b in other], rel=0.05)
    with pytest.raises(InputError, match="pad_token_id"):
        made(kind, tmp_path, dataset=rows, batch_size=3)


def test_named_layers(tmp_path, caplog):
    kind, _ = saved("phi3", tmp_path)
    with caplog.at_level(logging.WARNING, "omniform"):
        model = made(
            kind, tmp_path, modules_in_block_to_quantize=[["self_attn.qkv_proj"], ["mlp.down_proj", "nothing"]]
        )
    found = {path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert found == {"q_proj", "k_proj", "v_proj", "down_proj"} and "nothing" in caplog.text
    with pytest.raises(InputError, match="nothing"):
        made(kind, tmp_path, modules_in_block_to_quantize=[["nothing"]])
    with pytest.raises(InputError, match=r"model\.layers"):
        made(kind, tmp_path, block_name_to_quantize="transformer.h")


@pytest.mark.parametrize("dataset", ([], [[1, 2]], [[]], "no-such-file.txt", [[1.5] * 20], ["words"]))
def test_texts_that_will_not_do(dataset, tmp_path):
    kind, _ = saved("llama", tmp_path)
    with pytest.raises(OmniformError):
        made(kind, tmp_path, dataset=dataset, tokenizer=lambda text: {"input_ids": [1, 2]})


def test_texts_and_files_of_them(tmp_path):
    kind, plain = saved("llama", tmp_path)
    texts = ["the quick brown fox jumps over the lazy dog", "and again, it does so a second time over there"]

    def reader(text):
        return {"input_ids": [2 + ord(letter) % 90 for letter in text]}

    one = made(kind, tmp_path, dataset=texts, tokenizer=reader)
    (tmp_path / "texts.txt").write_text("\n\n".join(texts))
    other = made(kind, tmp_path, dataset=str(tmp_path / "texts.txt"), tokenizer=reader)
    assert torch.equal(numbers(one), numbers(other)) and off(one, plain) < 0.3


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
import omniform
from test_gptq_making import ROWS
config = omniform.GPTQConfig(bits=4, group_size=32, dataset=ROWS)
model = omniform.LlamaForCausalLM.from_pretrained(sys.argv[1], quantization_config=config)
model.save_pretrained(sys.argv[2])
"""


def run(folder, out, cache):
    paths = os.pathsep.join([*sys.path])
    env = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": paths}
    here = os.path.dirname(__file__)
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), str(out), here], env=env)


def test_a_killed_run_goes_on(tmp_path):
    """Killed as soon as some layers are kept, again and again: in the end the same bits."""
    keys = {**SMALL, "num_hidden_layers": 4, "hidden_size": 256, "intermediate_size": 512}
    torch.manual_seed(1)
    omniform.LlamaForCausalLM(omniform.AutoConfig.for_model("llama", **keys)).save_pretrained(tmp_path / "plain")
    assert run(tmp_path / "plain", tmp_path / "whole", tmp_path / "other").wait(300) == 0
    assert not list((tmp_path / "other").rglob("*.pt"))
    kept = 0
    killed = run(tmp_path / "plain", tmp_path / "parts", tmp_path / "cache")
    end = time.monotonic() + 240
    while killed.poll() is None and time.monotonic() < end:
        kept = len(list((tmp_path / "cache").rglob("*.pt")))
        if kept >= 9:
            killed.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert killed.wait(60) == -signal.SIGKILL and kept >= 9 and not (tmp_path / "parts").exists()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.pt")}
    assert 9 <= len(times) < 28
    assert run(tmp_path / "plain", tmp_path / "parts", tmp_path / "cache").wait(300) == 0
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_experts_stay_as_they_are_and_that_is_said(tmp_path, caplog):
    keys = {**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}
    torch.manual_seed(1)
    kind = omniform.MixtralForCausalLM
    plain = kind(omniform.AutoConfig.for_model("mixtral", **keys)).eval()
    plain.save_pretrained(tmp_path / "plain")
    with caplog.at_level(logging.WARNING, "omniform"):
        model = made(kind, tmp_path / "plain")
    assert "experts in stacks are not quantized: model.layers.0.mlp.experts" in caplog.text
    found = {path.rpartition(".")[2] for path, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert found == {"q_proj", "k_proj", "v_proj", "o_proj"}
    model.save_pretrained(tmp_path / "made")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "made"))
    experts = {key for key in one if ".experts." in key}
    assert experts and all(torch.equal(one[key], other[key]) for key in experts)
    assert torch.equal(numbers(kind.from_pretrained(tmp_path / "made")), numbers(model))


def test_halves_are_quantized_as_they_are_in_float32(tmp_path):
    """Where the CPU has no instructions for halves, layers that wait for their turn multiply them in float32."""
    kind, plain = saved("llama", tmp_path, torch.bfloat16)
    model = made(kind, tmp_path)
    assert sum(isinstance(m, QuantLinear) for m in model.modules()) == 14
    assert off(model, plain) < 0.15
