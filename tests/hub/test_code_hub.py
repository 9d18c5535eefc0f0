"""Code from repositories on a Hub: one commit for code and weights, remembered, and asked about when it changes."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from code_folders import FILES, MAP, canary, config_json, home, mine, put  # noqa: F401
from omniform.dynamic_module_utils import get_cached_module_file, get_class_from_dynamic_module
from test_code_load import THEIRS

import omniform
from omniform import AutoConfig, AutoModel, AutoModelForCausalLM
from omniform.cli.main import main
from omniform.core.errors import CodeError, GatedRepoError, RepoError, RepoNotFoundError, RevisionError, TrustError
from omniform.hub.code import trust
from reference import transformers

pytestmark = pytest.mark.usefixtures("home")

NAME = "ann/own-code"


@pytest.fixture
def own(hub, tmp_path: Path):
    """``ann/own-code``: a model of its own with its weights, on a Hub that this process uses; and ways to change it."""
    folder = mine(tmp_path / "made")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    AutoModel.from_config(config, trust_remote_code=True).save_pretrained(folder)
    assert trust.forget(str(folder.resolve()))
    hub.upload(NAME, folder)
    hub.upload(NAME, {"unasked.py": "raise SystemExit\n", "README.md": "# own"})
    hub.tag(NAME, "v1")
    with hub.connected(cache=tmp_path / "cache"):
        yield hub


def test_one_commit_is_loaded_shown_and_remembered(own, caplog) -> None:
    commit = own.repo(NAME).head("main")
    caplog.set_level(logging.WARNING, "omniform")
    with own.watch() as log:
        model = AutoModel.from_pretrained(NAME, trust_remote_code=True)
    assert "unasked.py" not in str(log)
    assert [one.commit for one in trust.accepted(NAME)] == [commit]
    assert set(trust.accepted(NAME)[0].files) == set(FILES)
    (told,) = [record.getMessage() for record in caplog.records if "sha256" in record.getMessage()]
    assert commit in told and NAME in told
    assert ".ann__own_hyphen_code._" in type(model).__module__
    # Again: one request for a branch, none for a commit, none without a connection; nothing is shown again.
    for where, requests in (({}, 1), ({"revision": "v1"}, None), ({"revision": commit}, 0)):
        AutoModel.from_pretrained(NAME, trust_remote_code=True, **where)
        with own.watch() as log:
            again = AutoModel.from_pretrained(NAME, trust_remote_code=True, **where)
        assert requests is None or len(log) == requests, str(log)
        assert type(again) is type(model)
    with own.quiet():
        AutoModel.from_pretrained(NAME, trust_remote_code=True, local_files_only=True)
    assert len([record for record in caplog.records if "sha256" in record.getMessage()]) == 1


def test_without_trust_no_code_is_even_fetched(own) -> None:
    with own.watch() as log:
        for door in (AutoConfig, AutoModel):
            with pytest.raises(TrustError, match=r"ann/own-code.*modeling_mine\.MineModel"):
                door.from_pretrained(NAME)
    assert ".py" not in str(log)


def test_changed_code_is_asked_about_and_an_old_commit_is_not(own, capsys) -> None:
    old = own.repo(NAME).head("main")
    before = AutoConfig.from_pretrained(NAME, trust_remote_code=True)
    own.upload(NAME, {"README.md": "# more words"})
    AutoConfig.from_pretrained(NAME, trust_remote_code=True)  # another commit, the same code
    own.upload(NAME, {"configuration_mine.py": FILES["configuration_mine.py"].replace("width=4", "width=8")})
    with pytest.raises(TrustError, match=r"configuration_mine\.py \(changed\).*omniform trust ann/own-code"):
        AutoConfig.from_pretrained(NAME, trust_remote_code=True)
    assert type(AutoConfig.from_pretrained(NAME, revision=old, trust_remote_code=True)) is type(before)
    assert main(["trust", "--yes", NAME]) == 0
    said = capsys.readouterr().out
    assert "-    def __init__(self, width=4" in said and "+    def __init__(self, width=8" in said
    after = AutoConfig.from_pretrained(NAME, trust_remote_code=True)
    assert type(after)().width == 8 and type(before)().width == 4  # two revisions in one process
    assert type(AutoConfig.from_pretrained(NAME, revision="v1", trust_remote_code=True)) is type(before)


def test_code_of_another_revision(own) -> None:
    own.upload(NAME, {"sub/more.py": "OUT = 7\n"}, revision="next")
    for kwargs, out in (({}, 3), ({"code_revision": "next"}, 7), ({"revision": "next"}, 7), ({"revision": "v1"}, 3)):
        trust.forget(NAME)
        kind = get_class_from_dynamic_module("modeling_mine.MineModel", NAME, trust_remote_code=True, **kwargs)
        assert kind(kind.config_class()).lin.out_features == out
    trust.forget(NAME)
    with pytest.raises(Exception, match=r"size|shape"):  # this code, those weights
        AutoModel.from_pretrained(NAME, trust_remote_code=True, code_revision="next")
    with pytest.raises(RevisionError):
        AutoModel.from_pretrained(NAME, trust_remote_code=True, code_revision="gone")


def test_code_in_another_repository(own, tmp_path: Path) -> None:
    named = {auto: f"{NAME}--{name}" for auto, name in MAP.items()}
    weights = own.read(NAME, "model.safetensors")
    own.upload("bob/weights", {"config.json": config_json(named), "model.safetensors": weights})
    model = AutoModel.from_pretrained("bob/weights", trust_remote_code=True)
    here = AutoModel.from_pretrained(NAME, trust_remote_code=True)
    assert type(model) is type(here) and torch.equal(model.lin.weight, here.lin.weight)
    assert set(trust.everything()) == {NAME}
    # A folder that names it.
    folder = put(tmp_path / "local", {"config.json": config_json(named), "model.safetensors": weights})
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is type(here)
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True, code_revision="v1")) is type(here)
    kind = get_class_from_dynamic_module(f"{NAME}--modeling_mine.MineModel", "bob/weights")  # accepted by now
    assert kind is type(here)
    # A repository that names itself by its id, as the ecosystem writes it.
    own.upload(NAME, {"config.json": config_json(named)})
    assert type(AutoModel.from_pretrained(NAME, trust_remote_code=True)) is type(here)
    assert main(["trust", "bob/weights"]) == 0


def test_code_for_transformers_is_loaded_at_the_same_commit(own, tmp_path: Path) -> None:
    named = {"AutoConfig": "modeling_x.XConfig", "AutoModel": "modeling_x.XModel"}
    folder = put(tmp_path / "x", {"config.json": config_json(named, model_type="xx"), "modeling_x.py": THEIRS})
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    model = AutoModel.from_config(config, trust_remote_code=True)
    model.save_pretrained(folder)
    own.upload("ann/theirs", folder)
    old = own.repo("ann/theirs").head("main")
    own.upload("ann/theirs", {"config.json": config_json(named, model_type="xx", width=9)})
    loaded = AutoModel.from_pretrained("ann/theirs", revision=old, trust_remote_code=True, width=4)
    assert isinstance(loaded, transformers.PreTrainedModel) and torch.equal(loaded.lin.weight, model.lin.weight)
    with own.quiet():
        AutoModel.from_pretrained("ann/theirs", revision=old, trust_remote_code=True, local_files_only=True)


def test_generating_and_pipelines_from_a_repository(own, tmp_path: Path) -> None:
    run = tmp_path / "canary"
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(omniform.LlamaConfig(vocab_size=40, **sizes))
    code = canary(run) + "def generate(model, input_ids, **kwargs):\n    return input_ids + 1\n"
    own.upload("ann/loop", {"custom_generate/generate.py": code, "config.json": "{}"})
    ids = torch.tensor([[3, 4]])
    with own.quiet(), pytest.raises(TrustError, match="ann/loop"):
        model.generate(input_ids=ids, custom_generate="ann/loop")
    assert not run.exists()
    found = model.generate(input_ids=ids, custom_generate="ann/loop", trust_remote_code=True)
    assert found.tolist() == [[4, 5]] and run.exists()
    with pytest.raises(RepoError, match="custom_generate"):
        model.generate(input_ids=ids, custom_generate=NAME, trust_remote_code=True)


def test_what_cannot_be_had(own) -> None:
    own.upload("ann/gated", {"config.json": config_json()}, gated="manual")
    own.upload("ann/broken", {"config.json": config_json()})
    own.upload("ann/escape", {"config.json": config_json({"AutoConfig": "../x.C"})})
    for name, expected in (
        ("ann/none", RepoNotFoundError), ("ann/gated", GatedRepoError), ("ann/broken", RepoError),
        ("ann/escape", CodeError),
    ):  # fmt: skip
        with pytest.raises(expected):
            AutoConfig.from_pretrained(name, trust_remote_code=True)
    named = {"AutoConfig": "ann/none--x.C"}
    own.upload("ann/lost", {"config.json": config_json(named)})
    with pytest.raises(RepoNotFoundError, match="ann/none"):
        AutoConfig.from_pretrained("ann/lost", trust_remote_code=True)
    assert not trust.everything()
    assert get_cached_module_file(NAME, "configuration_mine.py").endswith("/configuration_mine.py")


def test_a_pushed_model_brings_its_code(own) -> None:
    model = AutoModel.from_pretrained(NAME, trust_remote_code=True)
    model.push_to_hub("ann/again", token=own.token)
    assert set(FILES) <= set(own.paths("ann/again"))
    assert json.loads(own.read("ann/again", "config.json"))["auto_map"] == MAP
    again = AutoModel.from_pretrained("ann/again", trust_remote_code=True)
    assert torch.equal(again.lin.weight, model.lin.weight) and type(again).__name__ == "MineModel"
