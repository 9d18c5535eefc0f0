"""What an answer consists of, in the order in which it is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of what it says."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool is called.

    Attributes:
        index: which call of the answer it is, from 0 on.
        id: the call's name for itself: the model's own where it writes one first, else a made one.
        name: the tool.
    """

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments: the pieces together are the text of a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call is whole."""

    index: int


@dataclass(frozen=True, slots=True)
class CallBroken:
    """What began as a call is none: it broke off, or what follows is not of its form.

    Attributes:
        index: the call that is to be taken back, by whoever still can.
        text: all that the model wrote of it, verbatim; it is content.
    """

    index: int
    text: str


Event = Reasoning | Content | CallBegun | CallArguments | CallEnded | CallBroken


def joined(events: Iterable[Event]) -> list[Event]:
    """Events with neighbours of one kind made one."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, (Reasoning, Content)) and type(last) is type(event):
            assert isinstance(last, (Reasoning, Content))
            found[-1] = replace(last, text=last.text + event.text)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments) and last.index == event.index:
            found[-1] = CallArguments(event.index, last.text + event.text)
        else:
            found.append(event)
    return found


@dataclass(slots=True)
class Call:
    """A whole call; ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Reply:
    """A whole answer.

    Attributes:
        reasoning: what was thought.
        content: what was said, and what looked like a call and was none.
        calls: the calls, in order.
    """

    reasoning: str = ""
    content: str = ""
    calls: list[Call] = field(default_factory=list)


def collected(events: Iterable[Event]) -> Reply:
    """The answer that events make up."""
    reply, calls = Reply(), {}
    for event in events:
        match event:
            case Reasoning(text):
                reply.reasoning += text
            case Content(text):
                reply.content += text
            case CallBegun(index, id, name):
                calls[index] = Call(id, name, "")
            case CallArguments(index, text):
                calls[index].arguments += text
            case CallBroken(index, text):
                del calls[index]
                reply.content += text
            case CallEnded():
                pass
    reply.calls = [calls[index] for index in sorted(calls)]
    return reply


def message_of(reply: Reply) -> dict[str, object]:
    """An answer as a message of a conversation, for its template; arguments are objects."""
    calls = [
        {"type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}
        for call in reply.calls
    ]
    parts = {"content": reply.content, "reasoning_content": reply.reasoning, "tool_calls": calls}
    return {"role": "assistant", **{name: value for name, value in parts.items() if value}}
