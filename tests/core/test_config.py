"""ModelConfig: values by attribute, changes that are read again, labels, dtypes, unknown keys."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch

from omniform import AutoConfig
from omniform.core.errors import ConfigError, UnknownArgumentError
from omniform.models.registry import config_of

RAW = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 50}


def llama(**changes: object):
    return config_of({**RAW, **changes})


def test_attributes_give_what_a_key_resolved_to():
    config = llama()
    assert config.hidden_size == 32
    assert config.num_hidden_layers == 32  # the default
    assert config.model_type == "llama" and config.num_labels == 2
    assert config.raw == RAW and list(config) == list(RAW)
    assert config.get("hidden_size") == 32 and config.get("nothing", 7) == 7
    with pytest.raises(AttributeError, match="Did you mean 'hidden_size'"):
        config.hiden_size  # noqa: B018


def test_raw_is_kept_verbatim_and_apart():
    raw = {**RAW, "something_new": {"a": [1, 2]}}
    config = config_of(raw)
    taken = config.to_diff_dict()
    assert taken == raw
    taken["something_new"]["a"].append(3)
    assert config.to_diff_dict() == raw and json.loads(config.to_json_string()) == raw
    whole = config.to_dict()
    assert whole.items() >= raw.items() and whole["num_hidden_layers"] == 32
    whole["something_new"]["a"].append(3)
    assert config.raw == raw


def test_setting_an_attribute_reads_again():
    config = llama()
    config.num_attention_heads = 8
    assert config.spec.text.heads.queries == 8 and config.raw["num_attention_heads"] == 8
    before = config.to_dict()
    for name, value in (("hidden_act", "nothing"), ("num_attention_heads", 0), ("num_attention_heads", 5)):
        with pytest.raises(ConfigError, match=name):
            setattr(config, name, value)
    assert config.to_dict() == before and config.spec.text.heads.queries == 8  # a refused change changes nothing


def test_replace_leaves_the_original():
    config = llama()
    changed = config.replace(hidden_size=64, rms_norm_eps=1e-3)
    assert (config.hidden_size, changed.hidden_size, changed.spec.text.eps) == (32, 64, 1e-3)
    assert config == llama() and config != changed
    assert copy.deepcopy(config) == config


def test_num_labels_makes_labels():
    config = llama().replace(num_labels=3)
    assert config.num_labels == 3 and config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def test_named_labels():
    config = llama(id2label={"0": "cat", "1": "dog", "2": "owl"})
    assert config.num_labels == 3 and config.common.id2label == {0: "cat", 1: "dog", 2: "owl"}
    assert config.replace(num_labels=3).id2label[2] == "owl"  # as many as before: the names stay
    assert config.replace(num_labels=4).id2label[2] == "LABEL_2"
    renamed = config.replace(id2label={0: "a", 1: "b"})
    assert renamed.num_labels == 2 and renamed.label2id == {"a": 0, "b": 1}
    assert json.loads(json.dumps(renamed.to_dict()))["id2label"] == {"0": "a", "1": "b"}


@pytest.mark.parametrize("order", [0, 1, 2])
def test_labels_and_their_number_in_any_order(order):
    changes = [("num_labels", 3), ("id2label", {0: "a", 1: "b", 2: "c"}), ("label2id", {"a": 0, "b": 1, "c": 2})]
    changes = changes[order:] + changes[:order]
    config = llama(id2label={"0": "x", "1": "y"}, label2id={"x": 0, "y": 1}).replace(**dict(changes))
    assert config.num_labels == 3 and config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}


def test_labels_that_contradict_their_number_are_refused():
    with pytest.raises(ConfigError, match="num_labels"):
        llama().replace(num_labels=4, id2label={0: "a", 1: "b"})


def test_out_of_range_labels_are_refused():
    for labels in ({"1": "a", "2": "b"}, {"0": "a", "2": "b"}, {"x": "a"}, ["a"], {"-1": "a", "0": "b"}):
        with pytest.raises(ConfigError, match="id2label"):
            llama(id2label=labels)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("spelling", ["bfloat16", "torch.bfloat16"])
def test_dtype_spellings(key, spelling):
    config = llama(**{key: spelling})
    assert config.common.dtype is torch.bfloat16
    changed = config.replace(dtype=torch.float16)
    assert changed.common.dtype is torch.float16
    assert changed.raw[key] == "float16" and sum(k in changed.raw for k in ("dtype", "torch_dtype")) == 1


def test_unknown_dtypes_are_refused():
    with pytest.raises(ConfigError, match=r"'float61'. Did you mean 'float64'"):
        llama(dtype="float61")
    with pytest.raises(ConfigError, match="dtype"):
        llama(dtype=16)


def test_special_tokens():
    config = llama(eos_token_id=[2, 3], pad_token_id=None, bos_token_id=1)
    assert config.common.eos_token_ids == (2, 3) and config.eos_token_id == [2, 3]
    assert config.pad_token_id is None and config.bos_token_id == 1
    assert llama(eos_token_id=2).eos_token_id == 2


def test_unknown_keys_are_named_in_one_warning(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({**RAW, "zebra": 1, "apple": None, "_own": 3, "unk_token_id": 0}))
    with caplog.at_level(logging.WARNING, logger="omniform"):
        config = AutoConfig.from_pretrained(tmp_path)
    assert config.unknown == ("apple", "zebra")
    assert config.zebra == 1 and config.unk_token_id == 0
    assert len(caplog.records) == 1 and "apple, zebra" in caplog.records[0].getMessage()


def test_for_model():
    assert AutoConfig.for_model("llama", hidden_size=64).hidden_size == 64
    with pytest.raises(UnknownArgumentError, match="Did you mean 'hidden_size'"):
        AutoConfig.for_model("llama", hidden_sice=64)


def test_problem_type():
    assert llama(problem_type="regression").common.problem_type == "regression"
    with pytest.raises(ConfigError, match="problem_type"):
        llama(problem_type="guessing")


def test_what_it_prints():
    assert "hidden_size: 32" in repr(llama())
    assert not hasattr(llama(), "__fspath__")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_a_part_of_a_head_that_is_to_rotate_is_refused(model_type, nested):
    part = {"partial_rotary_factor": 0.5}
    with pytest.raises(ConfigError, match=r"partial_rotary_factor.*0\.5"):
        AutoConfig.for_model(model_type, **({"rope_parameters": {"rope_type": "default", **part}} if nested else part))
