"""How much an engine may keep, and how that is divided among its pools."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import torch

from omniform.core.errors import InputError
from omniform.engine.pages import MEMORY, Pool

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
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", memory) if isinstance(memory, str) else None
    if match is None or match[2].upper() not in _UNITS:
        raise InputError("no amount of memory", where="memory", expected="bytes, or '2GB'", found=repr(memory))
    return int(float(match[1]) * _UNITS[match[2].upper()])


def free_memory(device: torch.device) -> int:
    """Bytes that nobody uses on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def divided(total: int, token_bytes: Mapping[Pool, int], size: int, longest: int) -> dict[Pool, int]:
    """How many blocks each pool gets.

    What is kept for all tokens and what is kept for a window get room for equally many rows of ``longest`` tokens. An
    encoder-decoder's memories get half of everything.

    Args:
        total: bytes.
        token_bytes: bytes that a token takes in each pool.
        size: tokens in a block.
        longest: tokens of the longest row to reckon with.

    Returns:
        Blocks, by pool.
    """
    needs: dict[Pool, float] = {}
    for pool, nbytes in token_bytes.items():
        if pool != MEMORY:
            # A window's row holds one block more than the window, since it need not begin with a block.
            tokens = longest if not isinstance(pool, int) else min(longest, pool + size)
            needs[pool] = nbytes * tokens
    shared = sum(needs.values())
    if MEMORY in token_bytes:
        needs[MEMORY] = shared = shared or 1.0
        shared *= 2
    return {pool: int(total * need / shared / (token_bytes[pool] * size)) for pool, need in needs.items()}
