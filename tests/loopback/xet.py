"""The storage's other way in: chunks of files, in containers (xorbs), and lists that say which chunks make which file.

The client uploads this way wherever ``hf_xet`` is installed. Formats: https://huggingface.co/docs/xet (xorb, shard,
api), version 1, which the client turns to where it finds no other. What arrives is put together at once, checked
against its SHA-256 and kept as a large file like any other.
"""

from __future__ import annotations

import re
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loopback.access import Call, on
from loopback.api_commits import may_push
from loopback.git import write_whole
from loopback.lfs import UploadError
from loopback.store import Kind, Repository
from loopback.wire import Answer, RefusedError, Request, as_json

if TYPE_CHECKING:
    from loopback.hub import Hub

_ROW: Final = 48
_END: Final = b"\xff" * 32
_CHECKED: Final = 1 << 31
_TOLD: Final = 1 << 30
_PATH: Final = re.compile(r"/v1/(shards|xorbs/default/([0-9a-f]{64})|chunks/[\w-]+/[0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pass:
    """What a token for the storage is good for."""

    kind: Kind
    name: str
    writes: bool


def _hex(data: bytes) -> str:
    """A hash as the protocol spells it: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", data))


class Xet:
    """The containers that have come, and the tokens that are out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._passes: dict[str, Pass] = {}

    def grant(self, repo: Repository, writes: bool) -> str:
        token = f"xet_{uuid.uuid4().hex}"
        self._passes[token] = Pass(repo.kind, repo.name, writes)
        return token

    def passing(self, token: str | None) -> Pass | None:
        return self._passes.get(token or "")

    def keep(self, name: str, data: bytes) -> bool:
        """Keep a container; whether it is new."""
        path = self._folder / "xorbs" / name
        if path.is_file():
            return False
        list(_chunks(data))
        write_whole(path, data)
        return True

    def chunks(self, name: str) -> list[bytes]:
        path = self._folder / "xorbs" / name
        if not path.is_file():
            raise RefusedError(400, f"no xorb {name} was uploaded")
        return list(_chunks(path.read_bytes()))

    def take_list(self, data: bytes, repo: Repository) -> int:
        """Put the files of a list together, for a repository; how many."""
        count = 0
        for sha256, segments in _files(data):
            if not repo.lfs.holds(sha256):
                repo.lfs.put(sha256, (part for name, start, stop in segments for part in self.chunks(name)[start:stop]))
            count += 1
        return count


def _files(data: bytes) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """(SHA-256, [(container, first chunk, chunk after the last)]) of each file that a shard lists."""
    at = _ROW
    while data[at : at + 32] != _END:
        if at + _ROW > len(data):
            raise RefusedError(400, "the shard ends in the midst of its files")
        flags, count = struct.unpack_from("<II", data, at + 32)
        at += _ROW
        segments = []
        for number in range(count):
            row = at + number * _ROW
            start, stop = struct.unpack_from("<II", data, row + 40)
            segments.append((_hex(data[row : row + 32]), start, stop))
        at += count * _ROW * (2 if flags & _CHECKED else 1)
        if not flags & _TOLD:
            raise RefusedError(400, "the shard does not tell a file's SHA-256")
        yield _hex(data[at : at + 32]), segments
        at += _ROW


def _chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a container, as they were before they were packed."""
    at = 0
    while at < len(data) and data[at] == 0:  # a footer, where there is one, begins with another byte
        packed, how, size = int.from_bytes(data[at + 1 : at + 4], "little"), data[at + 4], data[at + 5 : at + 8]
        body = data[at + 8 : at + 8 + packed]
        if how:
            body = unpack_frames(body)
        if how == 2:
            body = _regroup(body)
        if how > 2 or len(body) != int.from_bytes(size, "little"):
            raise RefusedError(400, "a chunk of the xorb is damaged")
        yield body
        at += 8 + packed


def _regroup(data: bytes) -> bytes:
    """Bytes that were sorted by their place in fours, back in their order."""
    out, at = bytearray(len(data)), 0
    for place in range(4):
        count = len(range(place, len(data), 4))
        out[place::4] = data[at : at + count]
        at += count
    return bytes(out)


def unpack_frames(data: bytes) -> bytes:
    """LZ4 frames to bytes (https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md), checksums unread."""
    out, at = bytearray(), 0
    while at < len(data):
        if data[at : at + 4] != b"\x04\x22\x4d\x18":
            raise RefusedError(400, "a chunk is no LZ4 frame")
        flags = data[at + 4]
        at += 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
        while size := int.from_bytes(data[at : at + 4], "little"):
            at += 4
            body = data[at : at + (size & 0x7FFFFFFF)]
            if size >> 31:
                out += body
            else:
                _unpack_block(body, out)
            at += len(body) + (4 if flags & 16 else 0)
        at += 4 + (4 if flags & 4 else 0)
    return bytes(out)


def _unpack_block(data: bytes, out: bytearray) -> None:
    """One LZ4 block, appended to what was unpacked before it."""
    at, end = 0, len(data)

    def length(first: int) -> int:
        nonlocal at
        total = first
        while first == 15:
            more = data[at]
            at += 1
            total += more
            if more != 255:
                break
        return total

    while at < end:
        token = data[at]
        at += 1
        literal = length(token >> 4)
        out += data[at : at + literal]
        at += literal
        if at >= end:
            return
        back = int.from_bytes(data[at : at + 2], "little")
        at += 2
        count = length(token & 15) + 4
        start = len(out) - back
        if back == 0 or start < 0:
            raise RefusedError(400, "a chunk's LZ4 block is damaged")
        if back >= count:
            out += out[start : start + count]
        else:
            piece = bytes(out[start:])
            out += (piece * (count // back + 1))[:count]


# Over the wire


def _token(call: Call, writes: bool) -> Answer:
    repo = may_push(call, "/".join(call.rest[1:])) if writes else call.read()
    token, until = call.hub.xet.grant(repo, writes), int(time.time()) + 3600
    answer = as_json({"casUrl": call.hub.cdn, "accessToken": token, "exp": until})
    answer.headers |= {"X-Xet-Cas-Url": call.hub.cdn, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(until)}
    return answer


@on("GET", "xet-write-token")
def write_token(call: Call) -> Answer:
    return _token(call, writes=True)


@on("GET", "xet-read-token")
def read_token(call: Call) -> Answer:
    return _token(call, writes=False)


def is_xet(request: Request) -> bool:
    return request.segments[0] in ("v1", "v2", "shards")


def answer_xet(hub: Hub, request: Request) -> Answer:
    """The storage's half of the protocol."""
    if request.asked.path == "/v1/telemetry":
        return Answer()
    found = _PATH.fullmatch(request.asked.path)
    if found is None or request.method not in ("POST", "GET"):
        raise RefusedError(404, "Not Found")
    allowed = hub.xet.passing(request.asked.token)
    if allowed is None:
        raise RefusedError(401, "Unauthorized")
    if request.method == "GET":
        raise RefusedError(404, "Not Found")  # of no chunk it is said that it is here already
    repo = hub.store.get(allowed.kind, allowed.name)
    if not allowed.writes or repo is None:
        raise RefusedError(403, "Forbidden")
    data = request.body.read()
    if found[2]:
        return as_json({"was_inserted": hub.xet.keep(found[2], data)})
    try:
        return as_json({"result": 1 if hub.xet.take_list(data, repo) else 0})
    except UploadError as error:
        raise RefusedError(400, str(error)) from None
