"""Where encoded sound comes from: a path, bytes, an open file, a data URI or a web address, each within limits."""

from __future__ import annotations

import base64
import binascii
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Protocol, cast, runtime_checkable
from urllib.parse import unquote_to_bytes

from omniform.core.errors import InputError, RepoError
from omniform.inputs.media_access import MediaAccess, is_web, local_path, read_file

MAX_BYTES: Final = 1 << 30
"""The largest file that is read where nobody says otherwise."""


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


class SoundSamples(Protocol):
    """What torchcodec decodes: ``data [channels, samples]`` at a rate."""

    data: object
    sample_rate: int


@runtime_checkable
class SoundDecoder(Protocol):
    """torchcodec's decoder of a file, which ``datasets`` gives for a sound."""

    def get_all_samples(self) -> SoundSamples:
        """The whole sound."""
        ...


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded sound that is ready to be decoded.

    Attributes:
        file: its path, or it itself, open, with a way back to its beginning.
        where: what to call it in messages.
        ours: whether whoever decodes it closes it.
    """

    file: Path | BinaryIO
    where: str
    ours: bool

    def close(self) -> None:
        """Let go of what was opened here."""
        if self.ours and not isinstance(self.file, Path):
            self.file.close()


def encoded(source: object, access: MediaAccess, *, max_bytes: int | None, timeout: float | None) -> Encoded:
    """The file that ``source`` stands for. Files on the disk are not read into memory.

    Args:
        source: a path, bytes, an open binary file, a ``data:`` URI or an ``http(s)://`` address.
        access: what may be read.
        max_bytes: refuse more than this; None for the default.
        timeout: seconds that a web address may take in all; None for the default.

    Raises:
        RepoError: no such file, it may not be read, or the address cannot be reached.
        InputError: none of the above kinds, an empty file, or too many bytes.
    """
    most = MAX_BYTES if max_bytes is None else max_bytes
    if isinstance(source, str) and is_web(source):
        name, data = source, access.fetch(source, max_bytes=max_bytes, timeout=timeout)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        name, data = "data URI", _data_uri(source, max_bytes=most)
    elif isinstance(source, (str, os.PathLike)):
        path = local_path(source) if isinstance(source, str) else source
        if access.roots is None:
            return Encoded(*_path(path, max_bytes=most), ours=False)
        return _open(access.open(path), os.fsdecode(path)[:200], most, ours=True)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "bytes", bytes(source)
        _check_size(name, len(data), most)
    elif isinstance(source, (io.BufferedReader, io.FileIO)) and not source.closed and source.seekable():
        return _open(cast(BinaryIO, source), "file object", most, ours=False)
    elif isinstance(source, Readable):
        name, data = "file object", read_file(source, "file object", most)
    else:
        raise InputError(
            "this is no sound",
            where="audio",
            expected="a path, bytes, an open file, a data URI, an address, samples or (samples, rate)",
            found=type(source).__name__,
        )
    if not data:
        raise InputError("the sound is empty", where=name, found="0 bytes")
    return Encoded(io.BytesIO(data), name, ours=True)


def _open(file: BinaryIO, name: str, max_bytes: int, *, ours: bool) -> Encoded:
    found = Encoded(file, name, ours)
    try:
        size = file.seek(0, os.SEEK_END)
        if not size:
            raise InputError("the sound is empty", where=name, found="0 bytes")
        _check_size(name, size, max_bytes)
    except (InputError, OSError) as error:
        found.close()
        if isinstance(error, InputError):
            raise
        raise InputError("the file cannot be read", where=name, found=str(error)[:200]) from error
    return found


def _path(source: str | os.PathLike[str], *, max_bytes: int) -> tuple[Path, str]:
    name = os.fsdecode(source)
    shown = name if len(name) <= 200 else name[:197] + "..."
    path = Path(name)
    try:
        size = path.stat().st_size
        is_file = path.is_file()
    except FileNotFoundError:
        raise RepoError("no such file", where=shown) from None
    except (OSError, ValueError) as error:
        raise RepoError("the file cannot be opened", where=shown, found=str(error)[:200]) from None
    if not is_file:
        raise RepoError("this is no file", where=shown, found="a folder" if path.is_dir() else "a device or pipe")
    if not os.access(path, os.R_OK):
        raise RepoError("the file cannot be opened", where=shown, found="no permission to read it")
    if size == 0:
        raise InputError("the sound is empty", where=shown, found="0 bytes")
    _check_size(shown, size, max_bytes)
    return path, shown


def _data_uri(source: str, *, max_bytes: int) -> bytes:
    head, comma, body = source.partition(",")
    if not comma:
        raise InputError("the data URI has no data", where="data URI", expected="data:audio/wav;base64,...")
    _check_size("data URI", len(body) * 3 // 4, max_bytes)
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError("the data URI is not base64", where="data URI", found=str(error)) from None


def _check_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputError(
            "the file is too large",
            where=name,
            expected=f"at most {max_bytes} bytes",
            found=f"{size} bytes or more",
            remedy="Pass a larger max_bytes if you trust it.",
        )
