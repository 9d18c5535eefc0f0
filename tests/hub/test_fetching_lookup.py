"""``cached_file`` and its kin, against the reference's on the same Hub."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

import omniform
from omniform.core.errors import GatedRepoError, InputError, RepoNotFoundError, RevisionError, UnknownArgumentError
from reference import transformers

theirs = transformers.utils.hub


@pytest.fixture
def held(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(theirs, "_hf_api", None)  # it keeps the first Hub's address
    hub.upload("ann/tiny", {"config.json": "{}", "a.txt": "a", "part/b.txt": "b", "c.txt": "c"})
    hub.upload("ann/tiny", {"additional_chat_templates/one.jinja": "1", "additional_chat_templates/two.jinja": "2"})
    hub.upload("ann/secret", {"a.txt": "s"}, gated="manual")
    hub.upload("ann/mine", {"a.txt": "m"}, private=True)
    with hub.connected(cache=tmp_path / "home"):
        yield hub


def outcome(call) -> object:
    """What a function gives, with the cache's place left out; of errors, the kind that both raise."""
    try:
        found = call()
    except OSError:
        return OSError
    if found is None or isinstance(found, bool):
        return found
    if isinstance(found, str):
        return Path(found).name
    return [Path(path).name for path in found]


SWITCHES = (
    "_raise_exceptions_for_gated_repo", "_raise_exceptions_for_missing_entries",
    "_raise_exceptions_for_connection_errors",
)  # fmt: skip

ASKED = {
    "two": ("ann/tiny", ["a.txt", "c.txt"], {}),
    "a subfolder": ("ann/tiny", ["b.txt"], {"subfolder": "part"}),
    "one is missing": ("ann/tiny", ["a.txt", "none.txt"], {}),
    "all are missing": ("ann/tiny", ["none.txt", "neither.txt"], {}),
    "the config is missing": ("ann/tiny", ["config.json"], {"subfolder": "part"}),
    "gated": ("ann/secret", ["a.txt"], {}),
    "private": ("ann/mine", ["a.txt"], {}),
    "no repository": ("ann/none", ["a.txt"], {}),
    "no revision": ("ann/tiny", ["a.txt"], {"revision": "gone"}),
    "not cached": ("ann/tiny", ["a.txt"], {"local_files_only": True}),
}


@pytest.mark.parametrize("off", [None, *SWITCHES])
@pytest.mark.parametrize("asked", ASKED)
def test_as_the_reference(held, tmp_path, asked, off):
    name, files, where = ASKED[asked]
    switches = {} if off is None else {off: False}
    found = [
        outcome(partial(kin.cached_files, name, files, cache_dir=tmp_path / str(n), **where, **switches))
        for n, kin in enumerate((omniform, theirs))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("missing", [True, False])
def test_folders_as_the_reference(tmp_path, missing):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.txt").write_text("a")
    for files in (["a.txt"], ["a.txt", "none"], ["config.json"], ["none"], ["a.txt", "config.json"]):
        for where in ({"subfolder": "part"}, {}):
            told = {**where, "_raise_exceptions_for_missing_entries": missing}
            both = [outcome(partial(kin.cached_files, tmp_path, files, **told)) for kin in (omniform, theirs)]
            assert both[0] == both[1], (files, where)
    assert omniform.has_file(tmp_path / "part", "a.txt") and not omniform.has_file(tmp_path, "a.txt")


def test_a_file_is_fetched_once(held):
    path = omniform.cached_file("ann/tiny", "part/b.txt")
    assert Path(path).read_text() == "b"
    assert omniform.utils.hub.extract_commit_hash(path, None) == held.repo("ann/tiny").head("main")
    with held.quiet():
        assert omniform.cached_file("ann/tiny", "part/b.txt", local_files_only=True) == path
        commit = held.repo("ann/tiny").head("main")
        assert omniform.cached_file("ann/tiny", "part/b.txt", revision=commit) == path
    with held.watch() as log:
        omniform.cached_file("ann/tiny", "part/b.txt", force_download=True)
    assert log.count("GET */part/b.txt") == 1


def test_what_cannot_be_said(held):
    with pytest.raises(UnknownArgumentError):
        omniform.cached_file("ann/tiny", "a.txt", sub_folder="part")
    with pytest.raises(InputError, match="HTTPS_PROXY"):
        omniform.cached_file("ann/tiny", "a.txt", proxies={"http": "x"})


def test_has_file(held, tmp_path):
    with held.watch() as log:
        assert omniform.has_file("ann/tiny", "a.txt")
    assert len(log) == 1 and not log.count("GET")
    assert not omniform.has_file("ann/tiny", "none.txt")
    assert omniform.has_file("ann/tiny", "part/b.txt", revision=held.repo("ann/tiny").head("main"))
    assert not omniform.has_file("ann/tiny", "a.txt", local_files_only=True)
    omniform.cached_file("ann/tiny", "a.txt")
    assert omniform.has_file("ann/tiny", "a.txt", local_files_only=True)
    for name, where, kind in (
        ("ann/secret", {}, GatedRepoError), ("ann/none", {}, RepoNotFoundError), ("ann/mine", {}, RepoNotFoundError),
        ("ann/tiny", {"revision": "gone"}, RevisionError),
    ):  # fmt: skip
        with pytest.raises(kind):
            omniform.has_file(name, "a.txt", **where)
    assert omniform.has_file("ann/mine", "a.txt", token=held.token)
    assert omniform.file_exists("ann/tiny", "a.txt") and not omniform.file_exists("ann/tiny", "none")


def test_other_kinds_of_repositories(held):
    held.upload("ann/rows", {"rows.csv": "1,2"}, kind="dataset")
    path = omniform.cached_file("ann/rows", "rows.csv", repo_type="dataset")
    assert Path(path).read_text() == "1,2" and "datasets--ann--rows" in path
    assert omniform.has_file("ann/rows", "rows.csv", repo_type="dataset")


def test_templates(held):
    names = omniform.list_repo_templates("ann/tiny", local_files_only=False)
    assert names == sorted(theirs.list_repo_templates("ann/tiny", local_files_only=False)) == ["one.jinja", "two.jinja"]
    assert omniform.list_repo_templates("ann/tiny", local_files_only=True) == []
    omniform.cached_file("ann/tiny", "additional_chat_templates/one.jinja")
    assert omniform.list_repo_templates("ann/tiny", local_files_only=True) == ["one.jinja"]
    with pytest.raises(RepoNotFoundError):
        omniform.list_repo_templates("ann/none", local_files_only=False)


def test_tokens(held, monkeypatch):
    assert omniform.get_token() is None
    with pytest.raises(RepoNotFoundError, match="token"):
        omniform.cached_file("ann/mine", "a.txt")
    omniform.login(held.token, add_to_git_credential=False)
    assert omniform.get_token() == held.token
    assert Path(omniform.cached_file("ann/mine", "a.txt")).read_text() == "m"
    with pytest.raises(RepoNotFoundError):
        omniform.cached_file("ann/mine", "a.txt", token=False, force_download=True)
    omniform.logout()
    assert omniform.get_token() is None
    monkeypatch.setitem(os.environ, "HF_TOKEN", held.token)
    assert omniform.has_file("ann/mine", "a.txt")


def test_paths_of_the_ecosystem():
    from omniform.utils import cached_file, has_file
    from omniform.utils.hub import cached_files, is_offline_mode, list_repo_templates

    assert cached_file is omniform.cached_file and cached_files is omniform.cached_files
    assert has_file is omniform.has_file and list_repo_templates is omniform.list_repo_templates
    assert is_offline_mode() is omniform.is_offline_mode()
