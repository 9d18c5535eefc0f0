"""Folders that name what is not there, or not supported, or lead elsewhere: typed errors, and nothing is imported."""

from __future__ import annotations

import json
import sys

import folders
import pytest
from folders import TEXTS, models, st

from omniform.core.errors import (
    ConfigError,
    InputError,
    OmniformError,
    RepoError,
    TrustError,
    UnknownNameError,
    WeightsError,
)
from reference import omniform


@pytest.fixture
def folder(plain, tmp_path):
    folders.built(tmp_path / "m", plain("bert"), models.Dense(16, 8))
    return tmp_path / "m"


def edit(path, **changes):
    value = json.loads(path.read_text())
    value.update(changes)
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not ...}))


def step(folder, index, **changes):
    listing = json.loads((folder / "modules.json").read_text())
    listing[index].update(changes)
    (folder / "modules.json").write_text(json.dumps(listing))


@pytest.mark.parametrize(
    "kind",
    ["sentence_transformers.models.Router", "sentence_transformers.models.Asym", "sentence_transformers.models.CNN",
     "sentence_transformers.models.WordEmbeddings", "sentence_transformers.models.CLIPModel",
     "modeling_own.Transformer", "os.system", "sentence_transformers.models.Transformer; import os",
     "antigravity.Pooling", "..Pooling", ""],
)  # fmt: skip
def test_steps_that_are_refused_by_name(kind, folder):
    step(folder, 1, type=kind)
    with pytest.raises((UnknownNameError, ConfigError, TrustError), match=r"step|type") as caught:
        omniform.SentenceTransformer(folder)
    assert kind.partition(";")[0] in str(caught.value)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", ["os.system", "torch.hub.load", "subprocess.Popen", "torch.nn.modules.activation.Tanh.__init__",
             "antigravity", "builtins.eval", "torch.nn.Linear", "", 3],
)  # fmt: skip
def test_activations_are_looked_up_and_never_imported(name, folder):
    edit(folder / "2_Dense" / "config.json", activation_function=name)
    with pytest.raises(ConfigError, match="activation_function"):
        omniform.SentenceTransformer(folder)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("path", ["../other", "/etc", "1_Pooling/../../x", "..\\x", "C:\\x"])
def test_folders_outside_are_refused(path, folder):
    step(folder, 1, path=path)
    with pytest.raises(ConfigError, match="outside"):
        omniform.SentenceTransformer(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("modules.json", "{}"), ("modules.json", "[]"), ("modules.json", "[1]"), ("modules.json", "[{}]"),
        ("modules.json", "nonsense"), ("modules.json", '[{"type": 5}]'), ("modules.json", "[" * 200 + "]" * 200),
        ("1_Pooling/config.json", "[]"), ("1_Pooling/config.json", "{}"),
        ("1_Pooling/config.json", '{"word_embedding_dimension": "x"}'),
        ("1_Pooling/config.json", '{"embedding_dimension": 16, "pooling_mode": "mode"}'),
        ("1_Pooling/config.json", '{"embedding_dimension": 16, "pooling_mode": ["mean", 3]}'),
        ("1_Pooling/config.json", '{"embedding_dimension": 16, "include_prompt": "yes"}'),
        ("2_Dense/config.json", '{"in_features": 16}'),
        ("2_Dense/config.json", '{"in_features": -1, "out_features": 2}'),
        ("config_sentence_transformers.json", '{"prompts": []}'),
        ("config_sentence_transformers.json", '{"prompts": {"query": 3}}'),
        ("config_sentence_transformers.json", '{"default_prompt_name": "missing"}'),
        ("config_sentence_transformers.json", '{"similarity_fn_name": "cos"}'),
        ("config_sentence_transformers.json", '{"truncate_dim": 0}'),
        ("config_sentence_transformers.json", '{"model_type": "SparseEncoder"}'),
        ("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}'),
        ("sentence_bert_config.json", '{"max_seq_length": "x"}'),
        ("sentence_bert_config.json", '{"max_seq_length": -1}'),
        ("sentence_bert_config.json", '{"do_lower_case": 3}'),
        ("sentence_bert_config.json", '{"transformer_task": "fill-mask"}'),
        ("sentence_bert_config.json", '{"modality_config": {"image": {"method": "forward"}}}'),
        ("sentence_bert_config.json", '{"processing_kwargs": {"text": {"max_lenght": 3}}}'),
        ("sentence_bert_config.json", '{"processing_kwargs": {"text": 3}}'),
        ("sentence_bert_config.json", '{"query_expansion": {"length": 32}}'),
        ("sentence_bert_config.json", '{"model_args": {"token": "x"}}'),
        ("sentence_bert_config.json", '{"model_args": {"state_dict": {}}}'),
        ("sentence_bert_config.json", '{"tokenizer_args": {"cache_dir": "/tmp/x"}}'),
    ],
)  # fmt: skip
def test_damaged_settings(file, content, folder):
    (folder / file).write_text(content)
    with pytest.raises(OmniformError) as caught:
        omniform.SentenceTransformer(folder)
    assert len(str(caught.value)) < 2000


