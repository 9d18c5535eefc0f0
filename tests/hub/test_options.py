"""Every argument that the reference's ``from_pretrained`` takes: used, inert, or refused by name."""

from __future__ import annotations

import inspect
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import InputError, RepoError, UnknownArgumentError
from omniform.core.generation import GenerationConfig
from omniform.hub.options import LOAD_ARGUMENTS, WHERE_ARGUMENTS
from reference import close, omniform, saved_reference, transformers

Llama = omniform.AutoModelForCausalLM

TINY = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IDS = torch.tensor([[5, 9, 3, 7, 11]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return folder, saved_reference(transformers.LlamaForCausalLM, transformers.LlamaConfig(**TINY), folder)


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "m")
    return tmp_path / "m"


def test_every_argument_of_the_reference_is_known():
    source = inspect.getsource(transformers.PreTrainedModel.from_pretrained)
    named = set(inspect.signature(transformers.PreTrainedModel.from_pretrained).parameters)
    named |= set(re.findall(r"kwargs\.pop\(\"(\w+)\"", source))
    named |= set(re.findall(r"\"(\w+)\"", re.search(r"for name in \[(.*?)\]", source, re.DOTALL).group(1)))
    positional = {"pretrained_model_name_or_path", "model_args", "kwargs", "cls"}
    assert len(named) > 40 and named - positional <= {*LOAD_ARGUMENTS, *WHERE_ARGUMENTS}


@pytest.mark.parametrize(
    "given",
    [
        {"low_cpu_mem_usage": True}, {"_fast_init": False}, {"offload_state_dict": True}, {"offload_buffers": True},
        {"trust_remote_code": False}, {"weights_only": True}, {"quantization_config": None}, {"load_in_8bit": False},
        {"from_tf": False}, {"resume_download": True}, {"proxies": None}, {"state_dict": None}, {"tp_plan": None},
        {"use_auth_token": None}, {"token": False}, {"use_safetensors": None}, {"variant": None}, {"subfolder": ""},
        {"revision": "main"}, {"max_memory": None}, {"offload_folder": None}, {"device_map": None}, {"mirror": "x"},
        {"experts_implementation": "eager"}, {"disable_mmap": False}, {"disable_mmap": True}, {"_from_auto": True},
        {"trust_remote_code": True}, {"dtype": None, "torch_dtype": "float32"}, {"adapter_kwargs": {}},
        {"key_mapping": None},
    ],
)  # fmt: skip
def test_without_effect(made, given):
    close(Llama.from_pretrained(made[0], **given)(IDS).logits, made[1](IDS).logits)


@pytest.mark.parametrize(
    "given",
    [
        {"load_in_8bit": "yes"}, {"load_in_4bit": 1}, {"quantization_config": {"quant_method": "none"}},
        {"weights_only": False}, {"trust_remote_code": "yes"}, {"gguf_file": "../x.gguf"}, {"from_tf": True},
        {"from_flax": True}, {"state_dict": {"a": 1}}, {"tp_plan": {"a": "colwise"}}, {"tp_size": 2},
        {"distributed_config": object()}, {"device_mesh": object()}, {"use_kernels": True}, {"kernel_config": object()},
        {"key_mapping": {"a": "b"}},
        {"fusion_config": {"x": True}}, {"proxies": {"http": "x"}},
        {"variant": "../x"}, {"variant": 3}, {"variant": ""}, {"use_safetensors": "yes"}, {"use_safetensors": 1},
        {"subfolder": "../up"}, {"subfolder": "/etc"}, {"subfolder": 3}, {"output_loading_info": "yes"},
        {"ignore_mismatched_sizes": 1}, {"generation_config": {"max_length": 3}}, {"disable_mmap": "no"},
        {"dtype": "float33"}, {"state_dict": [torch.ones(2)]}, {"offload_folder": 3},
    ],
)  # fmt: skip
def test_refused_by_name(made, given):
    with pytest.raises(InputError, match=next(iter(given))):
        Llama.from_pretrained(made[0], **given)


def test_unknown(made):
    with pytest.raises(UnknownArgumentError, match=r"'offload_foldr'.*'offload_folder'"):
        Llama.from_pretrained(made[0], offload_foldr="x")
    with pytest.raises(UnknownArgumentError, match="device_map"):
        omniform.AutoConfig.from_pretrained(made[0], device_map="cpu")


def test_generation_settings_in_place_of_the_checkpoints(made):
    settings = GenerationConfig.from_dict({"max_new_tokens": 3})
    assert Llama.from_pretrained(made[0], generation_config=settings).generation_config is settings


def test_reading_instead_of_mapping(folder):
    model = Llama.from_pretrained(folder, disable_mmap=True)
    whole = model(IDS).logits
    with open(folder / "model.safetensors", "r+b") as file:  # a mapped model would see this
        file.seek(-4000, 2)
        file.write(bytes(4000))
    assert torch.equal(model(IDS).logits, whole)


# -- which files -----------------------------------------------------------------------------------------------------


def split(folder, kind: str, variant: str | None, scale: float) -> None:
    """Write the weights, scaled, as two shards of a kind and a variant."""
    tensors = {k: scale * t for k, t in load_file(folder / "model.safetensors").items()}
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = sorted(tensors)
    index = {}
    for number, keys in enumerate((names[::2], names[1::2]), start=1):
        name = f"{stem}{f'.{variant}' if variant else ''}-{number:05d}-of-00002.{ending}"
        held = {key: tensors[key].clone() for key in keys}
        (save_file if kind == "safetensors" else torch.save)(held, folder / name)
        index.update(dict.fromkeys(keys, name))
    listing = f"{stem}.{ending}.index{f'.{variant}' if variant else ''}.json"
    (folder / listing).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def single(folder, kind: str, variant: str | None, scale: float) -> None:
    tensors = {k: scale * t for k, t in load_file(folder / "model.safetensors").items()}
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    save = save_file if kind == "safetensors" else torch.save
    save(tensors, folder / f"{stem}{f'.{variant}' if variant else ''}.{ending}")


@pytest.mark.parametrize("write", [single, split])
@pytest.mark.parametrize(
    ("kind", "variant"), [("safetensors", "fp16"), ("bin", "fp16"), ("bin", None), ("bin", "no_ema-2")]
)
def test_kinds_and_variants(folder, write, kind, variant):
    write(folder, kind, variant, 0.5)
    options = {} if variant is None else {"variant": variant}
    if kind == "bin" and variant is None:
        options["use_safetensors"] = False
    model, plain = Llama.from_pretrained(folder, **options), Llama.from_pretrained(folder)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, **options)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, 0.5 * plain.state_dict()[name]), name
    close(model(IDS).logits, theirs(IDS).logits)


