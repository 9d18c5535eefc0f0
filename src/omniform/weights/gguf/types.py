"""The types of numbers that a GGUF file may hold its tensors in (ggml's ``ggml_type``).

A row of a tensor is a row of blocks: so many numbers in so many bytes. Floats are blocks of one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type.

    Attributes:
        name: as files and tools call it.
        numbers: how many numbers a block holds.
        nbytes: how many bytes it takes.
        dtype: torch's own, where it has one.
        read: whether these blocks can be turned into floats here.
    """

    name: str
    numbers: int
    nbytes: int
    dtype: torch.dtype | None = None
    read: bool = True

    @property
    def is_packed(self) -> bool:
        """Whether numbers share a block, so that no tensor of torch's holds them."""
        return self.dtype is None


def _told(name: str, numbers: int, nbytes: int) -> BlockType:
    return BlockType(name, numbers, nbytes, read=False)


TYPES: Mapping[int, BlockType] = {
    0: BlockType("F32", 1, 4, torch.float32),
    1: BlockType("F16", 1, 2, torch.float16),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    9: _told("Q8_1", 32, 40),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    15: _told("Q8_K", 256, 292),
    16: _told("IQ2_XXS", 256, 66),
    17: _told("IQ2_XS", 256, 74),
    18: _told("IQ3_XXS", 256, 98),
    19: _told("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: _told("IQ3_S", 256, 110),
    22: _told("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    24: BlockType("I8", 1, 1, torch.int8),
    25: BlockType("I16", 1, 2, torch.int16),
    26: BlockType("I32", 1, 4, torch.int32),
    27: BlockType("I64", 1, 8, torch.int64),
    28: BlockType("F64", 1, 8, torch.float64),
    29: _told("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2, torch.bfloat16),
    34: _told("TQ1_0", 256, 54),
    35: _told("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
    40: _told("NVFP4", 64, 36),
    41: _told("Q1_0", 128, 18),
}
"""All types by their number in a file; those that are only known by name and size have ``read`` False."""

READ = tuple(kind.name for kind in TYPES.values() if kind.read)
"""The names of the types that can be read."""
