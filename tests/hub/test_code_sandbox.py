"""A checkpoint's code in a sandbox: what it answers, and what it can not do."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch

import omniform
from omniform.core.errors import InputError, SandboxError
from omniform.hub.code.sandbox import jail as jails
from omniform.hub.code.sandbox.child import leaks
from omniform.hub.code.sandbox.remote import Sandboxed, SandboxedError
from omniform.hub.code.sandbox.wire import Handle, Record, WireError, receive, send

needs_jail = pytest.mark.skipif(isinstance(jails._found(), str), reason=f"no sandbox here: {jails._found()}")


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


def through(pair, value, keep=None):
    send(pair[0], value, keep)
    return receive(pair[1])


class TestWire:
    VALUES = (
        None, True, 0, -(2**70), 1.5, float("inf"), "ü\x00", [], [1, [2, ()]], (1, "a"), {}, {0: "a", "b": 1},
        {"$": "tensor", "v": 0},
        torch.float16, torch.device("cpu"), Handle(3, "Cache"),
    )  # fmt: skip

    @pytest.mark.parametrize("value", VALUES, ids=repr)
    def test_plain_values(self, pair, value):
        found = through(pair, value)
        assert found == value and type(found) is type(value)

    def test_not_a_number(self, pair):
        found = through(pair, float("nan"))
        assert isinstance(found, float) and found != found

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.float32,
            torch.float64,
            torch.bfloat16,
            torch.float16,
            torch.int64,
            torch.bool,
            torch.uint8,
            torch.complex64,
        ],
    )
    def test_tensors(self, pair, dtype):
        given = {"a": torch.randn(3, 5).to(dtype), "b": [torch.ones(0, 4, dtype=dtype), torch.tensor(2).to(dtype)]}
        found = through(pair, given)
        assert torch.equal(found["a"], given["a"]) and found["a"].dtype == dtype
        assert found["b"][0].shape == (0, 4) and torch.equal(found["b"][1], given["b"][1])

    def test_tensors_as_views_and_with_gradients(self, pair):
        given = torch.randn(6, 4, requires_grad=True)
        found = through(pair, given[::2].T)
        assert torch.equal(found, given[::2].T) and not found.requires_grad
        found.add_(1)  # what is written here stays here

    def test_arrays_and_records(self, pair):
        class Output(dict):
            pass

        array = torch.arange(6).reshape(2, 3).numpy()
        found = through(pair, Output(array=array, size=torch.Size([2, 3]), number=array[1, 2]))
        assert isinstance(found, Record) and found.kind == "Output"
        assert (found.values["array"] == array).all() and found.values["size"] == (2, 3) and found.values["number"] == 5

    def test_objects_are_refused_or_kept(self, pair):
        with pytest.raises(InputError, match=r"message\['a'\]\[0\]"):
            through(pair, {"a": [print]})
        assert through(pair, {"a": print}, lambda value: Handle(7, "function")) == {"a": Handle(7, "function")}
        assert through(pair, "still in order") == "still in order"

    def test_a_deep_value(self, pair):
        deep: list[object] = []
        for _ in range(100):
            deep = [deep]
        with pytest.raises(InputError, match="nested"):
            through(pair, deep)

    @pytest.mark.parametrize(
        ("text", "fd"),
        [
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["float32", [10**12], 0]]}, True),
            ({"body": {"$": "tensor", "v": -1}, "tensors": [["float32", [1], 0]]}, True),
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["float32", [-1, -1], 0]]}, True),
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["float32", [True], 0]]}, True),
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["float32", [1], 4096]]}, True),
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["object", [1], 0]]}, True),
            ({"body": {"$": "tensor", "v": 0}, "tensors": [["float32", [1], 0]]}, False),
            ({"body": {"$": "pickle", "v": "cos\nsystem\n"}, "tensors": []}, False),
            ({"body": {"v": 1}, "tensors": []}, False),
            ({"body": 1}, False),
            ([1, 2], False),
            ("[" * 100_000, False),
            ("9" * 10_000, False),
        ],
    )
    def test_messages_that_lie(self, pair, text, fd):
        import mmap

        from omniform.hub.code.sandbox import wire

        body = (text if isinstance(text, str) else json.dumps(text)).encode()
        memory = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, mmap.PAGESIZE)
        wire.fcntl.fcntl(memory, wire.fcntl.F_ADD_SEALS, wire.SEALS)
        socket.send_fds(pair[0], [wire.HEADER.pack(len(body), fd)], [memory] if fd else [])
        pair[0].sendall(body)
        os.close(memory)
        with pytest.raises(WireError):
            receive(pair[1])

    @pytest.mark.parametrize("kind", ["unsealed", "file", "pipe", "none"])
    def test_memory_that_may_change(self, pair, kind, tmp_path):
        from omniform.hub.code.sandbox import wire

        body = json.dumps({"body": {"$": "tensor", "v": 0}, "tensors": [["uint8", [4], 0]]}).encode()
        if kind == "unsealed":
            handed = os.memfd_create("x", os.MFD_ALLOW_SEALING)
            os.ftruncate(handed, 64)
        elif kind == "file":
            (tmp_path / "x").write_bytes(b"0" * 64)
            handed = os.open(tmp_path / "x", os.O_RDWR)
        else:
            handed = os.pipe()[0]
        socket.send_fds(pair[0], [wire.HEADER.pack(len(body), True)], [] if kind == "none" else [handed])
        pair[0].sendall(body)
        with pytest.raises(WireError):
            receive(pair[1])

    def test_an_endless_message(self, pair):
        from omniform.hub.code.sandbox import wire

        pair[0].sendall(wire.HEADER.pack(2**62, False))
        with pytest.raises(WireError):
            receive(pair[1])


def test_outside_everything_is_open():
    assert "privileges can be gained" in leaks() and any("can be written" in leak for leak in leaks())


# ---- with a checkpoint's code

MODEL = """
import os, socket, sys
import torch
from torch import nn
from omniform import PreTrainedConfig, PreTrainedModel

