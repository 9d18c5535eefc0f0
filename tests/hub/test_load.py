"""Loading what real folders hold: files of every kind, old names, heads, dtypes; and refusing what does not fit."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omniform.core.errors import (
    ConfigError,
    InputError,
    RepoError,
    UnknownArgumentError,
    UnknownNameError,
    WeightsError,
)
from reference import close, omniform, saved_reference, transformers

TINY = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 3, 7, 11], [8, 2, 30, 1, 39]])

Llama = omniform.AutoModelForCausalLM


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Reference checkpoints, each made once; call it with a head and config changes to get a copy of one."""
    cache: dict[str, tuple[Path, torch.nn.Module]] = {}

    def make(target: Path, head: str = "LlamaForCausalLM", **changes: object) -> torch.nn.Module:
        key = head + repr(sorted(changes.items()))
        if key not in cache:
            folder = tmp_path_factory.mktemp("made")
            kind = head.split("For")[0].removesuffix("Model")
            config = getattr(transformers, f"{kind}Config")(**{**TINY, **changes} if kind == "Llama" else changes)
            cache[key] = folder, saved_reference(getattr(transformers, head), config, folder)
        folder, model = cache[key]
        shutil.copytree(folder, target, dirs_exist_ok=True)
        return model

    return make


@pytest.fixture
def folder(tmp_path, made):
    made(tmp_path / "m")
    return tmp_path / "m"


def logits(model) -> Tensor:
    with torch.no_grad():
        return model(IDS).logits


def edit(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(tensors), path, {"format": "pt"})


def edit_config(folder: Path, drop: tuple[str, ...] = (), **changes: object) -> None:
    path = folder / "config.json"
    raw = {k: v for k, v in json.loads(path.read_text()).items() if k not in drop}
    path.write_text(json.dumps({**raw, **changes}))


def renamed(rename: Callable[[str], str]) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {rename(name): tensor for name, tensor in tensors.items()}


# -- files -----------------------------------------------------------------------------------------------------------


def sharded(folder: Path) -> None:
    transformers.LlamaForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="3KB")
    (folder / "model.safetensors").unlink(missing_ok=True)


def as_bin(folder: Path, *, legacy: bool = False, wrapped: bool = False) -> None:
    tensors: object = load_file(folder / "model.safetensors")
    torch.save(
        {"state_dict": tensors, "epoch": 3} if wrapped else tensors,
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=not legacy,
    )
    (folder / "model.safetensors").unlink()


def bin_shards(folder: Path) -> None:
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    index = {}
    for number, part in enumerate((tensors[:7], tensors[7:]), 1):
        name = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save(dict(part), folder / name)
        index.update({key: name for key, _ in part})
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


