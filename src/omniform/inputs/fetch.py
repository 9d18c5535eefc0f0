"""Bytes from a web address: public hosts only unless told otherwise, with a limit on size and on time.

Addresses come from strangers too, and a server that fetches what they name must not be led into its own network. So
the check is made where the connection is: a name is resolved once, every address found must be a public one, and the
connection goes to the very address that was checked. Redirects take the same way, one hop at a time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Collection
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Final, cast
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urljoin, urlsplit
from urllib.request import OpenerDirector, getproxies

from omniform.core.errors import InputError, RepoError

MAX_DOWNLOAD_BYTES: Final = 64 * 1024**2
"""The largest file that is downloaded where nobody says otherwise."""
DOWNLOAD_SECONDS: Final = 20.0
"""How long a download may take, redirects included."""

_BLOCK: Final = 1 << 16
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 5
_LONGEST_WAIT: Final = 3600.0
_SWITCHES: Final = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Well-known prefixes that carry an IPv4 address in their last 32 bits (RFC 6052, RFC 4291).
_CARRIERS: Final = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))

Guard = Callable[[str, int, float], socket.socket]
"""From a host, a port and seconds to a connected socket."""


def offline_switch() -> str | None:
    """The environment variable that forbids the network, if one does."""
    return next((s for s in _SWITCHES if os.environ.get(s, "").upper() in ("1", "TRUE", "YES", "ON")), None)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet: not private, loopback, link-local, multicast, reserved."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and any(ip in carrier for carrier in _CARRIERS):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def fetch_url(
    url: str,
    *,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
    timeout: float = DOWNLOAD_SECONDS,
    anywhere: bool = False,
    hosts: Collection[str] = (),
    check: Callable[[str], object] | None = None,
) -> bytes:
    """The body of an ``http(s)://`` URL.

    Args:
        url: the address. Redirects are followed, to http and https only.
        max_bytes: the largest body that is read.
        timeout: seconds for all of it.
        anywhere: connect to any address, and through the proxy if the environment names one. Without it connections
            are direct, and to public addresses.
        hosts: ``host`` or ``host:port``, as they stand in the URL, that may have any address.
        check: called with every address on the way, redirects included, before it is asked; raises if it may not be.

    Raises:
        RepoError: it cannot be reached, is not public, answers with an error, takes too long, or the environment says
            that there is no network (``HF_HUB_OFFLINE``, ``TRANSFORMERS_OFFLINE``).
        InputError: the body is larger than ``max_bytes``, or the address is malformed.
    """
    switch = offline_switch()
    if switch is not None:
        raise RepoError(f"offline ({switch} is set), and this is an address on the network", where=url)
    deadline = _Deadline(timeout, url)
    try:
        allowed = None if anywhere else frozenset(map(_plain, hosts))
        opener = _proxied() if anywhere and getproxies() else _opener(partial(_guarded, url, deadline, allowed))
        return _body(opener, url, max_bytes, deadline, check)
    except (RepoError, InputError):
        raise
    except (OSError, HTTPException) as error:
        # urllib wraps whatever a connection raises.
        if isinstance(error, URLError) and isinstance(error.reason, RepoError):
            raise error.reason from None
        cause = error.reason if isinstance(error, URLError) and not isinstance(error, HTTPError) else error
        # However a late connection failed, what it lacked was time.
        deadline.check()
        raise RepoError("the address cannot be reached", where=url, found=str(cause) or type(cause).__name__) from error
    except ValueError as error:
        raise InputError("malformed address", where=url, found=str(error)) from error
    finally:
        deadline.close()


class _Deadline:
    """Cuts the connections of one download when its time is over: a server that drips holds up nobody."""

    def __init__(self, seconds: float, url: str) -> None:
        self.seconds = seconds
        self.url = url
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), self._cut)
        self._timer.daemon = True
        self._timer.start()

    def left(self) -> float:
        return min(max(self._end - time.monotonic(), 0.001), _LONGEST_WAIT)

    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def watch(self, connected: socket.socket) -> None:
        # A duplicate: TLS takes the socket itself over, and shutting down reaches both.
        self._sockets.append(connected.dup())

    def check(self) -> None:
        if self.passed():
            raise RepoError("the download takes too long", where=self.url, expected=f"at most {self.seconds:g} seconds")

    def _cut(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._timer.cancel()
        for one in self._sockets:
            one.close()


def _body(
    opener: OpenerDirector, url: str, max_bytes: int, deadline: _Deadline, check: Callable[[str], object] | None
) -> bytes:
    body = bytearray()
    with _answer(opener, url, deadline, check) as response:
        stated = None if response.chunked else response.headers.get("Content-Length")
        expected = int(stated) if stated is not None and stated.isdecimal() else None
        # read1 gives what has come, so that the clock is looked at between two drops.
        while len(body) != expected and (block := response.read1(_BLOCK)):
            body += block
            if len(body) > max_bytes:
                raise InputError("the download is too large", where=url, expected=f"at most {max_bytes:,} bytes")
            deadline.check()
        deadline.check()
        if expected is not None and len(body) < expected:
            raise RepoError("the download was cut off", where=url, found=f"{len(body):,} of {expected:,} bytes")
    return bytes(body)


def _answer(
    opener: OpenerDirector, url: str, deadline: _Deadline, check: Callable[[str], object] | None
) -> HTTPResponse:
    """The answer at the end of all redirects. (urllib's own handler reads their bodies, however long.)"""
    at = url
    for _ in range(_MOST_REDIRECTS + 1):
        if urlsplit(at).scheme.lower() not in ("http", "https"):
            raise RepoError("only http and https addresses are fetched", where=url, found=at)
        if check is not None:
            check(at)
        try:
            # Some hosts turn away clients without a name.
            asked = request.Request(at, headers={"User-Agent": "omniform"})
            return cast("HTTPResponse", opener.open(asked, timeout=deadline.left()))
        except HTTPError as error:
            target = error.headers.get("Location")
            error.close()
            if error.code not in _REDIRECTS or not target:
                raise
            at = urljoin(at, quote(target, encoding="iso-8859-1", safe=string.punctuation))
        deadline.check()
    raise RepoError(
        "the address leads from one to the next", where=url, expected=f"{_MOST_REDIRECTS} redirects at most"
    )


def _opener(guard: Guard) -> OpenerDirector:
    """What opens addresses over sockets that a guard connects."""

    class Plain(request.HTTPHandler):
        def http_open(self, req: request.Request) -> HTTPResponse:
            return self.do_open(partial(_Connection, guard), req)

    class Secure(request.HTTPSHandler):
        def https_open(self, req: request.Request) -> HTTPResponse:
            return self.do_open(partial(_SecureConnection, guard), req)

    return _director(Plain(), Secure())


def _proxied() -> OpenerDirector:
    """What opens addresses through the environment's proxies."""
    return _director(request.ProxyHandler(), request.HTTPHandler(), request.HTTPSHandler())


def _director(*handlers: request.BaseHandler) -> OpenerDirector:
    opener = request.OpenerDirector()
    for handler in (*handlers, request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor()):
        opener.add_handler(handler)
    return opener


class _Connection(HTTPConnection):
    """A connection whose socket is made by a guard."""

    def __init__(self, guard: Guard, host: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self.guard = guard

    def connect(self) -> None:
        self.sock = self.guard(self.host, self.port, self.timeout or DOWNLOAD_SECONDS)


class _SecureConnection(HTTPSConnection):
    """The same under TLS: the certificate is asked for the name, whatever address the guard chose."""

    def __init__(self, guard: Guard, host: str, timeout: float) -> None:
        self.tls = ssl.create_default_context()
        super().__init__(host, timeout=timeout, context=self.tls)
        self.guard = guard

    def connect(self) -> None:
        plain = self.guard(self.host, self.port, self.timeout or DOWNLOAD_SECONDS)
        self.sock = self.tls.wrap_socket(plain, server_hostname=self.host)


def _guarded(
    url: str, deadline: _Deadline, hosts: Collection[str] | None, host: str, port: int, timeout: float
) -> socket.socket:
    """Connect to a host: to an address that was looked at, and to no other.

    Raises:
        RepoError: one of its addresses is not public, and the host is not among ``hosts`` (None for all hosts).
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if hosts is not None and _plain(host) not in hosts and _plain(f"{host}:{port}") not in hosts:
        for *_, address in found:
            if not is_public(str(address[0])):
                raise RepoError(
                    "the address is not a public one",
                    where=url,
                    expected="a host on the internet",
                    found=f"{host} at {address[0]}",
                    remedy=f"If you trust it, pass media_access=MediaAccess(hosts=[{host!r}]).",
                )
    failed: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connected = socket.socket(family, kind, protocol)
        connected.settimeout(min(timeout, deadline.left()))
        try:
            connected.connect(address)
        except OSError as error:
            connected.close()
            failed = error
            continue
        deadline.watch(connected)
        return connected
    raise failed


def _plain(host: str) -> str:
    """A host as it is compared: lower case, no brackets, no dot at the end."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].replace("]", "", 1)
    return name.rstrip(".")
