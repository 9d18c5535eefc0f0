"""Bytes from a URL that the user named: http or https only, with a limit on size and on time."""

from __future__ import annotations

import os
import time
from http.client import HTTPException
from typing import Final

from omniform.core.errors import InputError, RepoError

MAX_DOWNLOAD_BYTES: Final = 64 * 1024**2
"""The largest picture that is downloaded."""


def fetch_url(url: str, *, max_bytes: int = MAX_DOWNLOAD_BYTES, timeout: float = 20.0) -> bytes:
    """The body of an ``http(s)://`` URL.

    Args:
        url: the address. Redirects are followed, to http and https only.
        max_bytes: the largest body that is read.
        timeout: seconds for the connection, and for the whole transfer.

    Raises:
        RepoError: it cannot be reached, answers with an error, takes too long, or ``HF_HUB_OFFLINE`` is set.
        InputError: the body is larger than ``max_bytes``, or the address is malformed.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        raise RepoError("offline (HF_HUB_OFFLINE is set), and this is an address on the network", where=url)
    from urllib.request import (
        HTTPDefaultErrorHandler,
        HTTPErrorProcessor,
        HTTPHandler,
        HTTPRedirectHandler,
        HTTPSHandler,
        OpenerDirector,
        ProxyHandler,
        Request,
    )

    # The default opener would follow a redirect to ftp:// too.
    opener = OpenerDirector()
    for handler in (
        ProxyHandler,
        HTTPHandler,
        HTTPSHandler,
        HTTPDefaultErrorHandler,
        HTTPRedirectHandler,
        HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    deadline = time.monotonic() + timeout
    body = bytearray()
    try:
        # Some hosts turn away clients without a name.
        request = Request(url, headers={"User-Agent": "omniform"})
        response = opener.open(request, timeout=timeout)
        if response is None:
            raise RepoError("only http and https addresses are fetched", where=url)
        with response:
            while block := response.read(1 << 16):
                body += block
                if len(body) > max_bytes:
                    raise InputError("the download is too large", where=url, expected=f"at most {max_bytes:,} bytes")
                if time.monotonic() > deadline:
                    raise RepoError("the download takes too long", where=url, expected=f"at most {timeout:g} s")
    except (RepoError, InputError):
        raise
    except (OSError, HTTPException) as error:
        raise RepoError("the address cannot be reached", where=url, found=str(error) or type(error).__name__) from error
    except ValueError as error:
        raise InputError("malformed address", where=url, found=str(error)) from error
    return bytes(body)
