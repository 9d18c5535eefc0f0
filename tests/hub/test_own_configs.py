"""Configs of the user's own: the same class bodies over the reference's base and over ours give the same configs."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from own_bodies import classes

import omniform
from omniform import AutoConfig
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, UnknownArgumentError
from omniform.models import registry
from reference import transformers

THEIRS, OURS = classes(transformers), classes(omniform)
MADE = [
    ("OldConfig", {"num_labels": 3, "hidden_size": 32, "pad_token_id": 0, "extra": "x", "dtype": "float16"}),
    ("OldConfig", {"num_hidden_layers": 5, "output_attentions": False, "problem_type": "regression"}),
    ("OldConfig", {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}),
    ("NewConfig", {"hidden_size": 5, "foo": 3, "id2label": {"0": "a"}, "label2id": {"a": 0}, "names": ["p", "q"]}),
    ("NewConfig", {}),
    ("LMConfig", {"return_dict": False, "architectures": ["LM"], "limit": float("-inf")}),
]


class Kept(omniform.PretrainedConfig):
    model_type = "own-kept"

    def __init__(self, width=4, names=("a",), **kwargs):
        self.width, self.names = width, list(names)
        super().__init__(**kwargs)


class Lossy(omniform.PretrainedConfig):
    model_type = "own-lossy"

    def __init__(self, width=4, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.wide = width * 2
        self.depth = depth + 1


@pytest.fixture
def registries(monkeypatch):
    monkeypatch.setattr(registry, "_CONFIGS", {})


def as_theirs(keys: dict) -> dict:
    """What the reference writes, without its version and without what nested configs have by default."""
    keys = {name: value for name, value in keys.items() if name != "transformers_version"}
    usual = omniform.PretrainedConfig().to_dict() | {"_name_or_path": ""}
    for name, value in keys.items():
        if isinstance(value, dict) and "model_type" in value:
            inner = {k: v for k, v in value.items() if k == "model_type" or v != json.loads(json.dumps(usual)).get(k)}
            keys[name] = inner | {k: v for k, v in value.items() if k not in usual}
    return keys


@pytest.mark.parametrize(("kind", "given"), MADE, ids=str)
def test_the_same_keys_give_the_same_file(kind, given, tmp_path):
    theirs, ours = vars(THEIRS)[kind](**given), vars(OURS)[kind](**given)
    written = as_theirs(json.loads(theirs.to_json_string()))
    assert ours.to_json_string() == json.dumps(written, indent=2, sort_keys=True) + "\n"
    for name in {*theirs.to_dict()} - {"transformers_version", "_name_or_path", "inner_config"}:
        assert getattr(ours, name) == getattr(theirs, name), name
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    for folder in ("theirs", "ours"):
        read = [vars(side)[kind].from_pretrained(tmp_path / folder) for side in (THEIRS, OURS)]
        assert as_theirs(json.loads(read[0].to_json_string())) == as_theirs(json.loads(read[1].to_json_string()))
    assert type(ours).from_json_file(tmp_path / "ours" / "config.json") == ours
    for again in (copy.deepcopy(ours), type(ours).from_dict(ours.to_dict()), ours.replace()):
        assert again == ours and again is not ours


def test_nested_configs_names_and_changes(tmp_path):
    config = OURS.OldConfig(hidden_size=32, inner_config={"width": 5})
    assert type(config.inner_config) is OURS.InnerConfig and config.head_dim == 8
    config.num_hidden_layers = 7
    assert config.n_layers == 7 and config.parts == {"inner_config": config.inner_config}
    config.inner_config.rate = 0.25
    config.save_pretrained(tmp_path)
    again = OURS.OldConfig.from_pretrained(tmp_path, hidden_size=9, inner_config={"width": 3})
    assert (again.hidden_size, again.inner_config.width, again.inner_config.rate) == (9, 3, 0.25)
    assert again.num_hidden_layers == 7 and again.limit == float("inf")
    assert OURS.InnerConfig.from_pretrained(tmp_path).width == 5  # the part of a whole
    found, left = OURS.OldConfig.from_pretrained(tmp_path, return_unused_kwargs=True, strange=3, hidden_size=2)
    assert left == {"strange": 3} and found.hidden_size == 2
    with pytest.raises(UnknownArgumentError, match="hidden_size"):
        OURS.OldConfig.from_pretrained(tmp_path, hiden_size=3)
    with pytest.raises(ConfigError, match="own-old"):
        Kept.from_pretrained(tmp_path)
    with pytest.raises(AttributeError, match="strange"):
        config.strange  # noqa: B018
    config.update({"strange": [1, (2, 3)]})
    assert config.to_dict()["strange"] == [1, [2, 3]] and config.raw["strange"] == [1, [2, 3]]


def test_registered_it_is_found_by_its_model_type(registries, tmp_path):
    AutoConfig.register("own-kept", Kept)
    Kept(width=3, torch_dtype="bfloat16").save_pretrained(tmp_path)
    found = AutoConfig.from_pretrained(tmp_path, num_labels=5)
    assert type(found) is Kept and found.width == 3 and found.num_labels == 5 and found.dtype == torch.bfloat16
    assert found.common.num_labels == 5 and found.id2label[4] == "LABEL_4" and found.name_or_path == str(tmp_path)
    assert AutoConfig.for_model("own-kept", width=8).width == 8
    assert isinstance(found, omniform.PreTrainedConfig) and isinstance(
        omniform.LlamaConfig(), omniform.PretrainedConfig
    )
    assert not issubclass(int, omniform.PretrainedConfig) and not issubclass(omniform.LlamaConfig, Kept)
    assert type(pickle.loads(pickle.dumps(found))) is Kept and pickle.loads(pickle.dumps(found)) == found
    assert isinstance(found, ModelConfig)


def test_what_is_not_kept_is_named(tmp_path):
    config = Lossy(width=3)
    with pytest.raises(ConfigError, match=r"(?s)Lossy.*depth"):
        config.save_pretrained(tmp_path / "lossy")
    assert not (tmp_path / "lossy").exists()

    class Strict(omniform.PretrainedConfig):
        model_type = "own-strict"

        def __init__(self, width):
            super().__init__()
            self.width = width

    with pytest.raises(ConfigError, match=r"(?s)Strict.*width.*default"):
        Strict.from_dict({})
    with pytest.raises(ConfigError, match=r"num_labels"):
        Kept(num_labels=3, id2label={0: "a"})
    with pytest.raises(ConfigError, match=r"what JSON can hold"):
        Kept(thing=object()).to_json_string()
