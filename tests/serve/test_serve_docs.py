"""The page of what can be asked, and connections that ask nothing."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
from serving import Served, serving

from omniform.serve.config import Limits
from omniform.serve.wire import ChatRequest

MOST = 6


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(preload=False, limits=Limits(connections=MOST)) as server:
        yield server


def test_the_page_needs_nothing_else(served: Served) -> None:
    with served.raw() as raw:
        answer = raw.get("/docs")
        assert answer.status_code == 200 and raw.head("/docs").status_code == 200
        assert "://" not in answer.text and "<script" not in answer.text and len(answer.content) < 100_000
        (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in answer.headers["content-security-policy"]
        for told in ("POST /v1/chat/completions", "POST /pipelines/{task}", "GET /v1/models", "max_completion_tokens"):
            assert told in answer.text
        assert raw.get("/page/icon.svg").status_code == 200


def test_bodies_are_described(served: Served) -> None:
    with served.raw() as raw:
        whole = raw.get("/openapi.json").json()
        assert raw.get("/openapi.json").json() == whole
    body = whole["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == set(ChatRequest.model_fields) and body["required"] == ["messages"]
    text = str(whole)
    assert "$defs" not in text
    for name in set(re.findall(r"#/components/schemas/(\w+)", text)):
        assert name in whole["components"]["schemas"]


def test_connections_that_ask_nothing_make_room(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection((host, int(port)), timeout=10)) for _ in range(MOST)]
        until = time.monotonic() + 10
        while len(served.server.server_state.connections) < MOST:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert httpx.get(f"{served.url}/health").status_code == 200
        with contextlib.suppress(ConnectionResetError):
            assert lines[0].recv(10) == b""  # the one that had asked nothing for the longest
        lines[-1].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert lines[-1].recv(15).startswith(b"HTTP/1.1 200")
