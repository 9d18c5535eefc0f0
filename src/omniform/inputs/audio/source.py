"""Where encoded sound comes from: a path, bytes, an open file, a data URI or a web address, each within limits."""

from __future__ import annotations

import base64
import binascii
import io
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Final, Protocol, runtime_checkable
from urllib.parse import unquote_to_bytes

from omniform.core.errors import InputError, RepoError

_CHUNK: Final = 1 << 16


@runtime_checkable
class Readable(Protocol):
    """An open binary file."""

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; none at the end."""
        ...


def encoded(source: object, *, max_bytes: int, timeout: float) -> tuple[Path | io.BytesIO, str]:
    """The file that ``source`` stands for, and what to call it in messages.

    Args:
        source: a path, bytes, an open binary file, a ``data:`` URI or an ``http(s)://`` address.
        max_bytes: refuse more than this.
        timeout: seconds that a web address may take in all.

    Raises:
        RepoError: no such file, or the address cannot be reached.
        InputError: none of the above kinds, an empty file, or too many bytes.
    """
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        name, data = source, _fetch(source, max_bytes=max_bytes, timeout=timeout)
    elif isinstance(source, str) and source[:5].lower() == "data:":
        name, data = "data URI", _data_uri(source, max_bytes=max_bytes)
    elif isinstance(source, (str, os.PathLike)):
        return _path(source, max_bytes=max_bytes)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "bytes", bytes(source)
        _check_size(name, len(data), max_bytes)
    elif isinstance(source, Readable):
        name, data = "file object", _read(source, max_bytes=max_bytes)
    else:
        raise InputError(
            "this is no sound",
            where="audio",
            expected="a path, bytes, an open file, a data URI, an address, samples or (samples, rate)",
            found=type(source).__name__,
        )
    if not data:
        raise InputError("the sound is empty", where=name, found="0 bytes")
    return io.BytesIO(data), name


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


def _read(file: Readable, *, max_bytes: int) -> bytes:
    try:
        data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise InputError("the file cannot be read", where="file object", found=str(error)) from None
    if not isinstance(data, bytes):
        raise InputError(
            "the file is open as text", where="file object", remedy="Open it in binary mode: open(path, 'rb')."
        )
    _check_size("file object", len(data), max_bytes)
    return data


def _fetch(url: str, *, max_bytes: int, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    data = bytearray()
    try:
        # urllib follows redirects to http, https and ftp only, never to a local file.
        request = urllib.request.Request(url, headers={"User-Agent": "omniform"})
        with urllib.request.urlopen(request, timeout=timeout) as response:
            # read1 returns what has come, so that a server that drips is caught by the deadline.
            while chunk := response.read1(_CHUNK):
                data += chunk
                _check_size(url, len(data), max_bytes)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"more than {timeout:g} seconds")
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise RepoError("the address cannot be fetched", where=url, found=str(error)) from None
    return bytes(data)


def _check_size(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise InputError(
            "the file is too large",
            where=name,
            expected=f"at most {max_bytes} bytes",
            found=f"{size} bytes or more",
            remedy="Pass a larger max_bytes if you trust it.",
        )
