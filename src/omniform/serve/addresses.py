"""Addresses that the server may fetch for its clients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

from omniform.core.errors import InputError, OmniformError
from omniform.inputs.fetch import fetch_url
from omniform.serve.errors import APIError

PORTS: Final = {"http": 80, "https": 443}
LONGEST: Final = 8192
_DECODED: Final = 5
"""So many times over a path may be written in percents."""

_HOST = re.compile(r"[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\]")


@dataclass(frozen=True, slots=True)
class Address:
    """An address as it is compared.

    Attributes:
        scheme: ``http`` or ``https``.
        host: in lower case; "" in a beginning that allows every public one.
        port: given or the scheme's own.
        path: begins with a slash.
    """

    scheme: str
    host: str
    port: int
    path: str

    def allows(self, other: Address) -> bool:
        """Whether another one begins with this one, where a part of its path ends."""
        if self.scheme != other.scheme or (self.host and (self.host, self.port) != (other.host, other.port)):
            return False
        return other.path == self.path or other.path.startswith(self.path.rstrip("/") + "/")


def read_address(url: str, *, beginning: bool = False) -> Address:
    """An address.

    Args:
        beginning: whether it may be without a host.

    Raises:
        InputError: it is none, or one that could be read in two ways: with a name before the host, with ``..``, with
            backslashes, spaces or control characters.
    """
    if len(url) > LONGEST or not url.isascii() or re.search(r"[\x00-\x20\x7f\\]", url):
        raise _no_address(url, "ASCII letters without spaces and backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _no_address(url, "a port that is a number") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise _no_address(url, "http or https")
    if "@" in parts.netloc:
        raise _no_address(url, "no name before the host")
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc.removesuffix(":")
    host = host.lower().removesuffix(".")
    if not _HOST.fullmatch(host) and not (beginning and not host):
        raise _no_address(url, "a host")
    if beginning and (parts.query or parts.fragment):
        raise _no_address(url, "no ? and #: what an address begins with ends in its path")
    path = parts.path or "/"
    _check_path(url, path)
    return Address(scheme, host, PORTS[scheme] if port is None else port, path)


def _check_path(url: str, path: str) -> None:
    for _ in range(_DECODED):
        if any(part in (".", "..") for part in re.split(r"[/\\]", path)):
            raise _no_address(url, "a path without . and ..")
        decoded = unquote(path, errors="replace")
        if decoded == path:
            return
        path = decoded
    raise _no_address(url, "a path that is encoded once")


def _no_address(url: str, expected: str) -> InputError:
    return InputError("this address is not read here", where=url[:200], expected=expected)


class Addresses:
    """The addresses that may be fetched.

    Args:
        beginnings: of them, as the settings name them; ``https://`` alone is every public host.

    Raises:
        InputError: one is none.
    """

    def __init__(self, beginnings: Sequence[str]) -> None:
        self._allowed = [read_address(one, beginning=True) for one in beginnings]
        # Whoever named a host meant it, wherever it is; all others have to be public.
        self._named = [f"{one.host}:{one.port}" for one in self._allowed if one.host]

    def fetch(self, url: str, most: int, seconds: float) -> bytes:
        """What lies at an address, redirects followed as far as they are allowed, too.

        Raises:
            APIError: it is not allowed, cannot be reached, or is too large.
        """
        self.check(url)
        try:
            return fetch_url(url, max_bytes=most, timeout=seconds, hosts=self._named, check=self.check)
        except OmniformError as error:  # what was found there is no stranger's affair
            raise APIError(
                400, f"the address cannot be read: {error.message}", param="url", code="media_not_readable"
            ) from error

    def check(self, url: str) -> None:
        """Refuse an address that does not begin as the settings say.

        Raises:
            APIError: it does not.
        """
        if not self._allowed:
            raise APIError(
                400, "this server fetches no addresses; send the bytes as a data URL", code="address_not_allowed"
            )
        try:
            asked = read_address(url)
        except InputError as error:
            raise APIError(400, str(error), code="address_not_allowed") from error
        if not any(one.allows(asked) for one in self._allowed):
            raise APIError(
                400, f"this server does not fetch {url[:200]!r}; send the bytes as a data URL",
                code="address_not_allowed",
            )  # fmt: skip
