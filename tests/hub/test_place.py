"""Weights in several places: where they go, that outputs stay the same, and what memory it takes."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omniform.core.errors import InputError, RepoError
from omniform.hub.plan import plan
from reference import close, omniform, saved_reference, transformers

Llama = omniform.AutoModelForCausalLM

TINY = {
    "vocab_size": 400, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 3, 7, 11], [8, 2, 30, 1, 39]])


@pytest.fixture(scope="module", params=[False, True], ids=["apart", "tied"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("placed")
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=request.param)
    return folder, saved_reference(transformers.LlamaForCausalLM, config, folder)


def total(model) -> int:
    return sum(p.nbytes for p in model.parameters())


@torch.no_grad()
def check(ours, theirs) -> None:
    """The same scores, and the same words written on."""
    close(ours(IDS).logits, theirs(IDS).logits)
    settings = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(ours.generate(IDS[:1], **settings), theirs.generate(IDS[:1], **settings))


# -- mappings --------------------------------------------------------------------------------------------------------

LAYERS = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(6)}
REST = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
MAPPINGS = {
    "everything": {"": "cpu"},
    "everything on disk": {"": "disk"},
    "every second layer": {**REST, **LAYERS},
    "the layers": {**REST, "model.layers": "disk"},
    "the most specific path wins": {"": "cpu", "model": "disk", "model.layers.3": "cpu", "model.layers.3.mlp": "disk"},
    "a leaf module": {"": "cpu", "model.layers.0.mlp.up_proj": "disk", "model.layers.1.self_attn.q_proj": "disk"},
    "one tensor": {"": "cpu", "model.layers.0.mlp.up_proj.weight": "disk"},
    "modules without weights": {**REST, "model.layers": "disk", "model.rotary_emb": "cpu", "model.dropout": "cpu"},
    "objects": {"": torch.device("cpu"), "lm_head": "disk"},
}


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_mappings(made, mapping):
    folder, theirs = made
    model = Llama.from_pretrained(folder, device_map=MAPPINGS[mapping])
    assert {k: str(v) for k, v in model.hf_device_map.items()} == {k: str(v) for k, v in MAPPINGS[mapping].items()}
    check(model, theirs)
    assert model.state_dict().keys() == theirs.state_dict().keys()
    check(model, theirs)  # what was let go comes back


def test_names_of_the_hub_and_ours(tmp_path):
    config = transformers.GPT2Config(vocab_size=60, n_positions=32, n_embd=16, n_layer=3, n_head=2)
    theirs = saved_reference(transformers.GPT2LMHeadModel, config, tmp_path)
    hub = {"transformer": "cpu", "transformer.h.1": "disk", "transformer.h.2.mlp.c_fc": "disk", "lm_head": "cpu"}
    ours = {"": "cpu", "model.layers.1": "disk"}
    for mapping in (hub, ours, "disk"):
        close(Llama.from_pretrained(tmp_path, device_map=mapping)(IDS).logits, theirs(IDS).logits)
    model = Llama.from_pretrained(tmp_path, device_map="auto", max_memory={"cpu": 26_000})
    places = model.hf_device_map
    assert places["transformer.wte"] == "cpu" and "disk" in (places.get("transformer.h"), places.get("transformer.h.2"))
    again = Llama.from_pretrained(tmp_path, device_map=dict(model.hf_device_map))
    close(again(IDS).logits, theirs(IDS).logits)


def test_unknown_paths_are_named(made, caplog):
    with caplog.at_level(logging.WARNING, logger="omniform"):
        Llama.from_pretrained(made[0], device_map={"": "cpu", "model.layer.0": "disk"})
    assert "model.layer.0" in caplog.text


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"model": "cpu"}, "lm_head.weight"),
        ({"lm_head": "cpu", "model.layers": "disk"}, "model.embed_tokens.weight"),
        ({f"model.layers.{i}": "cpu" for i in range(5)}, "and"),
        ({}, "''"), ({"": "tpu9"}, "tpu9"), ({"": -1}, "-1"), ({"": None}, "None"), ({"": True}, "True"),
        ({"": "meta"}, "meta"), ({"": 77}, "no such device here"), ({"": "cuda:77"}, "no such device here"),
        ({3: "cpu"}, "3"), ({"": 2.5}, "2.5"), ({"": ["cpu"]}, "cpu"),
    ],
)  # fmt: skip
def test_mappings_that_are_none(tmp_path, mapping, says):
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), tmp_path)
    with pytest.raises(InputError, match="device_map") as error:
        Llama.from_pretrained(tmp_path, device_map=mapping)
    assert says in str(error.value)


@pytest.mark.parametrize("device", ["autos", "meta", "", "cuda:x", -1, 77, True, 2.5, b"cpu", "cpu:disk"])
def test_devices_that_are_none(made, device):
    with pytest.raises(InputError, match="device_map"):
        Llama.from_pretrained(made[0], device_map=device)


def test_the_default_device_is_used_and_meta_is_none(made):
    with torch.device("meta"), pytest.raises(InputError, match="meta"):
        Llama.from_pretrained(made[0])


# -- strategies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["auto", "balanced", "balanced_low_0", "sequential"])
@pytest.mark.parametrize("share", [2.0, 0.9, 0.5, 0.2, 0.00001])
def test_bounds_are_kept(made, strategy, share):
    folder, theirs = made
    bound = int(share * total(theirs))
    model = Llama.from_pretrained(folder, device_map=strategy, max_memory={"cpu": bound})
    expected = plan(folder, device_map=strategy, max_memory={"cpu": bound})
    assert dict(model.hf_device_map) == dict(expected.device_map)
    held = {use.place: use.weights for use in expected.uses}
    assert held.get("cpu", 0) <= bound and sum(held.values()) == total(theirs) == expected.weights
    if share > 1:
        assert dict(model.hf_device_map) == {"": "cpu"}
    elif share > 0.4:
        assert 0 < held["cpu"] < total(theirs) and held["disk"] > 0
    close(model(IDS).logits, theirs(IDS).logits)


def test_layers_are_never_split_and_tied_weights_lie_together(made):
    folder, theirs = made
    for share in (0.3, 0.5, 0.7, 0.9):
        model = Llama.from_pretrained(folder, device_map="auto", max_memory={"cpu": int(share * total(theirs))})
        assert all(len(path.split(".")) <= 3 for path in model.hf_device_map)
        if theirs.config.tie_word_embeddings and "lm_head" in model.hf_device_map:
            assert model.hf_device_map["lm_head"] == model.hf_device_map["model.embed_tokens"]


def gpus(folder: Path, strategy: str, bounds: dict, **options: object):
    return plan(folder, device_map=strategy, max_memory=bounds, **options)


def test_accelerators_are_filled_in_order_or_evenly(made):
    folder, theirs = made
    size = total(theirs)
    room = {0: size, 1: size, 2: size, "cpu": size}
    assert dict(gpus(folder, "sequential", room).device_map) == {"": 0}
    for strategy in ("auto", "balanced"):
        held = {use.place: use.weights for use in gpus(folder, strategy, room).uses}
        assert held.keys() == {0, 1, 2} and max(held.values()) < 0.5 * size
    held = {use.place: use.weights for use in gpus(folder, "balanced_low_0", room).uses}
    assert held.keys() == {1, 2} or held[0] < min(held[1], held[2])
    places = list(gpus(folder, "auto", room).device_map.values())
    if not theirs.config.tie_word_embeddings:
        assert places == sorted(places)  # in the order of the modules


def test_what_visits_has_room(made):
    folder, theirs = made
    size = total(theirs)
    found = gpus(folder, "auto", {0: size // 2, "cpu": size})
    uses = {use.place: use for use in found.uses}
    assert uses[0].weights + uses[0].visiting <= size // 2 and uses["cpu"].weights > 0 and not uses[0].here
    assert {part.runs_on for part in found.parts} == {0}
    found = gpus(folder, "sequential", {0: size // 3, 1: size // 3, "cpu": 100})
    assert [part.place for part in found.parts if part.path == "model.norm"] == ["disk"]


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"cpu": "3 apples"}, "3 apples"), ({"cpu": -1}, "-1"), ({"cpu": None}, "None"), ({"cpu": True}, "True"),
        ({"cpu": float("nan")}, "nan"), ({"cpu": 1e300}, "1e\\+300"), ({"gpu": "3GB"}, "gpu"), ({-3: "3GB"}, "-3"),
        ({}, "no device"), (5, "5"), ([1], "1"), ({"cpu": "1GB", torch.device("cpu"): "1GB"}, "twice"),
    ],
)  # fmt: skip
def test_bounds_that_are_none(made, bounds, says):
    with pytest.raises(InputError, match=rf"max_memory.*{says}"):
        Llama.from_pretrained(made[0], device_map="auto", max_memory=bounds)


@pytest.mark.parametrize("device_map", [None, "cpu", {"": "cpu"}, 0])
def test_bounds_without_a_strategy(made, device_map):
    with pytest.raises(InputError, match=r"max_memory.*device_map='auto'"):
        Llama.from_pretrained(made[0], device_map=device_map, max_memory={"cpu": "1GB"})


def test_devices_that_are_not_here_can_be_planned_for_only(made):
    folder, _ = made
    bounds = {900: "1GB"}
    assert dict(plan(folder, max_memory=bounds).device_map) == {"": 900}
    with pytest.raises(InputError, match="no such device here"):
        Llama.from_pretrained(folder, device_map="auto", max_memory=bounds)


# -- weights that no file holds as they are --------------------------------------------------------------------------


def test_another_dtype_needs_a_folder(made, tmp_path):
    folder, theirs = made
    bounds = {"cpu": total(theirs) // 4}
    missing = total(theirs) // 2 - bounds["cpu"]
    with pytest.raises(InputError, match=f"{missing:,} bytes more.*offload_folder"):
        Llama.from_pretrained(folder, device_map="auto", max_memory=bounds, dtype="bfloat16")
    with pytest.raises(InputError, match="offload_folder"):
        Llama.from_pretrained(folder, device_map="disk", dtype="bfloat16")
    kept = tmp_path / "deep" / "kept"
    model = Llama.from_pretrained(
        folder, device_map="auto", max_memory=bounds, dtype="bfloat16", offload_folder=str(kept)
    )
    plain = Llama.from_pretrained(folder, dtype="bfloat16")
    assert torch.equal(model(IDS).logits, plain(IDS).logits) and model.dtype == torch.bfloat16
    held = sum(t.nbytes for path in kept.iterdir() for t in load_file(path).values())
    planned = plan(folder, max_memory=bounds, dtype="bfloat16", offload_folder=kept)
    assert held == next(use.weights for use in planned.uses if use.place == "disk")
    # Loaded once more into the same folder, the first model still has its files.
    again = Llama.from_pretrained(folder, device_map="disk", dtype="bfloat16", offload_folder=kept)
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(Llama.from_pretrained(tmp_path / "saved")(IDS).logits, plain(IDS).logits)


def test_nothing_is_written_that_lies_in_the_checkpoint(made, tmp_path):
    model = Llama.from_pretrained(made[0], device_map="disk", offload_folder=tmp_path / "kept")
    check(model, made[1])
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles(made, tmp_path, zipped):
    folder, theirs = made
    shutil.copy(folder / "config.json", tmp_path)
    tensors = {k: t.clone() for k, t in load_file(folder / "model.safetensors").items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    if not zipped:  # such a file cannot be mapped
        with pytest.raises(InputError, match="offload_folder"):
            Llama.from_pretrained(tmp_path, device_map="disk")
    model = Llama.from_pretrained(tmp_path, device_map="disk", offload_folder=tmp_path / "kept")
    check(model, theirs)
    assert (tmp_path / "kept").exists() != zipped


def test_folders_that_cannot_be_written(made, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(RepoError):
            Llama.from_pretrained(made[0], device_map="disk", dtype="bfloat16", offload_folder=folder)
    for folder in ("", 3):
        with pytest.raises(InputError, match="offload_folder"):
            Llama.from_pretrained(made[0], device_map="disk", offload_folder=folder)


# -- what can be done with such a model ------------------------------------------------------------------------------


def test_saving_and_loading_again(made, tmp_path):
    folder, _ = made
    model = Llama.from_pretrained(folder, device_map="disk")
    model.save_pretrained(tmp_path / "again", max_shard_size="100KB")
    back = Llama.from_pretrained(tmp_path / "again")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    own = tmp_path / "own"  # into the very folder that it is mapped from
    shutil.copytree(folder, own)
    mapped = Llama.from_pretrained(own, device_map="disk")
    mapped.save_pretrained(own)
    check(mapped, made[1])
    assert (own / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "move", [lambda m: m.to("cpu"), lambda m: m.half(), lambda m: m.to(torch.float64), lambda m: m.cpu()]
)
def test_moving_is_refused(made, move):
    for mapping in ("disk", {"": "cpu", "lm_head": "disk"} if not made[1].config.tie_word_embeddings else "disk"):
        with pytest.raises(InputError, match="cannot be moved"):
            move(Llama.from_pretrained(made[0], device_map=mapping))
    move(Llama.from_pretrained(made[0], device_map="auto"))


def test_what_is_edited_on_disk_stays_edited(made):
    model = Llama.from_pretrained(made[0], device_map="disk")
    with torch.no_grad():
        model.model.norm.weight.mul_(2)
        model.model.layers[0].mlp.up_proj.weight.data.zero_()
    once = model(IDS).logits
    assert torch.equal(model(IDS).logits, once)
    assert not model.model.layers[0].mlp.up_proj.weight.any()


def test_encoder_decoders_and_pictures(tmp_path):
    from checkpoints import picture_checkpoint

    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    theirs = saved_reference(transformers.T5ForConditionalGeneration, config, tmp_path / "t5")
    model = omniform.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "t5", device_map="disk")
    check_ids = {"input_ids": IDS, "decoder_input_ids": IDS[:, :3]}
    close(model(**check_ids).logits, theirs(**check_ids).logits)
    assert torch.equal(model.generate(IDS, max_new_tokens=4), theirs.generate(IDS, max_new_tokens=4))
    picture_checkpoint(tmp_path / "llava")
    kinds = {"cpu": None, "disk": None}
    inputs = {"input_ids": torch.tensor([[1, 3, 3, 3, 3, 7, 9]]), "pixel_values": torch.randn(1, 3, 8, 8)}
    auto = omniform.AutoModelForImageTextToText
    whole, split = (auto.from_pretrained(tmp_path / "llava", device_map=kind)(**inputs).logits for kind in kinds)
    assert torch.equal(whole, split)


# -- memory ----------------------------------------------------------------------------------------------------------

PROBE = """
import sys, json, torch, omniform
torch.set_num_threads(1)
import omniform.models.llama, omniform.engine.generate
from omniform.transforms.prepack import prepack

