"""The ecosystem's class names are classes: built, loaded, inherited from, pickled; configs likewise."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.core.config import ModelConfig
from omniform.core.errors import ConfigError, InputError, UnknownArgumentError, WeightsError
from omniform.hub import own
from omniform.models import registry
from omniform.models.index import CLASSES

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.tensor([[1, 5, 9, 33]])
ROOT = Path(__file__).parent.parent.parent


def llama() -> ModelConfig:
    return omniform.LlamaConfig(**SIZES)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    omniform.LlamaForCausalLM(llama()).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


class Counted(omniform.LlamaForCausalLM):
    """A class of a user's own: another forward, and a head beside ours."""

    def __init__(self, config):
        super().__init__(config)
        self.value = nn.Linear(config.hidden_size, 1)
        self.offset = nn.Parameter(torch.zeros(3))

    def forward(self, *args, **inputs):
        out = super().forward(*args, **inputs)
        out.logits = out.logits + 100
        return out


class Renamed(omniform.LlamaModel):
    def forward(self, input_ids=None, scale=1.0, **inputs):
        out = super().forward(input_ids=input_ids, **inputs)
        return out["last_hidden_state"] * scale


class OwnConfig(omniform.PreTrainedConfig):
    model_type = "own-model"

    def __init__(self, width=4, **rest):
        self.width = width
        super().__init__(**rest)


class OwnModel(omniform.PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.inner = nn.Linear(config.width, config.width)
        self.post_init()

    def forward(self, x):
        return self.inner(x)


def test_index_and_readme_are_fresh():
    done = subprocess.run([sys.executable, ROOT / "tools" / "index.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_is_a_class_that_is_found_where_it_says():
    for name in CLASSES:
        kind = getattr(omniform, name)
        assert isinstance(kind, type) and kind.__name__ == name
        assert pickle.loads(pickle.dumps(kind)) is kind
    for model_type in registry.known_families():
        family = registry.family(model_type)
        for kind in family.classes.values():
            assert issubclass(kind, omniform.PreTrainedModel) and kind.config_class is family.config_class


def test_a_class_builds_and_is_what_every_door_gives(folder):
    model = omniform.LlamaForCausalLM(llama())
    assert model.training and model(IDS).logits.shape == (1, 4, 64)
    assert isinstance(model, omniform.LlamaForCausalLM) and isinstance(model.model, omniform.LlamaModel)
    for loaded in (
        AutoModelForCausalLM.from_pretrained(folder),
        omniform.LlamaForCausalLM.from_pretrained(folder),
        AutoModelForCausalLM.from_config(llama()),
    ):
        assert type(loaded) is omniform.LlamaForCausalLM
        assert isinstance(loaded, omniform.LlamaPreTrainedModel) and not isinstance(loaded, omniform.BertModel)
        assert isinstance(loaded.config, omniform.LlamaConfig)
    for wrong in (omniform.BertConfig(), {}, None, "llama"):
        with pytest.raises(InputError, match="LlamaForCausalLM"):
            omniform.LlamaForCausalLM(wrong)


def test_a_config_that_asks_for_another_skeleton():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    model = omniform.BertModel(omniform.BertConfig(is_decoder=True, **sizes)).eval()
    assert isinstance(model, omniform.BertModel) and type(model).__name__ == "BertModel"
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    assert torch.equal(again(IDS).last_hidden_state, model(IDS).last_hidden_state)
    assert model(IDS).past_key_values is not None  # it is a decoder


def test_an_overridden_forward_counts(folder, caplog):
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with caplog.at_level(logging.WARNING, logger="omniform"):
        model = Counted.from_pretrained(folder)
    assert type(model) is Counted and not model.training
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and "value.weight" in said[0] and "offset" in said[0]
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits + 100)
    assert model(IDS, labels=IDS).loss is not None
    with pytest.raises(UnknownArgumentError, match="'labels'"):
        model(IDS, lables=IDS)
    renamed = Renamed.from_pretrained(folder)
    hidden = omniform.LlamaModel.from_pretrained(folder)(IDS).last_hidden_state
    torch.testing.assert_close(renamed(IDS, scale=2.0, use_cache=False), hidden * 2)


def test_modules_of_ones_own_are_saved_and_loaded(folder, tmp_path):
    model = Counted.from_pretrained(folder)
    with torch.no_grad():
        model.value.weight.fill_(3)
        model.offset.fill_(4)
    model.save_pretrained(tmp_path / "again")
    again, report = Counted.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert torch.equal(again.value.weight, model.value.weight) and torch.equal(again.offset, model.offset)
    assert not report["missing_keys"]
    for copied in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert type(copied) is Counted and torch.equal(copied(IDS).logits, again(IDS).logits)
        assert copied.config == again.config and copied.name_or_path == again.name_or_path
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]  # what any Llama has is not forgiven
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"model\.norm\.weight"):
        Counted.from_pretrained(folder)


