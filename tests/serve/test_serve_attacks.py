"""What strangers send: the right status in OpenAI's words, never a 500, and a server that goes on afterwards."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest
from serving import Served, serving

from omniform.serve.config import Limits
from omniform.serve.connections import Connection
from omniform.serve.wire import ChatRequest

CHAT = "/v1/chat/completions"
HELLO = {"role": "user", "content": "Hello."}
BASE = {"model": "scenes", "messages": [HELLO], "max_tokens": 1}
LIMITS = Limits(
    body_bytes=2 << 20, upload_bytes=3 << 20, body_seconds=1.0, write_seconds=1.0, pixels=1 << 20, items=20_000
)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(limits=LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def raw(served: Served) -> Iterator[httpx.Client]:
    with served.raw() as client:
        yield client


@pytest.fixture(autouse=True)
def healthy(served: Served) -> Iterator[None]:
    """Afterwards the server answers, and holds nothing of what was before."""
    yield
    answer = httpx.post(served.url + CHAT, json=BASE, timeout=60)
    assert answer.status_code == 200, answer.text
    until = time.monotonic() + 10
    engine = next(iter(served.desk.shelf.loaded())).writes()
    while served.desk.gate.running or served.desk.lines or served.desk.incoming or engine.stats().blocks_used:
        assert time.monotonic() < until, "something is left"
        time.sleep(0.01)


def refused(answer: httpx.Response, *statuses: int) -> dict[str, object]:
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and answer.headers["x-request-id"]
    for secret in ("Traceback", "site-packages", "/work/", 'File "', "/root"):
        assert secret not in answer.text
    return error


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"hello", 400),
    "half": (b'{"model": "scenes", "messages": [', 400),
    "no UTF-8": (b'{"messages": [{"role": "user", "content": "\xff\xfe"}]}', 400),
    "half a surrogate": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
    "a NUL": (b'{"max_tokens": 1, "messages": [{"role": "user", "content": "a\\u0000b"}]}', 200),
    "a bare NUL": (b'{"messages": [{"role": "user", "content": "a\x00b"}]}', 400),
    "a list": (b"[]", 400),
    "a number": (b"1", 400),
    "null": (b"null", 400),
    "deep lists": (b'{"messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400),
    "deep objects": (b'{"messages":[{"role":"user","content":"x"}],"x":' + b'{"a":' * 100 + b"1" + b"}" * 101, 400),
    "open brackets": (b"[" * 15000, 400),
    "very many values": (b'{"stop": [' + b"1," * 30_000 + b"1]}", 413),
    "deep within a text": (json.dumps({**BASE, "user": "[{" * 900}).encode(), 200),
    "endless number": (b'{"max_tokens": ' + b"9" * 10_000 + b"}", 400),
    "two of one": (b'{"messages": 1, "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}', 200),
    "not a number": (b'{"temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', 400),
    "too large": (b'"' + b"x" * (LIMITS.body_bytes + 1) + b'"', 413),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str, raw: httpx.Client) -> None:
    body, status = BODIES[name]
    answer = raw.post(CHAT, content=body, headers={"Content-Type": "application/json"})
    if status == 200:
        assert answer.status_code == 200, answer.text
    else:
        refused(answer, status)


WRONG: list[object] = [
    None, True, 0, -1, 1.5, 1e308, 10**30, "", "x", "\x00", "{{ 7 * 7 }}", [], ["x"], [[]], [None], {},
    {"a": {"b": []}},
]  # fmt: skip


@pytest.mark.parametrize("field", ChatRequest.model_fields)
def test_any_value_in_any_field(field: str, raw: httpx.Client) -> None:
    for value in WRONG:
        if field in ("max_tokens", "max_completion_tokens") and value in (None, 10**30, 1e308):
            continue
        answer = raw.post(CHAT, json={**BASE, field: value})
        if answer.status_code != 200:
            refused(answer, 400, 404)


NESTED: dict[str, object] = {
    "role": lambda v: {"messages": [{"role": v, "content": "x"}]},
    "content": lambda v: {"messages": [{"role": "user", "content": v}]},
    "part": lambda v: {"messages": [{"role": "user", "content": [v]}]},
    "part type": lambda v: {"messages": [{"role": "user", "content": [{"type": v, "text": "x"}]}]},
    "text": lambda v: {"messages": [{"role": "user", "content": [{"type": "text", "text": v}]}]},
    "image": lambda v: {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": v}]}]},
    "image url": lambda v: {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": v}}]}]
    },
    "sound": lambda v: {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": v}]}]},
    "name": lambda v: {"messages": [{**HELLO, "name": v}]},
    "calls": lambda v: {"messages": [HELLO, {"role": "assistant", "tool_calls": v}]},
    "call": lambda v: {"messages": [HELLO, {"role": "assistant", "tool_calls": [{"id": "a", "function": v}]}]},
    "call name": lambda v: {
        "messages": [HELLO, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": v, "arguments": v}}]}]
    },
    "tool": lambda v: {"tools": [v]},
    "tool function": lambda v: {"tools": [{"type": "function", "function": v}]},
    "tool name": lambda v: {"tools": [{"type": "function", "function": {"name": v}}]},
    "tool parameters": lambda v: {"tools": [{"type": "function", "function": {"name": "f", "parameters": v}}]},
    "properties": lambda v: {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": v}}}]
    },
    "choice": lambda v: {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": {"type": "function", "function": {"name": v}},
    },
    "format": lambda v: {"response_format": {"type": v}},
    "schema": lambda v: {"response_format": {"type": "json_schema", "json_schema": v}},
    "inner schema": lambda v: {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": v}}},
    "guide": lambda v: {"guide": {"regex": v}},
    "bias": lambda v: {"logit_bias": {"5": v}},
    "biased": lambda v: {"logit_bias": {str(v): 1}},
    "stops": lambda v: {"stop": [v]},
    "stream": lambda v: {"stream_options": {"include_usage": v}},
    "variable": lambda v: {"chat_template_kwargs": {"enable_thinking": v}},
}


@pytest.mark.parametrize("name", NESTED)
def test_any_value_within(name: str, raw: httpx.Client) -> None:
    for value in WRONG:
        answer = raw.post(CHAT, json={**BASE, **NESTED[name](value)})  # type: ignore[operator]
        if answer.status_code != 200:
            refused(answer, 400)


@pytest.mark.parametrize(
    "name",
    ["chat_template", "media_access", "tokenize", "processor_kwargs", "images", "conversation", "a b", "padding"],
)
def test_templates_take_no_orders(name: str, raw: httpx.Client) -> None:
    for value in ("{{ cycler.__init__.__globals__ }}", True, ["/etc/passwd"]):
        refused(raw.post(CHAT, json={**BASE, "chat_template_kwargs": {name: value}}), 400)


def test_too_many_of_anything(served: Served, raw: httpx.Client) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    for changes in (
        {"messages": [HELLO] * 5000},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 4000}] * 3},
        {"tools": [tool] * 300}, {"stop": ["x"] * 100}, {"n": 1000},
        {"logit_bias": {str(number): 1 for number in range(5000)}},
    ):  # fmt: skip
        assert refused(raw.post(CHAT, json={**BASE, **changes}), 400, 413)["code"] in ("too_many", "request_too_large")


def test_a_prompt_over_the_window(raw: httpx.Client) -> None:
    many = {**BASE, "messages": [{"role": "user", "content": "word " * 20_000}]}
    assert refused(raw.post(CHAT, json=many), 400)["code"] == "context_length_exceeded"


# -- pictures ----------------------------------------------------------------------------------------------------------


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


PICTURES = {
    "a bomb": png(30_000, 30_000, zlib.compress(bytes(2_000_000), 9)),
    "a bomb of one line": png(2**31 - 1, 1, zlib.compress(bytes(1000))),
    "more than it says": png(8, 8, zlib.compress(bytes(1_000_000), 9)),
    "less than it says": png(900, 900, zlib.compress(b"x")),
    "of no size": png(0, 0, b""),
    "no picture": b"hello, this is no picture at all",
    "a page": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "half a JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + b"\x00" * 40,
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(name: str, raw: httpx.Client) -> None:
    url = "data:image/png;base64," + base64.b64encode(PICTURES[name]).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    answer = raw.post(CHAT, json={**BASE, "messages": [{"role": "user", "content": [part]}]})
    if answer.status_code != 200:
        refused(answer, 400)
    assert name == "more than it says" or answer.status_code == 400


def test_a_picture_of_a_hundred_megabytes(raw: httpx.Client) -> None:
    piece = b"A" * (1 << 20)

    def body() -> Iterator[bytes]:
        yield b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:;base64,'
        for _ in range(100):
            yield piece

    assert refused(raw.post(CHAT, content=body()), 413)["code"] == "request_too_large"


FILES = [
    "/etc/passwd",
    "file:///etc/passwd",
    "../../etc/passwd",
    "http://127.0.0.1:1/",
    "data:text/plain,hello",
    "ftp://x",
]


@pytest.mark.parametrize("url", FILES)
def test_no_file_and_no_address_is_read(url: str, raw: httpx.Client) -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": url}}, {"type": "video_url", "video_url": {"url": url}},
        {"type": "audio_url", "audio_url": {"url": url}}, {"type": "input_image", "image_url": url},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}, {"type": "image", "image": url},
        {"type": "image", "path": url},
    ):  # fmt: skip
        answer = raw.post(CHAT, json={**BASE, "messages": [{"role": "user", "content": [part]}]})
        refused(answer, 400)
        assert "root:" not in answer.text


# -- connections -------------------------------------------------------------------------------------------------------


def talk(served: Served, *pieces: bytes, wait: float = 20.0) -> bytes:
    """What a server says to bytes."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as line:
        with contextlib.suppress(OSError):
            for piece in pieces:
                line.sendall(piece)
        told = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := line.recv(65536):
                told += piece
        return told


HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()


def test_half_a_request_is_given_up(served: Served) -> None:
    began = time.monotonic()
    told = talk(served, HEAD + b"Content-Length: 1000\r\n\r\n{")
    assert told.startswith(b"HTTP/1.1 408") and b"request_timeout" in told and time.monotonic() - began < 15


def test_half_a_head_is_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "head_seconds", 0.5)
    told = talk(served, b"POST /v1/chat/comp")
    assert told.startswith(b"HTTP/1.1 408") and b'"error"' in told
    assert talk(served).startswith(b"HTTP/1.1 408")


def test_an_endless_upload_ends(served: Served) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    told = talk(served, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[piece] * 200)
    assert told.startswith(b"HTTP/1.1 413") and b"request_too_large" in told and b"connection: close" in told.lower()


RAW: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"hello\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n", 400),
    "another HTTP": (b"GET / HTTP/9.9 x\r\nHost: x\r\n\r\n", 400),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", 400),
    "a header without end": (
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000 + b"\r\nConnection: close\r\n\r\n",
        431,
    ),
    "very many headers": (
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: a\r\n" * 200 + b"Connection: close\r\n\r\n",
        431,
    ),
    "an address without end": (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 414),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "a length below nothing": (HEAD + b"Content-Length: -1\r\n\r\n", 400),
    "both lengths": (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "a header in a header": (b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\rSet-Cookie: b\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", RAW)
def test_raw(name: str, served: Served) -> None:
    sent, status = RAW[name]
    told = talk(served, sent)
    assert told.startswith(b"HTTP/1.1 %d" % status), told[:300]
    assert json.loads(told.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_who_does_not_read_is_cut_off(served: Served) -> None:
    """A client that asks for much and reads nothing holds a place for no longer than it may."""
    host, port = served.url.removeprefix("http://").split(":")
    body = json.dumps(
        {**BASE, "stream": True, "n": 16, "max_tokens": 400, "logprobs": True, "top_logprobs": 20, "temperature": 2,
         "logit_bias": {"2": -100}}
    ).encode()  # fmt: skip
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((host, int(port)))
    line.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    try:
        assert line.recv(10).startswith(b"HTTP/1.1 2")
        until = time.monotonic() + 60
        while served.desk.lines:
            assert time.monotonic() < until, "a client that does not read holds its place"
            time.sleep(0.05)
    finally:
        line.close()


def test_headers_hold_only_what_is_harmless(served: Served, raw: httpx.Client) -> None:
    strange = {"a\r\nSet-Cookie: b": 1, "\u00e4\u4e2d\U0001f600": 2, "x" * 5000: 3, "colour": 4}
    answer = raw.post(CHAT, json={**BASE, **strange}, headers={"X-Request-Id": "mine-1"})
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert "colour" in answer.headers["x-omniform-ignored"] and len(answer.headers["x-omniform-ignored"]) < 300
    assert answer.headers["x-request-id"] == "mine-1" and int(answer.headers["openai-processing-ms"]) >= 0
    for ident in ("<script>", "x" * 200, "a b", "\u00e9"):
        answer = raw.get("/health", headers={"X-Request-Id": ident.encode("latin-1")})
        assert answer.headers["x-request-id"].startswith("req_")
    error = refused(raw.post(CHAT, json={**BASE, "model": "a\r\nSet-Cookie: b" + "x" * 5000}), 404)
    assert len(str(error["message"])) < 400


def test_what_is_nowhere(raw: httpx.Client) -> None:
    refused(raw.get("/v1/nothing"), 404)
    refused(raw.delete(CHAT), 405)
    refused(raw.get("/v1/models/..%2f..%2fetc%2fpasswd"), 404)
    refused(raw.get("/page/..%2f..%2fapp.py"), 404)
