"""A sandbox's beginning and end, what is lent from it, and what a checkpoint must not bring along."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import omniform
from omniform.core.errors import InputError, SandboxError
from omniform.hub.code.sandbox import enter, wire
from omniform.hub.code.sandbox import jail as jails
from omniform.hub.code.sandbox.remote import Sandboxed, SandboxedError, SandboxedOutput
from omniform.hub.code.sandbox.wire import WireError, receive, send

needs_jail = pytest.mark.skipif(isinstance(jails._found(), str), reason=f"no sandbox here: {jails._found()}")

CODE = """
import os, resource, time, torch
from torch import nn
from omniform import GenerationConfig, PreTrainedConfig, PreTrainedModel

class Config(PreTrainedConfig):
    model_type = "lent"

class Inner:
    def __init__(self):
        self.side, self.words = "right", {"a": 1}
    def __call__(self, text):
        return {"n": len(text)}
    def __contains__(self, word):
        return word in self.words
    def __setitem__(self, word, value):
        self.words[word] = value
    def __len__(self):
        return -1 if self.side == "lies" else len(self.words)

class Model(PreTrainedModel):
    config_class = Config
    def __init__(self, config):
        super().__init__(config)
        self.lin = nn.Linear(2, 2)
        self.tokenizer = Inner()
    def forward(self, x):
        return {"y": self.lin(x), "ids": torch.ones(2, dtype=torch.long)}
    def settings(self, generation_config):
        return [type(generation_config).__module__, generation_config.max_new_tokens, generation_config.do_sample]
    def same(self, *things):
        return [type(thing).__name__ for thing in things], *things
    def limits(self):
        names = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_NPROC")
        found = [resource.getrlimit(getattr(resource, name)) for name in names]
        return found, int(open("/proc/self/oom_score_adj").read()), os.listdir("/proc/self/fd")
    def nothing(self):
        return torch.empty(2, device="meta")
    def shout(self):
        raise ValueError("x" * 100_000)
    def spin(self):
        while True:
            time.sleep(0.01)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "it's -- a \t\N{SNOWMAN} model\\"
    folder.mkdir()
    (folder / "lent.py").write_text(CODE)
    auto_map = {"AutoConfig": "lent.Config", "AutoModel": "lent.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "lent", "auto_map": auto_map}))
    save_file({"lin.weight": torch.eye(2), "lin.bias": torch.zeros(2)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """Loaded by a thread that has ended: what is in a sandbox ends with its process, not with its thread."""
    loaded = []
    scratch = tmp_path_factory.mktemp("scratch")

    def load():
        loaded.append(omniform.AutoModel.from_pretrained(folder, trust_remote_code="sandbox"))

    jails.jail()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    (model,) = loaded
    assert not list(scratch.iterdir())  # while it runs already: nothing is left however this process ends
    with model:
        yield model


@needs_jail
class TestLent:
    def test_modules_and_parts_have_attributes(self, model):
        assert torch.equal(model.lin.weight, torch.eye(2)) and model.lin(torch.ones(2)).tolist() == [1, 1]
        assert isinstance(model.tokenizer, Sandboxed) and model.tokenizer("abc") == {"n": 3}
        assert not isinstance(model.forward, Sandboxed)

    def test_attributes_are_set_there(self, model):
        model.tokenizer.side = "left"
        model.tokenizer["b"] = 2
        assert model.tokenizer.side == "left" and "side" not in vars(model.tokenizer)
        assert "b" in model.tokenizer and "c" not in model.tokenizer and len(model.tokenizer) == 2
        model.tokenizer.side = "lies"
        with pytest.raises(SandboxError, match="no answer"):
            len(model.tokenizer)

    def test_settings_of_generation(self, model):
        given = omniform.GenerationConfig(max_new_tokens=7)
        assert model.settings(generation_config=given) == [type(given).__module__, 7, None]

    def test_outputs_move(self, model):
        out = model(torch.ones(1, 2))
        moved = model.same({"y": torch.ones(2), "n": 1})[1]
        assert isinstance(out, (dict, SandboxedOutput)) and isinstance(moved, dict)
        batch = SandboxedOutput("Batch", {"ids": torch.ones(2, dtype=torch.long), "pixels": torch.ones(2), "n": 1})
        assert batch.to("cpu", torch.float64) is batch
        assert batch.ids.dtype == torch.long and batch.pixels.dtype == torch.float64 and batch.n == 1
        assert batch.to(dtype=torch.float16)["pixels"].dtype == torch.float16

    def test_pictures_sets_and_bytes(self, model):
        picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
        kinds, *same = model.same(picture, picture.convert("L"), picture.convert("P"), {1, "a"}, b"\0ab", np.float32(2))
        assert kinds == ["Image", "Image", "Image", "set", "bytes", "float"] and same[3:] == [{1, "a"}, b"\0ab", 2.0]
        assert list(same[0].getdata()) == list(picture.getdata()) and same[1].mode == "L" and same[2].mode == "RGB"
        assert same[0].size == (4, 2)

    def test_what_does_not_pass_ends_nothing(self, model):
        for given in (np.array(["a"]), torch.empty(1, device="meta"), torch.eye(2).to_sparse()):
            with pytest.raises(InputError):
                model.same(given)
        with pytest.raises(SandboxedError, match="cannot be passed"):
            model.nothing()
        with pytest.raises(SandboxedError) as caught:
            model.shout()
        assert len(str(caught.value)) < 2000
        assert model.same(np.array(3))[1].shape == () and model.same(torch.tensor([1j]).conj())[1].item() == -1j

    def test_limits(self, model):
        (core, files, processes), killed_first, descriptors = model.limits()
        assert core == (0, 0) and files[1] <= 4096 and processes[1] <= 4096 and killed_first == 1000
        assert len(descriptors) <= 5  # the standard ones, the channel, and the list itself

    def test_threads_get_their_own_answers(self, model):
        wrong = []

        def ask(number: float) -> None:
            for _ in range(20):
                if model(torch.full((1, 2), number))["y"].tolist() != [[number, number]]:
                    wrong.append(number)

        threads = [threading.Thread(target=ask, args=(float(n),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    @pytest.mark.filterwarnings("ignore:.*fork.*")
    def test_a_fork_neither_asks_nor_ends_it(self, model):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                model(torch.ones(1, 2))
            except SandboxError as error:
                os.write(write, str(error).encode())
            model.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert b"forked" in os.read(read, 1000) and model(torch.ones(1, 2))["y"].shape == (1, 2)
        os.close(read)
        os.close(write)


@needs_jail
def test_it_ends_when_its_owner_is_killed(folder):
    script = (
        "import os, sys, threading, time, omniform\n"
        f"model = omniform.AutoModel.from_pretrained({str(folder)!r}, trust_remote_code='sandbox')\n"
        "threading.Thread(target=model.spin, daemon=True).start()\n"
        "time.sleep(0.3)\n"
        "print(model._sandbox._process.pid, flush=True)\n"
        "os.fork() or (os.close(1), time.sleep(3))\n"  # a child that keeps the channel open
        "os.kill(os.getpid(), 9)\n"
    )
    process = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=300, check=False)
    pid = int(process.stdout.split()[0])
    for _ in range(100):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "zombie" in status.read_text():
            return
        time.sleep(0.05)
    raise AssertionError("it goes on")


@needs_jail
def test_one_that_never_answers(folder, monkeypatch):
    from omniform.hub.code.sandbox import remote

    class Sleeping:
        def command(self, argv, readable, mount_point):
            return ["sleep", "60"]

    monkeypatch.setattr(remote, "jail", Sleeping)
    monkeypatch.setattr(remote, "PATIENCE", 0.2)
    before = threading.active_count()
    with pytest.raises(SandboxError, match="does not answer"):
        remote.Sandbox([])
    gc.collect()
    for _ in range(100):
        if threading.active_count() == before:
            return
        time.sleep(0.02)
    raise AssertionError("its thread goes on")


class TestWhatIsSeen:
    @pytest.mark.parametrize("above", [Path("/"), Path("/tmp"), Path.home(), Path.home().parent])
    def test_never_a_home_or_everything(self, above):
        with pytest.raises(SandboxError, match="a folder of its own"):
            jails.visible([above])

    def test_nor_the_tokens(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        (tmp_path / "hf/model").mkdir(parents=True)
        with pytest.raises(SandboxError):
            jails.visible([tmp_path])
        assert jails.visible([tmp_path / "hf/model"]) == [tmp_path / "hf/model"]

    def test_through_the_systems_links(self):
        for link in (Path(name) for name in ("/bin", "/lib") if Path(name).is_symlink()):
            assert all(path.parts[1] == "usr" for path in jails.visible([*link.iterdir()][:3]))

    @pytest.fixture
    def said(self, monkeypatch) -> list[str]:
        lines: list[str] = []
        monkeypatch.setattr(enter.log, "warning", lambda text, *args: lines.append(text % args))
        return lines

    def test_links_that_lead_out(self, tmp_path, said):
        (tmp_path / "secret").write_text("s")
        (tmp_path / "m/sub").mkdir(parents=True)
        (tmp_path / "m/a").symlink_to("sub")
        (tmp_path / "m/sub/b").symlink_to(tmp_path / "secret")
        assert enter._linked(tmp_path / "m") == []
        assert len(said) == 1 and said[0].endswith(": sub/b")

    def test_a_repository_in_the_cache_is_a_folder_too(self, tmp_path, said):
        (tmp_path / "snapshots/abc").mkdir(parents=True)
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs/1").write_text("x")
        (tmp_path / "snapshots/abc/x").symlink_to("../../blobs/1")
        assert enter._linked(tmp_path / "snapshots/abc") == [tmp_path / "blobs"] and not said
        (tmp_path / "blobs").rename(tmp_path / "others")
        (tmp_path / "blobs").symlink_to("others")
        assert enter._linked(tmp_path / "snapshots/abc") == [] and said[0].endswith(": x")


class TestWire:
    @pytest.fixture
    def pair(self):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        theirs.settimeout(10)
        yield ours, theirs
        ours.close()
        theirs.close()

    def lie(self, pair, body, table, numbers=b""):
        text = json.dumps({"body": body, "tensors": table}).encode()
        memory = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(memory, 4096)
        os.pwrite(memory, numbers, 0)
        wire.fcntl.fcntl(memory, wire.fcntl.F_ADD_SEALS, wire.SEALS)
        socket.send_fds(pair[0], [wire.HEADER.pack(len(text), True)], [memory])
        pair[0].sendall(text)
        os.close(memory)
        return receive(pair[1])

    def test_true_and_false_are_all_there_is(self, pair):
        found = self.lie(pair, {"$": "tensor", "v": 0}, [["bool", [4], 0]], bytes([0, 1, 2, 255]))
        assert found.view(torch.uint8).tolist() == [0, 1, 1, 1]

    @pytest.mark.parametrize(
        ("body", "shape"),
        [
            ({"$": "tensor", "v": 0}, [1] * 1000),
            ({"$": "tensor", "v": 0}, [0, 2**62, 2**62]),
            ({"$": "tensor", "v": 0}, [0, 2**70]),
            ({"$": "picture", "v": {"$": "tensor", "v": 0}, "m": "RGB", "s": [2**20, 2**20]}, [12]),
            ({"$": "picture", "v": {"$": "tensor", "v": 0}, "m": "RGB", "s": [2, -2]}, [12]),
            ({"$": "picture", "v": {"$": "tensor", "v": 0}, "m": ["RGB"], "s": [2, 2]}, [12]),
            ({"$": "picture", "v": {"$": "tensor", "v": 0}, "m": "PNG", "s": [2, 2]}, [12]),
            ({"$": "picture", "v": 1, "m": "RGB", "s": [2, 2]}, [12]),
            ({"$": "set", "v": [[]]}, [1]),
            ({"$": "bytes", "v": "zz"}, [1]),
        ],
    )
    def test_lies(self, pair, body, shape):
        with pytest.raises(WireError):
            self.lie(pair, body, [["uint8", shape, 0]])

    def test_a_mapping_that_fails_sends_nothing(self, pair):
        class Odd(UserDict):
            def __iter__(self):
                raise KeyError("odd")

        with pytest.raises(InputError, match="KeyError"):
            send(pair[0], {"a": Odd(b=1)})
        send(pair[0], 1)
        assert receive(pair[1]) == 1
