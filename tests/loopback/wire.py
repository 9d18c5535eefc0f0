"""HTTP: requests read from a socket, answers written to it, with whatever faults wait for them."""

from __future__ import annotations

import base64
import contextlib
import errno
import io
import json
import re
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO, Final, cast
from urllib.parse import parse_qs, unquote

from loopback.faults import Fault, Faults
from loopback.log import Asked, Log

_CHUNK: Final = 1 << 16


class CutError(Exception):
    """The connection goes here."""


class Body(io.RawIOBase):
    """A request's body, of a length told before or in chunks; reading never goes beyond it."""

    def __init__(self, source: BinaryIO, headers: Message, asked: Asked) -> None:
        self._source, self._asked = source, asked
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self._left = 0 if self._chunked else int(headers.get("Content-Length") or 0)
        self._ended = not self._chunked
        self.cut: int | None = None
        self.full = False

    def readable(self) -> bool:
        return True

    def _next_chunk(self) -> None:
        if self._chunked and not self._ended and self._left == 0:
            self._left = int(self._source.readline().split(b";")[0] or b"0", 16)
            if self._left == 0:
                self._ended = True
                while self._source.readline() not in (b"\r\n", b"\n", b""):
                    pass

    def read(self, size: int = -1, /) -> bytes:
        if size < 0:
            return b"".join(self.pieces())
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._next_chunk()
        data = self._source.read(min(size, self._left, _CHUNK)) if self._left else b""
        if self._left and not data:
            raise CutError("the client went away")
        self._left -= len(data)
        self._asked.received += len(data)
        if self.cut is not None and self._asked.received >= self.cut:
            raise CutError("cut, as a fault asked")
        if self._chunked and self._left == 0 and data:
            self._source.readline()
        return data

    def pieces(self) -> Iterator[bytes]:
        """What is left, piece by piece."""
        return iter(lambda: self.read(_CHUNK), b"")

    def drain(self) -> None:
        self.full = False
        for _ in self.pieces():
            pass


