"""How much an engine may keep, and how that is divided among its pools."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from omniform.architectures.generative import Generative
from omniform.core.coded import Coding
from omniform.core.errors import InputError
from omniform.core.state import StateSpec, state_specs
from omniform.engine.paged_state import MEMORY, ROWS, Pool, unit_bytes
from omniform.hub.devices import free_memory as host_memory

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_memory(memory: object) -> int | None:
    """Bytes, from a number of them or a text with a unit (``"2GB"``, ``"512MiB"``); None for None.

    Raises:
        InputError: it is neither.
    """
    if memory is None:
        return None
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d+)?)\s*([A-Za-z]*)\s*", memory) if isinstance(memory, str) else None
    if match is None or match[2].upper() not in _UNITS:
        raise InputError("no amount of memory", where="memory", expected="bytes, or '2GB'", found=repr(memory))
    return int(float(match[1]) * _UNITS[match[2].upper()])


LONGEST_ROW: Final = 4096
"""Tokens of the longest row that memory is divided for, where the model itself sets no limit."""

SHARE: Final = {"cuda": 0.8}
"""Which part of what is free ``memory="auto"`` takes; the rest is for the activations of a step. Elsewhere half: the
host's memory is everybody's."""

MANY_ROWS: Final = 256
"""Rows of the greatest length that ``memory="auto"`` makes room for, however much is free: more serve nobody sooner."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """How much memory an engine took, and why.

    Attributes:
        budget: bytes that it may take.
        free: bytes that were free when that was decided.
        taken: bytes that its blocks take; what encoders made comes beside them.
        blocks: how many there are.
        tokens: of how many tokens everything can be kept at once; None for a model that keeps none of tokens.
        why: how the budget was found.
    """

    budget: int
    free: int
    taken: int
    blocks: int
    tokens: int | None
    why: str

    def __str__(self) -> str:
        held = "" if self.tokens is None else f" for {self.tokens} tokens"
        return f"{_spelled(self.taken)} of {_spelled(self.free)} free, {self.blocks} blocks{held} ({self.why})"


def divided_memory(
    model: Generative, asked: object, size: int, sizes: Mapping[Pool, int]
) -> tuple[dict[Pool, int], int, MemoryUse]:
    """How many blocks each pool of an engine gets, and how many bytes the features of pictures and sounds.

    Args:
        asked: bytes, a text such as ``"2GB"``, ``"auto"``, or None for a quarter of what is free.
        size: tokens in a block.
        sizes: bytes that a token takes in each pool, or a row.

    Raises:
        InputError: no amount, or none that a block fits into.
    """
    free = available(model.device)
    longest = model.max_positions or LONGEST_ROW
    # Features of pictures are kept beside the state; a decoder that reads text only has none.
    features = 4 if model.reads_items else 0
    if asked == "auto":
        share = SHARE.get(model.device.type, 0.5)
        useful = MANY_ROWS * sum(n * (1 if pool == ROWS else _tokens(pool, longest, size)) for pool, n in sizes.items())
        useful = useful * 2 if MEMORY in sizes else useful
        useful = useful * features // (features - 1) if features else useful
        total, why = int(free * share), f"auto: {share:.0%} of what is free"
        if sizes and useful < total:
            total, why = useful, f"auto: room for {MANY_ROWS} rows of {longest} tokens, though more is free"
    else:
        given = parse_memory(asked)
        total = free // 4 if given is None else given
        why = "a quarter of what is free" if given is None else "as asked"
    kept = total // features if features else 0
    blocks = divided(total - kept, sizes, size, longest)
    if min(blocks.values(), default=1) < 1:
        least = sum(n * (1 if pool == ROWS else size) for pool, n in sizes.items())
        raise InputError(
            "there is no room for a single block of state",
            where="memory",
            expected=f"at least {least} bytes",
            found=f"{total} bytes ({why})",
        )
    taken = sum(n * sizes[pool] * (1 if pool == ROWS else size) for pool, n in blocks.items())
    held = [n * size for pool, n in blocks.items() if pool not in (ROWS, MEMORY)]
    return blocks, kept, MemoryUse(total, free, taken, sum(blocks.values()), min(held, default=None), why)


def _spelled(nbytes: int) -> str:
    return f"{nbytes / 2**30:.1f} GiB" if nbytes >= 2**30 else f"{nbytes / 2**20:.1f} MiB"


def decoder_specs(model: Generative) -> dict[int, StateSpec]:
    """What the mixers of a model's decoder keep between steps, by slot; encoders read once, and keep nothing.

    A decoder used alone, without the encoder that its cross-attention was made for, keeps no memory.
    """
    specs = state_specs(model.decoder)
    return {slot: spec for slot, spec in specs.items() if model.encoder_inputs or spec.kept != "memory"}


def decoder_bytes(model: Generative, coding: Coding | None = None) -> dict[Pool, int]:
    """Bytes that a token, or a row, of a model's decoder takes in each pool.

    Args:
        coding: how tokens are kept; in the model's dtype, without.
    """
    return unit_bytes(decoder_specs(model), model.dtype, coding)


def available(device: torch.device) -> int:
    """Bytes that could be had on a device, with what torch holds and does not use, or the host's cache of files."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min(host_memory(), group_memory())


