"""Lockfiles and frozen runs, against the loopback Hub and in folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import omniform
from loopback import Hub
from omniform.cli.main import main
from omniform.core.errors import ConfigError, InputError, RepoError
from omniform.hub import lock as locks
from omniform.hub.lock import FrozenError, Recorder, frozen, read_lock
from omniform.hub.used import watched

IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = omniform.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    omniform.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="8KB")
    return folder


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch) -> Path:
    for name in (locks.FROZEN, locks.LOCKFILE, locks.RECORD):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def load(name, **where):
    return omniform.AutoModelForCausalLM.from_pretrained(name, **where)


def recorded(path: Path, *loads) -> locks.Lock:
    recorder = Recorder()
    with watched(recorder):
        for name, where in loads:
            load(name, **where)
    lock = recorder.lock(path, "a test")
    lock.write()
    return read_lock(path)


class TestHub:
    def test_a_model_is_locked_and_read_at_its_commit(self, hub: Hub, folder, work, monkeypatch):
        hub.upload("ann/tiny", folder)
        with hub.connected(cache=work / "cache"):
            lock = recorded(work / "omniform.lock", ("ann/tiny", {}))
            (source,) = lock.sources
            assert source.name == "ann/tiny" and source.commit == hub.repo("ann/tiny").head("main")
            names = {p.name for p in folder.iterdir()}
            assert source.files.keys() == names
            for name, file in source.files.items():
                assert file.size == (folder / name).stat().st_size
            before = load("ann/tiny")(IDS).logits

            hub.upload("ann/tiny", {"config.json": (folder / "config.json").read_bytes() + b" "}, message="moved")
            monkeypatch.setenv(locks.FROZEN, "1")
            with hub.quiet():
                assert torch.equal(load("ann/tiny")(IDS).logits, before)
                assert torch.equal(load("ann/tiny", revision="main")(IDS).logits, before)
                assert torch.equal(load("ann/tiny", revision=source.commit)(IDS).logits, before)
            with pytest.raises(FrozenError, match=r"v2.*omniform lock"):
                load("ann/tiny", revision="v2")
            with pytest.raises(FrozenError, match=r"ann/tyni.*Did you mean 'ann/tiny'"):
                load("ann/tyni")

    def test_on_another_machine(self, hub: Hub, folder, work):
        hub.upload("ann/tiny", folder)
        with hub.connected(cache=work / "cache"):
            recorded(work / "omniform.lock", ("ann/tiny", {}))
            before = load("ann/tiny")(IDS).logits
        hub.upload("ann/tiny", {"extra.txt": b"x"}, message="moved")
        with hub.connected(cache=work / "other"), frozen(), hub.watch() as log:
            assert torch.equal(load("ann/tiny")(IDS).logits, before)
            assert not log.count("*/main*")
        with hub.connected(cache=work / "other"), frozen(), hub.quiet():
            load("ann/tiny")

    def test_other_bytes_in_the_cache(self, hub: Hub, folder, work):
        hub.upload("ann/tiny", folder)
        with hub.connected(cache=work / "cache"):
            lock = recorded(work / "omniform.lock", ("ann/tiny", {}))
            cached = next((work / "cache").rglob("snapshots/*/generation_config.json"))
            cached.resolve().write_bytes(cached.read_bytes() + b" ")
            load("ann/tiny")
            assert lock.differences() == [d for d in lock.differences() if "generation_config.json has changed" in d]
            with frozen(), pytest.raises(FrozenError, match=r"generation_config.json is not the file.*expected sha256"):
                load("ann/tiny")

    def test_a_file_that_was_not_locked(self, hub: Hub, folder, work):
        hub.upload("ann/tiny", folder)
        with hub.connected(cache=work / "cache"):
            recorder = Recorder()
            with watched(recorder):
                omniform.AutoConfig.from_pretrained("ann/tiny")
            recorder.lock(work / "omniform.lock", "").write()
            with frozen():
                omniform.AutoConfig.from_pretrained("ann/tiny")
                with pytest.raises(FrozenError, match=r"model.*safetensors.*not locked; expected config.json"):
                    load("ann/tiny")

    def test_branches_side_by_side(self, hub: Hub, folder, work):
        hub.upload("ann/tiny", folder)
        hub.tag("ann/tiny", "v1")
        hub.upload("ann/tiny", {"extra.txt": b"x"}, message="moved")
        with hub.connected(cache=work / "cache"):
            lock = recorded(work / "omniform.lock", ("ann/tiny", {"revision": "v1"}), ("ann/tiny", {}))
            assert len({source.commit for source in lock.sources}) == 2
            with frozen(), hub.quiet():
                load("ann/tiny", revision="v1")
                load("ann/tiny")


class TestFolders:
    def test_a_folder_that_changes(self, folder, work):
        import shutil

        shutil.copytree(folder, work / "models/tiny")
        lock = recorded(work / "omniform.lock", ("models/tiny", {}))
        assert [s.name for s in lock.sources] == ["./models/tiny"] and lock.sources[0].commit is None
        with frozen():
            load("models/tiny")
            load(work / "models" / "tiny")
        (work / "models/tiny/generation_config.json").write_text("{}")
        with frozen(), pytest.raises(FrozenError, match=r"generation_config.json"):
            load("models/tiny")
        (work / "models/tiny").rename(work / "models/other")
        with frozen(), pytest.raises(FrozenError, match=r"folder is not locked.*models/other"):
            load("models/other")
        assert all("is not on this machine" in line for line in lock.differences())

    def test_the_project_may_move_with_its_lock(self, folder, work):
        import shutil

        shutil.copytree(folder, work / "here/tiny")
        recorded(work / "here/omniform.lock", (work / "here/tiny", {}))
        (work / "here").rename(work / "there")
        with frozen(work / "there/omniform.lock"):
            load(work / "there/tiny")


class TestCommand:
    def test_a_model(self, folder, work, capsys, monkeypatch):
        assert main(["lock", str(folder)]) == 0
        assert "written to omniform.lock" in capsys.readouterr().out
        body = json.loads((work / "omniform.lock").read_text())
        assert body["version"] == 1 and body["made_by"].startswith("omniform lock ")
        assert {p.name for p in folder.iterdir()} == body["sources"][0]["files"].keys()
        first = (work / "omniform.lock").read_bytes()
        assert main(["lock", str(folder)]) == 0 and (work / "omniform.lock").read_bytes() == first
        assert main(["lock", "--check"]) == 0

    def test_a_script_in_its_own_process(self, hub: Hub, folder, work):
        hub.upload("ann/tiny", folder)
        script = (
            "import sys, omniform\nmodel = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1])\nprint('done')\n"
        )
        (work / "train.py").write_text(script)
        environment = hub.environment(work / "home") | {"PYTHONPATH": os.pathsep.join(sys.path)}

        def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(words, cwd=work, env=environment | more, capture_output=True, text=True, timeout=300)

        command = (sys.executable, "-m", "omniform")
        made = run(*command, "lock", "train.py", "--args", "ann/tiny")
        assert made.returncode == 0, made.stderr
        commit = hub.repo("ann/tiny").head("main")
        assert f"ann/tiny at {commit[:12]}: " in made.stdout
        hub.upload("ann/tiny", {"config.json": b"{}"}, message="broken")
        held = run(sys.executable, "train.py", "ann/tiny", OMNIFORM_FROZEN="1", HF_HUB_OFFLINE="1")
        assert held.returncode == 0 and held.stdout == "done\n", held.stderr
        loose = run(sys.executable, "train.py", "ann/tiny")
        assert loose.returncode and "ConfigError" in loose.stderr
        other = run(*command, "inspect", "ann/other", "--frozen")
        assert other.returncode == 2 and "not locked" in other.stderr and "Traceback" not in other.stderr

    def test_a_script_that_fails_locks_nothing(self, work, capfd):
        (work / "bad.py").write_text("raise SystemExit(3)")
        assert main(["lock", "bad.py"]) == 2
        assert "exit code 3" in capfd.readouterr().err and not (work / "omniform.lock").exists()

    def test_a_check_that_fails(self, folder, work, capsys):
        import shutil

        shutil.copytree(folder, work / "tiny")
        assert main(["lock", "tiny"]) == 0
        (work / "tiny/config.json").write_text("{}")
        with pytest.raises(SystemExit) as stop:
            main(["lock", "--check"])
        assert stop.value.code == 1 and "config.json has changed: locked sha256" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["lock"], "nothing is named"),
            (["lock", "no/such/thing.py"], "no such script"),
            (["lock", "--check"], "No such file"),
            (["lock", "--check", "x"], "lockfile only"),
            (["lock", "./nowhere"], "no such folder"),
            (["lock", "a.py", "b.py", "--args", "x"], "one script"),
            (["inspect", "x", "--frozen"], "no lockfile"),
        ],
    )
    def test_mistakes(self, work, capsys, words, said):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


class TestFiles:
    @pytest.mark.parametrize(
        "body",
        [
            {}, {"version": 2, "sources": []}, {"version": 1}, {"version": 1, "sources": [1]},
            {"version": 1, "sources": [{"repo": "a/b", "files": {}}]},
            {"version": 1, "sources": [{"folder": "x", "commit": "0" * 40, "files": {}}]},
            {"version": 1, "sources": [{"folder": "x", "files": {"a": {}}}]},
            {"version": 1, "sources": [{"folder": "../x", "files": {}}]},
            {"version": 1, "sources": [{"folder": ".", "files": {"../a": {"sha256": "0" * 64, "size": 1}}}]},
            {"version": 1, "sources": [{"folder": ".", "files": {"/etc/passwd": {"sha256": "0" * 64, "size": 1}}}]},
            {"version": 1, "sources": [{"repo": "../x", "commit": "0" * 40, "files": {}}]},
            {"version": 1, "sources": [{"repo": "a/b", "commit": "../main", "files": {}}]},
            {"version": 1, "sources": [{"folder": "x", "files": {"a": {"sha256": "00", "size": 1}}}]},
        ],
    )  # fmt: skip
    def test_what_is_no_lockfile(self, work, body):
        (work / "omniform.lock").write_text(json.dumps(body))
        with pytest.raises(ConfigError, match=r"omniform.lock"), frozen():
            pass

    def test_the_environment(self, folder, work, monkeypatch):
        monkeypatch.setenv(locks.FROZEN, "perhaps")
        with pytest.raises(InputError, match=r"OMNIFORM_FROZEN.*perhaps"):
            load(folder)
        monkeypatch.setenv(locks.FROZEN, "1")
        with pytest.raises(FrozenError, match=r"no lockfile.*omniform lock"):
            load(folder)
        monkeypatch.setenv(locks.LOCKFILE, str(work / "gone.lock"))
        with pytest.raises(RepoError, match=r"gone.lock"):
            load(folder)
        monkeypatch.setenv(locks.FROZEN, "0")
        load(folder)

    def test_found_in_a_folder_above(self, folder, work, monkeypatch):
        recorded(work / "omniform.lock", (folder, {}))
        (work / "deep/er").mkdir(parents=True)
        monkeypatch.chdir(work / "deep/er")
        monkeypatch.setenv(locks.FROZEN, "1")
        load(folder)

    def test_the_bundled_checkpoint(self, work, tmp_path):
        recorder = Recorder()
        with watched(recorder):
            omniform.AutoConfig.from_pretrained(omniform.bundled_checkpoint())
        lock = recorder.lock(work / "omniform.lock", "")
        assert str(Path(omniform.__file__).parent) not in lock.sources[0].name
        lock.write()
        with frozen():
            omniform.AutoConfig.from_pretrained(omniform.bundled_checkpoint())

    def test_a_lock_that_cannot_be_written(self, folder, work):
        (work / "file").write_text("")
        with pytest.raises(RepoError, match="cannot be written"):
            recorded(work / "file/omniform.lock", (folder, {}))


CODE = """
from torch import nn
from .helper import WIDTH
from omniform import PreTrainedConfig, PreTrainedModel