KINDS = {
    "one file": lambda folder: None,
    "shards": sharded,
    ".bin": as_bin,
    ".bin before torch 1.6": lambda folder: as_bin(folder, legacy=True),
    ".bin with the weights one level down": lambda folder: as_bin(folder, wrapped=True),
    ".bin shards": bin_shards,
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(tmp_path, made, kind):
    theirs = made(tmp_path)
    KINDS[kind](tmp_path)
    close(logits(Llama.from_pretrained(tmp_path)), logits(theirs))


def test_shards_are_really_shards(folder):
    sharded(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 3


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_refused_and_never_runs(folder, legacy):
    (folder / "model.safetensors").unlink()
    torch.save(
        {"model.norm.weight": Evil(folder / "run")},
        folder / "pytorch_model.bin",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match="weights-only"):
        Llama.from_pretrained(folder)
    assert not (folder / "run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"not a pickle", b"\x80\x02K\x01."])
def test_a_damaged_bin(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightsError):
        Llama.from_pretrained(folder)


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(RepoError, match=r"no weights.*model.safetensors.*pytorch_model.bin"):
        Llama.from_pretrained(folder)


def test_a_missing_shard(folder):
    sharded(folder)
    gone = sorted(folder.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(RepoError, match=re.escape(gone.name)):
        Llama.from_pretrained(folder)


def reindex(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    raw = json.loads(path.read_text())
    raw["weight_map"] = change(raw["weight_map"])
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/etc/passwd", "..", "", ".", "a/b", "x" * 5000, "a\0b"]
)
def test_an_index_that_names_a_file_outside(folder, name):
    sharded(folder)
    reindex(folder, lambda index: {**index, "model.norm.weight": name})
    with pytest.raises((WeightsError, RepoError), match=r"outside|shard is missing"):
        Llama.from_pretrained(folder)


@pytest.mark.parametrize("index", [[], None, "a", {"model.norm.weight": 3}, {"model.norm.weight": None}])
def test_an_index_that_is_none(folder, index):
    sharded(folder)
    reindex(folder, lambda _: index)
    with pytest.raises(WeightsError, match="weight_map"):
        Llama.from_pretrained(folder)


def test_an_index_that_promises_too_much(folder):
    sharded(folder)
    reindex(folder, lambda index: {**index, "ghost.weight": index["model.norm.weight"]})
    with pytest.raises(WeightsError, match=r"ghost.weight"):
        Llama.from_pretrained(folder)


def test_nothing_is_copied(folder):
    model = Llama.from_pretrained(folder)
    spans = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder / "model.safetensors") in line:
            spans.append([int(x, 16) for x in line.split()[0].split("-")])
    for name, parameter in model.named_parameters():
        assert any(begin <= parameter.data_ptr() < end for begin, end in spans), name


# -- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, None), ({"dtype": None}, None), ({"dtype": "auto"}, None), ({"torch_dtype": "auto"}, None),
        ({"dtype": "float32"}, torch.float32), ({"dtype": torch.float32}, torch.float32),
        ({"dtype": "torch.float16"}, torch.float16), ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": torch.float64}, torch.float64),
    ],
)  # fmt: skip
@pytest.mark.parametrize("told", [True, False])
def test_dtypes(folder, stored, asked, expected, told):
    edit(folder, lambda tensors: {name: tensor.to(stored) for name, tensor in tensors.items()})
    edit_config(
        folder, drop=("dtype", "torch_dtype"), **({"dtype": str(stored).removeprefix("torch.")} if told else {})
    )
    model = Llama.from_pretrained(folder, **asked)
    assert {p.dtype for p in model.parameters()} == {expected or stored} and model.dtype == (expected or stored)
    weight = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(model.model.norm.weight, weight.to(expected or stored))


def test_the_configs_dtype_counts_before_the_files(folder):
    edit_config(folder, dtype="bfloat16")
    assert Llama.from_pretrained(folder).dtype == torch.bfloat16


# The names "int8" and "int4" say how matrices are made at load; as a dtype of tensors there is no such thing.
@pytest.mark.parametrize("dtype", ["float61", "int16", "torch.int8", torch.int8, 16, "torch", torch.complex64])
def test_dtypes_that_are_none(folder, dtype):
    with pytest.raises(InputError, match="dtype"):
        Llama.from_pretrained(folder, dtype=dtype)


def test_whole_numbers_are_no_weights(folder):
    edit(folder, lambda tensors: {**tensors, "model.norm.weight": tensors["model.norm.weight"].to(torch.int8)})
    with pytest.raises(WeightsError, match=r"model.norm.weight.*int8"):
        Llama.from_pretrained(folder)


def test_a_quantized_checkpoint_is_refused_by_name(folder):
    edit_config(folder, quantization_config={"quant_method": "quip", "bits": 4})
    with pytest.raises(ConfigError, match=r"quantization_config.*quip"):
        Llama.from_pretrained(folder)
    edit_config(folder, quantization_config=None)
    Llama.from_pretrained(folder)


# -- names of weights ------------------------------------------------------------------------------------------------

SPELLINGS = {
    "prefix missing": renamed(lambda key: key.removeprefix("model.")),
    "prefix twice": renamed(lambda key: f"model.{key}" if key.startswith("model.") else key),
    "data-parallel": renamed(lambda key: f"module.{key}"),
    "compiled": renamed(lambda key: f"_orig_mod.{key}"),
    "stray buffers": lambda tensors: {
        **tensors,
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "model.embeddings.position_ids": torch.arange(3),
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_old_names(tmp_path, made, spelling):
    theirs = made(tmp_path)
    edit(tmp_path, SPELLINGS[spelling])
    close(logits(Llama.from_pretrained(tmp_path)), logits(theirs))


def test_gamma_and_beta(tmp_path):
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32,
    )  # fmt: skip
    theirs = saved_reference(transformers.BertModel, config, tmp_path)
    edit(
        tmp_path,
        renamed(
            lambda key: key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        ),
    )
    assert any(key.endswith("gamma") for key in load_file(tmp_path / "model.safetensors"))
    ours = omniform.AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        close(ours(IDS).last_hidden_state, theirs(IDS).last_hidden_state)
    ours.save_pretrained(tmp_path / "again")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert before.keys() == after.keys()


def test_tied_weights_need_one_copy_and_may_have_two(tmp_path, made):
    theirs = made(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    for again in range(2):
        ours = Llama.from_pretrained(tmp_path)
        assert ours.lm_head.weight is ours.model.embed_tokens.weight
        assert ours.num_parameters() == theirs.num_parameters()
        close(logits(ours), logits(theirs))
        if not again:
            edit(tmp_path, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"].clone()})


def test_only_the_tied_copy_is_there(tmp_path, made):
    theirs = made(tmp_path, tie_word_embeddings=True)
    edit(tmp_path, renamed(lambda key: "lm_head.weight" if key == "model.embed_tokens.weight" else key))
    close(logits(Llama.from_pretrained(tmp_path)), logits(theirs))


def test_a_tied_copy_that_differs_stays_apart(tmp_path, made, caplog):
    made(tmp_path, tie_word_embeddings=True)
    edit(tmp_path, lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 1})
    with caplog.at_level(logging.WARNING, logger="omniform"):
        ours = Llama.from_pretrained(tmp_path)
    assert torch.equal(ours.lm_head.weight, ours.model.embed_tokens.weight + 1)
    assert "lm_head.weight differs" in caplog.text


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_everything_that_does_not_fit_is_named(folder):
    def change(tensors):
        tensors.pop("model.layers.1.mlp.up_proj.weight")
        tensors["model.layers.0.extra.weight"] = torch.ones(3, 4)
        tensors["model.norm.weight"] = torch.ones(17)
        return tensors

    edit(folder, change)
    with pytest.raises(WeightsError) as error:
        Llama.from_pretrained(folder)
    text = str(error.value)
    assert str(folder) in text
    assert "missing model.layers.1.mlp.up_proj.weight, shape [24, 16]" in text
    assert "unexpected model.layers.0.extra.weight, shape [3, 4]" in text
    assert "model.norm.weight has the wrong shape: expected [16], found [17]" in text


def test_a_long_list_is_cut(folder):
    edit_config(folder, num_hidden_layers=30)
    with pytest.raises(WeightsError, match="more") as error:
        Llama.from_pretrained(folder)
    assert str(error.value).count("\n") < 25


def test_ignored_mismatches_do_not_hide_what_is_missing(folder):
    edit(folder, lambda t: {k: v for k, v in t.items() if k != "model.norm.weight"})
    with pytest.raises(WeightsError, match=r"missing model.norm.weight"):
        Llama.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_the_wrong_familys_config(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4}))
    with pytest.raises(WeightsError, match="missing"):
        omniform.AutoModel.from_pretrained(folder)


# -- heads -----------------------------------------------------------------------------------------------------------


def test_base_from_head(tmp_path, made):
    theirs = made(tmp_path)
    model, report = omniform.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    with torch.no_grad():
        close(model(IDS).last_hidden_state, theirs.model(IDS).last_hidden_state)
    assert report.unused == ["lm_head.weight"] and not report.fresh and model.base_model is model


def test_head_from_base_announces_what_is_new(tmp_path, made, caplog):
    theirs = made(tmp_path, "LlamaModel")
    with caplog.at_level(logging.WARNING, logger="omniform"):
        model, report = omniform.AutoModelForSequenceClassification.from_pretrained(
            tmp_path, num_labels=3, output_loading_info=True
        )
    assert report.fresh == ["classifier.weight"] and "classifier.weight" in caplog.text
    assert model.classifier.weight.shape == (3, 16) and 0.005 < model.classifier.weight.std() < 0.05
    with torch.no_grad():
        close(model.base_model(IDS).last_hidden_state, theirs(IDS).last_hidden_state)
    assert model.classifier.weight.requires_grad


def test_one_head_from_another(tmp_path, made):
    theirs = made(tmp_path)
    model, report = omniform.AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert sorted(report.fresh) == ["classifier.bias", "classifier.weight"] and report.unused == ["lm_head.weight"]
    assert torch.equal(model.model.norm.weight, theirs.model.norm.weight)
    assert not model.classifier.bias.any()


def test_another_number_of_labels(tmp_path, made):
    made(tmp_path, "LlamaForSequenceClassification", num_labels=5)
    auto = omniform.AutoModelForSequenceClassification
    assert auto.from_pretrained(tmp_path).classifier.weight.shape == (5, 16)
    with pytest.raises(
        WeightsError, match=r"(?s)score.weight.*expected \[3, 16\], found \[5, 16\].*ignore_mismatched_sizes"
    ):
        auto.from_pretrained(tmp_path, num_labels=3)
    model, report = auto.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True)
    assert model.classifier.weight.shape == (3, 16) and report.fresh == ["classifier.weight"]
    assert model.config.num_labels == 3