@dataclass(slots=True)
class Request:
    """A request: ``segments`` are the path's, each unquoted by itself, so that a branch may hold a slash."""

    method: str
    segments: tuple[str, ...]
    query: dict[str, list[str]]
    headers: Message
    body: Body
    asked: Asked

    def json(self) -> dict[str, object]:
        """The body as a JSON object.

        Raises:
            RefusedError: it is none.
        """
        data = self.body.read()
        try:
            found = json.loads(data or b"{}")
        except ValueError:
            raise RefusedError(400, "the body is no JSON") from None
        if not isinstance(found, dict):
            raise RefusedError(400, "the body is no JSON object")
        return cast("dict[str, object]", found)

    def first(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.first(name).lower() in ("1", "true", "yes")


@dataclass(slots=True)
class Answer:
    """An answer: its body is bytes, or a file, of which a range may be asked."""

    status: int = 200
    body: bytes | Path = b""
    headers: dict[str, str] = field(default_factory=dict)
    ranged: bool = False

    @property
    def size(self) -> int:
        return self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8", **names})


class RefusedError(Exception):
    """The Hub says no: a status, its error code and its words."""

    def __init__(self, status: int, error: str, code: str | None = None, **headers: str) -> None:
        super().__init__(error)
        self.status, self.error, self.code = status, error, code
        self.headers = {name.replace("_", "-"): text for name, text in headers.items()}

    def answer(self) -> Answer:
        answer = as_json({"error": self.error}, self.status)
        answer.headers["X-Error-Message"] = re.sub(r"[^\x20-\x7e]+", " ", self.error)
        if self.code is not None:
            answer.headers["X-Error-Code"] = self.code
        answer.headers.update(self.headers)
        return answer


def token_of(held: str) -> str | None:
    """The token of an ``Authorization`` header: as the client sends it, or as git does, in a password's place."""
    if held.startswith("Basic "):
        with contextlib.suppress(ValueError):
            return base64.b64decode(held.removeprefix("Basic ")).decode().partition(":")[2]
    return held.removeprefix("Bearer ") if held.startswith("Bearer ") else None


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The (start, stop) of a ``Range`` header, None where there is no range (or several, which may be ignored).

    Raises:
        RefusedError: 416, the range lies outside of the file.
    """
    found = re.fullmatch(r"\s*bytes\s*=\s*(\d*)-(\d*)\s*", text or "")
    if found is None or found.groups() == ("", ""):
        return None
    if found[1] == "":
        start, stop = max(size - int(found[2]), 0), size
    else:
        start, stop = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    if start >= size or stop <= start:
        raise RefusedError(416, "Requested range not satisfiable", Content_Range=f"bytes */{size}")
    return start, stop


Handle = Callable[[Request], Answer]


class Server(ThreadingHTTPServer):
    """One port. ``handle`` makes the answers; faults and log are the Hub's."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, name: str, handle: Handle, faults: Faults, log: Log) -> None:
        super().__init__((host, port), Handler)
        self.name, self.handle, self.faults, self.log = name, handle, faults, log
        self._open: set[socket.socket] = set()
        self._thread: threading.Thread | None = None
        self.trouble: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.02,), daemon=True, name=f"loopback-{self.name}"
        )
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(5)

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        assert isinstance(request, socket.socket)
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        if isinstance(request, socket.socket):
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news; whatever else happens is answered with 500 by the handler."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept for many requests."""

    protocol_version = "HTTP/1.1"
    server: Server
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:
        """Requests are kept in the Hub's log."""

    def _serve(self) -> None:
        asked = self._asked()
        body = Body(cast("BinaryIO", self.rfile), self.headers, asked)
        self.server.log.add(asked)
        faults = self.server.faults.take(asked)
        try:
            answer = self._answer(asked, body, faults)
            self._send(asked, answer, faults)
            for fault in faults:
                if fault.after is not None:
                    fault.after()
        except (CutError, ConnectionError, TimeoutError):
            self._hang_up()
        except Exception:  # of a fault's own functions
            self.server.trouble.append(traceback.format_exc())
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

    def _asked(self) -> Asked:
        path = self.path.partition("?")[0]
        held = self.headers.get("Authorization", "")
        return Asked(
            method=self.command,
            path=unquote(path),
            host=self.server.name,
            raw=self.path,
            range=self.headers.get("Range"),
            agent=self.headers.get("User-Agent", ""),
            token=token_of(held),
            headers={name.lower(): value for name, value in self.headers.items()},
        )

    def _answer(self, asked: Asked, body: Body, faults: Sequence[Fault]) -> Answer:
        for fault in faults:
            time.sleep(fault.delay)
            if fault.before is not None:
                fault.before()
            if fault.cut_upload is not None:
                body.cut = fault.cut_upload
            body.full = body.full or fault.disk_full
        if any(fault.drop for fault in faults):
            raise CutError
        path, _, query = self.path.partition("?")
        segments = tuple(unquote(part) for part in path.strip("/").split("/"))
        request = Request(self.command, segments, parse_qs(query, True), self.headers, body, asked)
        refusal = next((fault for fault in faults if fault.status is not None), None)
        try:
            if refusal is not None and refusal.status is not None:
                answer = RefusedError(refusal.status, refusal.error, refusal.code).answer()
            else:
                answer = self.server.handle(request)
        except RefusedError as error:
            answer = error.answer()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                self.server.trouble.append(traceback.format_exc())
                raise CutError from error
            answer = RefusedError(507, "No space left on device").answer()
        except CutError:
            raise
        except Exception:
            self.server.trouble.append(traceback.format_exc())
            answer = RefusedError(500, "the loopback Hub itself failed, see hub.trouble").answer()
        body.drain()
        for fault in faults:
            answer.headers.update(fault.headers)
        return answer

    def _send(self, asked: Asked, answer: Answer, faults: Sequence[Fault]) -> None:
        size, start, stop = answer.size, 0, answer.size
        if answer.ranged and answer.status == 200 and not any(fault.no_range for fault in faults):
            answer.headers["Accept-Ranges"] = "bytes"
            condition = self.headers.get("If-Range")
            if condition is None or condition == answer.headers.get("ETag"):
                try:
                    found = parse_range(self.headers.get("Range"), size)
                except RefusedError as error:
                    answer, found = error.answer(), None
                    start, stop = 0, answer.size
                if found is not None:
                    start, stop = found
                    answer.status = 206
                    answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        for fault in faults:
            if fault.short is not None:
                stop = min(stop, start + fault.short)
        self._head(asked, answer, stop - start)
        if self.command != "HEAD" and stop > start:
            with open_body(answer.body) as source:
                source.seek(start)
                self._pour(asked, source, stop - start, faults)
        self.wfile.flush()

    def _head(self, asked: Asked, answer: Answer, length: int) -> None:
        asked.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304) and not (self.command == "HEAD" and "Content-Length" in answer.headers):
            self.send_header("Content-Length", str(length))
        self.send_header("X-Request-Id", self.headers.get("X-Request-Id") or f"loopback-{uuid.uuid4().hex[:12]}")
        self.end_headers()

    def _pour(self, asked: Asked, source: BinaryIO, length: int, faults: Sequence[Fault]) -> None:
        stops: list[tuple[int, Callable[[], object]]] = []
        for fault in faults:
            if fault.amid is not None:
                stops.append((length // 2, fault.amid))
            if fault.stall is not None:
                seconds = fault.stall[1]
                stops.append((min(fault.stall[0], length), lambda seconds=seconds: time.sleep(seconds)))  # type: ignore[misc]
            if fault.cut is not None and fault.cut < length:
                stops.append((fault.cut, self._cut))
        flip = any(fault.wrong for fault in faults)
        done = 0
        for at, do in [*sorted(stops, key=lambda stop: stop[0]), (length, lambda: None)]:
            while done < at:
                data = source.read(min(_CHUNK, at - done))
                if not data:
                    raise CutError("the file has become shorter")
                done += len(data)
                asked.sent += len(data)
                self.wfile.write(bytes(byte ^ 0x5A for byte in data) if flip else data)
            self.wfile.flush()
            do()

    def _cut(self) -> None:
        raise CutError


@contextlib.contextmanager
def open_body(body: bytes | Path) -> Iterator[BinaryIO]:
    with io.BytesIO(body) if isinstance(body, bytes) else body.open("rb") as source:
        yield source
