"""What stands between a layer's matmuls as one kernel each, on a GPU where nobody learns from it or watches it.

Each function gives None where it does not help; then torch's operations do it.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from omniform.core.host import is_recorded, is_traced

DEVICES: Final = frozenset({"cuda"})
"""Where Triton's programs run; its interpreter, which tests use, runs them anywhere."""

DTYPES: Final = frozenset({torch.float32, torch.float16, torch.bfloat16})

MANY: Final = 1 << 23
"""Of so many numbers it is worth it in steps that are not recorded: starting one of Triton's programs takes the host as
long as starting four or five of torch's. A prompt of 2,048 tokens of 2,048 numbers took 23 ms with them and 19 without,
24 prompts in steps of 8,192 tokens took 99 ms with them and 116 without (NVIDIA H200)."""

SILU: Final = frozenset({"silu", "swish"})

WIDEST: Final = 1 << 14
"""Numbers in a row that one program holds."""


@cache
def kernels() -> ModuleType | None:
    """Triton's programs; None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("omniform.blocks.small_kernels")


def _helped(x: Tensor) -> ModuleType | None:
    """The programs, if they are for such a tensor now."""
    if (
        x.device.type not in DEVICES
        or torch.is_grad_enabled()
        or type(x) is not Tensor
        or x.dtype not in DTYPES
        or x.numel() < (1 if is_recorded() else MANY)
        or is_traced()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    ):
        return None
    return kernels()


def fused_norm(
    x: Tensor, weight: Tensor | None, eps: float, dtype: torch.dtype, *, plus: float = 0.0, rounded: bool = False
) -> Tensor | None:
    """A root mean square norm over the last axis, in float32. Shape: [..., D] in and out.

    Args:
        weight: what the normed are multiplied by, in float32; None for nothing. Shape: [D].
        eps: added to the mean square.
        dtype: of the result.
        plus: what is added to the weight.
        rounded: whether the normed are rounded to the weight's dtype before.
    """
    programs, width = _helped(x), x.shape[-1]
    if programs is None or width > WIDEST:
        return None
    rows = x.reshape(-1, width)
    rows = rows if rows.stride(-1) == 1 else rows.contiguous()
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    programs.norm_rows[(len(rows),)](
        rows, x if weight is None else weight, out, rows.stride(0), eps, plus,
        WIDTH=width, BLOCK=_power(width), WEIGHED=weight is not None, ROUNDED=rounded,
        num_warps=1 if width <= 256 else 4 if width <= 4096 else 8,
    )  # fmt: skip
    return out


def fused_turn(x_BTHD: Tensor, cos: Tensor, sin: Tensor) -> Tensor | None:
    """The first channels of every head turned by halves, as many as there are angles. Shape: [B, T, H, D] in and out.

    Args:
        cos, sin: of every token. Shape: [B, T, 1, dim].
    """
    programs = _helped(x_BTHD)
    if programs is None or x_BTHD.dim() != 4 or x_BTHD.dtype != cos.dtype or x_BTHD.stride(-1) != 1:
        return None
    batch, tokens, heads, width = x_BTHD.shape
    # Tokens of all rows have to follow one another at equal distances.
    even = batch == 1 or x_BTHD.stride(0) == tokens * x_BTHD.stride(1)
    if cos.shape[:3] != (batch, tokens, 1) or not even or not (cos.is_contiguous() and sin.is_contiguous()):
        return None
    out = torch.empty(x_BTHD.shape, dtype=x_BTHD.dtype, device=x_BTHD.device)
    programs.turn_heads[(batch * tokens * heads,)](
        x_BTHD, cos, sin, out, x_BTHD.stride(1), x_BTHD.stride(2), heads,
        DIM=cos.shape[-1], WIDTH=width, BLOCK=_power(width), num_warps=1,
    )  # fmt: skip
    return out


def fused_gate(act: str, gate: Tensor, up: Tensor) -> Tensor | None:
    """``silu(gate) * up``, where that is the activation. Shape: [..., D] each."""
    programs, width = _helped(gate), gate.shape[-1]
    if programs is None or act not in SILU or gate.dtype != up.dtype or gate.shape != up.shape:
        return None
    g, u = gate.reshape(-1, width), up.reshape(-1, width)
    if g.stride(-1) != 1 or u.stride(-1) != 1:
        return None
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    block = min(1024, _power(width))
    programs.gate_values[(len(g), -(-width // block))](
        g, u, out, width, g.stride(0), u.stride(0), WIDTH=width, BLOCK=block, num_warps=4
    )
    return out


def fused_write(kept: tuple[Tensor, ...], new: tuple[Tensor, ...], slots: Tensor) -> bool:
    """Write some tokens' keys and values into their slots; whether that was done.

    Args:
        kept: all keys and values. Shape: [1, G, slots, D] each.
        new: those of the tokens. Shape: [1, G, N, D] each.
        slots: Shape: [N], int64.
    """
    (kept_k, kept_v), (k, v) = kept, new
    programs = _helped(k)
    if programs is None or k.dtype != kept_k.dtype or v.dtype != kept_v.dtype or k.shape[1:3] != v.shape[1:3]:
        return False
    if any(x.stride(-1) != 1 for x in (k, v, kept_k, kept_v)):
        return False
    groups, tokens = k.shape[1:3]
    programs.write_slots[(tokens * groups,)](
        k, v, kept_k, kept_v, slots, groups, k.stride(2), k.stride(1), v.stride(2), v.stride(1),
        kept_k.stride(1), kept_k.stride(2), kept_v.stride(1), kept_v.stride(2),
        KEY=k.shape[-1], VALUE=v.shape[-1], BLOCK=_power(max(k.shape[-1], v.shape[-1])), num_warps=1,
    )  # fmt: skip
    return True


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()