def test_a_model_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})
    model = OwnModel(OwnConfig(width=3))
    assert model.config.width == 3 and OwnConfig().width == 4
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["OwnModel"]
    x = torch.ones(1, 3)
    assert torch.equal(OwnModel.from_pretrained(tmp_path)(x=x), model(x=x))
    AutoConfig.register("own-model", OwnConfig)
    AutoModel.register(OwnConfig, OwnModel)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is OwnModel and type(loaded.config) is OwnConfig and torch.equal(loaded(x=x), model(x=x))
    assert type(pickle.loads(pickle.dumps(loaded))) is OwnModel
    AutoModel.register(OwnConfig, OwnModel)  # once more, as in a notebook
    for wrong in ((dict, OwnModel), (OwnConfig, nn.Linear), (None, None)):
        with pytest.raises((ConfigError, InputError)):
            AutoModel.register(*wrong)
    AutoConfig.register("own-model", OwnConfig)
    for wrong in (("other", OwnConfig), ("llama", omniform.LlamaConfig), (3, 4)):
        with pytest.raises((ConfigError, InputError)):
            AutoConfig.register(*wrong)


def test_config_classes(folder, tmp_path):
    config = omniform.LlamaConfig.from_pretrained(folder)
    assert type(config) is omniform.LlamaConfig and config == AutoConfig.from_pretrained(folder)
    assert isinstance(config, omniform.PretrainedConfig) and config.name_or_path == str(folder)
    assert omniform.LlamaConfig(**config.to_dict()).to_dict() == config.to_dict()
    assert omniform.LlamaConfig.from_dict(config.to_dict(), hidden_size=32).hidden_size == 32
    assert pickle.loads(pickle.dumps(config)) == config and copy.deepcopy(config).name_or_path == config.name_or_path
    with pytest.raises(ConfigError, match="BertConfig"):
        omniform.BertConfig.from_pretrained(folder)
    with pytest.raises(UnknownArgumentError, match="'hidden_size'"):
        omniform.LlamaConfig(hiden_size=3)
    config.save_pretrained(tmp_path / "config")
    assert omniform.LlamaConfig.from_json_file(tmp_path / "config" / "config.json") == config
    for wrong in (torch.zeros(2), object(), {1, 2}, lambda: 1):
        with pytest.raises(ConfigError):
            config.replace(hidden_size=wrong)
        with pytest.raises(ConfigError):
            config.replace(something=wrong)


def test_parts_are_classes_and_changing_one_changes_the_whole(tmp_path):
    config = omniform.LlavaConfig(text_config=llama(), vision_config=omniform.CLIPVisionConfig(hidden_size=24))
    assert type(config.text_config) is omniform.LlamaConfig and config.get_text_config() is config.text_config
    assert type(config.vision_config) is omniform.CLIPVisionConfig and config.vision_config.hidden_size == 24
    part = config.text_config
    part.vocab_size = 70
    part.rms_norm_eps = 0.5
    assert config.text_config.vocab_size == 70 and config.spec.text.config.rms_norm_eps == 0.5
    assert config.to_diff_dict()["text_config"]["vocab_size"] == 70


