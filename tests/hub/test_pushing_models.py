"""``push_to_hub`` of models, through the real client to the loopback Hub: what is sent, and what is left of it."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniform.core.errors import (
    GatedRepoError,
    InputError,
    OfflineError,
    RepoError,
    RevisionError,
    UnknownArgumentError,
    WriteRefusedError,
)
from reference import omniform, transformers

# isort: split
import peft  # after the reference, whose torchvision is made importable there

TINY = {
    "vocab_size": 3000, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64,
}  # fmt: skip
SHARD = 200_000
WEIGHTS = "PUT /*"


def tiny(seed: int = 0) -> omniform.PreTrainedModel:
    torch.manual_seed(seed)
    return omniform.AutoModelForCausalLM.from_config(omniform.LlamaConfig(**TINY)).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def online(hub, tmp_path, monkeypatch):
    """The loopback Hub, a user who is logged in, and a place for temporary files that has to be empty at the end."""
    rooms = tmp_path / "rooms"
    rooms.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(rooms))
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it keeps the first Hub's address
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        yield hub
    assert not list(rooms.iterdir())


def test_a_model_goes_there_and_back(online):
    model = tiny()
    made = model.push_to_hub("ann/ours", commit_description="of a test")
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/ours"), model)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**TINY))
    told = theirs.push_to_hub("ann/theirs")
    assert online.paths("ann/ours") == online.paths("ann/theirs")
    assert online.titles("ann/ours") == online.titles("ann/theirs")
    assert type(made) is type(told) and made.oid == online.repo("ann/ours").head("main")
    assert (made.commit_message, made.commit_description) == ("Upload LlamaForCausalLM", "of a test")
    assert made.pr_url is None and made.repo_url.repo_id == "ann/ours"
    assert same(transformers.AutoModelForCausalLM.from_pretrained("ann/ours"), model)
    assert "ann/ours" in model.push_to_hub("ours").repo_url  # without an owner: the token's


def test_only_what_changed_is_sent(online, caplog):
    model = tiny()
    first = model.push_to_hub("ann/x", max_shard_size=SHARD)
    with online.watch() as log:
        again = model.push_to_hub("ann/x", max_shard_size=SHARD)
    assert again.oid == first.oid and len(online.titles("ann/x")) == 2
    assert not log.count(WEIGHTS) and not log.count("*/commit/*")
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 9
    with online.watch() as log:
        model.push_to_hub("ann/x", max_shard_size=SHARD, commit_message="a number")
    shards = sorted(path for path in online.paths("ann/x") if "-of-" in path)
    assert len(shards) > 2 and log.received(WEIGHTS) == len(online.read("ann/x", shards[-1]))
    assert online.titles("ann/x")[0] == "a number"
    with online.watch() as log:
        model.config.bos_token_id = 7
        model.push_to_hub("ann/x", max_shard_size=SHARD)
    assert not log.count(WEIGHTS) and log.received("*/commit/*") < 3000
    # An object that the repository has under another name is not sent again either.
    with online.watch() as log:
        model.push_to_hub("ann/x", max_shard_size=SHARD, variant="fp16", revision="other")
    assert not log.count(WEIGHTS)
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x", variant="fp16", revision="other"), model)


def test_what_would_be_read_instead_goes_with_the_same_commit(online):
    model = tiny()
    online.upload("ann/x", {
        "pytorch_model.bin": b"old", "model.fp16.safetensors": b"of another kind", "notes.txt": b"kept",
        "model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}",
        "sub/model.safetensors": b"s",
    })  # fmt: skip
    model.push_to_hub("ann/x")
    left = {".gitattributes", "README.md", "config.json", "generation_config.json", "model.safetensors"}
    others = {"model.fp16.safetensors", "notes.txt", "sub/model.safetensors"}
    assert set(online.paths("ann/x")) == left | others and len(online.titles("ann/x")) == 3
    model.push_to_hub("ann/x", max_shard_size=SHARD)
    assert "model.safetensors" not in online.paths("ann/x")
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x"), model)
    model.push_to_hub("ann/x", max_shard_size="1GB")
    assert set(online.paths("ann/x")) == left | others


def test_branches_and_pull_requests(online):
    model = tiny()
    model.push_to_hub("ann/x", revision="dev/one", private=True)
    assert online.repo("ann/x").settings.private
    assert online.paths("ann/x") == [".gitattributes"] and "config.json" in online.paths("ann/x", "dev/one")
    asked = model.push_to_hub("ann/x", create_pr=True, commit_message="Weights", commit_description="please")
    assert (asked.pr_num, asked.pr_revision) == (1, "refs/pr/1")
    assert online.paths("ann/x") == [".gitattributes"] and "config.json" in online.paths("ann/x", "refs/pr/1")
    tiny(1).push_to_hub("ann/x", revision="refs/pr/1")
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x", revision="refs/pr/1"), tiny(1))
    online.tag("ann/x", "v1")
    commit = online.repo("ann/x").head("main")
    for gone in ("v1", commit, "refs/pr/9", "refs/heads/x", "a..b", "with space", "x.lock", "-x", "a//b"):
        for create_pr in (False, True):
            with pytest.raises(RevisionError, match="committed to"):
                model.push_to_hub("ann/x", revision=gone, create_pr=create_pr)
    assert online.repo("ann/x").head("main") == commit


def test_somebody_else_commits_meanwhile(online):
    model = tiny()
    model.push_to_hub("ann/x")
    words = "---\nlicense: mit\n---\nTheir words.\n"
    online.faults.add("POST */commit/*", times=1, before=lambda: online.upload("ann/x", {"README.md": words}))
    tiny(1).push_to_hub("ann/x", tags=["mine"])
    card = online.read("ann/x", "README.md").decode()
    assert "Their words." in card and "license: mit" in card and "- mine" in card
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x"), tiny(1))


@pytest.mark.parametrize("fault", [
    {"match": WEIGHTS, "status": 500}, {"match": WEIGHTS, "cut_upload": 100}, {"match": WEIGHTS, "disk_full": True},
    {"match": "POST */commit/*", "status": 503}, {"match": "POST */commit/*", "drop": True},
    {"match": "POST */preupload/*", "status": 403}, {"match": "POST */objects/batch", "status": 401},
    {"match": "POST /complete/*", "status": 400}, {"match": "*/revision/*", "status": 500},
    {"match": "POST /api/validate-yaml", "status": 500},
], ids=str)  # fmt: skip
def test_what_goes_wrong_leaves_the_branch(online, fault, monkeypatch):
    from huggingface_hub import lfs, utils

    monkeypatch.setattr(utils._http.time, "sleep", lambda seconds: None)
    assert lfs.http_backoff
    tiny().push_to_hub("ann/x")
    before = online.repo("ann/x").head("main")
    broken = online.faults.add(**fault)
    with pytest.raises(RepoError) as told:
        tiny(1).push_to_hub("ann/x")
    assert len(str(told.value)) < 1900 and told.value.where is not None
    assert isinstance(told.value, WriteRefusedError) == (fault.get("status") in (401, 403))
    assert broken.done and online.repo("ann/x").head("main") == before
    online.faults.clear()
    tiny(1).push_to_hub("ann/x")
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x"), tiny(1))


KILLED = """
import sys, torch, omniform
torch.manual_seed(0)
model = omniform.AutoModelForCausalLM.from_config(omniform.LlamaConfig(**eval(sys.argv[1])))
model.push_to_hub("ann/x", max_shard_size=200_000)
"""


def test_a_killed_push_goes_on(online, tmp_path):
    rooms = Path(tempfile.gettempdir())
    process = None

    def kill() -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    before = online.upload("ann/x", {"README.md": "---\nlicense: mit\n---\n"})
    online.faults.add(WEIGHTS, skip=5, times=1, before=kill)
    told = online.environment(tmp_path / "other", token=online.token, TMPDIR=str(rooms))
    with online.watch() as log:
        process = subprocess.Popen([sys.executable, "-c", KILLED, repr(TINY)], env=told)
        assert process.wait() == -signal.SIGKILL
    assert list(rooms.iterdir()) and online.repo("ann/x").head("main") == before
    held = online.repo("ann/x").lfs
    assert log.count("PUT /part/*") > 2
    tiny().save_pretrained(tmp_path / "local", max_shard_size=SHARD)
    shards = list((tmp_path / "local").glob("*-of-*"))
    missing = [path for path in shards if not held.holds(hashlib.sha256(path.read_bytes()).hexdigest())]
    assert 0 < len(missing) < len(shards)
    with online.watch() as log:
        tiny().push_to_hub("ann/x", max_shard_size=SHARD)
    assert log.received(WEIGHTS) == sum(path.stat().st_size for path in missing)
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/x"), tiny())


def test_who_may_not_write(online, hub, tmp_path):
    model, bob = tiny(), hub.people.token("bob")
    theirs = hub.upload("ann/x", {"config.json": b"{}"})
    hub.upload("ann/secret", {"config.json": b"{}"}, private=True)
    for token in (hub.read_token, bob, "hf_wrong"):
        with pytest.raises(RepoError) as told:
            model.push_to_hub("ann/x", token=token)
        assert "ann/x" in str(told.value)
        with pytest.raises(RepoError):
            model.push_to_hub("ann/new", token=token)
    with pytest.raises(WriteRefusedError):
        model.push_to_hub("ann/x", token=hub.read_token)
    with pytest.raises(RepoError):
        model.push_to_hub("ann/secret", token=bob)
    with pytest.raises(WriteRefusedError, match="token"):
        model.push_to_hub("ann/x", token=False)
    asked = model.push_to_hub("ann/x", token=bob, create_pr=True)  # anybody may ask
    assert asked.pr_num == 1 and hub.repo("ann/x").head("main") == theirs
    with pytest.raises(KeyError):
        hub.repo("ann/new")
    with hub.connected(cache=tmp_path / "nobody"), pytest.raises(WriteRefusedError, match="hf auth login"):
        model.save_pretrained(tmp_path / "y", push_to_hub=True)
    offline = hub.connected(cache=tmp_path / "home", token=hub.token, offline=True)
    with offline, hub.quiet(), pytest.raises(OfflineError):
        model.save_pretrained(tmp_path / "y", push_to_hub=True)
    assert not (tmp_path / "y").exists()


def test_repositories_that_moved_or_are_gated(online, hub):
    model, bob = tiny(), hub.people.token("bob")
    model.push_to_hub("ann/old")
    hub.move("ann/old", "ann/now")
    made = tiny(1).push_to_hub("ann/old")
    assert made.repo_url.repo_id == "ann/now" and hub.repo("ann/now").head("main") == made.oid
    hub.upload("ann/gated", {"config.json": b"{}"}, gated="manual")
    model.push_to_hub("ann/gated")
    for create_pr in (False, True):
        with pytest.raises(GatedRepoError if create_pr else RepoError):
            model.push_to_hub("ann/gated", token=bob, create_pr=create_pr)


def test_no_room_here(online, monkeypatch):
    def full(*given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with online.quiet(), pytest.raises(RepoError, match="No space left"):
        tiny().push_to_hub("ann/x")
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with online.quiet(), pytest.raises(RepoError, match="No space left"):
        tiny().push_to_hub("ann/x")


def test_arguments(online, tmp_path):
    model = tiny()
    for name, words in (
        ("repo_url", "repo_id"), ("organization", "repo_id"), ("repo_path_or_name", "repo_id"),
        ("commit_mesage", "commit_message"), ("max_shard_sise", "max_shard_size"), ("state_dict", "Known"),
    ):  # fmt: skip
        with pytest.raises(UnknownArgumentError, match=words):
            model.push_to_hub("ann/x", **{name: "y"})
    for name, value in {
        "commit_message": 3, "commit_description": b"x", "private": torch.zeros(2), "token": 5, "revision": ["main"],
        "create_pr": torch.zeros(2), "tags": [1], "max_shard_size": "much", "safe_serialization": False,
        "variant": "../x",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=None if name == "max_shard_size" else name):
            model.push_to_hub("ann/x", **{name: value})
    for name in ("", "a/b/c", "../x", "a b", "ann/x.git", "-x", None, 5, "ann/" + "x" * 100, "/tmp/x"):
        with pytest.raises(InputError, match="repo_id"):
            model.push_to_hub(name)
    with online.quiet():
        for folder in (tmp_path / "a b", "/", tmp_path / "x.git"):
            with pytest.raises(InputError, match="repo_id"):
                model.save_pretrained(folder, push_to_hub=True)
        with pytest.raises(UnknownArgumentError, match="commit_message"):
            model.save_pretrained(tmp_path / "y", commit_mesage="x")
        with pytest.raises(InputError, match="meta"):
            tiny().to("meta").push_to_hub("ann/x")
    assert not list(tmp_path.glob("y")) and not online.store.get("model", "ann/x")
    model.push_to_hub("ann/x", use_temp_dir=True, safe_serialization=True, use_auth_token=online.token, tags="one")
    assert "- one" in online.read("ann/x", "README.md").decode()


def test_saved_and_pushed_at_once(online, tmp_path):
    model = tiny()
    folder = tmp_path / "a folder" / "my-model"
    model.save_pretrained(folder)
    (folder / "notes.txt").write_text("not of this save")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n\nWords.\n")
    model.save_pretrained(str(folder), push_to_hub=True, commit_message="both", private=True, tags=["t"])
    assert "notes.txt" not in online.paths("ann/my-model") and online.repo("ann/my-model").settings.private
    assert online.titles("ann/my-model")[0] == "both"
    assert (folder / "README.md").read_bytes() == online.read("ann/my-model", "README.md")
    assert "Words." in (folder / "README.md").read_text() and (folder / "notes.txt").exists()
    assert same(omniform.AutoModelForCausalLM.from_pretrained("ann/my-model"), model)
    kept = (folder / "README.md").read_bytes()
    for repo, told in (("ann/named", {"status": 500}), ("ann/new", {"status": 403})):
        online.faults.add("POST /api/repos/create", times=1, **told)
        with pytest.raises(RepoError, match=r"written|write"):
            model.save_pretrained(folder, push_to_hub=True, repo_id=repo, tags=["not there"])
        assert (folder / "README.md").read_bytes() == kept and online.store.get("model", repo) is None
    model.save_pretrained(folder, push_to_hub=True, repo_id="ann/named", create_pr=True)
    assert online.paths("ann/named", "refs/pr/1") and online.paths("ann/named") == [".gitattributes"]
    model.save_pretrained(folder, push_to_hub=True, repo_id="ann/none", is_main_process=False)
    assert online.store.get("model", "ann/none") is None


def test_an_adapter_alone(online, tmp_path):
    base = tiny()
    base.push_to_hub("ann/base")
    model = omniform.AutoModelForCausalLM.from_pretrained("ann/base")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), model)
    ids = torch.tensor([[1, 5, 9]])
    model.push_to_hub("ann/adapter")
    files = {".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert set(online.paths("ann/adapter")) == files
    fresh = omniform.AutoModelForCausalLM.from_pretrained("ann/base")
    found = peft.PeftModel.from_pretrained(fresh, "ann/adapter").eval()
    assert torch.equal(found(ids).logits, model.eval()(ids).logits)
    assert not torch.allclose(found(ids).logits, base(ids).logits, atol=1e-4)
    card = online.read("ann/adapter", "README.md").decode()
    assert "base_model: ann/base\nbase_model_relation: adapter" in card and "library_name: peft" in card
    found.push_to_hub("ann/again")  # PEFT's own
    again = peft.PeftModel.from_pretrained(omniform.AutoModelForCausalLM.from_pretrained("ann/base"), "ann/again")
    assert torch.equal(again(ids).logits, found(ids).logits)
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["k_proj"]), model, adapter_name="two")
    model.save_pretrained(tmp_path / "second")  # the one that it computes with
    assert all("k_proj" in key for key in load_file(tmp_path / "second" / "adapter_model.safetensors"))
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.set_adapter(["default", "two"])
    with pytest.raises(InputError, match="several adapters"):
        model.save_pretrained(tmp_path / "both")
