"""Conversations among a pipeline's inputs: a list of messages is one input, a list of such lists is many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

from omniform.core.errors import InputError, brief
from omniform.inputs.images.load import ReadableFile
from omniform.pipelines.pt_utils import KeyDataset

Message = dict[str, object]
"""A message of a chat: ``role``, ``content``, and what else its template reads."""


class Chat:
    """One conversation, so that it is not taken for a list of inputs.

    Args:
        messages: mappings with ``role`` and ``content``.

    Raises:
        InputError: one of them has not both.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        for number, message in enumerate(messages):
            if not is_message(message):
                raise InputError(
                    "this is no message of a chat",
                    where=f"messages[{number}]",
                    expected="a mapping with 'role' and 'content'",
                    found=brief(message),
                )
        self.messages = list(messages)

    def __repr__(self) -> str:
        return f"Chat({len(self.messages)} messages)"


def is_message(value: object) -> bool:
    """Whether something is a message of a chat."""
    return isinstance(value, dict) and "role" in value and "content" in value


def is_chat(value: object) -> bool:
    """Whether something is a list that begins with a message."""
    return isinstance(value, (list, tuple)) and bool(value) and is_message(value[0])


def chats_told(inputs: object) -> object:
    """The same inputs, lists of messages among them as :class:`Chat` s; a stream's first item tells of the others."""
    if isinstance(inputs, (list, tuple)):
        if is_chat(inputs):
            return Chat(inputs)
        many = (
            isinstance(inputs, list) and bool(inputs) and all(is_chat(one) or isinstance(one, Chat) for one in inputs)
        )
        return [one if isinstance(one, Chat) else Chat(one) for one in inputs] if many else inputs
    if isinstance(inputs, KeyDataset) and len(inputs) and is_chat(inputs[0]):
        return [Chat(cast("list[Message]", inputs[at])) for at in range(len(inputs))]
    if isinstance(inputs, Iterator) and not isinstance(inputs, ReadableFile):  # an open file is one input
        first = next(inputs, _NONE)
        if first is _NONE:
            return []
        rest = chain((first,), inputs)
        if is_message(first):
            return Chat([message for message in rest if isinstance(message, dict)])
        return (Chat(chat) for chat in rest) if is_chat(first) else rest
    return inputs


_NONE = object()