def test_labels_by_name(tmp_path, made):
    made(tmp_path, "LlamaModel")
    model = omniform.AutoModelForSequenceClassification.from_pretrained(
        tmp_path, id2label={0: "no", 1: "yes", 2: "maybe"}, label2id={"no": 0, "yes": 1, "maybe": 2}, num_labels=3
    )
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"} and model.classifier.weight.shape[0] == 3


# -- configs ---------------------------------------------------------------------------------------------------------


def test_a_config_that_leaves_out_every_default(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=64, intermediate_size=24, num_hidden_layers=1, max_position_embeddings=2048
    )
    theirs = saved_reference(transformers.LlamaForCausalLM, config, tmp_path)
    short = {
        "model_type": "llama",
        "vocab_size": 40,
        "hidden_size": 64,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(short))
    close(logits(Llama.from_pretrained(tmp_path)), logits(theirs))


def test_older_key_names(tmp_path, made):
    theirs = made(tmp_path, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0})
    edit_config(
        tmp_path, drop=("rope_parameters", "dtype"), rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 2.0},
        torch_dtype="float32",
    )  # fmt: skip
    close(logits(Llama.from_pretrained(tmp_path)), logits(theirs))


def test_a_config_in_place_of_the_checkpoints(folder):
    config = omniform.AutoConfig.from_pretrained(folder, num_labels=4)
    for given in (config, str(folder), folder / "config.json"):
        model = omniform.AutoModelForSequenceClassification.from_pretrained(folder, config=given, num_labels=4)
        assert model.classifier.weight.shape[0] == 4
    with pytest.raises(InputError, match="config"):
        Llama.from_pretrained(folder, config={"model_type": "llama"})


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"{", ConfigError, "not JSON"),
        (b"", ConfigError, "not JSON"),
        (b"[]", ConfigError, "no JSON object"),
        (b"\xff\xfe\x00", ConfigError, "not JSON"),
        (b"[" * 100_000, ConfigError, "not JSON"),
        (b'{"a": ' * 500 + b"1" + b"}" * 500, ConfigError, "absurdly deep"),
        (b"{}", ConfigError, "model_type is missing"),
        (b'{"model_type": 3}', ConfigError, "must be a string"),
        (b'{"model_type": "lama"}', UnknownNameError, "Did you mean 'llama'"),
        (b'{"model_type": "llama", "hidden_size": "many"}', ConfigError, "hidden_size.*an integer.*'many'"),
        (b'{"model_type": "llama", "hidden_act": "gelo"}', ConfigError, "hidden_act.*Did you mean 'gelu'"),
    ],
)
def test_configs_that_cannot_be(folder, content, error, says):
    (folder / "config.json").write_bytes(content)
    for load in (omniform.AutoConfig.from_pretrained, Llama.from_pretrained):
        with pytest.raises(error, match=says) as caught:
            load(folder)
        assert "config.json" in str(caught.value)


