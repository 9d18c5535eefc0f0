"""GPTQ files written by hand, a bit at a time, from the published layout; nothing of the library is asked.

Layout (AutoGPTQ, "gptq"; GPTQModel, "gptq_v2"): the codes of an output make one long row of bits along the inputs,
``bits`` each, lowest bit first, cut into 32-bit words: ``qweight[word, output]``. The zeros of a group make such a row
along the outputs, ``qzeros[group, word]``, each less one in "gptq". ``scales[group, output]``, ``g_idx[input]``.
"""

from __future__ import annotations

import numpy as np
import torch


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """A list of codes as words. Shape: [n] to [n * bits / 32]; int32."""
    stream = "".join(format(int(code), f"0{bits}b")[::-1] for code in codes)
    assert len(stream) % 32 == 0
    cut = [int(stream[at : at + 32][::-1], 2) for at in range(0, len(stream), 32)]
    return np.array(cut, dtype=np.uint32).view(np.int32)


def written(name: str, outs: int, ins: int, bits: int, group: int, *, seed: int, v2=False, sym=False, act=False):
    """A random layer: its tensors by key, and what it stands for in float64. Shape of the second: [outs, ins]."""
    rng = np.random.default_rng(seed)
    size = ins if group == -1 else group
    groups = -(-ins // size)
    codes = rng.integers(0, 2**bits, (outs, ins))
    zeros = np.full((groups, outs), 2 ** (bits - 1)) if sym else rng.integers(1, 2**bits, (groups, outs))
    scales = (rng.random((groups, outs)) * 0.1 + 0.02).astype(np.float16) / 2**bits
    g_idx = np.arange(ins) // size
    if act:
        order = rng.permutation(ins)
        g_idx = np.empty(ins, dtype=np.int64)
        g_idx[order] = np.arange(ins) // size
    tensors = {
        "qweight": np.stack([words(row, bits) for row in codes], 1),
        "qzeros": np.stack([words(row - (not v2), bits) for row in zeros]),
        "scales": scales.astype(np.float16),
        "g_idx": g_idx.astype(np.int32),
    }
    whole = np.empty((outs, ins))
    for o in range(outs):
        for i in range(ins):
            g = g_idx[i]
            whole[o, i] = float(scales[g, o]) * (int(codes[o, i]) - int(zeros[g, o]))
    return {f"{name}.{key}": torch.from_numpy(np.ascontiguousarray(x)) for key, x in tensors.items()}, whole
