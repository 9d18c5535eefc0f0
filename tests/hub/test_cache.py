"""``omniform cache``: what the Hub's cache holds, and what goes when it is pruned."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from loopback import Hub
from omniform.cli.main import main
from omniform.core.errors import InputError, RepoError
from omniform.hub.cache import ago, chosen, prune, scan, seconds, touch


@pytest.fixture
def cache(hub: Hub, tmp_path: Path) -> Path:
    """ann/one at two commits (one of which has no branch any more), ann/two, and a download that broke off."""
    folder = tmp_path / "cache/hub"
    hub.upload("ann/one", {"shared.bin": b"s" * 4000, "a.txt": b"old" * 100})
    hub.upload("ann/two", {"big.bin": b"b" * 50_000})
    with hub.connected(cache=folder.parent):
        for name in ("shared.bin", "a.txt"):
            hf_hub_download("ann/one", name)
        hub.upload("ann/one", {"a.txt": b"new" * 200})
        for name in ("shared.bin", "a.txt"):
            hf_hub_download("ann/one", name)
        hf_hub_download("ann/two", "big.bin")
    left = folder / "models--ann--two/blobs/abc.incomplete"
    left.write_bytes(b"x" * 300)
    os.utime(left, (time.time() - 7200,) * 2)
    return folder


def used(cache: Path, repo: str, days: float) -> None:
    for blob in (cache / f"models--ann--{repo}/blobs").iterdir():
        os.utime(blob, (time.time() - days * 86400, blob.stat().st_mtime))


def test_what_there_is(cache):
    used(cache, "one", 10)
    repositories, warnings = scan(cache)
    assert [(r.name, r.nbytes, len(r.revisions), len(r.unfinished)) for r in repositories] == [
        ("ann/two", 50_000, 1, 1),
        ("ann/one", 4900, 2, 0),
    ]
    assert warnings == [] and abs(time.time() - repositories[1].last_used - 864_000) < 60
    assert sorted(r.refs for r in repositories[1].revisions) == [(), ("main",)]
    assert scan(cache / "nowhere") == ([], [])


def test_without_a_condition_only_what_no_branch_holds(cache):
    repositories, _ = scan(cache)
    pruning = chosen(repositories)
    assert [revision.refs for _, revision in pruning.revisions] == [()] and len(pruning.unfinished) == 1
    assert prune(pruning, cache, dry=True) == 300 + 300 and scan(cache)[0] == repositories
    assert prune(pruning, cache) == 600
    left, _ = scan(cache)
    assert {r.name: (r.nbytes, len(r.revisions)) for r in left} == {"ann/one": (4600, 1), "ann/two": (50_000, 1)}
    assert not left[0].unfinished and (cache / "models--ann--one").is_dir()


def test_a_commit_under_two_names(cache):
    """A repository that was renamed, or copied, has the same commits: only the one that is meant goes."""
    import shutil

    shutil.copytree(cache / "models--ann--one", cache / "models--ann--before", symlinks=True)
    (cache / "models--ann--one/blobs/left.incomplete").write_bytes(b"x" * 100)
    pruning = chosen(scan(cache)[0], names=["ann/one"])
    assert prune(pruning, cache, dry=True) == prune(pruning, cache) == 5000
    assert {r.name: (r.nbytes, len(r.revisions)) for r in scan(cache)[0]} == {
        "ann/before": (4900, 2),
        "ann/two": (50_000, 1),
    }


def test_what_cannot_be_deleted_is_said(cache, monkeypatch):
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as on a disk that may only be read
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    with pytest.raises(RepoError, match="cannot be deleted"):
        prune(chosen(scan(cache)[0], names=["ann/one"]), cache)


def test_conditions(cache):
    used(cache, "one", 40)
    repositories, _ = scan(cache)

    def names(**how: object) -> set[str]:
        return {repo.name for repo, _ in chosen(repositories, **how).revisions}  # type: ignore[arg-type]

    assert names(unused_for=30 * 86400) == {"ann/one"} and names(unused_for=50 * 86400) == set()
    assert names(larger_than=10_000) == {"ann/two"} and names(names=["ann/*"]) == {"ann/one", "ann/two"}
    assert names(names=["ann/one"], larger_than=10_000) == set()
    kept = frozenset(r.commit for repo in repositories for r in repo.revisions)
    assert names(names=["ann/*"], keep=kept) == set()
    with pytest.raises(InputError, match="ann/three"):
        names(names=["ann/three"])
    prune(chosen(repositories, names=["ann/one"]), cache)
    assert [r.name for r in scan(cache)[0]] == ["ann/two"] and not (cache / "models--ann--one").exists()


def test_a_download_that_goes_on_is_left_alone(cache):
    left = cache / "models--ann--two/blobs/abc.incomplete"
    os.utime(left)
    assert chosen(scan(cache)[0]).unfinished == []


def test_use_is_noted(cache):
    blob = next((cache / "models--ann--two/blobs").glob("[0-9a-f]*[0-9a-f]"))
    os.utime(blob, (time.time() - 10**6, 1.0))
    touch(blob)
    assert time.time() - blob.stat().st_atime < 60 and blob.stat().st_mtime == 1.0
    touch(cache / "nothing")


def test_loading_notes_it(hub: Hub, cache, tmp_path):
    from omniform import AutoConfig

    hub.upload("ann/bert", {"config.json": '{"model_type": "bert"}'})
    with hub.connected(cache=cache.parent):
        AutoConfig.from_pretrained("ann/bert")
        used(cache, "bert", 30)
        AutoConfig.from_pretrained("ann/bert")
    assert next(r.name for r in scan(cache)[0]) == "ann/bert"


class TestCommand:
    def test_listing(self, cache, capsys):
        used(cache, "one", 10)
        assert main(["cache", "--dir", str(cache)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "repository     size  last used    commits",
            "ann/two     50.0 KB  just now     1, 1 unfinished",
            "ann/one      4.9 KB  10 days ago  2",
            "",
            "2 repositories, 54.9 KB",
        ]
        assert main(["cache", "--dir", str(cache), "--sort", "name", "--revisions"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].startswith("ann/one") and {line.split()[-1] for line in lines[2:4]} == {"main", "branch"}
        assert main(["cache", "--dir", str(cache), "--json"]) == 0
        assert [r["name"] for r in json.loads(capsys.readouterr().out)["repositories"]] == ["ann/two", "ann/one"]
        assert main(["cache", "--dir", str(cache / "none")]) == 0
        assert capsys.readouterr().out == "the cache is empty\n"

    def test_pruning(self, cache, capsys):
        assert main(["cache", "prune", "--dir", str(cache), "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "would free 600 B" and len(scan(cache)[0]) == 2
        assert main(["cache", "prune", "--dir", str(cache)]) == 2
        assert "--yes" in capsys.readouterr().err
        assert main(["cache", "prune", "--dir", str(cache), "--yes"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "freed 600 B"
        assert main(["cache", "prune", "--dir", str(cache), "--yes"]) == 0
        assert capsys.readouterr().out == "nothing to prune\n"
        assert main(["cache", "prune", "ann/*", "--larger", "10KB", "-y", "--json", "--dir", str(cache)]) == 0
        assert json.loads(capsys.readouterr().out)["bytes"] == 50_000

    def test_asked_at_a_terminal(self, cache, capsys, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr("sys.stdin", Terminal("n\n"))
        assert main(["cache", "prune", "--dir", str(cache)]) == 2 and len(scan(cache)[0][0].revisions) >= 1
        monkeypatch.setattr("sys.stdin", Terminal("y\n"))
        assert main(["cache", "prune", "--dir", str(cache)]) == 0
        assert "delete 2 entries, 600 B? [y/N]" in capsys.readouterr().err

    def test_what_a_lockfile_names_stays(self, cache, tmp_path, capsys):
        commits = {r.commit for repo in scan(cache)[0] for r in repo.revisions if repo.name == "ann/one"}
        sources = [{"repo": "ann/one", "commit": commit, "files": {}} for commit in commits]
        (tmp_path / "omniform.lock").write_text(json.dumps({"version": 1, "sources": sources}))
        words = ["cache", "prune", "ann/*", "-y", "--dir", str(cache), "--keep-locked", str(tmp_path / "omniform.lock")]
        assert main(words) == 0 and [r.name for r in scan(cache)[0]] == ["ann/one"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["cache", "prune", "--unused", "soon"], "30d"),
            (["cache", "prune", "--larger", "much"], "much"),
            (["cache", "prune", "ann/zero"], "no such repository"),
            (["cache", "prune", "--keep-locked", "nowhere.lock"], "nowhere.lock"),
            (["cache", "purge"], "purge"),
        ],
    )
    def test_mistakes(self, cache, capsys, words, said):
        assert main([*words, "--dir", str(cache)]) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


def test_times():
    assert (seconds("30d"), seconds("1.5h"), seconds("2w"), seconds("5m")) == (2592000, 5400, 1209600, 300)
    assert [ago(0, t) for t in (5, 60, 7200, 86400 * 3)] == ["just now", "1 minute ago", "2 hours ago", "3 days ago"]
