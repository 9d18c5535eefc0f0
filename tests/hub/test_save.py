"""Saving: round trips, shards, and a folder that is whole at every moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.hub.devices import parse_size
from omniform.hub.folders import replace_files
from omniform.hub.save import shards
from reference import check_round_trip, close, omniform, saved_reference, trains, transformers

TINY = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 3, 7, 11], [8, 2, 30, 1, 39]])
Llama = omniform.AutoModelForCausalLM


def make(folder: Path, **changes: object) -> torch.nn.Module:
    return saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**{**TINY, **changes}), folder)


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "m")
    return tmp_path / "m"


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_round_trip(folder, tmp_path):
    check_round_trip(folder, Llama.from_pretrained(folder), tmp_path / "again")
    assert names(tmp_path / "again") == {"config.json", "generation_config.json", "model.safetensors"}
    assert json.loads((folder / "generation_config.json").read_text()) == json.loads(
        (tmp_path / "again" / "generation_config.json").read_text()
    )
    # The reference reads what we wrote.
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "again")
    close(logits(again), logits(Llama.from_pretrained(folder)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_round_trip_in_half_precision(folder, tmp_path, dtype):
    model = Llama.from_pretrained(folder, dtype=dtype)
    model.save_pretrained(tmp_path / "half")
    kinds = {t.dtype for t in load_file(tmp_path / "half" / "model.safetensors").values()}
    assert kinds == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == dtype
    again = Llama.from_pretrained(tmp_path / "half")
    assert again.dtype == model.dtype and torch.equal(logits(again), logits(model))


def test_tied_weights_are_saved_once(tmp_path):
    make(tmp_path / "m", tie_word_embeddings=True)
    check_round_trip(tmp_path / "m", Llama.from_pretrained(tmp_path / "m"), tmp_path / "again")
    again = Llama.from_pretrained(tmp_path / "again")
    assert again.lm_head.weight is again.model.embed_tokens.weight


def test_after_a_training_step(folder, tmp_path):
    model = Llama.from_pretrained(folder)
    before = load_file(folder / "model.safetensors")
    trains(model, {"input_ids": IDS, "labels": IDS}, steps=2)
    assert all(torch.equal(t, before[k]) for k, t in load_file(folder / "model.safetensors").items())  # copy on write
    model.save_pretrained(tmp_path / "trained")
    assert torch.equal(logits(Llama.from_pretrained(tmp_path / "trained")), logits(model))
    assert not torch.equal(logits(Llama.from_pretrained(folder)), logits(model))


@pytest.mark.parametrize("trained", [False, True])
def test_into_the_very_folder_it_came_from(folder, trained):
    model = Llama.from_pretrained(folder)
    if trained:
        trains(model, {"input_ids": IDS, "labels": IDS}, steps=2)
    expected = logits(model)
    for size in ("3KB", "50GB"):
        model.save_pretrained(folder, max_shard_size=size)
        assert torch.equal(logits(model), expected)
        assert torch.equal(logits(Llama.from_pretrained(folder)), expected)


def test_shards(folder, tmp_path):
    model = Llama.from_pretrained(folder)
    model.save_pretrained(tmp_path / "s", max_shard_size="4KB")
    files = sorted(p.name for p in (tmp_path / "s").glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / "s" / "model.safetensors.index.json").read_text())
    held = {name: load_file(tmp_path / "s" / name) for name in files}
    assert index["weight_map"] == {key: name for name, part in held.items() for key in part}
    assert index["metadata"]["total_size"] == sum(t.nbytes for part in held.values() for t in part.values())
    for part in held.values():
        assert sum(t.nbytes for t in part.values()) <= 4000 or len(part) == 1
    assert torch.equal(logits(Llama.from_pretrained(tmp_path / "s")), logits(model))
    close(logits(transformers.LlamaForCausalLM.from_pretrained(tmp_path / "s")), logits(model))


def test_a_bigger_tensor_has_a_shard_of_its_own():
    tensors = {name: torch.zeros(n) for name, n in {"a": 1, "b": 100, "c": 1, "d": 1, "e": 2}.items()}
    assert shards(tensors, 12) == [["a"], ["b"], ["c", "d"], ["e"]]
    assert shards(tensors, 10**6) == [list(tensors)] and shards({}, 5) == [[]]


def test_sizes():
    for text, size in {
        "5GB": 5 * 10**9, "1.5 kb": 1500, "3MiB": 3 * 2**20, "2TB": 2 * 10**12, "10": 10, 10: 10, "1KIB": 1024, 2.0: 2,
    }.items():  # fmt: skip
        assert parse_size(text) == size
    for wrong in ("", "GB", "5XB", "-1GB", 0, "nan", "inf", "1e400", None, "five"):
        with pytest.raises(InputError, match="size"):
            parse_size(wrong)


def test_other_files_stay_and_stale_weights_go(folder):
    (folder / "README.md").write_text("hello")
    (folder / "adapter_model.safetensors").write_bytes(b"kept")
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "notes.txt").write_text("deep")
    (folder / "link").symlink_to("README.md")
    (folder / "pytorch_model.bin").write_bytes(b"stale")
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"stale")
    model = Llama.from_pretrained(folder)
    model.save_pretrained(folder, max_shard_size="4KB")
    sharded = names(folder)
    assert "model.safetensors" not in sharded and "model.safetensors.index.json" in sharded
    model.save_pretrained(folder)
    assert names(folder) == {
        "config.json", "generation_config.json", "model.safetensors", "README.md", "adapter_model.safetensors", "sub",
        "sub/deep", "sub/deep/notes.txt", "link",
    }  # fmt: skip
    assert (folder / "sub" / "deep" / "notes.txt").read_text() == "deep" and (folder / "link").is_symlink()
    assert (folder / "link").read_text() == "hello"
    assert os.listdir(folder.parent) == ["m"]  # no traces


def test_into_a_new_nested_folder(folder, tmp_path):
    Llama.from_pretrained(folder).save_pretrained(tmp_path / "a" / "b" / "c")
    assert Llama.from_pretrained(tmp_path / "a" / "b" / "c").num_parameters() > 0
    assert os.listdir(tmp_path / "a" / "b") == ["c"]


def test_file_modes(folder, tmp_path):
    model = Llama.from_pretrained(folder)
    old = os.umask(0o027)
    try:
        model.save_pretrained(tmp_path / "new")
        os.chmod(folder, 0o750)
        model.save_pretrained(folder)
    finally:
        os.umask(old)
    for target in (tmp_path / "new", folder):
        assert stat.S_IMODE(target.stat().st_mode) == 0o750
        for path in target.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o640, path


def test_through_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    model = Llama.from_pretrained(folder, dtype="bfloat16")
    model.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and sorted(os.listdir(tmp_path)) == ["link", "m"]
    assert Llama.from_pretrained(folder).dtype == torch.bfloat16


def test_into_the_working_directory(folder, monkeypatch):
    (folder / "notes").mkdir()
    for inside in (folder, folder / "notes"):
        monkeypatch.chdir(inside)
        model = Llama.from_pretrained(folder)
        (folder / "pytorch_model.bin").write_bytes(b"stale")
        model.save_pretrained("." if inside == folder else "..", max_shard_size="4KB")
        assert Path.cwd().samefile(inside)  # nobody is left in a folder that no longer exists
        assert torch.equal(logits(Llama.from_pretrained(folder)), logits(model))
        assert "model.safetensors" not in names(folder) and "pytorch_model.bin" not in names(folder)
        model.save_pretrained(folder)
        assert names(folder) == {"config.json", "generation_config.json", "model.safetensors", "notes"}


def test_where_there_are_no_hard_links(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    (folder / "README.md").write_text("hello")
    (folder / "sub").mkdir()
    (folder / "sub" / "a").write_text("a")
    monkeypatch.setattr(os, "link", refuse)
    Llama.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "README.md").read_text() == "hello" and (folder / "sub" / "a").read_text() == "a"


def test_where_the_kernel_cannot_exchange(folder, monkeypatch):
    monkeypatch.setattr("omniform.hub.folders._exchanged_by_kernel", lambda *_: False)
    (folder / "README.md").write_text("hello")
    model = Llama.from_pretrained(folder)
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "hello" and os.listdir(folder.parent) == ["m"]
    assert torch.equal(logits(Llama.from_pretrained(folder)), logits(model))


def test_where_a_file_is_in_the_way(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    model = Llama.from_pretrained(folder)
    with pytest.raises(RepoError, match="this is a file"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(RepoError, match="cannot be written"):
        model.save_pretrained(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("moment", ["safetensors.torch.save_file", "omniform.hub.folders.exchange"])
def test_an_error_on_the_way_leaves_everything_as_it_was(folder, monkeypatch, moment):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    model = Llama.from_pretrained(folder, dtype="bfloat16")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    monkeypatch.setattr(moment, fail)
    with pytest.raises(RepoError, match=r"cannot be written.*No space left"):
        model.save_pretrained(folder, max_shard_size="4KB")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and os.listdir(folder.parent) == ["m"]


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_full_disk(folder):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    code = """
import resource, sys, omniform
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    model.save_pretrained(sys.argv[1])
except omniform.OmniformError as error:
    print(type(error).__name__, error)
