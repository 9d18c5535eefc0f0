"""Conversations with pictures and sounds: what the template sees, and what the processor is called with."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from omniform.core.errors import ConfigError
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.inputs.processors.media import Media, take_media
from omniform.inputs.processors.options import GROUPS, Part
from omniform.inputs.text.chat import Message, read_conversations
from omniform.inputs.text.encoding import BatchEncoding, widened
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import Prompt, compile_template


def read_chats(conversation: object) -> tuple[list[list[Message]], list[Media], bool]:
    """The messages of one conversation or several, the media of each, and whether there were several.

    Raises:
        InputError: a conversation is empty or malformed.
    """
    _, many = read_conversations(conversation)
    assert isinstance(conversation, (list, tuple))
    taken = [take_media(chat) for chat in (conversation if many else [conversation])]
    chats, _ = read_conversations([messages for messages, _ in taken])
    return chats, [media for _, media in taken], many


def split_variables(
    template: str, options: Mapping[str, object], known: Mapping[Part, Collection[str]]
) -> tuple[dict[str, object], dict[str, object]]:
    """Options of the processor's call, and variables of the template, which come first where a name is both."""
    words = compile_template(template).names
    call = {"images", "audio", "videos", "common_kwargs", "return_mm_token_type_ids", *GROUPS}
    call.update(name for names in known.values() for name in names)
    variables = {name: value for name, value in options.items() if name in words or name not in call}
    return {name: value for name, value in options.items() if name not in variables}, variables


def assistant_masks(prompts: Sequence[Prompt], batch: BatchEncoding) -> list[list[int]]:
    """1 for each token that the assistant wrote, counted where pictures and sounds have widened the prompt.

    Args:
        prompts: the rendered conversations.
        batch: the encoded prompts, and what was replaced in them.
    """
    masks = []
    for row, (prompt, encoding) in enumerate(zip(prompts, batch.encodings, strict=True)):
        edits = batch.edits[row] if batch.edits else ()
        written = [tuple(widened(at, edits) for at in span) for span in prompt.generated]
        masks.append([int(any(a < end and b > start for start, end in written)) for a, b in encoding.offsets])
    return masks


_BREAK: Final = "\u200b"


def escaped(chats: Sequence[Sequence[Message]], tokens: Collection[str]) -> list[list[Message]]:
    """Conversations whose texts hold some tokens as mere text: a zero-width space parts each after its first letter.

    A placeholder that somebody types is no picture. Where its name would stand for one, it would take another's place.
    """
    if not tokens:
        return [list(chat) for chat in chats]
    pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))

    def plain(text: object) -> object:
        return pattern.sub(lambda m: m[0][0] + _BREAK + m[0][1:], text) if isinstance(text, str) else text

    def of(message: Message) -> Message:
        content = message.get("content")
        if isinstance(content, (list, tuple)):
            parts = [{**p, "text": plain(p["text"])} if isinstance(p, Mapping) and "text" in p else p for p in content]
            return {**message, "content": parts}
        return {**message, "content": plain(content)} if "content" in message else message

    return [[of(message) for message in chat] for chat in chats]


def write_templates(folder: Path, templates: ChatTemplates) -> None:
    """Write chat templates to files of their own.

    Raises:
        ConfigError: a template's name is no file name.
    """
    for name, template in ({"default": templates} if isinstance(templates, str) else templates or {}).items():
        if not name or Path(name).name != name or name.startswith("."):
            raise ConfigError("a chat template's name must do as a file name", found=repr(name))
        path = folder / ("chat_template.jinja" if name == "default" else f"{TEMPLATES_FOLDER}/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")