def group_memory(folder: str = "/sys/fs/cgroup") -> int:
    """Bytes that the process's group (a container) may still take; files that it has read could be let go of.

    Source: the kernel's cgroup v2, ``memory.max``, ``memory.current`` and ``memory.stat``.
    """
    try:
        limit, now, stat = (Path(folder, f"memory.{name}").read_text().split() for name in ("max", "current", "stat"))
        counts = dict(zip(stat[::2], map(int, stat[1::2]), strict=True))
        files = counts.get("inactive_file", 0) + counts.get("active_file", 0)
        return max(0, int(limit[0]) - int(now[0]) + files)
    except (OSError, ValueError, IndexError):
        return 2**63  # no such groups here, or no limit ("max")


def free_memory(device: torch.device) -> int:
    """Bytes that nobody uses on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


TYPICAL_ROW = 4096
"""Tokens of the rows that memory is divided for between tokens and states of fixed size: few come near the longest."""


def divided(total: int, unit_bytes: Mapping[Pool, int], size: int, longest: int) -> dict[Pool, int]:
    """How many blocks each pool gets.

    What is kept for all tokens and what is kept for a window get room for equally many rows of ``longest`` tokens.
    States of fixed size get room for as many rows as the rest has room for, were those of :data:`TYPICAL_ROW` tokens.
    An encoder-decoder's memories get half of everything.

    Args:
        total: bytes.
        unit_bytes: bytes that a token takes in each pool, or a row.
        size: tokens in a block.
        longest: tokens of the longest row to reckon with.

    Returns:
        Blocks, by pool.
    """
    needs: dict[Pool, float] = {}
    blocks: dict[Pool, int] = {}
    for pool, nbytes in unit_bytes.items():
        if pool not in (MEMORY, ROWS):
            needs[pool] = nbytes * _tokens(pool, longest, size)
    if ROWS in unit_bytes:
        row = unit_bytes[ROWS]
        typical = sum(unit_bytes[pool] * _tokens(pool, min(longest, TYPICAL_ROW), size) for pool in needs)
        blocks[ROWS] = max(int(total / (row + typical)), min(1, total // row))
        total -= blocks[ROWS] * row
    shared = sum(needs.values())
    if MEMORY in unit_bytes:
        needs[MEMORY] = shared = shared or 1.0
        shared *= 2
    return {pool: int(total * need / shared / (unit_bytes[pool] * size)) for pool, need in needs.items()} | blocks


def _tokens(pool: Pool, longest: int, size: int) -> int:
    # A window's row holds one block more than the window, since it need not begin with a block.
    return min(longest, pool + size) if isinstance(pool, int) else longest


def exact(unit_bytes: Mapping[Pool, int], rows: Sequence[int], size: int) -> int | None:
    """Bytes that hold rows of so many tokens each and nothing else; None where no such number can be told beforehand.

    Args:
        unit_bytes: bytes that a token takes in each pool, or a row.
        rows: tokens of each row.
        size: tokens in a block.
    """
    if len(unit_bytes) > 1 or MEMORY in unit_bytes:
        return None
    if ROWS in unit_bytes:
        return len(rows) * unit_bytes[ROWS]
    tokens = sum(-(-tokens // size) + 2 for tokens in rows) * size
    return tokens * sum(unit_bytes.values())