"""
    done = run(code, folder)
    assert done.stdout.startswith("RepoError") and "too large" in done.stdout, done
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before and os.listdir(folder.parent) == ["m"]


KILLED = """
import sys, torch, omniform
torch.set_num_threads(1)
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tensors = list(model.parameters())
value = 1.0
print("ready", flush=True)
while True:
    with torch.no_grad():
        for tensor in tensors:
            tensor.fill_(value)
    model.save_pretrained(sys.argv[1], max_shard_size="300KB" if value % 2 else "50GB")
    value += 1
"""


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    config = transformers.LlamaConfig(**{**TINY, "hidden_size": 64, "intermediate_size": 512, "num_hidden_layers": 4})
    folder = tmp_path / "m"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)

    def values() -> set[float]:
        model = Llama.from_pretrained(folder)  # strict: whole
        return {float(v) for p in model.parameters() for v in (p.detach().min(), p.detach().max())}

    first, saved = values(), 0
    for delay in (0.05, 0.061, 0.073, 0.087, *(0.2 * n for n in range(1, 10)), 3.0, 5.0, 9.0):
        if saved > 2:
            break
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = values()
        assert len(found) == 1 or found == first, found  # of one kind
        saved += found != first
        for left in tmp_path.glob(".m-*"):
            shutil.rmtree(left)
    assert saved  # else nothing was interrupted


def test_replace_files_with_folders(tmp_path):
    def write(folder: Path) -> None:
        (folder / "templates").mkdir()
        (folder / "templates" / "a.txt").write_text("new")
        (folder / "b.txt").write_text("new")

    target = tmp_path / "t"
    for _ in range(2):
        replace_files(target, write)
        assert (target / "templates" / "a.txt").read_text() == "new"
        assert stat.S_IMODE((target / "templates").stat().st_mode) & 0o100
    (target / "old.txt").write_text("old")
    replace_files(target, write, stale=lambda name: name.startswith("old"))
    assert names(target) == {"templates", "templates/a.txt", "b.txt"}


def test_keywords(folder, tmp_path):
    model = Llama.from_pretrained(folder)
    model.save_pretrained(tmp_path / "a", safe_serialization=True)
    with pytest.raises(InputError, match="safetensors"):
        model.save_pretrained(tmp_path / "b", safe_serialization=False)
    with pytest.raises(UnknownArgumentError, match="Did you mean 'max_shard_size'"):
        model.save_pretrained(tmp_path / "b", max_shard_sise="1GB")
    assert not (tmp_path / "b").exists()


def test_the_config_names_what_was_saved(folder, tmp_path):
    base = omniform.AutoModel.from_pretrained(folder)
    base.save_pretrained(tmp_path / "base")
    raw = json.loads((tmp_path / "base" / "config.json").read_text())
    assert raw["architectures"] == ["LlamaModel"]
    old = json.loads((folder / "config.json").read_text())
    assert {**raw, "architectures": None} == {**old, "architectures": None}
    assert set(load_file(tmp_path / "base" / "model.safetensors")) == {
        key.removeprefix("model.") for key in load_file(folder / "model.safetensors") if key != "lm_head.weight"
    }
    close(
        transformers.LlamaModel.from_pretrained(tmp_path / "base")(IDS).last_hidden_state, base(IDS).last_hidden_state
    )


def test_unknown_keys_and_odd_text_survive(folder, tmp_path):
    path = folder / "config.json"
    odd = {"zebra": {"a": [1, None, 2.5, True]}, "name": "größe 名前", "half": "\ud800", "big": 2**70}
    path.write_text(json.dumps({**json.loads(path.read_text()), **odd}))
    Llama.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == json.loads(path.read_text())


def test_a_config_alone(folder, tmp_path):
    config = omniform.AutoConfig.from_pretrained(folder, num_labels=3)
    config.save_pretrained(tmp_path / "c")
    assert os.listdir(tmp_path / "c") == ["config.json"]
    assert omniform.AutoConfig.from_pretrained(tmp_path / "c") == config
    config.save_pretrained(folder)
    assert "model.safetensors" in names(folder)


def test_weights_of_another_layout_in_memory(folder, tmp_path):
    model = Llama.from_pretrained(folder)
    weight = model.model.layers[0].mlp.up_proj.weight
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(weight.detach().t().contiguous().t())
    assert not model.model.layers[0].mlp.up_proj.weight.is_contiguous()
    model.save_pretrained(tmp_path / "again")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_old_names_are_renewed_when_saved(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    save_file({f"module.{k}": t.clone() for k, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    Llama.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == tensors.keys()
