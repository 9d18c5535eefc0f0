"""What may be read for the pictures and sounds of a call: which addresses, which files, and how much of them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from omniform.core.errors import InputError, RepoError, brief
from omniform.inputs.checks import positive_limit, whole_limit
from omniform.inputs.fetch import DOWNLOAD_SECONDS, MAX_DOWNLOAD_BYTES, fetch_url

MAX_PIXELS: Final = 89_478_485
"""The largest picture that is decoded: as many pixels as fill 256 MiB in RGB, where Pillow begins to warn."""
MAX_TOTAL_PIXELS: Final = 4 * MAX_PIXELS
"""How many pixels are decoded in one call, all its pictures together: 1 GiB in RGB."""
MAX_FILE_BYTES: Final = 256 * 1024**2
"""The largest picture file that is read."""

MAX_FRAMES: Final = 16_384
"""How many frames of one video are kept."""

Urls: TypeAlias = Literal["public", "any", "none"]

# The shortest picture file (a one-pixel GIF) has 26 bytes, 36 characters in base64: no need to take "cats" for one.
_LEAST_BASE64: Final = 36


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaAccess:
    """What a call may read on behalf of the media that it is given.

    The default is for the caller's own media. Whoever answers strangers narrows it:
    ``MediaAccess(urls="none", roots=[])`` reads only what came along.

    Attributes:
        urls: ``"public"``: http(s) addresses of hosts on the internet, connected to directly. ``"any"``: private
            and local ones too, and through the environment's proxy. ``"none"``: no address at all.
        hosts: hosts (``"intranet"``, ``"10.0.0.7:8000"``) that are read although they are not public.
        roots: the folders whose files may be read, links followed; None for every file, ``[]`` for none.
        max_pixels: the largest picture, width times height.
        max_total_pixels: as much for all pictures together that one call decodes.
        max_frames: how many frames are taken of one video.
        max_download_bytes: the largest file that is downloaded.
        timeout: seconds that a download may take.

    Raises:
        InputError: a value has another type or is out of range.
    """

    urls: Urls = "public"
    hosts: Sequence[str] = ()
    roots: Sequence[str | os.PathLike[str]] | None = None
    max_pixels: int = MAX_PIXELS
    max_total_pixels: int = MAX_TOTAL_PIXELS
    max_frames: int = MAX_FRAMES
    max_download_bytes: int = MAX_DOWNLOAD_BYTES
    timeout: float = DOWNLOAD_SECONDS

    def __post_init__(self) -> None:
        if not isinstance(self.urls, str) or self.urls not in ("public", "any", "none"):
            raise InputError("unknown kind", where="urls", expected="'public', 'any' or 'none'", found=brief(self.urls))
        if not isinstance(self.hosts, (list, tuple, set, frozenset)) or not all(isinstance(h, str) for h in self.hosts):
            raise InputError("hosts are a list of names", where="hosts", found=brief(self.hosts))
        if self.roots is not None:
            if not isinstance(self.roots, (list, tuple)) or not all(
                isinstance(root, (str, os.PathLike)) for root in self.roots
            ):
                raise InputError("roots are a list of folders, or None", where="roots", found=brief(self.roots))
            # Said once and for all, before anybody can exchange a link.
            object.__setattr__(self, "roots", tuple(os.path.realpath(root) for root in self.roots))
        for name in ("max_pixels", "max_total_pixels", "max_frames", "max_download_bytes"):
            whole_limit(name, getattr(self, name))
        positive_limit("timeout", self.timeout)

    def fetch(self, url: str, *, max_bytes: int | None = None, timeout: float | None = None) -> bytes:
        """The bytes at an ``http(s)://`` address.

        Raises:
            RepoError: it may not be read, or cannot be reached.
            InputError: it is malformed, or the body is too large.
        """
        if self.urls == "none":
            raise RepoError("addresses on the network are not read here", where=url, remedy="Pass the bytes.")
        return fetch_url(
            url,
            max_bytes=self.max_download_bytes if max_bytes is None else max_bytes,
            timeout=self.timeout if timeout is None else timeout,
            anywhere=self.urls == "any",
            hosts=tuple(self.hosts),
        )

    def open(self, path: str | os.PathLike[str], what: str = "file") -> BinaryIO:
        """A local file, open for reading bytes.

        Args:
            path: its name.
            what: what it should be, for messages.

        Raises:
            RepoError: it lies outside the roots (in the same words whether it exists or not), is not there, or is no
                file that can be read.
        """
        shown = os.fsdecode(path)
        try:
            if self.roots is None:
                return _open_file(os.fsdecode(path), shown, what, follow=True)
            real = os.path.realpath(path)
            if not self._within(real):
                raise _outside(shown)
            file = _open_file(real, shown, what, follow=False)
            # A folder on the way may have become a link since it was looked at.
            if os.path.realpath(real) != real or not os.path.samestat(os.fstat(file.fileno()), os.lstat(real)):
                file.close()
                raise _outside(shown)
            return file
        except RepoError:
            raise
        except (OSError, ValueError) as error:
            found = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RepoError(f"the {what} cannot be read", where=shown, found=found) from error

    def admit(self, source: object) -> object:
        """The same picture or sound with nothing left to be read from the network or, within roots, from the disk.

        What a stranger's message names is admitted by the server's rules, and then goes the way of all media.

        Args:
            source: whatever a message part holds: an address, a path, base64, bytes, samples, a mapping ...

        Returns:
            The bytes of what was named; everything else as it is.

        Raises:
            RepoError: it may not be read, is not there or cannot be reached.
            InputError: it is too large, or the address is malformed.
        """
        if isinstance(source, Mapping):
            path = source.get("path")
            named = source.get("bytes") is None and isinstance(path, (str, os.PathLike))
            return {**source, "path": None, "bytes": self.admit(path)} if named else source
        if isinstance(source, str):
            if is_web(source):
                return self.fetch(source)
            if source[:5].lower() == "data:":
                return source
            path = local_path(source)
        elif isinstance(source, os.PathLike):
            path = os.fsdecode(source)
        else:
            return source
        if self.roots is None:
            return path if isinstance(source, str) else source
        if not self._named(path):
            data = from_base64(path)
            if data is not None:
                return data
        return self.read(path)

    def read(self, path: str | os.PathLike[str], what: str = "file", max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """The bytes of a local file.

        Args:
            path: its name.
            what: what it should be, for messages.
            max_bytes: refuse a larger one, unread.

        Raises:
            RepoError: as :meth:`open`.
            InputError: it is too large.
        """
        where = os.fsdecode(path)[:200]
        with self.open(path, what) as file:
            size = os.fstat(file.fileno()).st_size  # a file of holes costs nothing until it is read
            if size > max_bytes:
                raise too_large(what, where, max_bytes, f"{size:,} bytes")
            return read_file(file, where, max_bytes, what)

    def names_file(self, text: str) -> bool:
        """Whether a text is the name of a file that is there and may be read."""
        return self._named(text) and os.path.exists(text)

    def _named(self, path: str) -> bool:
        try:
            return self.roots is None or self._within(os.path.realpath(path))
        except (OSError, ValueError):
            return False

    def _within(self, real: str) -> bool:
        return any(real == root or real.startswith(os.path.join(root, "")) for root in map(str, self.roots or ()))


OWN: Final = MediaAccess()
"""What the caller's own calls may read: every local file, and public addresses."""


