"""Conversations with pictures and sounds: what the template sees, and what the processor is called with."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from omniform.core.errors import ConfigError
from omniform.core.file_names import TEMPLATES_FOLDER
from omniform.inputs.processors.media import Media, take_media
from omniform.inputs.processors.options import GROUPS, Part
from omniform.inputs.text.chat import Message, read_conversations
from omniform.inputs.text.encoding import BatchEncoding
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
    call = {"images", "audio", "common_kwargs", "return_mm_token_type_ids", *GROUPS}
    call.update(name for names in known.values() for name in names)
    variables = {name: value for name, value in options.items() if name in words or name not in call}
    return {name: value for name, value in options.items() if name not in variables}, variables


def assistant_masks(prompts: Sequence[Prompt], batch: BatchEncoding, placeholder: str | None) -> list[list[int]]:
    """1 for each token that the assistant wrote, counted where pictures have widened the prompt.

    Args:
        prompts: the rendered conversations, with one placeholder for each picture.
        batch: the encoded prompts, and the spans of the pictures.
        placeholder: the token that stands for a picture.
    """
    masks = []
    for row, (prompt, encoding) in enumerate(zip(prompts, batch.encodings, strict=True)):
        ends: list[int] = []
        gains = [0]
        if placeholder is not None:
            lengths = [span.length for span in batch.spans if span.row == row]
            for found, length in zip(re.finditer(re.escape(placeholder), prompt.text), lengths, strict=True):
                ends.append(found.end())
                gains.append(gains[-1] + (length - 1) * len(placeholder))
        written = [tuple(at + gains[bisect_right(ends, at)] for at in span) for span in prompt.generated]
        masks.append([int(any(a < end and b > start for start, end in written)) for a, b in encoding.offsets])
    return masks


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