class LockedConfig(PreTrainedConfig):
    model_type = "locked"

class LockedModel(PreTrainedModel):
    config_class = LockedConfig
    def __init__(self, config):
        super().__init__(config)
        self.lin = nn.Linear(WIDTH, WIDTH, bias=False)
"""

PLAIN = """
import json
from pathlib import Path
from torch import nn
from safetensors.torch import load_file

class PlainModel(nn.Module):
    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        model = cls()
        model.read = load_file(Path(folder) / "model.safetensors")
        return model
"""


def own(folder: Path, code: str, name: str) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "locked.py").write_text(code)
    (folder / "helper.py").write_text("WIDTH = 2\n")
    auto_map = {"AutoModel": f"locked.{name}"} | ({"AutoConfig": "locked.LockedConfig"} if code == CODE else {})
    (folder / "config.json").write_text(json.dumps({"model_type": "locked", "auto_map": auto_map}))
    save_file({"lin.weight": torch.eye(2)}, folder / "model.safetensors")
    return folder


class TestCode:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def load(self, trust):
        return omniform.AutoModel.from_pretrained("own", trust_remote_code=trust)

    @pytest.mark.parametrize(("code", "name", "trust"), [(CODE, "LockedModel", True), (PLAIN, "PlainModel", True),
                                                         (CODE, "LockedModel", "sandbox")])  # fmt: skip
    def test_code_and_weights_are_locked(self, work, code, name, trust, monkeypatch):
        from omniform.hub.code.sandbox import jail, remote

        folder = own(work / "own", code, name)
        monkeypatch.setattr(jail, "_found", lambda: jail.Namespaces("unshare"))
        monkeypatch.setattr("omniform.hub.code.sandbox.enter.load_in_sandbox", lambda *_, **__: remote)  # not its part
        recorder = Recorder()
        with watched(recorder):
            self.load(trust)
        lock = recorder.lock(work / "omniform.lock", "a test")
        lock.write()
        files = {"config.json", "locked.py", "model.safetensors"} | ({"helper.py"} if code == CODE else set())
        assert lock.sources[0].files.keys() >= files
        with frozen():
            self.load(trust)
            for file in sorted(files):
                before = (folder / file).read_bytes()
                (folder / file).write_bytes(before + b" ")
                with pytest.raises(FrozenError, match=f"{file} is not the file that was locked"):
                    self.load(trust)
                (folder / file).write_bytes(before)

    def test_from_the_command_line(self, work, capsys):
        own(work / "own", CODE, "LockedModel")
        assert main(["lock", "own"]) == 2 and "trust_remote_code" in capsys.readouterr().err
        assert main(["lock", "own", "--trust-remote-code"]) == 0
        assert set(read_lock(work / "omniform.lock").sources[0].files) >= {"locked.py", "helper.py"}

    def test_threads_are_held_too(self, folder, work):
        import shutil
        import threading

        for name in ("one", "two"):
            shutil.copytree(folder, work / name)
        recorded(work / "omniform.lock", ("one", {}))
        raised = []

        def work_on_two():
            try:
                load("two")
            except FrozenError as error:
                raised.append(error)

        with frozen():
            thread = threading.Thread(target=work_on_two)
            thread.start()
            thread.join()
        assert raised and load("two")
