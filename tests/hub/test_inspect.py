"""``inspect``: its numbers equal the truth, and it reads headers only."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from omniform.core.errors import RepoError, WeightsError
from omniform.hub.inspect import inspect
from reference import omniform, saved_reference, transformers

TINY = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip


@pytest.fixture(params=[False, True], ids=["apart", "tied"])
def folder(request, tmp_path):
    config = transformers.LlamaConfig(**TINY, tie_word_embeddings=request.param)
    saved_reference(transformers.LlamaForCausalLM, config, tmp_path)
    return tmp_path


def test_the_truth(folder):
    summary = inspect(folder)
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    assert (summary.family, summary.architecture) == ("llama", "LlamaForCausalLM") and "causal-lm" in summary.tasks
    assert summary.parameters == model.num_parameters() == sum(t.numel() for t in stored.values())
    assert summary.nbytes == model.get_memory_footprint() == sum(t.nbytes for t in stored.values())
    assert summary.dtypes == {"float32": summary.nbytes} and summary.mapped
    assert summary.disk_bytes == (folder / "model.safetensors").stat().st_size
    assert summary.files == ("model.safetensors",)
    assert sum(p.parameters for p in summary.parts) == summary.parameters
    assert sum(p.nbytes for p in summary.parts) == summary.nbytes
    parts = {p.path: p.parameters for p in summary.parts}
    assert parts["model.layers"] == sum(p.numel() for p in model.model.layers.parameters())
    assert parts["model.embed_tokens"] == 40 * 16 and parts["model.norm"] == 16
    assert ("lm_head" in parts) == (model.lm_head.weight is not model.model.embed_tokens.weight)


def test_mixed_dtypes_and_old_names(folder):
    tensors = {f"module.{k}": t.clone() for k, t in load_file(folder / "model.safetensors").items()}
    tensors["module.model.norm.weight"] = tensors["module.model.norm.weight"].double()
    tensors["module.model.embed_tokens.weight"] = tensors["module.model.embed_tokens.weight"].half()
    save_file(tensors, folder / "model.safetensors")
    summary = inspect(folder)
    assert summary.dtypes["float64"] == 16 * 8 and summary.dtypes["float16"] == 40 * 16 * 2
    assert summary.nbytes == sum(t.nbytes for t in tensors.values())


def test_shards(folder):
    whole = inspect(folder)
    omniform.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="4KB")
    summary = inspect(folder)
    assert (summary.parameters, summary.nbytes, summary.parts) == (whole.parameters, whole.nbytes, whole.parts)
    assert len(summary.files) > 2


def test_pickles(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    summary = inspect(folder)
    assert summary.nbytes == summary.parameters * 4 and not summary.mapped and summary.files == ("pytorch_model.bin",)


def test_only_headers_are_read(tmp_path):
    # Seventeen gigabytes that no disk here holds: a hole in a sparse file.
    config = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "dtype": "bfloat16",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        shapes = {k: tuple(t.shape) for k, t in transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**config)).state_dict().items()}  # fmt: skip
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    summary = inspect(tmp_path)
    assert summary.parameters == 8_030_261_248 and summary.nbytes == end == 2 * summary.parameters
    assert path.stat().st_blocks * 512 < 2**20  # still a hole
    # Loading maps it; nothing is read until it is used.
    model = omniform.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.num_parameters() == summary.parameters and not model.model.norm.weight.any()


def test_damage_is_told(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="damaged"):
        inspect(folder)
    path.unlink()
    with pytest.raises(RepoError, match="no weights"):
        inspect(folder)


def test_weights_of_another_model_are_told(folder):
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "num_hidden_layers": 3}))
    with pytest.raises(WeightsError, match=r"missing model.layers.2"):
        inspect(folder)
