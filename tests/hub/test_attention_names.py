"""``attn_implementation``: by name, for a whole model or for parts, in a call, in a config, or afterwards."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import pytest
import torch

from engines import family, roomy
from omniform.architectures.model import Model
from omniform.core.errors import DependencyError, InputError
from omniform.engine.engine import Engine
from reference import close, omniform, saved_reference, transformers

TEXT = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
NAMES = ("eager", "sdpa", "native", "flex_attention")
IDS = torch.tensor([[5, 9, 3, 7, 11, 6, 4], [8, 12, 30, 1, 39, 0, 0]])
REAL = (IDS != 0).long()

Llama = omniform.AutoModelForCausalLM


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    return folder, saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TEXT), folder)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT), vision_config=transformers.CLIPVisionConfig(**VISION),
        image_token_index=39,
    )  # fmt: skip
    saved_reference(transformers.LlavaForConditionalGeneration, config, folder)
    return folder


def backends(model):
    """Of every model within, by path."""
    return {path: m.attn_backend for path, m in model.named_modules() if isinstance(m, Model)}


@pytest.mark.parametrize("name", [*NAMES, "paged|eager", "paged|sdpa"])
def test_every_name_computes_the_same(llama, name):
    folder, theirs = llama
    model = Llama.from_pretrained(folder, attn_implementation=name)
    assert set(backends(model).values()) == {name.removeprefix("paged|")} == {model.config._attn_implementation}
    with torch.no_grad():
        found, expected = (m(input_ids=IDS, attention_mask=REAL).logits for m in (model, theirs))
    close(found * REAL[..., None], expected * REAL[..., None])


@pytest.mark.parametrize("name", ["llama", "mistral mixed", "t5", "llava"])
def test_flex_writes_what_sdpa_writes(name):
    """Grouped heads, windows, biases of distances and an encoder's output, packed."""
    one, other = family(name), family(name, "flex_attention")
    prompts = [one.prompt([5, 9, 3, 12], 0), one.prompt([8, 30], 1), one.prompt([11, *range(20, 32)], 2)]
    asked = {"max_new_tokens": 5, "do_sample": False}
    found, expected = ([c.tokens for c in roomy(f.ours).generate_batch(prompts, **asked)] for f in (other, one))
    assert found == expected == [one.expected(prompt, **asked) for prompt in prompts]


def test_changed_afterwards_it_counts_from_then_on(llama, monkeypatch):
    folder, _ = llama
    model = Llama.from_pretrained(folder)
    engine = Engine(model, memory="4MB")
    usual = engine.generate([5, 9, 3], max_new_tokens=4, do_sample=False).tokens
    seen = []
    real = type(model.model).decode
    monkeypatch.setattr(
        type(model.model), "decode", lambda self, x, ctx: seen.append(ctx.backend) or real(self, x, ctx)
    )
    for name in NAMES:
        model.set_attn_implementation(name)
        assert engine.generate([5, 9, 3], max_new_tokens=4, do_sample=False).tokens == usual
        assert set(seen) == {name}
        seen.clear()


def test_parts_by_the_keys_of_their_configs(llava):
    asked = {"text_config": "flex_attention", "vision_config": "eager"}
    model = omniform.AutoModelForImageTextToText.from_pretrained(llava, attn_implementation=asked)
    found = backends(model)
    assert found["model.language_model"] == "flex_attention" and found["model.vision_tower"] == "eager"
    assert found[""] == found["model"] == "sdpa"
    assert model.config.text_config._attn_implementation == "flex_attention"
    model.set_attn_implementation({"": "native", "vision_config": {"": "sdpa"}})
    assert list(backends(model).values()).count("native") == 2
    assert backends(model)["model.vision_tower"] == "sdpa" == model.config.vision_config._attn_implementation
    assert model.decoder.attn_backend == "flex_attention"  # what an engine computes by
    model.set_attn_implementation("eager")
    assert set(backends(model).values()) == {"eager"}


