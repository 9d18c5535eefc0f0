"""What goes wrong on the way from the Hub: each fault is one typed error that says what to do, or is lived with."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import omniform
from omniform.cli.main import main
from omniform.core.errors import GatedRepoError, InputError, OfflineError, RepoError, RepoNotFoundError, RevisionError
from omniform.hub import asking, remote
from reference import saved_reference, transformers

SIZES = {
    "vocab_size": 2000,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
Llama = omniform.AutoModelForCausalLM
WEIGHTS = "GET /cdn/*/model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "model"
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**SIZES), folder)
    return folder


@pytest.fixture
def tiny(hub, made, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "SILENT", {})
    monkeypatch.setattr(asking, "TRIES", (0.05, 0.1, 0.2))
    hub.upload("ann/tiny", made)
    with hub.connected(cache=tmp_path / "home"):
        yield hub


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("omniform"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="omniform")
    return caplog


LIGHT = "from omniform.hub.files import locate; locate('ann/tiny').fetch(['config.json', 'model.safetensors'])"
"""Fetches as a load does, in a process that needs no torch."""


def load(name: str = "ann/tiny", **where: object) -> object:
    return Llama.from_pretrained(name, **where)


def check(made: Path, **where: object) -> None:
    ours, here = load(**where), Llama.from_pretrained(made)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), here.parameters(), strict=True))


def leftovers(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "home").rglob("*") if path.name.endswith((".incomplete", ".tmp"))]


# -- on the way ------------------------------------------------------------------------------------------------------


def test_a_cut_download_goes_on_where_it_broke_off(tiny, made):
    size = (made / "model.safetensors").stat().st_size
    tiny.faults.add(WEIGHTS, cut=size // 3, times=2)
    with tiny.watch() as log:
        check(made)
    assert log.sent("/cdn/*") <= size + 70_000  # what was in the pipe when it broke
    ranges = [asked.range for asked in log.of(WEIGHTS)]
    assert len(ranges) == 3 and ranges[0] is None and all(ranges[1:])


def test_a_killed_download_goes_on_in_another_process(tiny, made, tmp_path):
    size = (made / "model.safetensors").stat().st_size
    tiny.faults.add(WEIGHTS, stall=(size // 2, 30), times=1)
    told = tiny.environment(tmp_path / "home", PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen([sys.executable, "-c", LIGHT], env=told)
    blobs = tmp_path / "home" / "hub" / "models--ann--tiny" / "blobs"
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(p.stat().st_size > size // 4 for p in blobs.glob("*.incomplete")):
        time.sleep(0.05)
    process.kill()
    process.wait()
    with tiny.watch() as log:
        check(made)
    assert 0 < log.sent("/cdn/*") < 0.8 * size and log.of(WEIGHTS)[0].range
    assert not leftovers(tmp_path)


def test_a_server_without_ranges_sends_all_again(tiny, made):
    tiny.faults.add(WEIGHTS, cut=100_000, times=1)
    tiny.faults.add(WEIGHTS, no_range=True)
    check(made)


def test_wrong_bytes_are_not_kept(tiny, made, tmp_path):
    tiny.faults.add(WEIGHTS, wrong=True, times=1)
    with pytest.raises(RepoError, match=r"another than.*expected sha256.*found sha256.*Try again"):
        load()
    assert not leftovers(tmp_path)
    check(made)


def test_a_part_that_went_wrong_is_begun_anew(tiny, made, tmp_path):
    load()
    blob = (tmp_path / "home/hub/models--ann--tiny/snapshots").rglob("model.safetensors")
    path = next(blob).resolve()
    data = path.read_bytes()
    path.unlink()
    path.with_name(f"{path.name}.incomplete").write_bytes(b"?" * (len(data) // 2))
    check(made)
    assert path.read_bytes() == data


def test_a_file_shorter_than_said(tiny, tmp_path):
    tiny.faults.add(WEIGHTS, short=1000)
    with pytest.raises(RepoError, match=r"another than the one that was announced|broke"):
        load()


def test_a_small_file_is_checked_by_its_size(tiny):
    tiny.faults.add("GET */config.json", short=20)
    with pytest.raises(RepoError, match=r"config.json.*another than the one that was announced"):
        load()


def test_a_busy_hub_is_asked_again(tiny, made):
    tiny.faults.add("*", status=503, times=2)
    tiny.faults.add(WEIGHTS, status=502, times=2)
    check(made)


def test_a_hub_that_says_how_long_to_wait(tiny, made):
    tiny.faults.add("HEAD *", status=429, headers={"Retry-After": "1"}, times=1)
    started = time.monotonic()
    check(made)
    assert time.monotonic() - started >= 1


def test_a_hub_that_says_to_wait_for_long(tiny):
    tiny.faults.add("HEAD *", status=429, headers={"Retry-After": "3600"})
    started = time.monotonic()
    with pytest.raises(RepoError, match=r"too often.*Wait 3600 seconds"):
        load()
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("revision", ["main", "commit"])
def test_a_hub_in_trouble_is_told_within_seconds(tiny, revision):
    where = tiny.repo("ann/tiny").head("main") if revision == "commit" else revision
    tiny.faults.add("*", status=500)
    started = time.monotonic()
    with pytest.raises(RepoError, match=r"in trouble.*500.*later") as error:
        load(revision=where)
    assert time.monotonic() - started < 8 and "ann/tiny" in str(error.value)


def test_a_hub_in_trouble_does_not_matter_where_all_is_cached(tiny, made, said):
    load()
    tiny.faults.add("*", status=500)
    check(made)
    assert said.text.count("what is cached is used") == 1
    with pytest.raises(RepoError, match="in trouble"):
        load(force_download=True)


def test_dropped_connections(tiny, made):
    tiny.faults.add("HEAD *", drop=True, times=2)
    check(made)
    tiny.faults.add("*", drop=True)
    with pytest.raises(OfflineError, match="cannot be reached"):
        load("ann/other")


def test_a_hub_without_a_list_of_files(tiny, made):
    tiny.faults.add("*/tree/*", status=404)
    check(made)
    with tiny.watch() as log:
        check(made)
    assert len(log) == 1


def test_a_silent_hub_is_noticed_once(tiny, made, said, monkeypatch):
    load()
    monkeypatch.setattr(remote, "PATIENCE", 2.0)
    tiny.faults.add("*", delay=30)
    started = time.monotonic()
    check(made)
    check(made)
    omniform.AutoConfig.from_pretrained("ann/tiny")
    assert time.monotonic() - started < 5
    assert said.text.count("what is cached is used") == 1


# -- who may read ----------------------------------------------------------------------------------------------------


def test_what_does_not_exist(tiny, capsys):
    with pytest.raises(RepoNotFoundError, match=r"no/such.*no such repository.*spelling"):
        load("no/such")
    for command in ("inspect", "trust", "lock"):
        assert main([command, "no/such"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "no such repository" in err


def test_values_that_name_nothing(tiny, made):
    """Refused by their names before anything is asked, and the Hub is not taken for silent afterwards."""
    load()
    doors = (Llama, omniform.AutoConfig, omniform.AutoTokenizer, omniform.AutoProcessor, omniform.GenerationConfig)
    values = {"revision": (5, True, b"main"), "token": ("", "hf_x\n", "hf x", "h\u00e9", 5), "cache_dir": (5, ["x"])}
    with tiny.quiet():
        for name, several in values.items():
            for value in several:
                for door in doors:
                    with pytest.raises(InputError, match=f"^{name}: no ") as error:
                        door.from_pretrained("ann/tiny", **{name: value})
                    assert name != "token" or "hf" not in str(error.value).replace("hf_...", "")
                with pytest.raises(InputError, match=f"^{name}: no "):
                    omniform.cached_file("ann/tiny", "config.json", **{name: value})
    with tiny.watch() as log:
        check(made)
    assert len(log) == 1


def test_a_token_that_is_not_there(tiny, tmp_path):
    with tiny.connected(cache=tmp_path / "home", token="h\u00e9"), pytest.raises(RepoError, match="HF_TOKEN anew"):
        load()
    load()  # what is cached does not stand in for it
    for door in (Llama, omniform.AutoConfig):
        with pytest.raises(RepoError, match=r"no token is stored.*hf auth login"):
            door.from_pretrained("ann/tiny", token=True)
    load()


def test_a_shard_that_is_missing(tiny, made, tmp_path):
    Llama.from_pretrained(made).save_pretrained(tmp_path / "shards", max_shard_size=100_000)
    names = sorted(path.name for path in (tmp_path / "shards").glob("*-of-*"))
    tiny.upload("ann/torn", tmp_path / "shards")
    tiny.upload("ann/torn", {names[1]: None})
    with tiny.watch() as log:
        for _ in range(2):
            with pytest.raises(
                RepoError, match=rf"ann/torn: a shard is missing; expected {names[1]}; found .*{names[0]}"
            ):
                load("ann/torn")
    assert not log.count("GET /cdn/*")
    (tmp_path / "shards" / names[1]).unlink()
    with pytest.raises(RepoError, match=r"a shard is missing.*Download it again"):
        load(str(tmp_path / "shards"))


def test_gated(tiny, made):
    tiny.upload("ann/gated", made, gated="manual")
    with pytest.raises(GatedRepoError, match=r"ann/gated.*gated.*terms.*token"):
        load("ann/gated")
    other = tiny.people.token("bob")
    with pytest.raises(GatedRepoError, match=r"ann/gated.*gated"):
        load("ann/gated", token=other)
    load("ann/gated", token=tiny.token)


def test_private(tiny, made):
    tiny.upload("ann/mine", made, private=True)
    for token in (None, False, tiny.people.token("bob")):
        with pytest.raises(RepoNotFoundError, match=r"ann/mine.*private"):
            load("ann/mine", token=token)
    with pytest.raises(RepoError, match="does not know this token"):
        load("ann/mine", token="hf_wrong")
    load("ann/mine", token=tiny.read_token)
    with tiny.quiet():
        load("ann/mine", local_files_only=True)


def test_renamed(tiny, made, said):
    tiny.move("ann/tiny", "ann/large")
    check(made)
    check(made)
    assert said.text.count("ann/tiny is called ann/large by now") == 1


def test_a_revision_that_is_gone(tiny, made):
    tiny.upload("ann/tiny", {"x": "y"}, revision="old")
    load(revision="old")
    tiny.repo("ann/tiny").git.delete_ref("refs/heads/old")
    for revision in ("old", "never", "refs/pr/7", "f" * 40, "abcdef1"):
        with pytest.raises(RevisionError, match=rf"ann/tiny.*no such revision.*{revision}"):
            load(revision=revision)


@pytest.mark.parametrize(
    "name",
    ["./ann/tiny", "ann/tiny/", "a/b/c", " ann/tiny", "ann/tiny ", "..", "ann/..", "../ann", "C:\\ann\\tiny",
     "ann\\tiny", "ann/ti ny", "ann/tiny\n", "https://huggingface.co/ann/tiny", "ann//tiny", "-ann/tiny",
     "ann/tiny.git"],
)  # fmt: skip
def test_what_looks_like_something_else(tiny, name, capsys):
    with tiny.quiet():
        with pytest.raises(RepoError) as error:
            load(name)
        assert name.strip() in str(error.value)
        assert main(["inspect", name]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_what_is_no_hub(tiny, made, tmp_path):
    tiny.faults.add("*", status=200)
    with pytest.raises(RepoError, match=r"not answer as a Hub does.*HF_ENDPOINT"):
        load(cache_dir=tmp_path / "fresh")
    with pytest.raises(RepoError, match=r"not answer as a Hub does.*HF_ENDPOINT"):
        Llama.from_pretrained(made).push_to_hub("ann/x", token=tiny.token)


# -- this machine ----------------------------------------------------------------------------------------------------


def test_a_full_disk(tiny, made, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # Python ignores the signal: writes fail
    try:
        assert main(["run", "-m", "ann/tiny", "-t", "x"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "model.safetensors" in err and "HF_HOME" in err
    assert not leftovers(tmp_path)
    check(made)


def test_a_cache_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", "/proc/nowhere", tmp_path / "file" / "inside"):
        with pytest.raises(RepoError, match=r"cache folder cannot be .*cache_dir"):
            load(cache_dir=place)


def test_two_processes_at_once(tiny, made, tmp_path):
    size = (made / "model.safetensors").stat().st_size
    tiny.faults.add(WEIGHTS, stall=(size // 2, 1.0), times=1)
    told = tiny.environment(tmp_path / "home", PYTHONPATH=os.pathsep.join(sys.path))
    with tiny.watch() as log:
        both = [subprocess.Popen([sys.executable, "-c", LIGHT], env=told) for _ in range(2)]
        assert [process.wait() for process in both] == [0, 0]
    assert log.sent("/cdn/*") == size
    check(made)


def test_damaged_cache_entries(tiny, made, tmp_path):
    load()
    commit = tiny.repo("ann/tiny").head("main")
    repo = tmp_path / "home" / "hub" / "models--ann--tiny"
    snapshot = repo / "snapshots" / commit
    (snapshot / "model.safetensors").resolve().unlink()  # points to nothing
    check(made)
    (repo / "refs" / "main").write_text("rubbish")
    check(made)
    assert (repo / "refs" / "main").read_text() == commit
    (snapshot / "model.safetensors").resolve().write_bytes(b"cut")
    with pytest.raises(omniform.OmniformError, match=r"model.safetensors.*damaged"):
        load()
    check(made, force_download=True)
