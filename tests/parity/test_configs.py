"""What a config asks of every call, and what tools read from it, against the reference."""

from __future__ import annotations

import json

import pytest
import torch

from omniform.core.errors import ConfigError
from reference import omniform, saved_reference, transformers

SIZES = {"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 1, "num_attention_heads": 4}
T5 = {"vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4, "pad_token_id": 0}
IDS = torch.tensor([[3, 4, 5, 6]])
MODELS = {
    "LlamaForCausalLM": ("LlamaConfig", {"vocab_size": 61, **SIZES}, {"input_ids": IDS}),
    "BertModel": ("BertConfig", {"vocab_size": 61, **SIZES}, {"input_ids": IDS}),
    "T5ForConditionalGeneration": ("T5Config", {**T5, "decoder_start_token_id": 0}, {"input_ids": IDS, "labels": IDS}),
    "ViTModel": (
        "ViTConfig", {**SIZES, "image_size": 16, "patch_size": 8}, {"pixel_values": torch.ones(1, 3, 16, 16)},
    ),
}  # fmt: skip
ASKED = [{}, {"use_cache": False}, {"output_hidden_states": True}, {"output_attentions": True}]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_call_that_says_nothing_means_the_config(tmp_path, name, asked):
    kind, sizes, inputs = MODELS[name]
    config = getattr(transformers, kind)(**sizes, **asked, attn_implementation="eager")
    theirs = saved_reference(getattr(transformers, name), config, tmp_path)
    ours = getattr(omniform, name).from_pretrained(tmp_path)
    expected = [key for key, value in theirs(**inputs).items() if value != ()]
    assert list(ours(**inputs)) == expected
    for key in asked:
        if key in ours.accepts():
            setattr(ours.config, key, None)
            assert list(ours(**inputs, **{key: asked[key]})) == expected


STRAYS = {
    "phi3": ("full_attn_mod", "interpolate_factor"),
    "gpt_neox": ("attention_probs_dropout_prob", "hidden_dropout_prob", "custom_pipelines"),
    "falcon": ("ff_factor",),
    "stablelm": ("norm_eps", "rope_pct", "rotary_scaling_factor"),
}
"""What published configs of decoders say beside what is computed with."""


@pytest.mark.parametrize("family", STRAYS)
def test_strays_of_published_configs_are_known(family):
    assert not omniform.AutoConfig.for_model(family, **dict.fromkeys(STRAYS[family], 1)).unknown


ROPES = [
    {"rope_theta": 5e5},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 7.0}},
    {"rope_theta": 1e4, "rope_scaling": None, "head_dim": None, "num_key_value_heads": None},
]


@pytest.mark.parametrize("raw", ROPES, ids=str)
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_what_tools_read_of_a_decoder(tmp_path, family, raw):
    raw = {"model_type": family, "hidden_size": 64, "num_attention_heads": 8, **raw}
    if family == "qwen3":
        raw["num_key_value_heads"] = 4
    if family != "llama":
        raw = {name: value for name, value in raw.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    ours, theirs = omniform.AutoConfig.from_pretrained(tmp_path), transformers.AutoConfig.from_pretrained(tmp_path)
    names = ("rope_parameters", "rope_scaling", "num_key_value_heads", "bos_token_id", "eos_token_id", "pad_token_id")
    for name in names:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.head_dim == (theirs.head_dim or 8)
    assert ours.to_diff_dict() == raw


@pytest.mark.parametrize("old", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("new", ["rope_scaling", "rope_parameters"])
def test_rotary_settings_have_two_names_and_one_value(old, new):
    config = omniform.AutoConfig.for_model("llama", **{old: {"rope_type": "linear", "factor": 4.0}})
    setattr(config, new, {"rope_type": "linear", "factor": 2.0})
    assert config.spec.text.frequencies.factor == 2.0
    assert config.rope_parameters == config.rope_scaling
    assert len({"rope_scaling", "rope_parameters"} & config.raw.keys()) == 1


def test_a_dropout_of_null_is_none():
    config = omniform.LlamaConfig(attention_dropout=None)
    assert config.attention_dropout is None and config.spec.text.attention_dropout == 0.0


def test_a_config_as_a_mapping_and_changed_by_a_line(tmp_path):
    omniform.LlamaConfig(hidden_size=64, num_attention_heads=8).save_pretrained(tmp_path)
    found, left = omniform.PretrainedConfig.get_config_dict(tmp_path)
    assert found == json.loads((tmp_path / "config.json").read_text()) and left == {}
    config = omniform.LlamaConfig.from_pretrained(tmp_path)
    config.update_from_string("use_cache=false,initializer_range=0.5,hidden_act=relu,num_hidden_layers=3")
    assert (config.use_cache, config.initializer_range, config.hidden_act) == (False, 0.5, "relu")
    assert config.num_hidden_layers == 3
    with pytest.raises(ConfigError, match="num_hidden_layer"):
        config.update_from_string("num_hidden_layer=3")


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("t5", {"n_positions": 512, "output_past": True, "dense_act_fn": "relu", "is_gated_act": False}),
        ("xlm-roberta", {"output_past": True, "position_embedding_type": "absolute", "gradient_checkpointing": False}),
        ("bart", {
            "_num_labels": 3, "classif_dropout": 0.0, "extra_pos_embeddings": 2, "normalize_embedding": True,
            "replacing_rate": 0, "save_step": 58, "student_decoder_layers": None, "student_encoder_layers": None,
        }),
        ("blenderbot", {"extra_layer_norm": False, "layernorm_variant": "prelayernorm", "unk_token_id": 3}),
    ],
)  # fmt: skip
def test_old_keys_of_published_files(tmp_path, family, keys):
    """What nothing reads is known, and no stranger."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **keys}))
    assert not omniform.AutoConfig.from_pretrained(tmp_path).unknown
