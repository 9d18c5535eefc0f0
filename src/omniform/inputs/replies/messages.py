"""Conversations as OpenAI's clients send them, made into what a checkpoint's template can render.

Templates disagree: most want a call's arguments as an object, some as JSON text; beside calls, some want no content,
some empty content, some null. Nothing says which, so a small conversation is rendered in each way, until a call shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from omniform.core.errors import OmniformError
from omniform.inputs.text.chat import NOTHING, Message
from omniform.inputs.text.special import NAMES
from omniform.inputs.text.template import run_template

_SHORT: Final = re.compile(r"[A-Za-z0-9]{9}")
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Habits:
    """What a template wants of messages with calls.

    Attributes:
        objects: arguments as objects, not as text.
        beside: content beside calls where there is none: ``""``, null, or left out.
        keeps: whether calls show beside content that says something.
        short: ids of calls of nine letters.
    """

    objects: bool = True
    beside: object = ""
    keeps: bool = True
    short: bool = False


def for_template(messages: Sequence[Mapping[str, object]], template: str) -> list[Message]:
    """Messages as a template can render them.

    Arguments of calls become objects where it wants them, text in parts becomes one text, a tool's answer gets the name
    of the tool, ids of calls get nine letters where it asks for these, and the role ``developer`` becomes ``system``
    where it does not know it.

    Args:
        messages: as OpenAI's clients send them; what is malformed is left for the template's own reader to refuse.
        template: the chat template's source.
    """
    habits = habits_of(template)
    names: dict[object, object] = {}
    found: list[Message] = []
    for raw in messages:
        message = dict(raw)
        if message.get("role") == "developer" and "developer" not in template:
            message["role"] = "system"
        if (content := _joined(message.get("content"))) is not None:
            message["content"] = content
        calls = message.get("tool_calls")
        if isinstance(calls, (list, tuple)) and calls:
            message["tool_calls"] = [_call(call, habits, names) for call in calls]
            if not message.get("content") or not habits.keeps:
                message["content"] = habits.beside
            if message["content"] is _MISSING:
                del message["content"]
        id = message.get("tool_call_id")
        if message.get("role") == "tool" and isinstance(id, str):
            if names.get(id) is not None:
                message.setdefault("name", names[id])
            message["tool_call_id"] = _id(id, habits)
        found.append(message)
    return found


def _joined(content: object) -> str | None:
    """Parts that are all text, as one."""
    if not isinstance(content, (list, tuple)) or not content:
        return None
    texts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    return "\n".join(map(str, texts)) if len(texts) == len(content) else None


def _call(call: object, habits: Habits, names: dict[object, object]) -> object:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call
    function = dict(call["function"])
    arguments = function.get("arguments")
    if habits.objects and isinstance(arguments, str):
        function["arguments"] = _object(arguments)
    elif not habits.objects and isinstance(arguments, Mapping):
        function["arguments"] = json.dumps(arguments, ensure_ascii=False)
    made = {**call, "type": call.get("type", "function"), "function": function}
    if isinstance(id := call.get("id"), str):
        names[id] = function.get("name")
        made["id"] = _id(id, habits)
    return made


def _object(text: str) -> object:
    """Arguments as an object; what is none stays text, and none at all are an empty one."""
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _id(id: str, habits: Habits) -> str:
    return id if not habits.short or _SHORT.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


@lru_cache(64)
def habits_of(template: str) -> Habits:
    """What a template wants, found by rendering; as most do where it shows no call at all."""
    for id in ("call_0123456789ab", "abcdefghi"):
        for objects in (True, False):
            for beside in ("", _MISSING, None):
                if _shows(template, id, objects, beside):
                    keeps = _shows(template, id, objects, "said")
                    beside = NOTHING if beside is None else beside
                    return Habits(objects, beside, keeps, short=len(id) == 9)
    return Habits()


def _shows(template: str, id: str, objects: bool, content: object) -> bool:
    """Whether a call is rendered, and as one would write it: its arguments neither twice in quotes nor as Python's."""
    arguments: object = {"probe_key": "probe_value"}
    function = {"name": "probe_tool", "arguments": arguments if objects else json.dumps(arguments)}
    asked: Message = {"role": "assistant", "content": content, "tool_calls": [
        {"id": id, "type": "function", "function": function}
    ]}  # fmt: skip
    if content is _MISSING:
        del asked["content"]
    answer = {"role": "tool", "tool_call_id": id, "name": "probe_tool", "content": "ok"}
    variables = {**dict.fromkeys(NAMES, ""), "tools": None, "documents": None, "add_generation_prompt": True}
    messages = [{"role": "user", "content": "x"}, asked, answer]
    try:
        text = run_template(template, {**variables, "messages": messages}).text
    except OmniformError:
        return False
    whole = all(part in text for part in ("probe_tool", "probe_key", "probe_value"))
    return whole and "'probe_key'" not in text and '\\"probe_key' not in text
