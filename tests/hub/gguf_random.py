"""GGUF files of random blocks of any type: what no converter of Python's can quantize to is drawn, bytes and all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import gguf_written
import numpy as np
import torch
from test_gguf_families import CASES, SIZE

from omniform.weights.gguf.dequantize import dequantize
from omniform.weights.gguf.types import TYPES, BlockType
from reference import randomise

PLACES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
"""Where a block has its scale and its minimum, in float16."""
MIXED = "Q4_K_M"
"""What most files are: a type for most of it, a finer one where it tells most."""
FORMATS = (*PLACES, "MXFP4", "F16", "BF16", MIXED)
WIDE, HEADS = 256, 16
"""Sizes that are whole blocks of any type; heads stay as wide as they are in the small cases."""
WIDTHS = ("hidden_size", "n_embd", "intermediate_size", "n_inner", "moe_intermediate_size",
          "shared_expert_intermediate_size")  # fmt: skip
COUNTS = ("num_attention_heads", "n_head", "num_key_value_heads", ".attention.head_count", ".attention.head_count_kv")


def blocks(kind: BlockType, rows: int, width: int, spread: float, luck: np.random.Generator) -> np.ndarray:
    """Random blocks whose numbers have a mean of about nothing. Shape: [rows, bytes of a row].

    Args:
        spread: the numbers' standard deviation, about.
    """
    raw = luck.integers(0, 256, (rows * width // kind.numbers, kind.nbytes), np.uint8)
    if kind.name == "MXFP4":  # a block's scale is two to the power of its first byte, less 128; codes are about 6
        raw[:, 0] = 128 + round(np.log2(spread / 6)) + luck.integers(-1, 2, len(raw))
        return raw.reshape(rows, -1)

    def told(*scales: np.ndarray) -> np.ndarray:
        for at, scale in zip(PLACES[kind.name], scales, strict=False):
            raw[:, at : at + 2] = scale.astype(np.float16)[:, None].view(np.uint8)
        return dequantize(torch.from_numpy(raw), kind).numpy()

    one, none = np.ones(len(raw)), np.zeros(len(raw))
    scales = [one]
    if len(PLACES[kind.name]) == 2:
        scales.append(-told(one, none).mean(1) / told(none, one).mean(1))
    size = told(*scales).std(1).clip(1e-3) / luck.uniform(0.5, 2, len(raw))
    told(*(scale * spread / size for scale in scales))
    return raw.reshape(rows, -1)


def _wide(settings: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """A case's sizes, or what a file tells of them, as wide as a block."""
    for key, value in settings.items():
        if key in WIDTHS or key == ".embedding_length" or key.endswith("feed_forward_length"):
            yield key, value * (WIDE // 64) if value == 256 else WIDE
        else:
            yield key, HEADS if key in COUNTS and value == 4 else value


def random_file(folder: Path, name: str, form: str) -> Path:
    """A file of a case of ``test_gguf_families``, wide enough for blocks of any type.

    Args:
        form: a type, or :data:`MIXED`.
    """
    arch, kind, settings, told = CASES[name]
    torch.manual_seed(0)
    model = randomise(kind(kind.config_class(**dict(_wide(settings)))).eval(), seed=1, scale=0.1)
    model.save_pretrained(folder / "plain")
    luck = np.random.default_rng(2)
    tensors, kinds = {}, {}
    by_name = {each.name: each for each in TYPES.values()}
    for full, tensor in gguf_written.converted(arch, folder / "plain").items():
        finer = any(part in full for part in ("ffn_down", "attn_v", "token_embd", "output."))
        own = by_name[form if form != MIXED else "Q6_K" if finer else "Q4_K"]
        tensors[full] = tensor
        whole = full.endswith("bias") or any(part in full for part in ("norm", "gate_inp", "position"))
        if whole or tensor.ndim < 2 or tensor.shape[-1] % own.numbers:
            continue
        kinds[full] = gguf_written.TYPES[own.name]
        if own.is_packed:
            *stack, rows, width = tensor.shape
            count = int(np.prod(stack)) * rows
            tensors[full] = blocks(own, count, width, 0.1, luck).reshape(*stack, rows, -1)
    assert kinds
    metadata = {**dict(_wide(told)), **gguf_written.vocabulary(SIZE)}
    return gguf_written.written(folder / "model.gguf", arch, metadata, tensors, kinds)
