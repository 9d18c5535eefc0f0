"""Messages between the door and a process behind it: a head of JSON and bytes, each with their length before them."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, cast

from omniform.serve.calls import Message
from omniform.serve.config import Limits, ModelSource, ServeConfig
from omniform.serve.ray_routes import Call

HEAD: Final = struct.Struct("!IQ")
"""Bytes of the JSON, and of what follows it."""

Frame = tuple[Mapping[str, object], bytes]


async def written(writer: asyncio.StreamWriter, told: Mapping[str, object], body: bytes = b"") -> None:
    """Send one, as fast as it is read."""
    head = json.dumps(told).encode()
    writer.write(HEAD.pack(len(head), len(body)) + head)
    if body:
        writer.write(body)
    await writer.drain()


async def read(reader: asyncio.StreamReader) -> Frame:
    """The next one.

    Raises:
        IncompleteReadError: there is none; the other side is gone.
    """
    head, body = HEAD.unpack(await reader.readexactly(HEAD.size))
    told = json.loads(await reader.readexactly(head))
    return told, await reader.readexactly(body) if body else b""


def asked(call: Call, more: Mapping[str, object]) -> Frame:
    """A request.

    Args:
        more: what the door knows of it.
    """
    told = {
        "method": call.method, "path": call.path, "query": _text(call.query), "client": call.client,
        "headers": [[_text(name), _text(value)] for name, value in call.headers], **more,
    }  # fmt: skip
    return told, call.body


def call_in(frame: Frame) -> Call:
    """The request in a frame; the inverse of :func:`asked`."""
    told, body = frame
    pairs = cast("list[list[str]]", told["headers"])
    return Call(
        method=str(told["method"]), path=str(told["path"]), query=_raw(told["query"]), body=body,
        headers=tuple((_raw(name), _raw(value)) for name, value in pairs), client=str(told["client"]),
    )  # fmt: skip


def said(message: Mapping[str, object]) -> Frame:
    """A piece of an answer."""
    if message["type"] == "http.response.start":
        pairs = cast("list[tuple[bytes, bytes]]", message.get("headers", []))
        return {"status": message["status"], "headers": [[_text(name), _text(value)] for name, value in pairs]}, b""
    return {"more": bool(message.get("more_body", False))}, bytes(cast(bytes, message.get("body", b"")))


def message_in(frame: Frame) -> Message:
    """The piece in a frame; the inverse of :func:`said`."""
    told, body = frame
    if "status" in told:
        pairs = cast("list[list[str]]", told["headers"])
        headers = [(_raw(name), _raw(value)) for name, value in pairs]
        return {"type": "http.response.start", "status": told["status"], "headers": headers}
    return {"type": "http.response.body", "body": body, "more_body": told["more"]}


def settings_of(config: ServeConfig) -> dict[str, object]:
    """A server's settings as JSON has them."""
    return asdict(config)


def config_of(told: Mapping[str, object]) -> ServeConfig:
    """The inverse."""
    models = tuple(ModelSource(**one) for one in cast("list[dict[str, str]]", told["models"]))  # type: ignore[arg-type]
    limits = Limits(**cast("dict[str, int]", told["limits"]))
    lists = {name: tuple(value) for name, value in told.items() if isinstance(value, list)}
    return ServeConfig(**{**told, **lists, "models": models, "limits": limits})  # type: ignore[arg-type]


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _raw(text: object) -> bytes:
    return str(text).encode("latin-1")