def test_a_config_with_a_byte_order_mark(folder):
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert omniform.AutoConfig.from_pretrained(folder).hidden_size == 16


def test_absurdly_large_configs(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**40)
    with pytest.raises(ConfigError, match="absurdly large"):
        Llama.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [{"num_hidden_layers": 10**9}, {"vocab_size": 2**50, "hidden_size": 2**50}, {"intermediate_size": 2**53}],
    ids=str,
)
def test_absurd_sizes_are_refused_at_once(folder, change):
    edit_config(folder, **change)
    with pytest.raises((ConfigError, WeightsError)):
        Llama.from_pretrained(folder)


def test_unknown_architectures(folder):
    from omniform.hub.checkpoint import load_as_saved

    assert load_as_saved(folder).origin.architecture.name == "LlamaForCausalLM"
    edit_config(folder, architectures=["LlamaForCausalLN"])
    with pytest.raises(UnknownNameError, match=r"LlamaForCausalLN.*Did you mean 'LlamaForCausalLM'"):
        load_as_saved(folder)


# -- memory ----------------------------------------------------------------------------------------------------------

PEAK = """
import sys, json, threading, time, torch, omniform
torch.set_num_threads(1)
import omniform.models.llama, omniform.hub.save

def anonymous():
    found = dict(l.split(":") for l in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    kb = lambda name: int(found[name].split()[0])
    return kb("Pss_Anon"), kb("Pss_Dirty"), kb("Rss")

before, peak, stop = anonymous(), [0, 0, 0], threading.Event()
def watch():
    while not stop.is_set():
        peak[:] = map(max, peak, anonymous())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
model = omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1], **json.loads(sys.argv[2]))
if sys.argv[3] == "run":
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]))
stop.set(); watcher.join()
peak[:] = map(max, peak, anonymous())
print(json.dumps([(p - b) * 1024 for p, b in zip(peak, before)]))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A random Llama of about 200 MB."""
    folder = tmp_path_factory.mktemp("big")
    config = omniform.AutoConfig.for_model(
        "llama", hidden_size=1024, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=8, vocab_size=512
    )
    torch.manual_seed(0)
    Llama.from_config(config).save_pretrained(folder)
    yield folder, (folder / "model.safetensors").stat().st_size
    shutil.rmtree(folder)


