"""Classes that a checkpoint brings, loaded if the user trusts it: Auto classes over folders with ``auto_map``."""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
from code_folders import CONFIG, FILES, MAP, config_json, home, mine, put  # noqa: F401

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.core.errors import CodeError, DependencyError, InputError, RepoError, TrustError, UnknownNameError
from omniform.hub import own
from omniform.hub.code import copies, importer, trust
from omniform.models import registry
from reference import transformers

pytestmark = pytest.mark.usefixtures("home")

THEIRS = """
from torch import nn
from transformers import PreTrainedModel, PretrainedConfig

class XConfig(PretrainedConfig):
    model_type = "xx"
    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width

class XModel(PreTrainedModel):
    config_class = XConfig
    def __init__(self, config):
        super().__init__(config)
        self.lin = nn.Linear(config.width, 3)
        self.post_init()
    def forward(self, x):
        return self.lin(x)
"""


def saved(folder: Path) -> torch.nn.Module:
    """A model of the folder's own class, saved there."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True, width=6)
    model = AutoModel.from_config(config, trust_remote_code=True)
    model.save_pretrained(folder)
    return model


def test_a_folder_with_its_own_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = mine(tmp_path / "my-model.v1")
    with caplog.at_level(logging.WARNING, "omniform"):
        model = saved(folder)
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded) is type(model) and type(loaded).__name__ == "MineModel" and not loaded.training
    assert torch.equal(loaded.lin.weight, model.lin.weight)
    assert type(loaded.config) is type(loaded).config_class and loaded.config.width == 6
    assert AutoModel.from_pretrained(folder, trust_remote_code=True, config=model.config).config.width == 6
    # Shown once, whole: each file with its digest.
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and all(name in told[0] for name in FILES) and "imports: omniform, torch" in told[0]
    assert "sha256" in told[0] and "digest of all" in told[0]


def test_what_runs_can_be_read_and_pickled(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model")
    model = saved(folder)
    kind = type(model)
    copy = Path(sys.modules[kind.__module__].__file__ or "")
    assert copy.is_relative_to(copies.modules_cache()) and copy.read_text() == FILES["modeling_mine.py"]
    assert inspect.getsource(kind).startswith("class MineModel(PreTrainedModel)")
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is kind and torch.equal(again.lin.weight, model.lin.weight)


FRESH = """
import pathlib, pickle, sys
pickled, copy, store = map(pathlib.Path, sys.argv[1:])

def read():
    try:
        return type(pickle.loads(pickled.read_bytes())).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"

