"""GPTQ as its paper writes it down, in float64, an input at a time, every later weight changed at once."""

from __future__ import annotations

import numpy as np


def inverse_factor(hessian: np.ndarray, damp: float) -> np.ndarray:
    """The transposed Cholesky factor of the inverse of a damped Hessian."""
    h = hessian + damp * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    return np.linalg.cholesky(np.linalg.inv(h)).T


def span(x: np.ndarray, bits: int, sym: bool) -> tuple[np.ndarray, np.ndarray]:
    """Scales (as float16 has them) and zeros of rows."""
    most = 2**bits - 1
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    if sym:
        high = np.maximum(-low, high)
        low = -high
    else:
        low = np.minimum(low, -high / (most - 1))
    scale = ((high - low) / most).astype(np.float16).astype(np.float64)
    return scale, np.full(len(x), 2.0 ** (bits - 1)) if sym else np.clip(np.round(-low / scale), 1, most)


def naive(weight: np.ndarray, hessian: np.ndarray, bits: int, group: int, damp: float, *, sym: bool, order=None):
    """What the quantized matrix stands for; inputs are taken, and grouped, in ``order``. Shape: [outs, ins]."""
    ins = weight.shape[1]
    order = np.arange(ins) if order is None else order
    size = ins if group == -1 else group
    w, h = weight[:, order].copy(), hessian[np.ix_(order, order)]
    factor = inverse_factor(h, damp)
    made = np.empty_like(w)
    for i in range(ins):
        if i % size == 0:
            scale, zero = span(w[:, i : i + size], bits, sym)
        code = np.clip(np.round(w[:, i] / scale + zero), 0, 2**bits - 1)
        made[:, i] = scale * (code - zero)
        error = (w[:, i] - made[:, i]) / factor[i, i]
        w[:, i + 1 :] -= np.outer(error, factor[i, i + 1 :])
    back = np.empty_like(made)
    back[:, order] = made
    return back
