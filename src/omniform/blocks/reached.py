"""Attention of a packed step on an accelerator: one kernel over paged state, for prompts and single tokens alike.

By Triton where that is there (:mod:`omniform.blocks.reached_kernels`). Where it is not, or heads are wider than it
takes, single tokens look at gathered keys by torch's own kernel, and prompts go as on a CPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from omniform.blocks.padded import attend_padded
from omniform.blocks.scores import Scores
from omniform.core.context import Mask
from omniform.core.reached import DecodeMask, Reached

WIDEST: Final = 256
"""Channels of a head that the kernel takes; wider ones do not fit into a multiprocessor's memory."""

CHUNK: Final = 128
"""Keys that a single token's part holds: fewer make more programs, more take longer each."""

TILE: Final = 128
"""Queries of a prompt that a program takes, heads of a group counted; half as many of wide numbers."""

DTYPES: Final = frozenset({torch.float32, torch.float16, torch.bfloat16})

DEVICES: Final = frozenset({"cuda"})
"""Where Triton's programs run; its interpreter, which tests use, runs them anywhere."""


@cache
def kernels() -> ModuleType | None:
    """Triton's programs; None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("omniform.blocks.reached_kernels")


def can_reach(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes such queries, keys and values."""
    return (
        q.device.type in DEVICES
        and q.dtype == k.dtype == v.dtype
        and q.dtype in DTYPES
        and max(q.shape[-1], v.shape[-1]) <= WIDEST
        and kernels() is not None
    )


def attend_reached(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    reached: Reached,
    *,
    scores: Scores,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of every query to its range of its row's keys, without a look at any number on the host.

    Args:
        q_NHD: the queries of all rows, end to end.
        k_1GSD: the keys of every slot there is, where G divides H.
        v_1GSD: the values likewise.
        reached: which queries see which slots.
        scores: how queries and keys are compared.
        sinks: Shape: [H].
        bias: added to the scores. Shape: [H, N, S].

    Returns:
        Shape: [N, H, Dv].
    """
    programs = kernels()
    assert programs is not None, "asked before"
    (tokens, heads, key), groups, value = q_NHD.shape, k_1GSD.shape[1], v_1GSD.shape[-1]
    each = heads // groups
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_NHD, k_1GSD, v_1GSD))
    single = reached.counts is None
    wide = (_power(key) + _power(value)) * q.element_size() > 512
    narrow = q.element_size() == 2 and not wide
    block_m = max(16 if single else TILE if narrow else TILE // 2, _power(each))
    tiles, counts = reached.tiles(max(1, block_m // each))
    # What begins within a part may reach into one more.
    parts = -(-reached.longest // CHUNK) + (not reached.from_first)
    split = single and reached.longest > CHUNK
    out = q.new_empty(tokens, heads, value)
    bias = bias if bias is None or bias.stride(-1) == 1 else bias.contiguous()
    told = q.new_empty(0) if bias is None else bias
    sunk = q.new_empty(0) if sinks is None else sinks
    held = maxima = sums = out
    if split:
        held = torch.empty(tokens, heads, parts, value, dtype=torch.float32, device=q.device)
        maxima, sums = torch.empty(2, tokens, heads, parts, dtype=torch.float32, device=q.device)
    grid = (len(tiles), groups, parts if split else 1)
    programs.attend_tiles[grid](
        q, k, v, held, maxima, sums, reached.slots, reached.origin, reached.low, reached.high, tiles, counts,
        sunk, told,
        scores.scale, 1.0 if scores.cap is None else scores.cap, CHUNK, parts,
        q.stride(0), q.stride(1), k.stride(1), k.stride(2), v.stride(1), v.stride(2),
        0 if bias is None else bias.stride(0), 0 if bias is None else bias.stride(1),
        EACH=each, KEY=key, VALUE=value,
        BLOCK_M=block_m, BLOCK_N=32 if wide else 64, BLOCK_K=max(16, _power(key)), BLOCK_V=max(16, _power(value)),
        CAPPED=scores.cap is not None, SUNK=sinks is not None and not split, BIASED=bias is not None, SPLIT=split,
        num_warps=8 if narrow and not single else 4, num_stages=3 if narrow and not single else 2,
    )  # fmt: skip
    if split:
        programs.join_parts[(tokens, heads)](
            held, maxima, sums, out, reached.low, reached.high, sunk, CHUNK, parts, heads,
            VALUE=value, BLOCK_V=max(16, _power(value)), BLOCK_P=16, SUNK=sinks is not None, num_warps=4,
        )  # fmt: skip
    return out


def attend_gathered(
    q_NHD: Tensor,
    k_1GSD: Tensor,
    v_1GSD: Tensor,
    mask: DecodeMask,
    *,
    scores: Scores,
    sinks: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The same for one token of each row by torch's own kernel, over copies of as many keys as a row may have."""
    # What is not seen stands for what is: slots that nobody has written may hold anything, and nothing times that.
    last = mask.slots.gather(1, (mask.high[:, None] - 1).clamp(min=0).long())
    slots = torch.where(mask.there, mask.slots, last)
    k_NGSD, v_NGSD = (
        x[0].index_select(1, slots.flatten()).unflatten(1, slots.shape).transpose(0, 1)  # type: ignore[no-untyped-call]
        for x in (k_1GSD, v_1GSD)
    )
    seen = Mask(mask.there[:, None, None])
    added = None if bias is None else bias.transpose(0, 1)[:, :, None]
    q = q_NHD[:, None]
    return attend_padded(q, k_NGSD, v_NGSD, seen, scores=scores, backend="sdpa", bias=added, sinks=sinks)[:, 0]


def _power(number: int) -> int:
    """The next power of two."""
    return 1 << max(number - 1, 0).bit_length()
