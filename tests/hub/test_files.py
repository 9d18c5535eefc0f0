"""Finding a checkpoint: folders, the Hub's cache, and everything the Hub can answer instead."""

from __future__ import annotations

import _thread
import importlib
import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from omniform.core.errors import (
    GatedRepoError,
    InputError,
    OfflineError,
    RepoError,
    RepoNotFoundError,
    RevisionError,
    WriteRefusedError,
)
from omniform.hub import asking, remote
from omniform.hub.asking import within
from omniform.hub.files import locate
from omniform.hub.refusals import refused
from reference import omniform, saved_reference, transformers

TINY = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
IDS = torch.tensor([[5, 9, 3]])
Llama = omniform.AutoModelForCausalLM


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "model"
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "model")
    return tmp_path / "model"


# -- folders ---------------------------------------------------------------------------------------------------------


def test_ways_to_name_a_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    for name in (folder, str(folder), f"{folder}/", "model", "./model", "~/model", folder / "config.json"):
        assert Llama.from_pretrained(name).config.hidden_size == 16


def test_a_subfolder(folder, tmp_path):
    for subfolder in ("model", "model/", "./model"):
        assert Llama.from_pretrained(tmp_path, subfolder=subfolder).config.hidden_size == 16
    with pytest.raises(RepoError, match=r"config.json"):
        Llama.from_pretrained(tmp_path, subfolder="nothing")


@pytest.mark.parametrize(
    "name",
    ["/no/such/folder", "./nothing", "../nothing", "~/nothing-here", "~nobody-at-all/x", "a/b/c", "C:\\models\\m"],
)
def test_no_such_folder(name):
    with pytest.raises(RepoError, match="no such folder") as error:
        Llama.from_pretrained(name)
    assert name in str(error.value)
    assert isinstance(error.value, OSError)


@pytest.mark.parametrize(
    "name", ["", "x" * 10_000, "/" + "x" * 10_000, "a\0b", "/a\0b", "..", "a/", "a--b", "-a/b", "a b", "ü"]
)
def test_odd_names(name):
    with pytest.raises(RepoError):
        Llama.from_pretrained(name)


@pytest.mark.parametrize("name", [None, 3, b"bytes", ["a"], {}])
def test_what_is_no_name(name):
    with pytest.raises(InputError, match="names no checkpoint"):
        Llama.from_pretrained(name)


def test_a_file_is_no_folder(folder):
    with pytest.raises(RepoError, match="this is a file"):
        Llama.from_pretrained(folder / "model.safetensors")


def test_an_empty_folder(tmp_path):
    with pytest.raises(RepoError, match=r"there is no config.json"):
        Llama.from_pretrained(tmp_path)


