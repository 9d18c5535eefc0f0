"""The loopback Hub, asked by the real client: repositories, history, pull requests, access, lists, cards."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, errors

from loopback import Hub

FILES = {"config.json": '{"model_type": "llama"}', "model.safetensors": b"\0" * 5000, "sub/notes.txt": "notes"}


@pytest.fixture
def online(hub: Hub, tmp_path: Path):
    with hub.connected(cache=tmp_path / "home"):
        yield hub


def test_files_come_whole_and_only_once(hub: Hub, tmp_path: Path) -> None:
    commit = hub.upload("ann/tiny", FILES)
    with hub.connected(cache=tmp_path / "home"):
        folder = Path(huggingface_hub.snapshot_download("ann/tiny"))
        assert folder.name == commit
        assert (folder / "model.safetensors").read_bytes() == b"\0" * 5000
        assert (folder / "sub/notes.txt").read_text() == "notes"
        assert hub.log.count("GET /cdn/*") == 1  # the large file, from the other host
        assert hub.log.of("GET /cdn/*")[0].token is None
        with hub.quiet():
            huggingface_hub.hf_hub_download("ann/tiny", "model.safetensors", revision=commit)
        with hub.watch() as log:
            huggingface_hub.hf_hub_download("ann/tiny", "config.json")
        assert log.paths() == ["/ann/tiny/resolve/main/config.json"] and log.count("HEAD") == 1


def test_a_commit_has_history_and_identical_content_is_uploaded_once(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.bin").write_bytes(bytes(range(256)) * 1000)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        api = HfApi()
        api.create_repo("ann/new", private=True)
        first = api.upload_folder(repo_id="ann/new", folder_path=folder, commit_message="all", commit_description="why")
        assert hub.log.count("PUT /part/*") == 4  # 256,000 bytes in parts of 65,536
        assert hub.read("ann/new", "model.bin") == (folder / "model.bin").read_bytes()
        with hub.watch() as log:
            again = api.upload_folder(repo_id="ann/new", folder_path=folder)
        assert again.oid == first.oid and log.received("PUT *") == 0
        (folder / "copy.bin").write_bytes((folder / "model.bin").read_bytes())
        with hub.watch() as log:
            api.upload_folder(repo_id="ann/new", folder_path=folder, commit_message="a copy")
        assert log.received("PUT *") == 0
        commits = api.list_repo_commits("ann/new")
        assert [commit.title for commit in commits] == ["a copy", "all", "initial commit"]
        assert commits[1].message == "why" and commits[1].authors == ["ann"]
        with pytest.raises(errors.HfHubHTTPError, match="412"):
            api.upload_file(
                repo_id="ann/new", path_or_fileobj=b"x", path_in_repo="x.txt", parent_commit=commits[1].commit_id
            )
    git = ["git", "--git-dir", str(hub.repo("ann/new").git.folder)]
    subprocess.run([*git, "fsck", "--strict"], check=True, capture_output=True)
    titles = subprocess.run([*git, "log", "--format=%s"], check=True, capture_output=True, text=True).stdout
    assert titles.splitlines() == ["a copy", "all", "initial commit"]


def test_operations_in_one_commit(hub: Hub, tmp_path: Path) -> None:
    hub.upload("ann/tiny", FILES)
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        api = HfApi()
        operations = [
            CommitOperationAdd("added.txt", b"added"),
            CommitOperationCopy("model.safetensors", "copy.safetensors"),
            CommitOperationDelete("config.json"),
            CommitOperationDelete("sub/"),
        ]
        api.create_commit("ann/tiny", operations, commit_message="several")
        assert hub.paths("ann/tiny") == [".gitattributes", "added.txt", "copy.safetensors", "model.safetensors"]
        with pytest.raises(errors.RemoteEntryNotFoundError):
            api.delete_file("absent.txt", "ann/tiny")
        assert hub.titles("ann/tiny")[0] == "several"


def test_branches_tags_and_pull_requests(hub: Hub, tmp_path: Path) -> None:
    first = hub.upload("ann/tiny", FILES)
    ben = hub.people.token("ben")
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        api = HfApi()
        api.create_branch("ann/tiny", branch="dev/one")
        api.create_tag("ann/tiny", tag="v1", tag_message="the first")
        with pytest.raises(errors.HfHubHTTPError, match="409"):
            api.create_tag("ann/tiny", tag="v1")
        hub.upload("ann/tiny", {"config.json": "{}"}, revision="dev/one")
        path = huggingface_hub.hf_hub_download("ann/tiny", "config.json", revision="dev/one")
        assert Path(path).read_text() == "{}"
        made = HfApi(token=ben).upload_file(
            repo_id="ann/tiny", path_or_fileobj=b"new", path_in_repo="new.txt", create_pr=True
        )
        assert made.pr_revision == "refs/pr/1" and "new.txt" not in hub.paths("ann/tiny")
        assert Path(huggingface_hub.hf_hub_download("ann/tiny", "new.txt", revision="refs/pr/1")).read_text() == "new"
        api.comment_discussion("ann/tiny", 1, "thanks")
        with pytest.raises(errors.HfHubHTTPError, match="403"):
            HfApi(token=ben).merge_pull_request("ann/tiny", 1)
        api.merge_pull_request("ann/tiny", 1)
        details = api.get_discussion_details("ann/tiny", 1)
        assert details.status == "merged" and details.author == "ben"
        assert [event.type for event in details.events] == ["comment", "comment", "status-change"]
        assert hub.read("ann/tiny", "new.txt") == b"new"
        refs = api.list_repo_refs("ann/tiny", include_pull_requests=True)
        assert [ref.name for ref in refs.branches] == ["dev/one", "main"]
        assert refs.tags[0].target_commit == first and refs.pull_requests[0].ref == "refs/pr/1"
        api.delete_branch("ann/tiny", branch="dev/one")
        api.delete_tag("ann/tiny", tag="v1")
        with pytest.raises(errors.RevisionNotFoundError):
            api.model_info("ann/tiny", revision="v1")


def test_conversations(online: Hub) -> None:
    online.upload("ann/tiny", FILES)
    ben = HfApi(endpoint=online.address, token=online.people.token("ben"))
    ann = HfApi(endpoint=online.address, token=online.token)
    talk = ben.create_discussion("ann/tiny", "A question", description="why?")
    edited = ben.edit_discussion_comment("ann/tiny", talk.num, talk.events[0].id, "why not?")
    assert edited.content == "why not?" and edited.edited and edited.edit_history[0]["raw"] == "why?"
    assert ann.rename_discussion("ann/tiny", talk.num, "Answered").old_title == "A question"
    assert ann.change_discussion_status("ann/tiny", talk.num, "closed", comment="done").new_status == "closed"
    draft = ben.create_pull_request("ann/tiny", "A change")
    ben.upload_file(repo_id="ann/tiny", path_or_fileobj=b"ben", path_in_repo="config.json", revision="refs/pr/2")
    details = ann.get_discussion_details("ann/tiny", 2)
    assert draft.status == "draft" and details.events[-1].summary == "Upload config.json with huggingface_hub"
    assert "+ben" in details.diff and details.conflicting_files == []
    assert [(d.num, d.status, d.is_pull_request) for d in ann.get_repo_discussions("ann/tiny")] == [
        (2, "draft", True),
        (1, "closed", False),
    ]
    assert [d.num for d in ann.get_repo_discussions("ann/tiny", discussion_type="pull_request")] == [2]
    online.upload("ann/tiny", {"config.json": "ann"})
    assert ann.get_discussion_details("ann/tiny", 2).conflicting_files == ["config.json"]
    with pytest.raises(errors.HfHubHTTPError, match="both sides changed"):
        ann.merge_pull_request("ann/tiny", 2)
    assert online.read("ann/tiny", "config.json") == b"ann"


def test_headers_by_ranges_and_a_file_system(online: Hub) -> None:
    header = b'{"a":{"dtype":"F32","shape":[250],"data_offsets":[0,1000]}}'
    weights = len(header).to_bytes(8, "little") + header + bytes(1000)
    index = '{"metadata": {}, "weight_map": {"a": "model-1.safetensors"}}'
    online.upload("ann/tiny", {"model.safetensors": weights})
    online.upload("ann/sharded", {"model-1.safetensors": weights, "model.safetensors.index.json": index})
    api = HfApi(endpoint=online.address, token=False)
    assert api.get_safetensors_metadata("ann/tiny").parameter_count == {"F32": 250}
    assert api.get_safetensors_metadata("ann/sharded").weight_map == {"a": "model-1.safetensors"}
    assert api.model_info("ann/tiny").safetensors.total == 250
    files = huggingface_hub.HfFileSystem(endpoint=online.address, token=False, skip_instance_cache=True)
    assert files.ls("ann/tiny", detail=False) == ["ann/tiny/.gitattributes", "ann/tiny/model.safetensors"]
    with online.watch() as log, files.open("ann/tiny/model.safetensors", "rb", block_size=100) as file:
        assert file.read(8) == weights[:8]
    assert log.sent("GET /cdn/*") < len(weights)


def test_commits_side_by_side_all_count(online: Hub) -> None:
    online.upload("ann/tiny", FILES)
    api = HfApi(endpoint=online.address, token=online.token)
    with ThreadPoolExecutor(8) as pool:
        names = [f"{number}.txt" for number in range(8)]
        list(pool.map(lambda name: api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id="ann/tiny"), names))
    assert set(names) <= set(online.paths("ann/tiny")) and len(online.titles("ann/tiny")) == 10


@pytest.mark.usefixtures("online")
def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with Hub(folder) as first:
        commit = first.upload("ann/tiny", FILES, private=True)
        first.upload("ann/tiny", {"README.md": "---\nlicense: mit\n---\n"}, revision="dev")
        first.tag("ann/tiny", "v1")
        first.upload("ann/old", FILES)
        first.move("ann/old", "ann/new")
        HfApi(endpoint=first.address, token=first.token).create_discussion("ann/tiny", "Hello there")
    with Hub(folder) as again:
        api = HfApi(endpoint=again.address, token=again.token)
        assert api.model_info("ann/tiny", revision="v1").sha == commit and api.model_info("ann/tiny").private
        assert api.model_info("ann/old").id == "ann/new"
        assert api.get_discussion_details("ann/tiny", 1).title == "Hello there"


def test_git_clones_it(hub: Hub, tmp_path: Path) -> None:
    hub.upload("ann/tiny", FILES, private=True)
    hub.upload("ann/tiny", {"config.json": "{}"}, message="a second", author="ben")
    address = f"{hub.address.replace('//', f'//ann:{hub.token}@')}/ann/tiny"
    environment = hub.environment(tmp_path, GIT_TERMINAL_PROMPT="0", GIT_LFS_SKIP_SMUDGE="1", GIT_CONFIG_NOSYSTEM="1")
    clone = ["git", "-c", "http.proxy=", "clone", "--quiet", address, str(tmp_path / "clone")]
    subprocess.run(clone, check=True, capture_output=True, env=environment)
    assert (tmp_path / "clone/config.json").read_text() == "{}"
    assert b"oid sha256:" in (tmp_path / "clone/model.safetensors").read_bytes()
    log = ["git", "-C", str(tmp_path / "clone"), "log", "--format=%an: %s"]
    lines = subprocess.run(log, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()
    assert lines == ["ben: a second", "ann: files", "ann: initial commit"]
    clone[-2:] = [f"{hub.address}/ann/tiny", str(tmp_path / "refused")]
    assert subprocess.run(clone, capture_output=True, env=environment).returncode != 0