class BoxConfig(PreTrainedConfig):
    model_type = "boxed"

    def __init__(self, width=4, **kwargs):
        self.width = width
        super().__init__(**kwargs)

class Memory:
    def __init__(self):
        self.seen = 0

class BoxModel(PreTrainedModel):
    config_class = BoxConfig

    def __init__(self, config):
        super().__init__(config)
        self.lin = nn.Linear(config.width, 3)

    def forward(self, x, memory=None, scale=1.0):
        memory = memory or Memory()
        memory.seen += len(x)
        return {"y": self.lin(x) * scale, "seen": memory.seen, "memory": memory, "nothing": None}

    def read(self, path):
        return open(path).read()

    def write(self, path):
        open(path, "w").write("x")
        return True

    def listing(self, path):
        return sorted(os.listdir(path))

    def connect(self, host, port):
        socket.create_connection((host, port), timeout=2)

    def connect_unix(self, path):
        socket.socket(socket.AF_UNIX).connect(path)

    def look_up(self, host):
        return socket.getaddrinfo(host, 80)

    def environment(self):
        return dict(os.environ)

    def processes(self):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]

    def kill(self, pid):
        os.kill(pid, 9)

    def run(self, *words):
        import subprocess
        return subprocess.run(words, capture_output=True, text=True, timeout=20).returncode

    def chroot(self):
        os.chroot("/tmp")

    def stop(self):
        print("my last words", flush=True)
        os._exit(7)

    def leave(self):
        sys.exit("gone")

    def lies(self):
        class Odd:
            def __reduce__(self):
                return os.system, ("touch /tmp/x",)
        return Odd()

    def walk(self):
        yield from (torch.ones(2), torch.zeros(2))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "model"
    folder.mkdir()
    (folder / "boxed.py").write_text(MODEL)
    auto_map = {"AutoConfig": "boxed.BoxConfig", "AutoModel": "boxed.BoxModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "boxed", "auto_map": auto_map, "width": 4}))
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file({"lin.weight": torch.randn(3, 4), "lin.bias": torch.randn(3)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    with omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox") as model:
        yield model


@needs_jail
class TestModel:
    def test_nothing_of_it_was_imported_here(self, model):
        import sys

        assert not any("boxed" in name for name in sys.modules)

    def test_it_is_the_same_model(self, model, folder, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        here = omniform.AutoModel.from_pretrained(folder, trust_remote_code=True)
        x = torch.randn(5, 4)
        found, expected = model(x, scale=0.5), here(x, scale=0.5)
        assert torch.equal(found["y"], expected["y"]) and found["seen"] == 5 and found["nothing"] is None
        assert not found["y"].requires_grad
        assert torch.equal(model.forward(x=x)["y"], here(x)["y"])

    def test_objects_stay_there_and_come_back(self, model):
        first = model(torch.ones(2, 4))
        assert isinstance(first["memory"], Sandboxed) and first["memory"].seen == 2
        assert model(torch.ones(3, 4), memory=first["memory"])["seen"] == 5 and first["memory"].seen == 5

    def test_attributes_and_methods(self, model):
        assert model.config.width == 4 and model.config.to_dict()["width"] == 4
        assert model.eval() is model and model.num_parameters() == 15 and model.dtype == torch.float32
        assert [t.tolist() for t in model.walk()] == [[1, 1], [0, 0]]
        assert hasattr(model, "forward") and not hasattr(model, "no_such_thing")
        assert repr(model) == "Sandboxed(BoxModel)"
        with pytest.raises(AttributeError):
            model._modules  # noqa: B018

    def test_what_cannot_be_passed(self, model):
        with pytest.raises(InputError, match="cannot be passed into a sandbox"):
            model(torch.ones(1, 4), memory=object())
        with pytest.raises(SandboxError, match="pickled"):
            import pickle

            pickle.dumps(model)
        assert model(torch.ones(1, 4))["seen"] == 1

    def test_what_it_raises_is_told(self, model):
        with pytest.raises(SandboxedError, match=r"RuntimeError: mat1 and mat2"):
            model(torch.ones(1, 5))
        with pytest.raises(SandboxedError, match="SystemExit: gone"):
            model.leave()
        assert model(torch.ones(1, 4))["seen"] == 1

    def test_an_object_of_its_own_runs_nothing_here(self, model, tmp_path):
        odd = model.lies()
        assert isinstance(odd, Sandboxed) and repr(odd) == "Sandboxed(Odd)" and not Path("/tmp/x").exists()


@needs_jail
class TestWhatItCannotDo:
    @pytest.mark.parametrize(
        "path", ["~/.bashrc", "/etc/passwd", "/etc/shadow", "/root/.ssh", __file__, "/proc/1/root/etc/passwd"]
    )
    def test_read(self, model, path):
        with pytest.raises(SandboxedError, match=r"FileNotFoundError|PermissionError|IsADirectory"):
            model.read(str(Path(path).expanduser()))

    def test_read_what_is_ours(self, model, folder, tmp_path):
        (tmp_path / "secret").write_text("secret")
        with pytest.raises(SandboxedError, match="FileNotFoundError"):
            model.read(str(tmp_path / "secret"))
        assert "width" in model.read(str(folder / "config.json"))
        assert Path.home().name not in ("", "tmp") and "secret" not in model.environment()

    @pytest.mark.parametrize("path", ["/x", "/usr/x", "/etc/x", "/proc/sys/kernel/core_pattern", "/dev/x", "/sys/x"])
    def test_write(self, model, path):
        with pytest.raises(SandboxedError, match=r"OSError|PermissionError|FileNotFoundError"):
            model.write(path)

    def test_write_into_the_checkpoint_or_the_package(self, model, folder):
        package = Path(omniform.__file__).parent
        for path in (folder / "x.py", folder / "config.json", package / "x.py", package / "__init__.py"):
            with pytest.raises(SandboxedError, match="Read-only"):
                model.write(str(path))
        assert model.write("/tmp/scratch") and model.read("/tmp/scratch") == "x" and not Path("/tmp/scratch").exists()

    def test_reach_a_network(self, model, tmp_path):
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            pytest.raises(SandboxedError, match=r"unreachable|refused"),
        ):
            model.connect("127.0.0.1", server.getsockname()[1])
        with pytest.raises(SandboxedError, match="unreachable"):
            model.connect("1.1.1.1", 53)
        with pytest.raises(SandboxedError, match="gaierror"):
            model.look_up("pypi.org")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("\0omniform-test")
            server.listen()
            with pytest.raises(SandboxedError, match="refused"):
                model.connect_unix("\0omniform-test")

    def test_see_tokens(self, model, monkeypatch):
        told = model.environment()
        assert not {"HF_TOKEN", "SSH_AUTH_SOCK", "AWS_SECRET_ACCESS_KEY"} & told.keys() and told["HOME"] == "/tmp"

    def test_see_or_kill_other_processes(self, model):
        assert os.getpid() not in model.processes() and len(model.processes()) < 10
        with pytest.raises(SandboxedError, match=r"ProcessLookupError|PermissionError"):
            model.kill(os.getpid() + 10_000_000 % 1000 + 5000)

    @pytest.mark.parametrize(
        "words",
        [
            ("mount", "-t", "tmpfs", "none", "/tmp"),
            ("unshare", "-Urm", "true"),
            ("umount", "/tmp"),
            ("chroot", "/tmp", "true"),
        ],
    )
    def test_gain_rights(self, model, words):
        assert model.run(*words) != 0
        with pytest.raises(SandboxedError, match="PermissionError"):
            model.chroot()

    def test_end_this_process(self, folder):
        model = omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox")
        with pytest.raises(SandboxError, match=r"process has ended.*exit code 7") as caught:
            model.stop()
        assert "my last words" in str(caught.value)
        with pytest.raises(SandboxError, match="has ended"):
            model(torch.ones(1, 4))


@needs_jail
class TestEnds:
    def test_code_that_fails_to_load(self, folder, tmp_path):
        import shutil

        shutil.copytree(folder, tmp_path / "bad")
        (tmp_path / "bad/boxed.py").write_text("open('/root/canary', 'w')\nraise ValueError('bad day')")
        with pytest.raises(SandboxedError, match=r"Read-only|No such file"):
            omniform.AutoModel.from_pretrained(tmp_path / "bad", trust_remote_code="sandbox")

    def test_it_ends_with_its_owner(self, folder):
        import gc

        model = omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox")
        process = model._sandbox._process
        assert process.poll() is None
        del model
        gc.collect()
        assert process.poll() is not None

    def test_config_and_keywords(self, folder):
        with omniform.AutoConfig.from_pretrained(folder, trust_remote_code="sandbox") as config:
            assert config.width == 4 and config.model_type == "boxed"
        with omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox", dtype=torch.float64) as model:
            assert model.dtype == torch.float64
        for given in (str(folder), config):
            with pytest.raises(InputError, match=r"config.*by keyword"):
                omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox", config=given)
        with omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox", id2label={0: "a"}) as model:
            assert model.config.num_labels == 1

    def test_without_code_there_is_nothing_to_lock_up(self, tmp_path):
        config = omniform.LlamaConfig(
            vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        )
        omniform.LlamaForCausalLM(config).save_pretrained(tmp_path)
        model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code="sandbox")
        assert isinstance(model, omniform.LlamaForCausalLM)


@needs_jail
def test_from_a_hub(hub, folder, tmp_path):
    """What it needs is fetched here, at one commit; another repository's code too."""
    files = {path.name: path for path in folder.iterdir()}
    hub.upload("ann/own", {**files, "other.bin": b"x" * 100_000, "sub/notes.txt": "n"}, large=True)
    there = json.dumps({"model_type": "boxed", "auto_map": {"AutoModel": "ann/own--boxed.BoxModel"}, "width": 4})
    hub.upload("bob/weights", {"config.json": there, "model.safetensors": folder / "model.safetensors"})
    x = torch.ones(1, 4)
    with hub.connected(cache=tmp_path / "cache"):
        with hub.watch() as log, omniform.AutoModel.from_pretrained("ann/own", trust_remote_code="sandbox") as model:
            expected = model(x)["y"]
            assert not log.count("*other.bin*") and log.count("*model.safetensors*")
        with omniform.AutoModel.from_pretrained("bob/weights", trust_remote_code="sandbox") as model:
            assert torch.equal(model(x)["y"], expected)
        with hub.watch() as log:
            commit = hub.repo("ann/own").head("main")
            omniform.AutoModel.from_pretrained("ann/own", revision=commit, trust_remote_code="sandbox").close()
            assert len(log) == 1  # the list of its files
    assert not list((tmp_path / "cache").rglob("trust.json"))


def test_where_the_machine_has_none(folder, monkeypatch):
    monkeypatch.setattr(jails, "_found", lambda: "bubblewrap: No permissions to create new namespace")
    with pytest.raises(SandboxError, match=r"no sandbox.*No permissions.*trust_remote_code=True"):
        omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox")