def test_missing_files(folder, tmp_path):
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(RepoError, match="no weights"):
        omniform.SentenceTransformer(folder)
    with pytest.raises(RepoError):
        omniform.SentenceTransformer(tmp_path / "nowhere")
    with pytest.raises(RepoError):
        omniform.SentenceTransformer("no-such-model-anywhere")
    with pytest.raises(ConfigError, match="begins with"):
        omniform.SentenceTransformer()


def test_weights_that_do_not_fit(folder):
    edit(folder / "2_Dense" / "config.json", out_features=9)
    with pytest.raises(WeightsError, match=r"linear.weight is \[8, 16\], not \[9, 16\]"):
        omniform.SentenceTransformer(folder)
    edit(folder / "2_Dense" / "config.json", out_features=8, bias=False)
    with pytest.raises(WeightsError, match=r"linear\.bias is not known"):
        omniform.SentenceTransformer(folder)


def test_what_a_file_may_say_about_loading(folder):
    edit(folder / "sentence_bert_config.json", model_args={"torch_dtype": "bfloat16", "trust_remote_code": True},
         tokenizer_args={"model_max_length": 6}, config_args={"hidden_act": "relu"})  # fmt: skip
    ours = omniform.SentenceTransformer(folder, device="cpu")
    assert str(ours.dtype) == "torch.bfloat16" and ours.max_seq_length == 6
    assert ours.config.raw["hidden_act"] == "relu"
    given = {"model_kwargs": {"dtype": "float32"}, "tokenizer_kwargs": {"model_max_length": 5}}
    over = omniform.SentenceTransformer(folder, **given)
    assert str(over.dtype) == "torch.float32" and over.max_seq_length == 5


def test_unknown_settings_are_said_once_and_kept(folder, tmp_path, caplog):
    edit(folder / "1_Pooling" / "config.json", novelty=1)
    edit(folder / "config_sentence_transformers.json", fashion="x")
    with caplog.at_level("WARNING", logger="omniform"):
        ours = omniform.SentenceTransformer(folder)
    assert sum("novelty" in r.getMessage() for r in caplog.records) == 1
    assert any("fashion" in record.getMessage() for record in caplog.records)
    ours.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "1_Pooling" / "config.json").read_text())["novelty"] == 1
    assert json.loads((tmp_path / "again" / "config_sentence_transformers.json").read_text())["fashion"] == "x"


def test_saving_over_another_model_leaves_nothing_of_it(folder, plain, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "pytorch_model.bin").write_bytes(b"old")
    (other / "README.md").write_text("a card")
    ours = omniform.SentenceTransformer(folder)
    ours.set_pooling_include_prompt(False)
    ours.save_pretrained(other)
    assert not (other / "pytorch_model.bin").exists() and (other / "README.md").read_text() == "a card"
    again = st.SentenceTransformer(str(other), device="cpu")
    assert not again[1].include_prompt
    assert abs(again.encode(TEXTS) - ours.encode(TEXTS)).max() < 1e-5
    with pytest.raises(InputError, match="no folder"):
        ours.save_pretrained("")
    with pytest.raises(InputError, match="safetensors"):
        ours.save_pretrained(tmp_path / "x", safe_serialization=False)


def test_models_that_read_more_than_text_are_refused(tmp_path):
    from checkpoints import picture_checkpoint

    with pytest.raises(InputError, match="not read as text alone"):
        omniform.SentenceTransformer(picture_checkpoint(tmp_path))
