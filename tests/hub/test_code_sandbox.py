"""A checkpoint's code in a sandbox: what it answers, and what it can not do."""

from __future__ import annotations

import json
import os
import socket
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from omniform.core.errors import InputError
from omniform.hub.code.sandbox import jail as jails
from omniform.hub.code.sandbox.child import leaks
from omniform.hub.code.sandbox.jail import SandboxError
from omniform.hub.code.sandbox.remote import CodeError, Sandbox, Sandboxed
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
        None, True, 0, -(2**70), 1.5, float("inf"), "ü\x00", [], [1, [2, ()]], (1, "a"), {}, {"$": "tensor", "v": 0},
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
        [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8, torch.complex64],
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
