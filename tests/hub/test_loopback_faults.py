"""One test for each thing that the loopback Hub can get wrong, as the bare client meets it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants, errors, get_hf_file_metadata, get_session, hf_hub_download
from huggingface_hub.utils import hf_raise_for_status

from loopback import Hub

WEIGHTS = bytes(range(256)) * 400
LARGE = "GET /cdn/*/model.safetensors"


@pytest.fixture
def tiny(hub: Hub, tmp_path: Path):
    hub.upload("ann/tiny", {"config.json": '{"a": 1}', "model.safetensors": WEIGHTS})
    with hub.connected(cache=tmp_path / "home", token=hub.token):
        yield hub


def weights() -> bytes:
    return Path(hf_hub_download("ann/tiny", "model.safetensors")).read_bytes()


def url(name: str = "config.json") -> str:
    return huggingface_hub.hf_hub_url("ann/tiny", name)


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403, 404])
def test_a_hub_that_fails_is_told_with_its_status(tiny: Hub, status: int) -> None:
    """By the call that asks once: ``hf_hub_download`` asks again, for 23 seconds, where nothing is cached."""
    tiny.faults.add("HEAD", status=status)
    with pytest.raises(errors.HfHubHTTPError) as caught:
        get_hf_file_metadata(url())
    assert caught.value.response.status_code == status


def test_what_is_cached_is_used_where_the_hub_fails(tiny: Hub) -> None:
    path = hf_hub_download("ann/tiny", "config.json")
    tiny.faults.add("*", status=503)
    assert hf_hub_download("ann/tiny", "config.json") == path


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "EntryNotFound", errors.RemoteEntryNotFoundError),
        (404, "RevisionNotFound", errors.RevisionNotFoundError),
        (401, "RepoNotFound", errors.RepositoryNotFoundError),
        (403, "GatedRepo", errors.GatedRepoError),
    ],
)
def test_refusals_by_code(tiny: Hub, status: int, code: str, expected: type[Exception]) -> None:
    tiny.faults.add("HEAD", status=status, code=code)
    with pytest.raises(expected):
        hf_hub_download("ann/tiny", "config.json")


def test_a_disabled_repository(tiny: Hub) -> None:
    tiny.faults.add("GET /api/models/*", status=403, error="Access to this resource is disabled.")
    with pytest.raises(errors.DisabledRepoError):
        HfApi().model_info("ann/tiny")


def test_too_many_requests_are_repeated_when_the_hub_says(tiny: Hub) -> None:
    fault = tiny.faults.add(LARGE, status=429, headers={"Retry-After": "0"}, times=1)
    assert weights() == WEIGHTS
    assert fault.over and [asked.status for asked in tiny.log.of(LARGE)] == [429, 200]


def test_a_cut_is_resumed_where_it_was(tiny: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the client's chunks, of 10 MiB unless told otherwise."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    tiny.faults.add(LARGE, cut=1000, times=1)
    assert weights() == WEIGHTS
    assert [(asked.range, asked.sent) for asked in tiny.log.of(LARGE)] == [
        (None, 1000),
        ("bytes=1000-", len(WEIGHTS) - 1000),
    ]


def test_a_server_without_ranges_sends_all_again(tiny: Hub) -> None:
    tiny.faults.add(LARGE, cut=1000, times=1)
    tiny.faults.add(LARGE, no_range=True)
    assert weights() == WEIGHTS
    assert [asked.status for asked in tiny.log.of(LARGE)] == [200, 200]


def test_a_stalled_body_is_resumed(tiny: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)
    tiny.faults.add(LARGE, stall=(1000, 0.5), times=1)
    assert weights() == WEIGHTS
    assert tiny.log.of(LARGE)[1].range == "bytes=1000-"


def test_no_answer_at_all(tiny: Hub) -> None:
    tiny.faults.add("HEAD", drop=True)
    with pytest.raises(Exception, match="disconnected without sending a response"):
        get_hf_file_metadata(url())


def test_an_answer_that_is_late(tiny: Hub) -> None:
    tiny.faults.add("HEAD", delay=0.4)
    with pytest.raises(Exception, match="timed out"):
        get_hf_file_metadata(url(), timeout=0.1)


def test_wrong_bytes_pass_the_client(tiny: Hub) -> None:
    """Which looks at the size only: whoever needs more must compare the digest."""
    tiny.faults.add(LARGE, wrong=True)
    assert weights() != WEIGHTS


def test_a_body_that_is_too_short(tiny: Hub) -> None:
    tiny.faults.add(LARGE, short=1000)
    with pytest.raises(OSError, match="Consistency check failed"):
        weights()


def test_a_file_that_changes_between_head_and_get(tiny: Hub) -> None:
    before = tiny.repo("ann/tiny").head("main")
    tiny.faults.add("HEAD", times=1, after=lambda: tiny.upload("ann/tiny", {"config.json": '{"a": 22}'}))
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download("ann/tiny", "config.json")
    assert Path(hf_hub_download("ann/tiny", "config.json", revision=before)).read_text() == '{"a": 1}'


def test_a_file_that_changes_while_it_is_sent(tiny: Hub) -> None:
    """What is sent stays the old file, which is named by its content; the branch has moved on."""
    before = tiny.repo("ann/tiny").head("main")
    tiny.faults.add(LARGE, amid=lambda: tiny.upload("ann/tiny", {"model.safetensors": b"new"}))
    path = Path(hf_hub_download("ann/tiny", "model.safetensors"))
    assert path.read_bytes() == WEIGHTS and path.parent.name == before != tiny.repo("ann/tiny").head("main")


def test_ranges(tiny: Hub) -> None:
    weights = url("model.safetensors")

    def get(**headers: str) -> tuple[int, bytes]:
        answer = get_session().get(weights, headers={name.replace("_", "-"): text for name, text in headers.items()})
        return answer.status_code, answer.content

    assert get(Range="bytes=10-19") == (206, WEIGHTS[10:20])
    assert get(Range="bytes=-5") == (206, WEIGHTS[-5:])
    etag = get_session().head(weights, follow_redirects=False).headers["X-Linked-ETag"]
    assert get(Range="bytes=10-19", If_Range=etag) == (206, WEIGHTS[10:20])
    assert get(Range="bytes=10-19", If_Range='"another"') == (200, WEIGHTS)
    answer = get_session().get(weights, headers={"Range": f"bytes={len(WEIGHTS)}-"})
    assert answer.status_code == 416 and answer.headers["Content-Range"] == f"bytes */{len(WEIGHTS)}"
    with pytest.raises(errors.HfHubHTTPError, match="416"):
        hf_raise_for_status(answer)


# Uploads


def test_a_full_disk_leaves_the_branch_and_a_later_try_completes(tiny: Hub, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new/a.bin").write_bytes(b"a" * 1000)
    (tmp_path / "new/b.bin").write_bytes(b"b" * 1000)
    before = tiny.repo("ann/tiny").head("main")
    tiny.faults.add("PUT /upload/*", disk_full=True, skip=1, times=1)
    with pytest.raises(RuntimeError, match="uploading") as caught:
        HfApi().upload_folder(repo_id="ann/tiny", folder_path=tmp_path / "new")
    assert "No space left" in str(caught.value.__cause__)
    assert tiny.repo("ann/tiny").head("main") == before
    with tiny.watch() as log:
        HfApi().upload_folder(repo_id="ann/tiny", folder_path=tmp_path / "new")
    assert log.count("PUT") == 1 and tiny.paths("ann/tiny")[1:3] == ["a.bin", "b.bin"]


def test_an_upload_that_is_cut_is_sent_again(tiny: Hub) -> None:
    data = bytes(range(256)) * 1000
    tiny.faults.add("PUT /part/*", cut_upload=20000, skip=1, times=1)
    HfApi().upload_file(repo_id="ann/tiny", path_or_fileobj=data, path_in_repo="big.bin")
    assert tiny.read("ann/tiny", "big.bin") == data
    assert tiny.log.count("PUT /part/*") == 5  # four parts, one of them twice


def test_a_commit_that_is_cut_never_happened(tiny: Hub) -> None:
    before = tiny.repo("ann/tiny").head("main")
    tiny.faults.add("POST */commit/*", cut_upload=10, times=1)
    with pytest.raises(Exception, match=r"disconnected|reset|pipe"):
        HfApi().upload_file(repo_id="ann/tiny", path_or_fileobj=b"x", path_in_repo="x.txt")
    assert tiny.repo("ann/tiny").head("main") == before


def test_a_commit_whose_answer_is_lost_has_happened(tiny: Hub) -> None:
    tiny.faults.add("POST */commit/*", cut=0, times=1)
    with pytest.raises(Exception, match="peer closed connection"):
        HfApi().upload_file(repo_id="ann/tiny", path_or_fileobj=b"x", path_in_repo="x.txt")
    assert tiny.read("ann/tiny", "x.txt") == b"x"


def test_another_commit_comes_first(tiny: Hub) -> None:
    head = tiny.repo("ann/tiny").head("main")
    tiny.faults.add("POST */commit/*", before=lambda: tiny.upload("ann/tiny", {"other.txt": "o"}), times=1)
    with pytest.raises(errors.HfHubHTTPError, match="A commit has happened since"):
        HfApi().upload_file(repo_id="ann/tiny", path_or_fileobj=b"x", path_in_repo="x.txt", parent_commit=head)
    assert tiny.titles("ann/tiny")[0] == "files"


def test_kill_9_during_an_upload(tiny: Hub, tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(bytes(range(256)) * 1000)
    before = tiny.repo("ann/tiny").head("main")
    script = "import huggingface_hub as hub; hub.upload_file("
    script += "repo_id='ann/tiny', path_or_fileobj='big.bin', path_in_repo='big.bin')"
    environment = tiny.environment(tmp_path / "other", token=tiny.token)
    running: list[subprocess.Popen[bytes]] = []
    tiny.faults.add("PUT /part/*/2", before=lambda: running[0].send_signal(signal.SIGKILL), delay=0.05, times=1)
    running.append(subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=tmp_path))
    assert running[0].wait(20) == -signal.SIGKILL
    assert tiny.repo("ann/tiny").head("main") == before
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert tiny.read("ann/tiny", "big.bin") == (tmp_path / "big.bin").read_bytes()
