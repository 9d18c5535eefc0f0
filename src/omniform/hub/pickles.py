"""Looking into a ``.bin`` file on the Hub: torch's zip archives say what they hold in a few small records.

The archive's table and its pickle are fetched by ranged requests, a copy of it is built without the tensors' numbers,
and torch's weights-only loader reads that, onto tensors that hold nothing.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.weights.safetensors import Entry

if TYPE_CHECKING:
    from omniform.hub.files import Source

WINDOW: Final = 8192
"""Bytes that are fetched at once, at the least."""

LARGEST_RECORD: Final = 2**26
"""A pickle of names and shapes beyond this many bytes is refused."""


_ARITHMETIC: Final = ("/.format_version", "/.storage_alignment")
"""Records that let torch compute where a storage lies, from sizes that are not those of the copy."""


@dataclass(frozen=True, slots=True)
class Pickle:
    """What a ``.bin`` file holds.

    Attributes:
        source: where it is.
        name: what it is called.
        entries: its tensors; ``start`` is where a tensor begins within its storage.
        records: where the storage of each begins in the file: its record's header.
    """

    source: Source
    name: str
    entries: Mapping[str, Entry]
    records: Mapping[str, int]

    def is_one(self, one: str, other: str) -> bool:
        """Whether two names are of the same numbers."""
        same = self.records.get(one) == self.records.get(other) is not None
        return same and self.entries.get(one) == self.entries.get(other)

    def placed(self, key: str) -> Entry | None:
        """Where a tensor lies in the file; None where torch does not tell which storage is its."""
        entry, header = self.entries[key], self.records.get(key)
        if header is None:
            return None
        # A record's header says how long it is itself (PKWARE's APPNOTE 4.3.7).
        words = self.source.peek(self.name, header, header + 30)
        name, extra = struct.unpack("<HH", words[26:30])
        return replace(entry, start=header + 30 + name + extra + entry.start)


def look_into(source: Source, name: str) -> Pickle | None:
    """What a ``.bin`` file on the Hub holds; None for those of before 2020, which are no archives.

    Raises:
        WeightsError: it is damaged, or holds more than tensors.
    """
    where = f"{source.name}: {name}"
    ranged = _Ranged(source, name)
    if ranged.read(4) != b"PK\x03\x04":
        return None
    try:
        with zipfile.ZipFile(ranged) as held:
            hollow, places = _hollow(held, where)
    except (zipfile.BadZipFile, struct.error) as error:
        raise unloadable(error, where) from error
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a while

    try:
        with FakeTensorMode():
            loaded = torch.load(hollow, weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler met
        raise unloadable(error, where) from error
    entries, records = {}, {}
    for key, tensor in tensors_in(loaded, where).items():
        size = tensor.element_size()
        entries[key] = Entry(
            tensor.dtype, tuple(tensor.shape), int(tensor.storage_offset()) * size, tensor.numel() * size
        )
        # torch notes where in the archive a storage lies that it did not read, if it is new enough.
        offset = vars(tensor.untyped_storage()).get("_checkpoint_offset")
        if tensor.is_contiguous() and isinstance(offset, int) and offset in places:
            records[key] = places[offset]
    return Pickle(source, name, entries, records)


def _hollow(held: zipfile.ZipFile, where: str) -> tuple[io.BytesIO, dict[int, int]]:
    """The same archive without numbers, and where its records lie in the true one, by where they lie in this one."""
    made, places = io.BytesIO(), dict[int, int]()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as copy:
        for record in held.infolist():
            if record.filename.endswith(_ARITHMETIC):
                continue
            is_storage = "/data/" in record.filename
            if not is_storage and record.file_size > LARGEST_RECORD:
                raise WeightsError(
                    "the file is damaged", where=where, expected="a small pickle", found=f"{record.file_size} bytes"
                )
            copy.writestr(record.filename, b"" if is_storage else held.read(record))
            if is_storage:
                places[made.tell()] = record.header_offset
    made.seek(0)
    return made, places


class _Ranged(io.RawIOBase):
    """A file on the Hub, read window by window; each is asked for once."""

    def __init__(self, source: Source, name: str) -> None:
        self.source, self.name, self.at = source, name, 0
        self.windows = {0: source.peek(name, 0, WINDOW)}
        self.size = source.size(name)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._from(self.at, min(self.at + len(buffer), self.size))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def _from(self, start: int, stop: int) -> bytes:
        """Some of the bytes from a place on, the first of them at least."""
        if start >= stop:
            return b""
        for begin, window in self.windows.items():
            if begin <= start < begin + len(window):
                return window[start - begin : stop - begin]
        # An archive is looked for from its end, where its table is.
        begin = max(0, self.size - WINDOW) if start >= self.size - WINDOW else start
        self.windows[begin] = self.source.peek(self.name, begin, max(stop, min(begin + WINDOW, self.size)))
        return self.windows[begin][start - begin : stop - begin]


def unloadable(error: Exception, where: str) -> WeightsError:
    """The error for what the weights-only loader does not take."""
    return WeightsError(
        "the file cannot be loaded by the weights-only loader",
        where=where,
        found=str(error).split("\n")[0][:200],
        remedy="It is damaged, or holds more than tensors; such files are never run.",
    )


def tensors_in(loaded: object, where: str) -> dict[str, Tensor]:
    """The tensors of what was loaded, by name.

    Raises:
        WeightsError: it is no mapping of names.
    """
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(k, str) for k in loaded):
        raise WeightsError("the file holds no mapping of names to tensors", where=where)
    return {key: tensor for key, tensor in loaded.items() if isinstance(tensor, Tensor)}