def checked_access(value: object) -> MediaAccess:
    """A call's ``media_access`` argument; None for the default.

    Raises:
        InputError: it is none.
    """
    if value is None:
        return OWN
    if not isinstance(value, MediaAccess):
        raise InputError("this is no MediaAccess", where="media_access", found=brief(value))
    return value


def is_web(source: str) -> bool:
    """Whether a text is an address on the web."""
    return source[:8].lower().startswith(("http://", "https://"))


def local_path(source: str) -> str:
    """The path that a text names, which may be a ``file://`` address.

    Raises:
        InputError: it is one of another machine.
    """
    if source[:7].lower() != "file://":
        return source
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise InputError("malformed address", where=source, found=str(error)) from error
    if parts.netloc.lower() not in ("", "localhost"):
        raise InputError("a file:// address names a file of this machine", where=source, found=parts.netloc)
    return unquote(parts.path)


def from_base64(text: str, least: int = _LEAST_BASE64) -> bytes | None:
    """The bytes that a text of at least so many characters stands for, if it is base64."""
    if len(text) < least:
        return None
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None


def read_file(file: object, where: str, max_bytes: int, what: str = "file") -> bytes:
    """All bytes of an open file, from its start wherever its position is; of a stream, what is still to come.

    Raises:
        InputError: it cannot be read, is open as text, or is larger than ``max_bytes``.
    """
    try:
        with contextlib.suppress(AttributeError, OSError):  # pipes and responses have no way back
            file.seek(0)  # type: ignore[attr-defined]
        data = file.read(max_bytes + 1)  # type: ignore[attr-defined]
    except Exception as error:  # files of any class come here, with errors of their own
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"the {what} cannot be read", where=where, found=found, remedy="Pass its bytes.") from error
    if isinstance(data, str):
        raise InputError(f"the {what} is open as text", where=where, remedy="Open it in binary mode: open(path, 'rb').")
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"the {what} does not give bytes", where=where, found=type(data).__name__)
    if len(data) > max_bytes:
        raise too_large(what, where, max_bytes, "more")
    return bytes(data)


def too_large(what: str, where: str, max_bytes: int, found: str) -> InputError:
    """The error for a file of too many bytes."""
    return InputError(f"the {what} is too large", where=where, expected=f"at most {max_bytes:,} bytes", found=found)


def _open_file(path: str, shown: str, what: str, *, follow: bool) -> BinaryIO:
    # os.path, unlike pathlib, answers False to names that the system cannot even ask about.
    if not os.path.exists(path):
        raise RepoError(f"no such {what}", where=shown)
    if os.path.isdir(path):
        raise RepoError(f"this is a folder, not a {what}", where=shown)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise RepoError("not a file", where=shown, found="a device or pipe")
    return open(path, "rb", opener=None if follow else _unfollowed)


def _unfollowed(path: str, flags: int) -> int:
    return os.open(path, flags | (0 if os.name == "nt" else os.O_NOFOLLOW))


def _outside(shown: str) -> RepoError:
    return RepoError(
        "this file may not be read here",
        where=shown,
        expected="a file within the allowed folders",
        remedy="MediaAccess(roots=[...]) allows folders.",
    )
