"""Letting the pages of mapped tensors go: memory falls, values stay, and nothing that was written is ever lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omniform.weights import pages
from omniform.weights.pages import prefetch
from omniform.weights.safetensors import map_tensors, read_header, release

MB = 2**20

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/pagemap"), reason="pages are let go on Linux only")


def resident() -> int:
    """Bytes of mapped files that this process holds in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssFile")


@pytest.fixture
def mapped(tmp_path):
    values = {"a": torch.randn(8 * MB // 4), "b": torch.randn(1024, 8 * MB // 4096), "small": torch.randn(3)}
    path = tmp_path / "m.safetensors"
    save_file(values, path)
    return map_tensors(path, read_header(path)), values


def test_memory_falls_and_values_stay(mapped):
    tensors, values = mapped
    before = resident()
    assert torch.equal(tensors["a"], values["a"]) and torch.equal(tensors["b"], values["b"])
    held = resident()
    assert held - before > 15 * MB
    release(tensors["a"])
    assert held - resident() > 7 * MB
    release(tensors["b"].t())  # a view that is read the other way round is the same memory
    assert held - resident() > 15 * MB
    assert all(torch.equal(tensors[name], value) for name, value in values.items())


def test_what_was_written_is_kept(mapped):
    tensors, values = mapped
    tensors["a"][5] = 42.0
    release(tensors["a"])
    assert tensors["a"][5] == 42.0
    tensors["b"][0] = 7.0
    release(tensors["a"])
    release(tensors["b"])
    assert bool((tensors["b"][0] == 7.0).all())
    assert torch.equal(tensors["b"][1:], values["b"][1:]) and torch.equal(tensors["a"][6:], values["a"][6:])


def test_neighbours_on_the_same_page_keep_what_was_written(mapped):
    tensors, values = mapped
    tensors["small"].zero_()
    for name in ("a", "b"):
        release(tensors[name])
    assert bool((tensors["small"] == 0).all())
    assert torch.equal(tensors["a"], values["a"]) and torch.equal(tensors["b"], values["b"])


@pytest.mark.parametrize(
    "tensor",
    [torch.randn(MB), torch.randn(1024, 1024).t(), torch.empty(0), torch.tensor(1.0), torch.randn(4).to_sparse(),
     torch.randn(1024, 1024)[::3, 5:7], torch.randn(1, 1024, 1).expand(1024, 1024, 4)],
)  # fmt: skip
def test_plain_memory_is_left_alone(tensor):
    before = tensor.to_dense().clone()
    release(tensor)
    prefetch(tensor)
    assert torch.equal(tensor.to_dense(), before)


def test_tensors_without_memory():
    release(torch.empty(4096, 4096, device="meta"))
    prefetch(torch.empty(4096, 4096, device="meta"))


def test_fetched_early(mapped):
    tensors, values = mapped
    release(tensors["a"])
    prefetch(tensors["a"])
    assert torch.equal(tensors["a"], values["a"])


def test_one_look_at_maps_for_many_tensors(monkeypatch):
    asked = []
    monkeypatch.setattr(pages, "_mapped_now", lambda: asked.append(1) or pages.Maps((), ()))
    with pages.one_look_at_maps():
        found = [pages.maps_of_private_files() for _ in range(3)]
    assert len(asked) == 1 and found[1] is found[0] is found[2]
    pages.maps_of_private_files()
    assert len(asked) == 2, "what was told is forgotten: files may be mapped since"
