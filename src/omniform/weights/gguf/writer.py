"""Writing GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 3, a tensor at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO, Final

from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.gguf.reader import MAGIC, Value
from omniform.weights.gguf.types import TYPES, BlockType

ALIGNMENT: Final = 32
_NUMBERS: Final = {kind.name: number for number, kind in TYPES.items()}
_UINT32, _INT32, _FLOAT32, _BOOL, _TEXT, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Planned:
    """A tensor that is to be written.

    Attributes:
        name: what the file calls it.
        shape: as torch counts axes.
        kind: the type of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType

    @property
    def nbytes(self) -> int:
        """What it takes in the file."""
        return prod(self.shape) // self.kind.numbers * self.kind.nbytes


def write_gguf(
    file: BinaryIO,
    metadata: Mapping[str, Value],
    tensors: Sequence[Planned],
    raw: Callable[[Planned], Tensor],
) -> None:
    """Write a file from its beginning; each tensor is asked for when its turn comes, and let go of.

    Args:
        file: open for writing.
        metadata: values by key. Whole numbers are written in 32 bits, signed where they are below zero or in a list;
            others as float32.
        tensors: in the order in which they are to lie.
        raw: a tensor's bytes. Shape: [..., bytes of a row]; uint8.

    Raises:
        WeightsError: a value cannot be written.
    """
    header = bytearray(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        header += _text(key) + _value(value, key)
    offset = 0
    for one in tensors:
        axes = one.shape[::-1]
        header += _text(one.name) + struct.pack(f"<I{len(axes)}QIQ", len(axes), *axes, _NUMBERS[one.kind.name], offset)
        offset += _aligned(one.nbytes)
    file.write(header)
    file.write(bytes(_aligned(len(header)) - len(header)))
    for one in tensors:
        made = raw(one).contiguous()
        if made.numel() != one.nbytes:
            raise WeightsError(
                "a tensor has another size than was planned", where=one.name, expected=str(one.nbytes),
                found=str(made.numel()),
            )  # fmt: skip
        file.write(made.view(-1).numpy().data)
        file.write(bytes(_aligned(one.nbytes) - one.nbytes))


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")  # as it was read
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value, key: str) -> bytes:
    kind = _kind(value, key)
    if not isinstance(value, list):
        return struct.pack("<I", kind) + _one(value, kind, key)
    kinds = {_kind(one, key) for one in value}
    if kinds <= {_UINT32, _INT32}:
        kinds = {_INT32}
    if len(kinds) != 1:
        raise WeightsError("a list in the metadata is of one kind", where=key, found=f"{len(kinds)} kinds")
    (each,) = kinds
    head = struct.pack("<IIQ", _ARRAY, each, len(value))
    return head + b"".join(_one(one, each, key) for one in value)


def _kind(value: Value, key: str) -> int:
    if isinstance(value, bool):
        return _BOOL
    if isinstance(value, int):
        return _INT32 if value < 0 else _UINT32
    if isinstance(value, float):
        return _FLOAT32
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, list):
        return _ARRAY
    raise WeightsError("no metadata can hold this", where=key, found=type(value).__name__)


def _one(value: Value, kind: int, key: str) -> bytes:
    if isinstance(value, str):
        return _text(value)
    form = {_UINT32: "I", _INT32: "i", _FLOAT32: "f", _BOOL: "?"}.get(kind)
    if form is None:
        raise WeightsError("lists of lists are not written", where=key)
    try:
        return struct.pack("<" + form, value)
    except (struct.error, OverflowError) as error:
        raise WeightsError("a number is too large for the metadata", where=key, found=str(value)) from error
