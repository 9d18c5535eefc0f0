"""What a GGUF file holds in blocks is written again byte for byte, whatever becomes of rows on the way; and files that
are written to a disk that is full, or by somebody who is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import omniform
from omniform.weights.gguf.reader import read_gguf

pytest.importorskip("gguf")
import gguf
from gguf_random import FORMATS, MIXED, PLACES, random_file

FAMILIES = (
    "llama",
    "tied llama",
    "mixtral",
    "qwen3moe",
    "phi3",
    "gpt2",
    "bloom",
    "new falcon",
    "granitemoe",
    "gpt-oss",
)
"""Rows that are turned into halves, fused, parted, interleaved; tied tables; experts one by one, stacked, in pairs."""
NAMED = {"Q2_K": "Q2_K_S", "Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}


def raws(path):
    """The bytes and the types of a file's tensors, as the gguf package reads them."""
    found = gguf.GGUFReader(path).tensors
    return {one.name: (one.tensor_type.name, np.array(one.data).reshape(-1)) for one in found}


def are_the_same(path, other, dtype=torch.float32):
    """Whether two files hold the same bytes; but vectors, rounded to what a model computes with."""
    mine, theirs = raws(path), raws(other)
    assert mine.keys() == theirs.keys()
    for name, (kind, raw) in theirs.items():
        assert mine[name][0] == kind, name
        raw = torch.from_numpy(raw).to(dtype).float().numpy() if kind == "F32" else raw
        assert np.array_equal(mine[name][1].view(np.uint8), raw.view(np.uint8)), name
    return {kind for kind, _ in theirs.values()}


@pytest.mark.parametrize(
    ("name", "form"), [*(("llama", form) for form in FORMATS), *((name, MIXED) for name in FAMILIES[1:])]
)
def test_blocks_come_back_byte_for_byte(name, form, tmp_path):
    path = random_file(tmp_path, name, form)
    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    model.save_gguf(tmp_path / "a" / "model.gguf")
    kinds = are_the_same(tmp_path / "a" / "model.gguf", path, model.dtype)
    assert kinds >= ({"Q4_K", "Q6_K"} if form == MIXED else {form})
    again = omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "a" / "model.gguf")
    again.save_gguf(tmp_path / "b" / "model.gguf")
    assert (tmp_path / "b" / "model.gguf").read_bytes() == (tmp_path / "a" / "model.gguf").read_bytes()
    if form in PLACES:  # of the type that a name gives them, blocks are not quantized again
        again.save_gguf(tmp_path / "c.gguf", type=NAMED.get(form, form))
        kept = [one for one, (kind, raw) in raws(tmp_path / "c.gguf").items() if kind == form]
        found, expected = raws(tmp_path / "c.gguf"), raws(path)
        assert len(kept) > 10 and all(np.array_equal(found[one][1], expected[one][1]) for one in kept)


def test_what_is_changed_is_not_what_was_read(tmp_path):
    """Blocks of another type are quantized anew; rows that were taken away are gone."""
    path = random_file(tmp_path, "llama", "Q8_0")
    model = omniform.AutoModelForCausalLM.from_pretrained(path)
    model.save_gguf(tmp_path / "small.gguf", type="Q4_0")
    assert raws(tmp_path / "small.gguf")["blk.0.ffn_up.weight"][0] == "Q4_0"
    plain = omniform.AutoModelForCausalLM.from_pretrained(path, dequantize=True)
    plain.save_gguf(tmp_path / "plain.gguf")
    file = read_gguf(tmp_path / "plain.gguf")
    assert {info.kind.name for info in file.tensors.values()} == {"F32"} and file.metadata["general.file_type"] == 0
    assert torch.equal(
        file.raw("blk.0.ffn_up.weight").view(torch.float32), plain.model.layers[0].mlp.up_proj.weight.detach()
    )


TYPES = {"Q4_K_M": 15, "Q8_0": 7, "IQ4_XS": 30, "F16": 1}


@pytest.mark.parametrize("name", TYPES)
def test_the_name_of_a_mix_is_found_again(name, tmp_path):
    path = random_file(tmp_path, "llama", "BF16")
    omniform.AutoModelForCausalLM.from_pretrained(path).save_gguf(tmp_path / "made.gguf", type=name)
    omniform.AutoModelForCausalLM.from_pretrained(tmp_path / "made.gguf").save_gguf(tmp_path / "again.gguf")
    found = read_gguf(tmp_path / "again.gguf").metadata["general.file_type"]
    assert found == read_gguf(tmp_path / "made.gguf").metadata["general.file_type"] == TYPES[name]
    are_the_same(tmp_path / "again.gguf", tmp_path / "made.gguf")


def run(code, *arguments):
    asked = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(asked, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_full_disk(tmp_path):
    path = random_file(tmp_path / "m", "llama", "Q8_0")
    before = path.read_bytes()
    code = """
import resource, sys, omniform
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))
for target in sys.argv[1:]:
    try:
        model.save_gguf(target)
    except omniform.OmniformError as error:
        print(type(error).__name__, error)
"""
    done = run(code, path, tmp_path / "m" / "new.gguf")
    told = done.stdout.splitlines()
    assert len(told) == 2 and all(line.startswith("RepoError") and "too large" in line for line in told), done
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == ["model.gguf", "plain"]


def size_of(path):
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it has its own name by now


KILLED = """
import sys, torch, omniform
torch.set_num_threads(1)
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1], dequantize=True)
value = 1.0
print("ready", flush=True)
while True:
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(value)
    model.save_gguf(sys.argv[2], type="F32" if value % 2 else "Q8_0")
    value += 1
"""


@pytest.mark.slow
def test_killed_while_it_writes(tmp_path):
    path, target = random_file(tmp_path, "llama", "Q8_0"), tmp_path / "made.gguf"
    kept = omniform.AutoModelForCausalLM.from_pretrained(path)
    kept.save_gguf(target)
    first = target.read_bytes()
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, target], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    end = time.monotonic() + 120
    while time.monotonic() < end and not any(size_of(one) for one in tmp_path.glob(".made.gguf-*/*")):
        pass  # until there is something of the new file
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".made.gguf-*")), "nothing was interrupted"
    if target.read_bytes() != first:  # a later one's turn was cut off
        model = omniform.AutoModelForCausalLM.from_pretrained(target, dequantize=True)
        values = {round(float(v), 2) for p in model.parameters() for v in (p.detach().min(), p.detach().max())}
        assert len(values) == 1 and values.pop() >= 1, "whole, and of one kind"
    kept.save_gguf(target)
    assert not list(tmp_path.glob(".made.gguf-*")), "what the killed left is cleared away"
    assert target.read_bytes() == first
