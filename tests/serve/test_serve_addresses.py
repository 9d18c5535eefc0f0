"""Which addresses a server fetches for its clients, and where a redirect or a name must not lead it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from omniform.core.errors import InputError
from omniform.serve.addresses import Addresses, read_address
from omniform.serve.errors import APIError


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        if self.path.startswith("/open/to?"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x" * 1000 if "large" in self.path else b"here")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Pages)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


ALLOWED = ("https://pictures.example/open", "http://10.0.0.7:8080/")

GOOD = ["https://pictures.example/open", "https://PICTURES.example:443/open/a/b.png?x=1#y", "http://10.0.0.7:8080/any"]
BAD = [
    "https://pictures.example/opened", "https://pictures.example/", "http://pictures.example/open",
    "https://pictures.example:8443/open", "https://pictures.example.evil.org/open", "https://pictures.example@evil.org/open",
    "https://evil.org@pictures.example/open", "https://evil.org#@pictures.example/open",
    "https://evil.org\\@pictures.example/open", "https://pictures.example/open/../secret",
    "https://pictures.example/open/%2e%2e/secret", "https://pictures.example/open/%252e%252e/secret",
    "https://pictures.example/open/..%2fsecret", "https://pictures.example/open/..%5csecret",
    "https://pictures.example/open/./x", "https:///pictures.example/open", "https:pictures.example/open",
    "https://pictures.example /open", "https://pictures.example/open\r\nHost: evil.org", "ftp://pictures.example/open",
    "file:///etc/passwd", "//pictures.example/open", "", "https://", "https://[::1/open", "https://pictures.example:x/open",
    "https://pıctures.example/open", "http://10.0.0.7/any", "http://10.0.0.7:80801/any", "https://%70ictures.example/open",
]  # fmt: skip


def test_what_begins_as_allowed() -> None:
    addresses = Addresses(ALLOWED)
    for url in GOOD:
        addresses.check(url)


@pytest.mark.parametrize("url", BAD)
def test_all_else_is_refused(url: str) -> None:
    with pytest.raises(APIError) as caught:
        Addresses(ALLOWED).check(url)
    assert caught.value.status == 400 and caught.value.code == "address_not_allowed"


@pytest.mark.parametrize(
    "beginning", ["pictures.example", "ftp://x/", "https://u:p@x/", "https://x/a/../b", "https://x/?q"]
)
def test_beginnings_that_are_none(beginning: str) -> None:
    with pytest.raises(InputError):
        Addresses([beginning])


def test_a_named_host_may_be_anywhere_and_redirects_only_where_all_may(pages: HTTPServer) -> None:
    base = f"http://127.0.0.1:{pages.server_port}"
    addresses = Addresses([f"{base}/open"])
    assert addresses.fetch(f"{base}/open/a", 100, 5) == b"here"
    assert addresses.fetch(f"{base}/open/to?/open/b", 100, 5) == b"here"
    for target in ("/secret", f"http://localhost:{pages.server_port}/open/x", "file:///etc/passwd", "/open/../secret"):
        with pytest.raises(APIError):
            addresses.fetch(f"{base}/open/to?{target}", 100, 5)
    assert not any("secret" in path for path in pages.seen if "to?" not in path)  # type: ignore[attr-defined]
    with pytest.raises(APIError, match="too large"):
        addresses.fetch(f"{base}/open/large", 100, 5)


def test_private_addresses_of_public_names_are_refused(pages: HTTPServer) -> None:
    base = f"http://127.0.0.1:{pages.server_port}"
    with pytest.raises(APIError) as caught:
        Addresses(["http://", "https://"]).fetch(f"{base}/open/a", 100, 5)
    assert "public" in str(caught.value) and not pages.seen  # type: ignore[attr-defined]


def test_a_name_is_asked_for_once_and_what_was_checked_is_connected_to(
    pages: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["93.184.216.34", "127.0.0.1"])
    asked: list[str] = []
    connected: list[object] = []

    def resolve(host: str, port: int, **more: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(self: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError("nobody")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    monkeypatch.setattr("omniform.inputs.fetch.socket.socket.connect", connect, raising=False)
    with pytest.raises(APIError) as caught:
        Addresses(["http://"]).fetch(f"http://rebinding.example:{pages.server_port}/open/a", 100, 5)
    assert asked == ["rebinding.example"] and connected == [("93.184.216.34", pages.server_port)]
    assert "93.184" not in str(caught.value)


def test_addresses_are_normalised() -> None:
    assert read_address("HTTP://Host.Example.:80/x") == read_address("http://host.example/x")