def test_parts_without_a_config_of_their_own():
    config = omniform.CLIPConfig(
        text_config={k: v for k, v in TEXT.items() if k != "num_key_value_heads"}, vision_config=VISION,
        projection_dim=8,
    )  # fmt: skip
    model = omniform.CLIPModel(config)
    model.set_attn_implementation({"vision_config": "eager"})
    assert backends(model) == {"": "sdpa", "vision_model": "eager", "text_model": "sdpa"}
    with pytest.raises(InputError, match="no configs within"):
        model.set_attn_implementation({"vision_config": {"text_config": "eager"}})


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("eagre", "Did you mean 'eager'"),
        ({"text_confg": "eager"}, "Did you mean 'text_config'"),
        ({"text_config": "eager", "vision_config": "sdqa"}, "Did you mean 'sdpa'"),
        ({"text_config": {"vision_config": "eager"}}, "the config has no parts"),
        (["eager"], r"one of eager, sdpa"),
        ("kernels-community/flash-attn3", "not fetched from the Hub"),
    ],
)
def test_what_is_refused_changes_nothing(llava, asked, words):
    model = omniform.AutoModelForImageTextToText.from_pretrained(llava)
    before = backends(model)
    with pytest.raises(InputError, match=words):
        model.set_attn_implementation(asked)
    assert backends(model) == before
    with pytest.raises(InputError, match=words):
        omniform.AutoModelForImageTextToText.from_pretrained(llava, attn_implementation=asked)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_3"])
def test_a_package_that_is_missing(llama, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn" if name.endswith("2") else "flash_attn_interface", None)
    for way in (Llama.from_pretrained, omniform.plan):
        with pytest.raises(DependencyError, match=rf'{name}.*not installed.*attn_implementation="sdpa"'):
            way(llama[0], attn_implementation=name)


def test_a_config_asks_for_it():
    config = omniform.LlamaConfig(**TEXT, attn_implementation="eager")
    assert config._attn_implementation == "eager" and "attn_implementation" not in config.raw
    assert set(backends(omniform.LlamaForCausalLM(config)).values()) == {"eager"}
    config._attn_implementation = "flex_attention"
    assert set(backends(Llama.from_config(config)).values()) == {"flex_attention"}
    assert set(backends(Llama.from_config(config, attn_implementation="native")).values()) == {"native"}
    assert set(backends(Llama.from_config(copy.deepcopy(config))).values()) == {"native"}  # what it was made with last
    assert pickle.loads(pickle.dumps(config))._attn_implementation == "native"
    assert not any("attn" in key for key in json.loads(config.to_json_string()))


def test_configs_of_parts_ask_for_it(llava):
    config = omniform.AutoConfig.from_pretrained(llava)
    assert config._attn_implementation == config.text_config._attn_implementation == "sdpa"
    config._attn_implementation = {"text_config": "eager"}
    assert config.text_config._attn_implementation == "eager"
    model = omniform.AutoModelForImageTextToText.from_pretrained(llava, config=config)
    assert backends(model)["model.language_model"] == "eager" and backends(model)["model.vision_tower"] == "sdpa"
    config._attn_implementation = "native"  # all of it
    assert config.text_config._attn_implementation == config.vision_config._attn_implementation == "native"


def test_what_a_file_says_means_nothing_here(llama, tmp_path):
    folder, theirs = llama
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    told = {"_attn_implementation": "flash_attention_2", "attn_implementation": "flash_attention_2"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **told}))
    model = Llama.from_pretrained(tmp_path)
    assert set(backends(model).values()) == {"sdpa"}
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager" and model.config.raw["_attn_implementation"] != "eager"
    config = omniform.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    assert set(backends(Llama.from_pretrained(folder, config=config)).values()) == {"eager"}


def test_plans_tell_parts_apart(llava):
    planned = omniform.plan(llava, attn_implementation={"text_config": "flex_attention"})
    found = {path: kernel for kernel in planned.kernels for path in kernel.attentions}
    text = [k.prompt for path, k in found.items() if "language_model" in path]
    vision = [k.prompt for path, k in found.items() if "vision_tower" in path]
    assert set(text) == {"flex_attention"} and set(vision) == {"sdpa, no mask"} and len(vision) == len(text) == 2
    native = omniform.plan(llava, attn_implementation="native").kernels
    assert all(kernel.prompt.startswith("sdpa") and "native" in kernel.why for kernel in native)
