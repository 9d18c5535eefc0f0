"""Sessions of the real command line, ``hf``, against the loopback Hub, in processes that the environment tells."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loopback import Hub

Hf = Callable[..., str]


FORKING = """
import json, os, sys, tempfile
from huggingface_hub.cli import hf

# The rest of the client is imported by its commands; children should not have to.
import huggingface_hub.cli._cli_utils, huggingface_hub.hf_api, huggingface_hub.repocard

for line in sys.stdin:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.argv = ["hf", *json.loads(line)]
            hf.main()
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        print(json.dumps([status, said.read().decode()]), flush=True)
"""
"""``hf`` as its console script runs it, in a process for every command; importing it takes longer than most of them."""


@pytest.fixture
def hf(hub: Hub, tmp_path: Path) -> Iterator[Hf]:
    """Run ``hf``; what it prints. ``ways`` are further variables, ``status`` what it must end with."""
    started: dict[str, subprocess.Popen[str]] = {}

    def run(*words: str, status: int = 0, **ways: str) -> str:
        key = json.dumps(ways)
        if key not in started:
            environment = hub.environment(tmp_path / "home", **ways)
            command = [sys.executable, "-c", FORKING]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            started[key] = subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **pipes)
        process = started[key]
        assert process.stdin is not None and process.stdout is not None
        print(json.dumps(words), file=process.stdin, flush=True)
        ended, said = json.loads(process.stdout.readline())
        assert ended == status, said
        return said

    yield run
    for process in started.values():
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder: a card, a config, weights that pack well, in fours, and not at all."""
    found = tmp_path / "model"
    (found / "sub").mkdir(parents=True)
    (found / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    (found / "config.json").write_text("{}")
    noise = random.Random(0)
    (found / "model.safetensors").write_bytes(noise.randbytes(300_000))
    (found / "sub/text.bin").write_bytes(b"the same words again and again, " * 20_000)
    floats = b"".join(noise.randbytes(2) + bytes((noise.randrange(4), 63)) for _ in range(50_000))
    (found / "sub/floats.bin").write_bytes(floats + b"end")
    return found


def same(hub: Hub, name: str, folder: Path) -> None:
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert hub.paths(name) == sorted([".gitattributes", *paths])
    for path in paths:
        assert hub.read(name, path) == (folder / path).read_bytes(), path


def test_a_session(hub: Hub, hf: Hf, folder: Path) -> None:
    hf("auth", "login", "--token", "hf_nobody", status=1)
    hf("auth", "login", "--token", hub.token)
    assert "ann" in hf("auth", "whoami")
    hf("repos", "create", "ann/cli", "--private")
    hf("upload", "ann/cli", "model", ".", "--commit-message", "all of it")
    same(hub, "ann/cli", folder)
    assert hub.log.count("PUT /part/*") == 5 + 10 + 4  # in parts of 64 KiB
    assert hub.titles("ann/cli") == ["all of it", "initial commit"]
    (folder / "config.json").write_text('{"new": true}')
    hf("upload", "ann/cli", "model/config.json", "config.json", "--create-pr")
    assert '+{"new": true}' in hf("discussions", "diff", "ann/cli", "1")
    hf("discussions", "merge", "ann/cli", "1", "--yes")
    hf("repos", "tag", "create", "ann/cli", "v1")
    hf("repos", "branch", "create", "ann/cli", "dev")
    hf("upload", "ann/cli", "model/config.json", "dev.json", "--revision", "dev")
    assert "dev.json" in hub.paths("ann/cli", "dev") and "dev.json" not in hub.paths("ann/cli")
    hf("download", "ann/cli", "--revision", "v1")
    assert "model/ann/cli" in hf("cache", "ls")
    assert "Verified 6 file(s)" in hf("cache", "verify", "ann/cli", "--revision", "v1")


def test_what_is_done_to_whole_repositories(hub: Hub, hf: Hf) -> None:
    hub.upload("ann/cli", {"config.json": "{}", "old.json": "{}"})
    token = {"HF_TOKEN": hub.token}
    hf("repos", "move", "ann/cli", "ann/moved", **token)
    hf("repos", "delete-files", "ann/cli", "old.json", **token)  # by its old name
    assert hub.paths("ann/moved") == [".gitattributes", "config.json"]
    hf("repos", "duplicate", "ann/moved", "ann/copy", **token)
    hf("repos", "delete", "ann/moved", "--yes", **token)
    assert [repo.name for repo in hub.store.all("model")] == ["ann/copy"]
    assert hub.titles("ann/copy")[1:] == ["files", "initial commit"]


def test_an_upload_as_the_client_does_it_by_default(hub: Hub, hf: Hf, folder: Path) -> None:
    """By Xet: in chunks, packed. What did not change is not committed again."""
    ways = {"HF_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "0"}
    hf("upload", "ann/xet", "model", ".", **ways)
    assert hub.log.count("POST /v1/shards") >= 1 and hub.log.count("PUT") == 0
    assert hub.log.received("POST /v1/xorbs/*") < 600_000  # of 1.1 MB
    same(hub, "ann/xet", folder)
    before = hub.repo("ann/xet").head("main")
    hf("upload", "ann/xet", "model", ".", **ways)
    assert hub.repo("ann/xet").head("main") == before
    hf("upload", "ann/xet", "model/sub", "again", "--create-pr", **ways)
    assert hub.read("ann/xet", "again/text.bin", "refs/pr/1") == (folder / "sub/text.bin").read_bytes()


def test_make_hub(tmp_path: Path) -> None:
    """A person's Hub: prints what to export, keeps what it was given, stops at Ctrl-C."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "loopback", str(tmp_path / "kept"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tests)}
    hf = str(Path(sys.executable).with_name("hf"))
    for again in (False, True):
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            late = threading.Timer(30, running.kill)
            late.daemon = True
            late.start()
            told: dict[str, str] = {}
            while "HF_HOME" not in told:
                line = running.stdout.readline()
                assert line, "it ended too early"
                if line.strip().startswith("export "):
                    name, _, value = line.strip().removeprefix("export ").partition("=")
                    told[name] = value
            words = ["repos", "ls"] if again else ["repos", "create", "first"]
            done = subprocess.run([hf, *words], env={**os.environ, "HF_HUB_OFFLINE": "0", **told}, capture_output=True)
            assert done.returncode == 0 and b"ann/first" in done.stdout, done.stdout + done.stderr
            running.send_signal(signal.SIGINT)
            assert running.wait(10) == 0 and "stopped" in running.stdout.read()
            late.cancel()
