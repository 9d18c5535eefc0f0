"""How much an engine may keep, and how that is divided among its pools."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import torch

from omniform.architectures.generative import Generative
from omniform.core.errors import InputError
from omniform.core.state import StateSpec, state_specs
from omniform.engine.paged_state import MEMORY, ROWS, Pool, unit_bytes

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


def decoder_specs(model: Generative) -> dict[int, StateSpec]:
    """What the mixers of a model's decoder keep between steps, by slot; encoders read once, and keep nothing.

    A decoder used alone, without the encoder that its cross-attention was made for, keeps no memory.
    """
    specs = state_specs(model.decoder)
    return {slot: spec for slot, spec in specs.items() if model.encoder_inputs or spec.kept != "memory"}


def decoder_bytes(model: Generative) -> dict[Pool, int]:
    """Bytes that a token, or a row, of a model's decoder takes in each pool."""
    return unit_bytes(decoder_specs(model), model.dtype)


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