text, accepted = copy.read_text(), store.read_text()
copy.write_text("raise SystemExit('run')" + chr(10) + text)
print(read())
copy.write_text(text)
store.unlink()
print(read())
store.write_text(accepted)
print(read())
"""


def test_a_pickle_in_another_process(tmp_path: Path) -> None:
    """It finds the code by its name in the modules cache, if that is unchanged and was accepted."""
    model = saved(mine(tmp_path / "model"))
    put(tmp_path, {"model.pickle": pickle.dumps(model)})
    copy = copies.path_of(type(model).__module__.rpartition(".")[0], "modeling_mine.py")
    paths = [str(path) for path in (tmp_path / "model.pickle", copy, trust.store())]
    done = subprocess.run([sys.executable, "-c", FRESH, *paths], capture_output=True, text=True)
    changed, unknown, fine = done.stdout.splitlines()
    assert changed.startswith("TrustError") and "was changed" in changed
    assert unknown.startswith("TrustError") and "never accepted" in unknown
    assert fine == "MineModel"


def test_without_trust_nothing_is_imported(tmp_path: Path) -> None:
    folder = mine(tmp_path / "untrusted")
    for trusted in (None, False):
        for door in (AutoConfig, AutoModel):
            with pytest.raises(TrustError, match=r"modeling_mine\.MineModel.*trust_remote_code=True"):
                door.from_pretrained(folder, trust_remote_code=trusted)
    for odd in ("False", "True", 1, 0, "", [True], torch.tensor(True)):
        for door in (AutoConfig, AutoModel, omniform.AutoTokenizer, omniform.AutoProcessor):
            with pytest.raises(InputError, match="trust_remote_code"):
                door.from_pretrained(folder, trust_remote_code=odd)
    assert not [name for name in sys.modules if name.startswith("omniform.modules.untrusted.")]


def test_a_family_of_ours_with_code_beside_it(tmp_path: Path) -> None:
    config = omniform.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, vocab_size=40
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    code = "from omniform import LlamaForCausalLM\nclass Mine(LlamaForCausalLM):\n    pass\n"
    named = {"AutoModelForCausalLM": "modeling_mine.Mine"}
    put(tmp_path, {"config.json": json.dumps({**raw, "auto_map": named}), "modeling_mine.py": code})
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(ours) is omniform.LlamaForCausalLM
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert type(theirs).__name__ == "Mine" and isinstance(theirs, omniform.LlamaForCausalLM)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    assert theirs.generate(ids, max_new_tokens=3).tolist() == ours.generate(ids, max_new_tokens=3).tolist()
    # Another Auto class than those that are named, and a class that the user names, are ours.
    assert type(AutoModel.from_pretrained(tmp_path, trust_remote_code=True)) is omniform.LlamaModel
    assert (
        type(omniform.LlamaForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)) is omniform.LlamaForCausalLM
    )


def test_what_the_user_registers_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_CONFIGS", {})
    monkeypatch.setattr(own, "_REGISTERED", {})

    class MineConfig(omniform.PreTrainedConfig):
        model_type = "mine"

    class Registered(omniform.PreTrainedModel):
        config_class = MineConfig

        def __init__(self, config: MineConfig) -> None:
            super().__init__(config)
            self.lin = torch.nn.Linear(6, 3)

    folder = mine(tmp_path / "model")
    saved(folder)
    AutoConfig.register("mine", MineConfig)
    assert type(AutoConfig.from_pretrained(folder, trust_remote_code=True)) is MineConfig
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ == "MineModel"
    AutoModel.register(MineConfig, Registered)
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is Registered


def test_an_auto_class_that_is_not_named(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model")
    with pytest.raises(UnknownNameError, match=r"no class for AutoModelForCausalLM.*AutoConfig, AutoModel"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def test_code_in_the_checkpoints_subfolder(tmp_path: Path) -> None:
    mine(tmp_path / "repo" / "inner")
    put(tmp_path / "repo", {"configuration_mine.py": "raise SystemExit('the other one')"})
    config = AutoConfig.from_pretrained(tmp_path / "repo", subfolder="inner", trust_remote_code=True)
    assert type(config).__module__.endswith(".inner.configuration_mine")
    put(tmp_path / "other", {"inner/config.json": config_json(), **FILES})  # code at the root, as on the Hub
    config = AutoConfig.from_pretrained(tmp_path / "other", subfolder="inner", trust_remote_code=True)
    assert type(config).__name__ == "MineConfig"


def test_code_for_transformers(tmp_path: Path) -> None:
    named = {"AutoConfig": "modeling_x.XConfig", "AutoModel": "modeling_x.XModel"}
    folder = put(tmp_path / "x", {"config.json": config_json(named, model_type="xx", width=5), "modeling_x.py": THEIRS})
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert isinstance(config, transformers.PretrainedConfig) and config.width == 5
    model = AutoModel.from_config(config, trust_remote_code=True)
    assert isinstance(model, transformers.PreTrainedModel)
    model.save_pretrained(folder)
    loads = ({}, {"config": config}, {"width": 5}, {"dtype": "bfloat16"}, {"output_loading_info": True})
    for kwargs in loads:
        loaded = AutoModel.from_pretrained(folder, trust_remote_code=True, **kwargs)
        loaded = loaded[0] if isinstance(loaded, tuple) else loaded
        assert type(loaded) is type(model) and type(loaded.config) is type(config)
        assert torch.equal(loaded.lin.weight, model.lin.weight.to(loaded.dtype))
        assert loaded.dtype == (torch.bfloat16 if "dtype" in kwargs else torch.float32)
    # The class of configs is not named: the model's class has its own.
    put(folder, {"config.json": config_json({"AutoModel": named["AutoModel"]}, model_type="xx", width=5)})
    assert AutoModel.from_pretrained(folder, trust_remote_code=True).config.width == 5
    with pytest.raises(TrustError, match="xx"):
        AutoModel.from_pretrained(folder)


def test_code_for_transformers_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omniform.hub.code.imports.is_installed", lambda name: name not in ("transformers", "cv2"))
    folder = put(
        tmp_path / "x", {"config.json": config_json({"AutoConfig": "a.XConfig"}), "a.py": "import cv2\n" + THEIRS}
    )
    with pytest.raises(DependencyError, match=r"written for transformers.*pip install opencv-python transformers"):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)


def test_code_for_plain_torch(tmp_path: Path) -> None:
    code = """
import torch
class Plain(torch.nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.lin = torch.nn.Linear(width, 1)
"""
    loads = """
    @classmethod
    def from_pretrained(cls, name, **kwargs):
        made = cls(kwargs.get("width", 2))
        made.name = name
        return made
"""
    named = {"AutoModel": "plain.Plain"}
    folder = put(tmp_path / "a", {"config.json": config_json(named), "plain.py": code})
    with pytest.raises(CodeError, match=r"cannot be loaded.*classmethod from_pretrained\(name_or_path"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    folder = put(tmp_path / "b", {"config.json": config_json(named), "plain.py": code + loads})
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, width=7)
    assert model.lin.in_features == 7 and model.name == str(folder)


def test_two_folders_with_the_same_names(tmp_path: Path) -> None:
    models = []
    for number in (1, 2):
        folder = mine(tmp_path / str(number) / "model", **{"sub/more.py": f"OUT = {number}\n"})
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        models.append(AutoModel.from_config(config, trust_remote_code=True))
    assert [model.lin.out_features for model in models] == [1, 2]
    assert type(models[0]) is not type(models[1])
    assert type(models[0].config) is type(models[1].config)  # made of the same bytes
    assert importer.label_of("org/a-model.v2") == "org__a_hyphen_model_dot_v2"


def test_an_error_in_the_code_shows_its_line(tmp_path: Path) -> None:
    folder = mine(tmp_path / "model", **{"sub/more.py": "OUT = 3\nx = 1 / 0  # here\n"})
    with pytest.raises(CodeError, match=r"modeling_mine\.py: the code has failed.*ZeroDivisionError") as caught:
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert "x = 1 / 0  # here" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(RepoError, match=r"b\.py"):
        AutoModel.from_pretrained(
            put(tmp_path / "b", {"config.json": config_json({"AutoModel": "b.B"})}), trust_remote_code=True
        )


def test_config_with_defaults_of_its_own(tmp_path: Path) -> None:
    folder = put(tmp_path / "c", {"config.json": config_json(width=9), "configuration_mine.py": CONFIG})
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).width == 9
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True, width=3).width == 3
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).to_diff_dict()["auto_map"] == MAP
