"""The benchmark's checkpoint as llama.cpp reads it: one GGUF file, bfloat16, without a vocabulary.

Needs the ``gguf`` package. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the names of a Llama's
tensors there, and the order of the rows of its queries and keys, are llama.cpp's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .checkpoint import Shape

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def name_there(name: str) -> str:
    """A tensor's name in the GGUF file."""
    path = name.removesuffix(".weight")
    if path in NAMES:
        return f"{NAMES[path]}.weight"
    _, _, number, part = path.split(".", 3)
    return f"blk.{number}.{NAMES[part]}.weight"


def gguf_file(folder: Path, shape: Shape) -> Path:
    """The checkpoint's GGUF file, made beside it if it is not there yet.

    Args:
        folder: of the checkpoint.
    """
    path = folder.with_name(f"{folder.name}.gguf")
    if not path.is_file():
        unfinished = path.with_name(f"{path.name}.unfinished")
        _write(folder, shape, unfinished)
        os.replace(unfinished, path)
    return path


def _write(folder: Path, shape: Shape, path: Path) -> None:
    import gguf
    import torch
    from safetensors.torch import load_file

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(shape.positions)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.mlp)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "q_proj" in name or "k_proj" in name:
            tensor = _in_pairs(tensor, shape.head)
        if tensor.dim() == 1:
            writer.add_tensor(name_there(name), tensor.float().numpy())
        else:
            data: Any = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(name_there(name), data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _in_pairs(weight: Any, head: int) -> Any:
    """Rows of queries or keys in llama.cpp's order: the two numbers that rotate together are neighbours."""
    rows, width = weight.shape
    return weight.view(rows // head, 2, head // 2, width).transpose(1, 2).reshape(rows, width)