def status(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))

model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[2], config=None, device_map="cpu")
with torch.no_grad():
    model.generate(torch.tensor([[1, 2]]), max_new_tokens=2)  # what running takes for the first time
    layer = torch.nn.Sequential(torch.nn.Linear(768, 2304, bias=False, dtype=torch.bfloat16))
    prepack(layer)
    for rows in (1, 3):
        layer(torch.ones(rows, 768, dtype=torch.bfloat16))
del model, layer
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1], **json.loads(sys.argv[3]))
with torch.no_grad():
    model(torch.tensor([[1, 2, 3]]))
    model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=3, do_sample=False)
print(json.dumps([status("VmHWM") - before, status("VmRSS") - before]))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A random Llama of about 200 MB in 12 layers, and a tiny one."""
    folder = tmp_path_factory.mktemp("big")
    config = omniform.AutoConfig.for_model(
        "llama", hidden_size=768, intermediate_size=2304, num_hidden_layers=12, num_attention_heads=12, vocab_size=512,
        num_key_value_heads=2, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    Llama.from_config(config, dtype="bfloat16").save_pretrained(folder / "big")
    saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder / "tiny")
    yield folder, sum(path.stat().st_size for path in (folder / "big").glob("*.safetensors"))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="measured on Linux only")
@pytest.mark.parametrize(
    ("options", "bound"),
    [
        ({"device_map": "disk"}, 0.3),
        ({"device_map": "auto", "max_memory": {"cpu": "40MB"}}, 0.45),
        ({"device_map": "cpu"}, 1.1),
        ({"device_map": "cpu", "dtype": "float32"}, 2.2),
    ],
)
def test_resident_memory(big, options, bound):
    folder, size = big
    command = [sys.executable, "-c", PROBE, str(folder / "big"), str(folder / "tiny"), json.dumps(options)]
    peak, after = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < bound * size + 8e6, f"{peak / 1e6:.0f} of {size / 1e6:.0f} MB"
    if options["device_map"] == "disk":
        assert after < 0.2 * size
