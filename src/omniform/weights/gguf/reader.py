"""Reading GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), versions 2 and 3.

A file is a header, metadata by key, a table of tensors, and the tensors' bytes, each at a multiple of the alignment.
All of it is checked here before anything is built, and no count that a file names makes memory be taken before the
bytes are known to be there. Tensors' bytes are not touched: they are views of the mapped file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor

from omniform.core.errors import WeightsError, brief
from omniform.weights.gguf.types import TYPES, BlockType

Value = bool | int | float | str | list["Value"]
"""What a key of the metadata may hold. Arrays of numbers and of texts are lists of them."""

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)

MOST_TENSORS: Final = 250_000
MOST_KEYS: Final = 100_000
LONGEST_KEY: Final = 65_535
"""The format's own bound."""
MOST_AXES: Final = 8
"""ggml has four."""
DEEPEST: Final = 4
"""Arrays of arrays beyond so many levels are refused; published files have none."""

_TEXT, _ARRAY = 8, 9
_FORMATS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
"""The numbers' layouts by the number of their type, little-endian; 7 is a truth value."""
_BOOL: Final = 7


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the file's table describes it.

    Attributes:
        name: its name in the file.
        shape: its shape as torch counts axes: the last one runs fastest. Files have it the other way round.
        kind: what its numbers are.
        start: where its bytes begin in the file.
        nbytes: how many there are.
    """

    name: str
    shape: tuple[int, ...]
    kind: BlockType
    start: int
    nbytes: int

    @property
    def bytes_shape(self) -> tuple[int, ...]:
        """Its shape in bytes: rows of whole blocks."""
        return (*self.shape[:-1], self.shape[-1] // self.kind.numbers * self.kind.nbytes)


@dataclass(frozen=True)
class GgufFile:
    """A file whose header was read and checked.

    Attributes:
        path: where it is.
        version: of the format.
        metadata: values by key, in the file's order.
        tensors: tables' rows by the tensors' names, in the file's order.
        size: the file's bytes.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]
    size: int

    @cached_property
    def _bytes(self) -> Tensor:
        try:
            storage = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=self.size)
        except (OSError, RuntimeError) as error:
            found = str(error).split("\n")[0]
            raise WeightsError("the file cannot be mapped into memory", where=str(self.path), found=found) from error
        return torch.empty(0, dtype=torch.uint8, device="cpu").set_(cast(torch.UntypedStorage, storage))

    def raw(self, name: str) -> Tensor:
        """A tensor's bytes as they lie in the mapped file: rows of blocks. Shape: [..., bytes of a row]; uint8.

        Raises:
            WeightsError: the file is gone by now, or there is no room for it among the addresses.
        """
        info = self.tensors[name]
        # A view's own count of writes: see weights/safetensors.py.
        return self._bytes[info.start : info.start + info.nbytes].view(info.bytes_shape).data


