"""Reading and writing safetensors files (https://huggingface.co/docs/safetensors, format version 0.x).

A file is eight bytes of header length (little-endian), a JSON header, and the tensors' bytes. The header is read and
checked here, without touching the data, so that a damaged file is refused before anything is built and so that
``inspect`` needs nothing but headers. Tensors are views of the memory-mapped file: nothing is copied, and what was
touched can be let go again (:func:`release`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.pages import release as release

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

LONGEST_HEADER = 100_000_000
"""The format's own bound on the header's bytes."""

MOST_TENSORS = 250_000
"""Tensors of the largest file; published ones have a few thousand, and their sum over all files stays below this."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as a header describes it.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        start: where its bytes begin in the file.
        nbytes: how many there are.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check a file's header; no tensor data is read.

    Raises:
        WeightsError: the file is cut, its header is absurd or no JSON, or its offsets lie outside or overlap.
    """

    try:
        with path.open("rb") as file:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            return header_of(read, path.stat().st_size, str(path))
    except OSError as error:
        raise WeightsError("the file cannot be read", where=str(path), found=error.strerror) from error


def header_of(read: Callable[[int, int], bytes], size: int, where: str) -> Header:
    """Read and check the header of a file that lies anywhere.

    Args:
        read: gives the bytes from a place to another; fewer where the file ends before.
        size: the file's bytes.
        where: what the file is called in errors.

    Raises:
        WeightsError: as :func:`read_header`.
    """
    prefix = read(0, 8)
    if len(prefix) < 8:
        raise _damaged(where, "at least 8 bytes", f"{len(prefix)} bytes")
    (length,) = struct.unpack("<Q", prefix)
    if length > LONGEST_HEADER or length > size - 8:
        raise _damaged(where, f"a header that fits into the file's {size} bytes", f"a header of {length} bytes")
    text = read(8, 8 + length)
    tensors, signs = text.count(b"{"), text.count(b"[") + text.count(b",")
    if tensors > MOST_TENSORS or signs > 16 * MOST_TENSORS:
        # Each of them becomes objects a hundred times as large.
        raise _damaged(where, f"at most {MOST_TENSORS} tensors in a header of {length} bytes", f"{max(tensors, signs)}")
    try:
        raw = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise _damaged(where, "every name once in the header", f"{error.name!r} twice") from None
    except (ValueError, RecursionError):
        raise _damaged(where, "a header in JSON", repr(text[:40])) from None
    if not isinstance(raw, dict):
        raise _damaged(where, "a JSON object as header", type(raw).__name__)
    metadata = raw.pop("__metadata__", {})
    entries = {name: _entry(where, name, item, 8 + length, size) for name, item in raw.items()}
    _check_layout(where, entries, 8 + length, size)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(where, "metadata of texts by name", repr(metadata)[:80])
    return Header(entries, metadata)


class _TwiceError(ValueError):
    """A JSON object that holds a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    # Readers differ in which of two equal names they believe, so that a file could mean two things.
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise _TwiceError(name)
            seen.add(name)
    return found


def map_tensors(path: Path, header: Header) -> dict[str, Tensor]:
    """Every tensor of a file, as views of its memory-mapped bytes (copy-on-write: the file never changes).

    Raises:
        WeightsError: the file is gone by now, or there is no room for it among the addresses.
    """
    try:
        size = path.stat().st_size
        storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
    except (OSError, RuntimeError) as error:
        found = str(error).split("\n")[0]
        raise WeightsError("the file cannot be mapped into memory", where=str(path), found=found) from error
    whole = torch.empty(0, dtype=torch.uint8, device="cpu").set_(cast(torch.UntypedStorage, storage))
    return {name: _view(whole, entry) for name, entry in header.entries.items()}


def _view(whole: Tensor, entry: Entry) -> Tensor:
    data = whole[entry.start : entry.start + entry.nbytes]
    if entry.start % entry.dtype.itemsize:
        data = data.clone()  # some old files are not aligned, and a view must be
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    # A view would share the file's count of writes: a batch norm that counts on while it trains would then seem to have
    # changed every weight in the midst of a step.
    return data.view(entry.dtype).view(entry.shape).data


def _entry(where: str, name: str, item: object, data: int, size: int) -> Entry:
    if not isinstance(item, dict):
        raise _damaged(where, f"an object for tensor {name!r}", type(item).__name__)
    dtype, shape, offsets = item.get("dtype"), _naturals(item.get("shape")), _naturals(item.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(
            f"tensor {name!r} has an unknown dtype", where=where, expected=", ".join(DTYPES), found=repr(dtype)
        )
    if shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(where, f"a shape and two offsets for tensor {name!r}", repr(item)[:120])
    if prod(n or 1 for n in shape) >= 2**63:
        raise _damaged(where, f"a shape that can be for tensor {name!r}", f"{shape}"[:120])
    begin, end = offsets
    expected = prod(shape) * DTYPES[dtype].itemsize
    if end - begin != expected:
        raise _damaged(
            where, f"{expected} bytes for tensor {name!r} of shape {str(shape)[:120]}", f"{end - begin} bytes"
        )
    if end > size - data:
        raise _damaged(where, f"tensor {name!r} to end within the file's {size} bytes", f"an end at {data + end}")
    return Entry(DTYPES[dtype], tuple(shape), data + begin, expected)


def _naturals(value: object) -> list[int] | None:
    if isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value):
        return value
    return None


def _check_layout(where: str, entries: Mapping[str, Entry], data: int, size: int) -> None:
    end = data
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if entry.start != end:
            kind = "overlaps the tensor before it" if entry.start < end else "leaves a gap before it"
            raise _damaged(where, f"tensor {name!r} to start at byte {end}", f"byte {entry.start}: it {kind}")
        end += entry.nbytes
    if end != size:
        raise _damaged(where, f"the tensors to fill the file's {size} bytes", f"{end} bytes")


def _damaged(where: str, expected: str, found: str) -> WeightsError:
    return WeightsError(
        "the safetensors file is damaged", where=where, expected=expected, found=found, remedy="Download it again."
    )
