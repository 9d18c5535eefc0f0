"""From OpenAI's messages to those that chat templates and processors read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence

from omniform.serve.desk import Desk
from omniform.serve.errors import APIError
from omniform.serve.wire import Message


def messages_of(messages: Sequence[Message], desk: Desk) -> list[dict[str, object]]:
    """A conversation; what its media are is read, which may take long.

    Raises:
        APIError: a part that nobody can read, and which.
    """
    return [_message(message, desk, f"messages.{place}") for place, message in enumerate(messages)]


def _message(message: Message, desk: Desk, where: str) -> dict[str, object]:
    told: dict[str, object] = {"role": "system" if message.role == "developer" else message.role}
    content = message.content or message.refusal if message.role == "assistant" else message.content
    if isinstance(content, list):
        told["content"] = [part_of(part, desk, f"{where}.content.{i}") for i, part in enumerate(content)]
    elif content is not None or not message.tool_calls:
        told["content"] = content or ""
    else:
        told["content"] = ""  # templates join it to what they write
    for name in ("name", "tool_calls", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            told[name] = value
    return told


def part_of(part: Mapping[str, object], desk: Desk, where: str) -> dict[str, object]:
    """A part of a message: text, a picture, a sound or a video.

    Raises:
        APIError: it is none of these, or its bytes are none.
    """
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind in ("image_url", "video_url", "audio_url"):
        named = part.get(str(kind))
        url = named.get("url") if isinstance(named, Mapping) else named
        if isinstance(url, str):
            return _medium(str(kind).removesuffix("_url"), url, desk, f"{where}.{kind}")
    if kind == "input_image" and isinstance(part.get("image_url"), str):
        return _medium("image", str(part["image_url"]), desk, f"{where}.image_url")
    if kind == "input_audio":
        held = part.get("input_audio")
        data = held.get("data") if isinstance(held, Mapping) else None
        if isinstance(data, str):
            return {"type": "audio", "audio": decoded(data, f"{where}.input_audio.data")}
    raise APIError(
        400, f"{where}: this part of a message cannot be read: {kind!r:.100}", param=where, code="invalid_value"
    )


def _medium(medium: str, url: str, desk: Desk, where: str) -> dict[str, object]:
    if url[:5].lower() != "data:":
        return {"type": medium, medium: desk.fetched(url)}
    return {"type": medium, medium: medium_of(url, desk, where)}


def medium_of(text: str, desk: Desk, where: str) -> bytes:
    """The bytes of a picture, a sound or a video: of a data URL, of base64, or what lies at an address.

    Raises:
        APIError: it is none of these, or the address may not be fetched.
    """
    head, comma, data = text.partition(",")
    if "://" in text[:16] and text[:5].lower() != "data:":
        return desk.fetched(text)
    if text[:5].lower() != "data:":
        return decoded(text, where)
    if not comma or not head.lower().endswith(";base64"):
        raise APIError(400, f"{where}: a data URL must hold base64", param=where, code="invalid_value")
    return decoded(data, where)


def decoded(text: str, where: str) -> bytes:
    """The bytes that base64 stands for.

    Raises:
        APIError: it is none, or of nothing.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise APIError(400, f"{where}: this is no base64", param=where, code="invalid_value")
    return data