def test_files_that_are_folders(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(RepoError, match="no weights"):
        Llama.from_pretrained(folder)


# -- the Hub's cache -------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out: two revisions, one with a subfolder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "cache"
    repo = root / "models--tester--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "refs" / "v2").write_text(OTHER)
    for commit, inside in ((COMMIT, ""), (OTHER, ""), (OTHER, "part")):
        target = repo / "snapshots" / commit / inside
        target.mkdir(parents=True, exist_ok=True)
        for path in made.iterdir():
            blob = repo / "blobs" / path.name
            blob.parent.mkdir(exist_ok=True)
            shutil.copy(path, blob)
            (target / path.name).symlink_to(blob)
    config = json.loads((made / "config.json").read_text())
    for inside, eps in (("", 0.25), ("part", 0.5)):
        path = repo / "snapshots" / OTHER / inside / "config.json"
        path.unlink()
        path.write_text(json.dumps({**config, "rms_norm_eps": eps}))
    return root


def eps(cache: Path, **where: object) -> float:
    return Llama.from_pretrained("tester/tiny", cache_dir=cache, **where).config.rms_norm_eps


def test_from_the_cache(cache):
    assert eps(cache) == 1e-6
    assert eps(cache, local_files_only=True) == 1e-6
    assert eps(cache, revision="v2") == 0.25
    assert eps(cache, revision=OTHER) == 0.25
    assert eps(cache, revision=COMMIT) == 1e-6
    assert eps(cache, revision="v2", subfolder="part") == 0.5
    model = Llama.from_pretrained("tester/tiny", cache_dir=str(cache))
    assert model.name_or_path == "tester/tiny" and model.generation_config.bos_token_id == 1


def test_a_subfolder_whose_root_has_no_config(cache):
    (cache / "models--tester--tiny" / "snapshots" / OTHER / "config.json").unlink()
    assert eps(cache, revision="v2", subfolder="part") == 0.5


def test_optional_files_may_be_missing_from_the_cache(cache):
    (cache / "models--tester--tiny" / "snapshots" / COMMIT / "generation_config.json").unlink()
    assert eps(cache) == 1e-6


@pytest.mark.parametrize(
    "where", [{"revision": "v3"}, {"subfolder": "nothing"}, {"revision": "main", "subfolder": "part"}]
)
def test_what_is_not_cached(cache, where):
    with pytest.raises(RepoError, match="tester/tiny"):
        eps(cache, **where)


def test_nothing_is_cached(cache, tmp_path):
    for name, root in (("tester/other", cache), ("tester/tiny", tmp_path / "empty"), ("gpt2", cache)):
        with pytest.raises(RepoError, match=r"not cached.*config.json.*pass the path of a folder") as error:
            Llama.from_pretrained(name, cache_dir=root)
        assert name in str(error.value)


def test_only_the_config_is_cached(cache):
    (cache / "models--tester--tiny" / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(RepoError, match="weights"):
        eps(cache)


def test_everything_is_passed_on(made):
    where = {
        "revision": "r", "token": "t", "cache_dir": str(made), "local_files_only": True, "force_download": False,
    }  # fmt: skip
    source = locate("a/b", **where, subfolder="s")
    assert source.places() == where and (source.name, source.subfolder, source.revision) == ("a/b", "s", "r")
    with pytest.raises(OfflineError, match=r"no s/config.json"):
        source.find("config.json")


def test_what_is_not_asked_is_not_fetched_again(cache):
    with pytest.raises(OfflineError, match="nothing is fetched again"):
        eps(cache, force_download=True)


# -- what the Hub answers --------------------------------------------------------------------------------------------


def http(kind: type[Exception], status: int = 404, method: str = "GET") -> Exception:
    # The client that this release of huggingface_hub is built on, whatever its name.
    client = importlib.import_module(errors.HTTPError.__module__.split(".")[0])
    response = client.Response(status, request=client.Request(method, "https://huggingface.co/a/b"))
    return kind("server says no", response=response)


ANSWERS = {
    "gated": (lambda: http(errors.GatedRepoError, 403), "gated.*terms.*token"),
    "no repository": (lambda: http(errors.RepositoryNotFoundError, 401), "no such repository on the Hub.*token"),
    "no revision": (lambda: http(errors.RevisionNotFoundError), "no such revision"),
    "disabled": (lambda: http(errors.DisabledRepoError, 403), "cannot be read.*server says no"),
    "server error": (lambda: http(errors.HfHubHTTPError, 500), "cannot be read.*in trouble.*later"),
    "too often": (lambda: http(errors.HfHubHTTPError, 429), "too often.*Wait"),
    "wrong token": (lambda: http(errors.HfHubHTTPError, 401), "does not know this token"),
    "forbidden": (lambda: http(errors.HfHubHTTPError, 403), "may not be read"),
    "may not write": (lambda: http(errors.HfHubHTTPError, 403, "POST"), "does not let this token write"),
    "read only": (lambda: PermissionError(13, "Permission denied", "/cache"), "cannot be written.*/cache.*HF_HOME"),
    "bad request": (lambda: http(errors.BadRequestError, 400), "cannot be read"),
    "bad name": (lambda: errors.HFValidationError("Repo id must be fine"), "neither a folder.*Repo id must be fine"),
    "offline": (lambda: errors.OfflineModeIsEnabled("offline"), "not cached"),
    "not cached": (lambda: errors.LocalEntryNotFoundError("no"), "not cached"),
    "no token": (lambda: errors.LocalTokenNotFoundError("log in first"), "log in first"),
    "no metadata": (lambda: errors.FileMetadataError("odd server"), "odd server"),
    "disk full": (lambda: OSError(28, "No space left on device"), "no room left.*No space left.*cache_dir"),
    "connection": (lambda: ConnectionError("reset by peer"), "reset by peer"),
    "timeout": (lambda: TimeoutError(), "TimeoutError"),
    "contradiction": (lambda: ValueError("Cannot pass force_download"), "Cannot pass force_download"),
    "something new": (lambda: type("XetDownloadError", (Exception,), {})("chunk\nlost"), "found chunk"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_of_the_hub(answer):
    make, says = ANSWERS[answer]
    error = refused(make(), "some/model")
    assert re.search(says, str(error)) and "some/model" in str(error)
    assert "\n" not in str(error)


def test_kinds_of_refusals():
    kinds = {
        "gated": GatedRepoError, "no repository": RepoNotFoundError, "no revision": RevisionError,
        "offline": OfflineError, "may not write": WriteRefusedError, "bad name": RepoNotFoundError,
    }  # fmt: skip
    assert {name: type(refused(ANSWERS[name][0](), "some/model")) for name in kinds} == kinds


def test_a_keyboard_interrupt_is_none_of_them():
    with pytest.raises(KeyboardInterrupt):
        within(5.0, lambda: (_thread.interrupt_main(), time.sleep(0.5)))


# -- a Hub that is out of reach --------------------------------------------------------------------------------------


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_an_unreachable_hub_is_one_line_within_ten_seconds(tmp_path, listens):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        environment = {
            **os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        program = (
            "import time, sys, omniform.cli.run; from omniform.cli.main import main; started = time.monotonic();"
            "code = main(sys.argv[1:]); print(time.monotonic() - started); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "run", "-m", "tester/none", "-t", "hi"],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 2 and float(done.stdout) < 10
    assert done.stderr.count("\n") == 1 and "cannot be reached" in done.stderr and "tester/none" in done.stderr


def test_what_is_cached_is_used_where_the_hub_is_out_of_reach(cache, monkeypatch, caplog):
    with socket.socket() as server:  # nobody listens
        server.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        monkeypatch.setattr(asking, "SILENT", {})
        monkeypatch.setattr(logging.getLogger("omniform"), "propagate", True)
        caplog.set_level(logging.WARNING, logger="omniform")
        assert eps(cache) == 1e-6 and [*asking.SILENT] == [endpoint]
        assert caplog.text.count("what is cached is used") == 1
        monkeypatch.setattr(remote, "within", None)  # nobody asks again
        assert eps(cache) == 1e-6
        with pytest.raises(OfflineError, match="cannot be reached"):
            Llama.from_pretrained("tester/other", cache_dir=cache)