def test_files_that_are_not_there(folder):
    with pytest.raises(RepoError, match=r"model.fp16.safetensors.*model.safetensors.index.fp16.json"):
        Llama.from_pretrained(folder, variant="fp16")
    with pytest.raises(RepoError, match=r"pytorch_model.bin"):
        Llama.from_pretrained(folder, use_safetensors=False)
    single(folder, "bin", None, 1.0)
    (folder / "model.safetensors").unlink()
    Llama.from_pretrained(folder)
    with pytest.raises(RepoError, match=r"model.safetensors") as error:
        Llama.from_pretrained(folder, use_safetensors=True)
    assert "pytorch_model" not in str(error.value.expected)


def test_subfolders(folder, tmp_path):
    (tmp_path / "outer" / "a").mkdir(parents=True)
    folder.rename(tmp_path / "outer" / "a" / "b")
    model = Llama.from_pretrained(tmp_path / "outer", subfolder="a/b", device_map="disk")
    assert model.generation_config.eos_token_id == 2 and model(IDS).logits.shape == (1, 5, 40)
    with pytest.raises(RepoError):
        Llama.from_pretrained(tmp_path / "outer", subfolder="a")


# -- what was found --------------------------------------------------------------------------------------------------


def test_the_reports_keys_are_the_ecosystems(folder):
    ours = omniform.AutoModelForSequenceClassification
    theirs = transformers.AutoModelForSequenceClassification
    info = ours.from_pretrained(folder, num_labels=3, output_loading_info=True)[1]
    expected = theirs.from_pretrained(folder, num_labels=3, output_loading_info=True)[1]
    assert set(info["missing_keys"]) == set(expected["missing_keys"]) == {"score.weight"}
    assert set(info["unexpected_keys"]) == set(expected["unexpected_keys"]) == {"lm_head.weight"}
    assert not info["mismatched_keys"] and not info["error_msgs"] and set(info) >= {"missing_keys", "error_msgs"}
    base, report = omniform.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert dict(report)["missing_keys"] == set() and len(report) == 4 and base.num_parameters()


def test_mismatched_keys(tmp_path):
    config = transformers.LlamaConfig(**TINY, num_labels=5)
    saved_reference(transformers.LlamaForSequenceClassification, config, tmp_path)
    given = {"num_labels": 3, "ignore_mismatched_sizes": True, "output_loading_info": True}
    info = omniform.AutoModelForSequenceClassification.from_pretrained(tmp_path, **given)[1]
    expected = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, **given)[1]
    shapes = {(key, tuple(found), tuple(wanted)) for key, found, wanted in expected["mismatched_keys"]}
    assert info["mismatched_keys"] == shapes == {("score.weight", (5, 16), (3, 16))}
    assert set(info["missing_keys"]) == set(expected["missing_keys"])