def read_gguf(path: Path) -> GgufFile:
    """Read and check a file's header; no tensor's bytes are read.

    Raises:
        WeightsError: this is no GGUF file, or one of another version; it is cut short; a count, a length, a type or a
            place in it cannot be.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            magic = file.read(4)
        data = np.memmap(path, np.uint8, "r") if magic == MAGIC else None
    except OSError as error:
        raise WeightsError("the file cannot be read", where=str(path), found=error.strerror) from error
    if data is None:
        raise _damaged(str(path), "a file that begins with GGUF", repr(magic))
    cursor = _Cursor(memoryview(data), str(path))  # type: ignore[arg-type]
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
        raise WeightsError(
            "this version of GGUF is not read",
            where=str(path),
            expected="version 2 or 3, little-endian",
            found=f"{int.from_bytes(version.to_bytes(4, 'little'), 'big')}, big-endian" if swapped else str(version),
        )
    count = cursor.count("tensors", MOST_TENSORS, least=24)
    keys = cursor.count("keys of metadata", MOST_KEYS, least=13)
    metadata: dict[str, Value] = {}
    for _ in range(keys):
        key = cursor.text("a key of the metadata", LONGEST_KEY)
        if key in metadata:
            raise _damaged(str(path), "every key once in the metadata", f"{key!r} twice")
        metadata[key] = cursor.value(cursor.number("I", f"the type of {key!r}"), key, 0)
    rows = _table(cursor, count)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _damaged(str(path), "an alignment that is a power of two", f"general.alignment {brief(alignment)}")
    data_start = -(-cursor.at // alignment) * alignment
    return GgufFile(path, version, metadata, _placed(rows, data_start, alignment, size, str(path)), size)


def _table(cursor: _Cursor, count: int) -> dict[str, tuple[tuple[int, ...], int, int]]:
    """The table of tensors: shape, type and offset of each, as the file says."""
    rows: dict[str, tuple[tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = cursor.text("a tensor's name", LONGEST_KEY)
        axes = cursor.number("I", f"the axes of {name!r}")
        if axes > MOST_AXES:
            raise _damaged(cursor.where, f"at most {MOST_AXES} axes of tensor {name!r}", str(axes))
        shape = tuple(cursor.number("Q", f"the shape of {name!r}") for _ in range(axes))
        kind = cursor.number("I", f"the type of {name!r}")
        offset = cursor.number("Q", f"the place of {name!r}")
        if name in rows:
            raise _damaged(cursor.where, "every tensor once in the table", f"{name!r} twice")
        rows[name] = (shape[::-1], kind, offset)
    return rows


def _placed(
    rows: Mapping[str, tuple[tuple[int, ...], int, int]], data: int, alignment: int, size: int, where: str
) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for name, (shape, number, offset) in rows.items():
        kind = TYPES.get(number)
        if kind is None:
            raise WeightsError(
                f"tensor {name!r} is of an unknown type",
                where=where,
                expected=", ".join(kind.name for kind in TYPES.values()),
                found=f"type {number}",
                remedy="A newer omniform may know it.",
            )
        shape = shape or (1,)
        numbers = prod(shape)
        if prod(n or 1 for n in shape) >= 2**63:
            raise _damaged(where, f"a shape that can be for tensor {name!r}", f"{shape}"[:120])
        if shape[-1] % kind.numbers:
            raise _damaged(
                where, f"rows of tensor {name!r} to be whole blocks of {kind.numbers}", f"rows of {shape[-1]}"
            )
        if offset % alignment:
            raise _damaged(where, f"tensor {name!r} at a multiple of {alignment} bytes", f"byte {offset}")
        nbytes = numbers // kind.numbers * kind.nbytes
        if data + offset + nbytes > size:
            raise _damaged(
                where,
                f"tensor {name!r} to end within the file's {size} bytes",
                f"an end at {data + offset + nbytes}",
                cut=True,
            )
        found[name] = TensorInfo(name, shape, kind, data + offset, nbytes)
    end, before = data, ""
    for info in sorted((info for info in found.values() if info.nbytes), key=lambda info: info.start):
        if info.start < end:
            raise _damaged(where, f"tensor {info.name!r} apart from {before!r}", "bytes that both have")
        end, before = info.start + info.nbytes, info.name
    return found


class _Cursor:
    """A place in the bytes of a file's header that moves on; nothing behind the end is ever read."""

    def __init__(self, data: memoryview, where: str) -> None:
        self.data = data
        self.where = where
        self.at = 4

    def take(self, nbytes: int, what: str) -> memoryview:
        """The next bytes."""
        left = len(self.data) - self.at
        if nbytes > left:
            raise _damaged(self.where, f"{nbytes} bytes for {what} at byte {self.at}", f"{left} bytes", cut=True)
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def number(self, form: str, what: str) -> int:
        """The next whole number, of one of :mod:`struct`'s forms."""
        (found,) = struct.unpack("<" + form, self.take(struct.calcsize("<" + form), what))
        return int(found)

    def count(self, what: str, most: int, least: int) -> int:
        """How many of something follow, each of which takes ``least`` bytes."""
        found = self.number("Q", f"the number of {what}")
        left = len(self.data) - self.at
        if found > most or found * least > left:
            most = min(most, left // least)
            raise _damaged(self.where, f"at most {most} {what} in this file", str(found), cut=found * least < 1 << 40)
        return found

    def text(self, what: str, longest: int | None = None) -> str:
        """The next text: its length in bytes, then UTF-8."""
        length = self.number("Q", f"the length of {what}")
        if longest is not None and length > longest:
            raise _damaged(self.where, f"{what} of at most {longest} bytes", f"{length} bytes")
        # Vocabularies of old converters hold pieces of characters; what they are matters to nobody but must be kept.
        return bytes(self.take(length, what)).decode("utf-8", "surrogateescape")

    def value(self, kind: int, key: str, depth: int) -> Value:
        """The next value of a type."""
        if kind == _TEXT:
            return self.text(f"the value of {key!r}")
        if kind == _ARRAY:
            return self.array(key, depth)
        form = _FORMATS.get(kind)
        if form is None:
            raise _damaged(self.where, f"a type of value for {key!r} from 0 to 12", str(kind))
        (found,) = struct.unpack("<" + form, self.take(struct.calcsize("<" + form), f"the value of {key!r}"))
        return bool(found) if kind == _BOOL else cast(Value, found)

    def array(self, key: str, depth: int) -> list[Value]:
        """The next array: the type of its items, their number, and they."""
        if depth >= DEEPEST:
            raise _damaged(self.where, f"at most {DEEPEST} arrays in one another", f"more in {key!r}")
        kind = self.number("I", f"the type of {key!r}")
        form = _FORMATS.get(kind)
        # A text takes eight bytes at least, an array twelve.
        least = struct.calcsize("<" + form) if form is not None else 8 if kind == _TEXT else 12
        many = self.count(f"items of {key!r}", len(self.data), least)
        if form is not None:
            numbers = struct.unpack(f"<{many}{form}", self.take(many * least, f"the items of {key!r}"))
            return [bool(one) for one in numbers] if kind == _BOOL else list(numbers)
        return [self.value(kind, key, depth + 1) for _ in range(many)]


def _damaged(where: str, expected: str, found: str, *, cut: bool = False) -> WeightsError:
    problem = "the GGUF file is cut short, or damaged" if cut else "the GGUF file is damaged"
    return WeightsError(problem, where=where, expected=expected, found=found, remedy="Download it again.")
