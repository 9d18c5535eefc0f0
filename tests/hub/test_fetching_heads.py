"""``plan`` and ``inspect`` of a Hub id: config and headers by ranged requests, and no more."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import omniform
from omniform.cli.main import main
from omniform.core.errors import OmniformError
from omniform.hub.inspect import inspect
from reference import saved_reference, transformers

SIZES = {"vocab_size": 3000, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 64}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> Path:
    """One model in every form that weights come in."""
    top = tmp_path_factory.mktemp("kinds")
    saved_reference(transformers.GPT2LMHeadModel, transformers.GPT2Config(**SIZES), top / "single")
    model = transformers.GPT2LMHeadModel.from_pretrained(top / "single")
    model.save_pretrained(top / "sharded", max_shard_size="200KB")
    state = model.state_dict()
    apart = {**state, "lm_head.weight": state["lm_head.weight"] + 1}
    for name in ("bin", "bin-apart", "apart", "old-bin"):
        (top / name).mkdir()
        shutil.copy(top / "single" / "config.json", top / name)
    torch.save(state, top / "bin" / "pytorch_model.bin")
    torch.save(apart, top / "bin-apart" / "pytorch_model.bin")
    torch.save(state, top / "old-bin" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    save_file({key: tensor.clone() for key, tensor in apart.items()}, top / "apart" / "model.safetensors")
    return top


def headers(folder: Path) -> int:
    """Bytes that config, index and headers take."""
    told = sum(path.stat().st_size for path in folder.glob("*.json"))
    for path in folder.glob("*.safetensors"):
        told += 8 + int.from_bytes(path.read_bytes()[:8], "little")
    return told


@pytest.mark.parametrize("kind", ["single", "sharded", "apart", "bin", "bin-apart"])
def test_as_of_the_folder_and_nothing_fetched(hub, kinds, tmp_path, kind):
    hub.upload("ann/x", kinds / kind)
    weights = [path for path in (kinds / kind).iterdir() if path.suffix in (".safetensors", ".bin")]
    with hub.connected(cache=tmp_path / "home"):
        for told in (inspect, omniform.plan):
            with hub.watch() as log:
                found, here = told("ann/x"), told(kinds / kind)
            known = {"name": here.name} | ({"uses": here.uses} if told is omniform.plan else {})
            assert replace(found, **known) == here
            most = 3 * headers(kinds / kind) + 4096 * len(weights) if "bin" not in kind else 25_000
            assert log.sent() < most < sum(path.stat().st_size for path in weights), str(log)
            assert all(asked.range for asked in log.of("GET /cdn/*"))
    held = [path for path in (tmp_path / "home").rglob("*") if path.suffix in (".safetensors", ".bin")]
    assert not any(path.stat().st_size for path in held)  # an empty one notes that there is none


def test_of_tied_weights_one_row_is_read(hub, kinds, tmp_path):
    hub.upload("ann/x", kinds / "apart")
    with hub.connected(cache=tmp_path / "home"), hub.watch() as log:
        omniform.plan("ann/x")
    row = 4 * SIZES["n_embd"]
    assert [asked.sent for asked in log.of("GET /cdn/*")][-2:] == [row, row]


def test_old_pickles_are_fetched_whole(hub, kinds, tmp_path):
    hub.upload("ann/x", kinds / "old-bin")
    with hub.connected(cache=tmp_path / "home"):
        assert replace(inspect("ann/x"), name="") == replace(inspect(kinds / "old-bin"), name="")


def test_what_is_cached_is_read_there(hub, kinds, tmp_path):
    hub.upload("ann/x", kinds / "single")
    with hub.connected(cache=tmp_path / "home"):
        omniform.AutoModelForCausalLM.from_pretrained("ann/x")
        with hub.watch() as log:
            omniform.plan("ann/x")
            inspect("ann/x")
        assert len(log) == 2 and not log.count("GET")
        with hub.quiet():
            inspect("ann/x", local_files_only=True)


def test_a_server_that_knows_no_ranges_is_not_read_to_the_end(hub, kinds, tmp_path):
    hub.upload("ann/x", kinds / "single")
    hub.faults.add("GET /cdn/*", no_range=True)
    with hub.connected(cache=tmp_path / "home"):
        assert inspect("ann/x").parameters == inspect(kinds / "single").parameters


def test_cut_while_peeking(hub, kinds, tmp_path):
    hub.upload("ann/x", kinds / "single")
    hub.faults.add("GET /cdn/*", cut=100, times=2)
    with hub.connected(cache=tmp_path / "home"):
        assert inspect("ann/x").parameters == inspect(kinds / "single").parameters


DAMAGE = {
    "a header of rubbish": {"model.safetensors": b"\x10" + b"\0" * 7 + b"not json at all!" * 8},
    "a header without end": {"model.safetensors": b"\xff" * 64},
    "an empty file": {"model.safetensors": b""},
    "a broken archive": {"model.safetensors": None, "pytorch_model.bin": b"PK\x03\x04" + b"\0" * 20_000},
    "an index to elsewhere": {
        "model.safetensors": None,
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "../../x.safetensors"}}),
    },
    "a shard that is missing": {
        "model.safetensors": None,
        "model.safetensors.index.json": json.dumps({"weight_map": {"a": "none.safetensors"}}),
    },
    "no weights": {"model.safetensors": None},
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told(hub, kinds, tmp_path, capsys, what):
    hub.upload("ann/x", kinds / "single")
    hub.upload("ann/x", DAMAGE[what])
    with hub.connected(cache=tmp_path / "home"):
        for told in (inspect, omniform.plan):
            with pytest.raises(OmniformError, match=r"ann.*x"):
                told("ann/x")
        assert main(["inspect", "ann/x"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