def peak(folder: Path, job: str, **options: object) -> list[int]:
    command = [sys.executable, "-c", PEAK, str(folder), json.dumps(options), job]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
def test_loading_takes_no_memory_of_its_own(big):
    folder, size = big
    assert size > 190e6
    anonymous, _, _ = peak(folder, "load")
    assert anonymous < 0.05 * size, f"{anonymous / 1e6:.0f} MB"


@pytest.mark.slow
def test_mapped_pages_count_once(big):
    folder, size = big
    anonymous, _, resident = peak(folder, "run")
    assert anonymous < 0.1 * size and resident < 1.1 * size, f"{anonymous / 1e6:.0f}, {resident / 1e6:.0f} MB"


@pytest.mark.slow
def test_a_cast_holds_one_copy(big):
    folder, size = big
    anonymous, _, _ = peak(folder, "load", dtype="bfloat16")
    assert anonymous < 1.1 * size / 2 + 5e6, f"{anonymous / 1e6:.0f} MB"


# -- keywords --------------------------------------------------------------------------------------------------------


def test_unknown_keywords(folder):
    with pytest.raises(UnknownArgumentError, match=r"AutoModelForCausalLM.from_pretrained.*'dtipe'.*'dtype'"):
        Llama.from_pretrained(folder, dtipe="float32")
    with pytest.raises(UnknownArgumentError, match="hidden_size"):
        omniform.AutoConfig.from_pretrained(folder, hidden_siz=3)


def test_attention_implementations(tmp_path, made):
    theirs = made(tmp_path)
    for name in ("eager", "sdpa"):
        model = Llama.from_pretrained(tmp_path, attn_implementation=name)
        assert {m.attn_backend for m in (model, model.model)} == {name}
        close(logits(model), logits(theirs))
    with pytest.raises(InputError, match=r"attn_implementation.*'eagre'.*Did you mean 'eager'"):
        Llama.from_pretrained(tmp_path, attn_implementation="eagre")


def test_code_beside_a_class_that_the_user_names_is_not_run(folder):
    edit_config(folder, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('run')")
    for trusted in (True, False, None):
        assert type(omniform.LlamaForCausalLM.from_pretrained(folder, trust_remote_code=trusted)) is type(
            Llama.from_pretrained(folder)
        )
        omniform.AutoConfig.from_pretrained(folder, trust_remote_code=trusted)


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu"), None, {"": "cpu"}])
def test_devices(folder, device):
    assert Llama.from_pretrained(folder, device_map=device).device.type in ("cpu", "cuda")


@pytest.mark.parametrize("device", ["tpu9", 3.5, ["cpu"], "cuda:77", {"model": "cpu"}, {}])
def test_devices_that_are_none(folder, device):
    with pytest.raises(InputError, match="device_map"):
        Llama.from_pretrained(folder, device_map=device)


def test_a_loaded_model_is_ready(folder):
    model = Llama.from_pretrained(folder)
    assert not model.training and model.name_or_path == str(folder)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.is_meta for p in model.parameters()) and not any(b.is_meta for b in model.buffers())
    assert model.generation_config.eos_token_id == 2
