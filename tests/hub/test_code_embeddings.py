"""Embedding models whose model, tokenizer or steps are the checkpoint's own code."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from code_folders import canary, home, put  # noqa: F401
from tokenizers import Tokenizer, models, pre_tokenizers

from omniform import CrossEncoder, SentenceTransformer
from omniform.cli.main import main
from omniform.core.errors import CodeError, InputError, TrustError, UnknownNameError
from omniform.hub.code import trust
from reference import transformers

pytestmark = pytest.mark.usefixtures("home")

MODELS = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

class NomConfig(PretrainedConfig):
    model_type = "nomx"
    def __init__(self, vocab_size=30, hidden_size=8, **kwargs):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**kwargs)

class NomModel(PreTrainedModel):
    config_class = NomConfig
    def __init__(self, config, **kwargs):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()
    def forward(self, input_ids, attention_mask=None, **kwargs):
        return BaseModelOutput(last_hidden_state=torch.tanh(self.wte(input_ids)))

class NomRanker(PreTrainedModel):
    config_class = NomConfig
    def __init__(self, config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()
    def forward(self, input_ids, attention_mask=None, **kwargs):
        return SequenceClassifierOutput(logits=self.head(self.wte(input_ids).mean(1)))
"""
STEP = """
import json, os, torch
from .helper import POWER

class Twist(torch.nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by
    def forward(self, features):
        features["sentence_embedding"] = features["sentence_embedding"] ** POWER * self.by
        return features
    def save(self, folder, **kwargs):
        json.dump({"by": self.by}, open(os.path.join(folder, "config.json"), "w"))
    @staticmethod
    def load(folder, subfolder="", **kwargs):
        return Twist(**json.load(open(os.path.join(folder, subfolder, "config.json"))))
"""
TEXTS = ["ab c", "hello there", "x"]


@pytest.fixture
def their_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A modules cache of the reference's own, which it looks for in one package by one name in the whole process."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]

    before = {name: sys.modules.pop(name) for name in loaded()}  # whatever another test had it load from elsewhere
    elsewhere = [path for path in sys.path if (Path(path) / "transformers_modules").is_dir()]
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in elsewhere])
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "theirs"))
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def folder(tmp_path: Path, their_modules: None) -> Path:
    """A model of its own with a step of its own, and where a canary would be."""
    put(tmp_path / "m", {"modeling_nom.py": canary(tmp_path / "canary") + MODELS})
    named = {"AutoConfig": "NomConfig", "AutoModel": "NomModel", "AutoModelForSequenceClassification": "NomRanker"}
    auto_map = {auto: f"modeling_nom.{name}" for auto, name in named.items()}
    config = {"model_type": "nomx", "vocab_size": 30, "hidden_size": 8, "auto_map": auto_map}
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?", "pad_token": "_"}
    steps = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_1", "type": "sentence_transformers.models.Pooling"},
    ]
    steps.append({"idx": 2, "name": "2", "path": "2_Twist", "type": "custom_st.Twist"})
    words = {ch: i for i, ch in enumerate("?_abcdefghijklmnopqrstuvwxyz")}
    backend = Tokenizer(models.WordLevel(words, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    put(
        tmp_path / "m",
        {
            "config.json": json.dumps(config), "tokenizer_config.json": json.dumps(tokens),
            "tokenizer.json": backend.to_str(), "modules.json": json.dumps(steps),
            "1_1/config.json": '{"word_embedding_dimension": 8, "pooling_mode_mean_tokens": true}',
            "2_Twist/config.json": '{"by": 3}', "custom_st.py": STEP, "helper.py": "POWER = 3\n",
            "sentence_bert_config.json": '{"max_seq_length": 16, "do_lower_case": false}',
        },
    )  # fmt: skip
    torch.manual_seed(0)
    from safetensors.torch import save_file

    weights = {"wte.weight": torch.randn(30, 8), "head.weight": torch.randn(1, 8), "head.bias": torch.randn(1)}
    save_file(weights, tmp_path / "m/model.safetensors", metadata={"format": "pt"})
    return tmp_path / "m"


def test_a_model_and_a_step_of_its_own(folder: Path, tmp_path: Path) -> None:
    for untrusting in ({}, {"trust_remote_code": False}):
        for kind in (SentenceTransformer, CrossEncoder):
            with pytest.raises(TrustError, match=r"trust_remote_code=True"):
                kind(str(folder), device="cpu", **untrusting)
    with pytest.raises(InputError, match="sandbox"):
        SentenceTransformer(str(folder), trust_remote_code="sandbox")
    assert main(["trust", "--yes", str(folder)]) == 0 and not (tmp_path / "canary").exists()
    shown = {"modeling_nom.py", "custom_st.py", "helper.py"}
    assert set(trust.accepted(str(folder.resolve()))[0].files) == shown
    model = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert isinstance(model.transformers_model, transformers.PreTrainedModel) and (tmp_path / "canary").exists()
    found = model.encode(TEXTS)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    assert np.allclose(found, theirs.encode(TEXTS), atol=1e-6)
    model.save_pretrained(tmp_path / "again")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=True)
    assert np.array_equal(again.encode(TEXTS), found)


def test_a_ranker_of_its_own(folder: Path) -> None:
    (folder / "modules.json").unlink()
    raw = json.loads((folder / "config.json").read_text())
    put(folder, {"config.json": json.dumps({**raw, "num_labels": 1, "architectures": ["NomRanker"]})})
    pairs = [("ab", "cd"), ("x", "yz")]
    model = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    assert model.num_labels == 1
    for pair in pairs:  # its forward looks at padding, so each stands alone
        assert np.allclose(model.predict(pair), theirs.predict(pair), atol=1e-5)


@pytest.mark.parametrize("name", ["custom_st.Nothing", "../x.Y", "helper.POWER", "gone.Twist"])
def test_a_step_that_is_none(folder: Path, name: str) -> None:
    steps = json.loads((folder / "modules.json").read_text())
    steps[2]["type"] = name
    put(folder, {"modules.json": json.dumps(steps)})
    with pytest.raises((CodeError, UnknownNameError, OSError)):
        SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)


def test_a_step_that_is_loaded_from_its_folder_alone(folder: Path) -> None:
    """As steps were before subfolders."""
    text = STEP.replace('folder, subfolder="", **kwargs', "folder").replace("folder, subfolder,", "folder,")
    found = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode(TEXTS)
    steps = (folder / "modules.json").read_text().replace("custom_st", "older_st")
    put(folder, {"older_st.py": text, "modules.json": steps})
    assert not trust.forget("none") and trust.forget(str(folder.resolve()))
    assert np.array_equal(SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode(TEXTS), found)


def test_from_the_hub(hub, folder: Path, tmp_path: Path) -> None:
    hub.upload("ann/embeds", folder)
    with hub.connected(cache=tmp_path / "cache"):
        with hub.watch() as log, pytest.raises(TrustError):
            SentenceTransformer("ann/embeds", device="cpu")
        assert ".py" not in str(log)
        found = SentenceTransformer("ann/embeds", device="cpu", trust_remote_code=True).encode(TEXTS)
    here = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True).encode(TEXTS)
    assert np.array_equal(found, here)
