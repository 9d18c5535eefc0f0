"""Writes GGUF files from checkpoints of the reference, as llama.cpp's converter does: with the gguf package's writer
and its own table of names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

TYPES = gguf.GGMLQuantizationType
METADATA_TYPES = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}


def written(
    path: Path,
    arch: str,
    metadata: Mapping[str, object],
    tensors: Mapping[str, np.ndarray],
    kinds: Mapping[str, TYPES] | None = None,
) -> Path:
    """A file.

    Args:
        metadata: by full key, or without the architecture where the key begins with a dot.
        tensors: by the file's names, as float32; or as the bytes of their blocks, which are written as they are.
        kinds: types of tensors whose names end like this; float32 for the rest, and for what is no rows of blocks.
    """
    writer = gguf.GGUFWriter(path, arch)
    for key, value in metadata.items():
        full = f"{arch}{key}" if key.startswith(".") else key
        getattr(writer, METADATA_TYPES[type(value)])(full, value)
    for name, tensor in tensors.items():
        kind = next((kind for end, kind in (kinds or {}).items() if name.endswith(end)), TYPES.F32)
        if tensor.dtype == np.uint8:
            writer.add_tensor(name, tensor, raw_dtype=kind)
            continue
        tensor = np.ascontiguousarray(tensor, np.float32)
        if tensor.ndim < 2 or tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = TYPES.F32
        writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary(size: int) -> dict[str, object]:
    """Metadata of a byte-level tokenizer: 256 bytes, a few merges, special tokens, and what fills it up."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["h e", "l l", "he ll", "Ġ w", "Ġw o", "Ġ 1", "t h"]
    tokens = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<think>"]
    kinds = [3, 3, 3, 3, 4]
    tokens += [*alphabet, *(merge.replace(" ", "") for merge in merges)]
    kinds += [1] * (len(tokens) - len(kinds))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), size)]
    kinds += [5] * (len(tokens) - len(kinds))
    return {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.tokens": tokens[:size],
        "tokenizer.ggml.token_type": kinds[:size], "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1,
    }  # fmt: skip


def converted(arch: str, folder: Path) -> dict[str, np.ndarray]:
    """A checkpoint's tensors under the file's names, as the converter changes them."""
    config = json.loads((folder / "config.json").read_text())
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    number = next(number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)
    names = gguf.get_tensor_name_map(number, layers)
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    made = {}
    for key, tensor in _stacked(tensors).items():
        for name, changed in _changed(arch, key, tensor.float(), config):
            full = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert full is not None, f"{arch}: {name}"
            made[full] = changed.numpy()
    return made


def _stacked(tensors):
    """Experts one by one as stacks of them, under the names that the converter gives these."""
    made, found = {}, {}
    for key, tensor in tensors.items():
        expert = re.sub(r"\.experts\.(\d+)\.", ".experts.", key)
        if expert == key:
            expert = re.sub(r"\.norms\.(\d+)\.", ".", key)
        if expert == key:
            made[key] = tensor
        else:
            found.setdefault(expert, []).append((int(re.search(r"\.(?:experts|norms)\.(\d+)\.", key)[1]), tensor))
    return made | {key: torch.stack([t for _, t in sorted(each, key=lambda p: p[0])]) for key, each in found.items()}


def _paired(x, heads):
    """The halves of each head side by side, as ggml's rotary positions want them."""
    return x.view(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


def _changed(arch, key, x, config):
    key = key.replace("e_score_correction_bias", "e_score_correction.bias")
    key = key.removeprefix("transformer.") if arch == "bloom" else key
    heads = config.get("num_attention_heads", config.get("n_head"))
    shared = config.get("num_key_value_heads") or heads
    if arch in ("llama", "granite", "granitemoe", "smollm3", "olmo"):
        x = _paired(x, heads) if ".q_proj." in key else _paired(x, shared) if ".k_proj." in key else x
    if arch.startswith("gemma") and key.endswith("norm.weight"):
        x = x + 1
    if arch == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight$", key):
        x = x.t()
    if arch in ("bloom", "gptneox") and "query_key_value" in key:
        x = x.view(heads, 3, -1, *x.shape[1:]).transpose(0, 1).reshape(x.shape)
    if arch == "falcon" and "query_key_value" in key:
        shared = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
        width, each = config["hidden_size"] // heads, heads // shared
        grouped = x.view(shared, each + 2, width, -1)
        x = torch.cat([p.reshape(-1, x.shape[-1]) for p in (grouped[:, :each], grouped[:, -2], grouped[:, -1])])
    if arch == "granitemoe" and "input_linear" in key:
        gate, up = x.chunk(2, dim=1)
        return [(key.replace("input_linear", f"experts.{name}"), y) for name, y in (("w1", gate), ("w3", up))]
    if arch == "gpt-oss":
        return _gpt_oss(key, x)
    if arch == "qwen2moe" and "shared_expert_gate" in key:
        x = x.squeeze(0)
    if arch == "deepseek2" and "kv_b_proj" in key and config.get("split_kv_b"):
        return []
    return [(key, x)]


def _gpt_oss(key, x):
    if key.endswith("sinks"):
        return [(f"{key}.weight", x)]
    bias = key.endswith("_bias")
    if "gate_up_proj" in key:
        x = x if bias else x.transpose(1, 2)
        stem = key.removesuffix("_bias").replace("gate_up_proj", "{}_proj") + (".bias" if bias else ".weight")
        return [(stem.format("gate"), x[:, ::2]), (stem.format("up"), x[:, 1::2])]
    if "experts.down_proj" in key:
        return [(key.removesuffix("_bias") + (".bias" if bias else ".weight"), x if bias else x.transpose(1, 2))]
    return [(key, x)]


def tiny(path: Path) -> Path:
    """A tiny Llama with random weights, in blocks, and a byte-level tokenizer."""
    generator = np.random.default_rng(0)
    told = {
        ".context_length": 128, ".embedding_length": 64, ".feed_forward_length": 96, ".block_count": 1,
        ".attention.head_count": 4, ".attention.head_count_kv": 2, ".attention.layer_norm_rms_epsilon": 1e-6,
    }  # fmt: skip
    shapes = {
        "token_embd": (288, 64), "output_norm": (64,), "blk.0.attn_norm": (64,), "blk.0.ffn_norm": (64,),
        "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64), "blk.0.attn_output": (64, 64),
        "blk.0.ffn_gate": (96, 64), "blk.0.ffn_up": (96, 64), "blk.0.ffn_down": (64, 96),
    }  # fmt: skip
    tensors = {f"{name}.weight": generator.standard_normal(shape) for name, shape in shapes.items()}
    kinds = {"norm.weight": TYPES.F32, "weight": TYPES.Q4_0}
    return written(path, "llama", {**told, **vocabulary(288)}, tensors, kinds)