def test_a_pooler_may_be_missing_or_left_out(tmp_path, caplog):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    inputs = {"bert": {"input_ids": IDS}, "vit": {"pixel_values": torch.ones(1, 3, 224, 224)}}
    for kind, given in inputs.items():
        folder = tmp_path / kind
        whole = AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).eval()
        whole.save_pretrained(folder)
        right = whole(**given).last_hidden_state
        without = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        assert without.pooler is None and torch.equal(without(**given).last_hidden_state, right)
        weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("pooler")}
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with caplog.at_level(logging.WARNING, logger="omniform"):
            caplog.clear()
            found = AutoModel.from_pretrained(folder)(**given)
        assert torch.equal(found.last_hidden_state, right) and found.pooler_output is not None
        assert len(caplog.records) == 1 and "pooler.dense.weight" in caplog.records[0].getMessage()
        assert AutoModel.from_pretrained(folder, add_pooling_layer=False)(**given).pooler_output is None
        save_file({**weights, "pooler.dense.bias": torch.zeros(16)}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match=r"pooler\.dense\.weight"):  # half a pooler is a damaged file
            AutoModel.from_pretrained(folder)
    with pytest.raises(InputError, match="no pooler"):
        omniform.LlamaModel(llama(), add_pooling_layer=False)


def test_modules_are_built_where_a_context_says(monkeypatch):
    with torch.device("meta"):
        assert omniform.LlamaForCausalLM(llama()).lm_head.weight.is_meta
    register = nn.Module.register_parameter

    def empty(module, name, param):  # what accelerate's init_empty_weights does
        register(module, name, param)
        if param is not None:
            module._parameters[name] = type(param)(module._parameters[name].to("meta"), requires_grad=False)

    monkeypatch.setattr(nn.Module, "register_parameter", empty)
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(**SIZES, tie_word_embeddings=True))
    monkeypatch.undo()
    assert all(p.is_meta for p in model.parameters())
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_model_of_ones_own_around_a_named_one(tmp_path):
    """A head of the user's own on a family's base model reads that family's checkpoints, in the Hub's names."""

    class Tagger(omniform.BertPreTrainedModel):
        def __init__(self, config):
            super().__init__(config)
            self.bert = omniform.BertModel(config, add_pooling_layer=False)
            self.tags = nn.Linear(16, 3)
            self.post_init()

        def forward(self, input_ids=None, **given):
            return self.tags(self.bert(input_ids=input_ids, **given)[0])

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    config = omniform.BertConfig(vocab_size=60, max_position_embeddings=20, **sizes)
    assert Tagger.base_model_prefix == "bert"
    writer = omniform.BertForMaskedLM(config)
    for name, source in (("head", writer), ("base", omniform.BertModel(config))):
        source.save_pretrained(tmp_path / name)
        tagger = Tagger.from_pretrained(tmp_path / name).eval()
        inner = source.base_model
        assert torch.equal(tagger.bert.embed_tokens.weight, inner.embed_tokens.weight)
        assert torch.equal(tagger.bert.layers[1].mlp.fc1.weight, inner.layers[1].mlp.fc1.weight)
    ids = torch.tensor([[1, 2, 3]])
    tagger.save_pretrained(tmp_path / "own")
    assert torch.equal(Tagger.from_pretrained(tmp_path / "own").eval()(ids), tagger(ids))
    with safe_open(tmp_path / "own" / "model.safetensors", "pt") as file:
        keys = set(file.keys())
        assert {"bert.encoder.layer.0.attention.self.query.weight", "tags.weight"} <= keys
        kept = {key: file.get_tensor(key) for key in keys if not key.startswith("tags")}
    save_file(kept, tmp_path / "own" / "model.safetensors")
    with pytest.raises(WeightsError, match="tags"):
        Tagger.from_pretrained(tmp_path / "own")
