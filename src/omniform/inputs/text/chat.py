"""Conversations to prompts, by the template that comes with a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tokenizers import Encoding

from omniform.core.errors import InputError, UnknownArgumentError, nearest
from omniform.inputs.text.schema import function_schema
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import GENERATED_FROM, GENERATED_TO, plain, render

Message = dict[str, object]
Tool = Mapping[str, object] | Callable[..., object]

_REASONING = ("reasoning_content", "thinking", "reasoning")
_CUT = "CONTINUE_FINAL_MESSAGE_TAG "  # with a space, to see whether the template strips content


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What a prompt is made with, besides the conversation.

    Attributes:
        tools: functions, or their JSON schemas.
        documents: mappings with ``title`` and ``text``.
        add_generation_prompt: end with what comes before the assistant's answer.
        continue_final_message: end within the last message, for the model to go on; the name of one of its fields
            continues that instead of ``content``.
        variables: further variables of the template.
        track: find what ``{% generation %}`` blocks write.
    """

    tools: Sequence[Tool] | None = None
    documents: Sequence[Mapping[str, object]] | None = None
    add_generation_prompt: bool = False
    continue_final_message: bool | str = False
    variables: Mapping[str, object] = field(default_factory=dict)
    track: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        text: the prompt.
        generated: the characters that the assistant wrote, as (start, end), where they were asked for.
    """

    text: str
    generated: tuple[tuple[int, int], ...] = ()


def choose_template(templates: ChatTemplates, asked: str | None, has_tools: bool) -> str:
    """The template to use.

    Args:
        templates: those of the tokenizer.
        asked: the name of one of them, or the source of another.
        has_tools: whether there are tools, which a template named ``tool_use`` is for.

    Raises:
        InputError: there is none, or it is not clear which.
    """
    if isinstance(templates, dict):
        if asked is not None:
            return templates.get(asked, asked)
        name = "tool_use" if has_tools and "tool_use" in templates else "default"
        if name in templates:
            return templates[name]
        raise InputError(
            "there are several chat templates and no default",
            where="chat_template",
            expected=f"one of {sorted(templates)}",
        )
    template = templates if asked is None else asked
    if template is None:
        raise InputError(
            "this tokenizer has no chat template",
            where="chat_template",
            remedy="Pass one as chat_template=, or encode text of your own making.",
        )
    if not isinstance(template, str):
        raise InputError("a chat template is text", where="chat_template", found=type(template).__name__)
    return template


def read_conversations(conversation: object) -> tuple[list[list[Message]], bool]:
    """One conversation or a batch of them, as plain data, and whether it was a batch.

    Raises:
        InputError: it is empty, or a message is no mapping.
    """
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise InputError(
            "there is no message",
            where="conversation",
            expected="a list of messages, or a list of such lists",
            found="an empty list" if isinstance(conversation, (list, tuple)) else f"{conversation!r:.60}",
        )
    many = isinstance(conversation[0], (list, tuple))
    chats = conversation if many else [conversation]
    return [
        _read_chat(chat, f"conversation {index}" if many else "conversation") for index, chat in enumerate(chats)
    ], many


def _read_chat(chat: object, where: str) -> list[Message]:
    if not isinstance(chat, (list, tuple)) or not chat:
        raise InputError("a conversation is a list of messages", where=where, found=f"{chat!r:.60}")
    messages = []
    for index, raw in enumerate(chat):
        if is_dataclass(raw) and not isinstance(raw, type):
            raw = {part.name: vars(raw)[part.name] for part in fields(raw)}
        if not isinstance(raw, Mapping):
            raise InputError(
                "a message is a mapping",
                where=f"{where}, message {index}",
                expected="{'role': ..., 'content': ...}",
                found=f"{raw!r:.60}",
            )
        message = {str(name): plain(value) for name, value in raw.items() if value is not None}
        thought = next((message[name] for name in _REASONING if name in message), None)
        if thought is not None:
            # Templates disagree on the name of what a model thinks before it answers.
            message = {"thinking": thought, **message, "reasoning_content": thought}
        messages.append(message)
    return messages


def render_chat(template: str, messages: list[Message], options: ChatOptions) -> Prompt:
    """Render one conversation.

    Args:
        template: the jinja source.
        messages: as :func:`read_conversations` gives them.
        options: see :class:`ChatOptions`.

    Raises:
        ConfigError: the template is malformed, or does what templates may not.
        InputError: it refuses the messages, or a message or a tool is malformed.
        UnknownArgumentError: a variable is given that the template does not mention.
    """
    check_variables(template, options.variables)
    continued = ""
    if options.continue_final_message:
        if options.add_generation_prompt:
            raise InputError(
                "a prompt either continues the last message or begins another",
                where="continue_final_message",
                remedy="Leave add_generation_prompt out.",
            )
        messages, continued = _open_last(template, messages, options.continue_final_message)
    variables = {
        **options.variables,
        "messages": messages,
        "tools": None if options.tools is None else [_tool(tool, index) for index, tool in enumerate(options.tools)],
        "documents": _documents(options.documents),
        "add_generation_prompt": options.add_generation_prompt,
    }
    text = render(template, variables, track=options.track)
    if options.continue_final_message:
        text = _cut(text, continued)
    return _take_marks(text) if options.track else Prompt(text)


def check_variables(template: str, variables: Mapping[str, object]) -> None:
    """Refuse variables that the template does not so much as mention: they are misspelt arguments.

    Raises:
        UnknownArgumentError: there is one.
    """
    words = set(re.findall(r"\w+", template))
    for name in variables:
        if name not in words and not name.endswith("_token"):
            raise UnknownArgumentError(
                f"neither apply_chat_template nor the template knows {name!r}", remedy=nearest(name, _ARGUMENTS)
            )


_ARGUMENTS = (
    *("tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "padding"),
    *("truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
)


def _tool(tool: object, index: int) -> object:
    if isinstance(tool, Mapping):
        return tool
    if callable(tool) and not isinstance(tool, type):
        function: Callable[..., Any] = tool
        return function_schema(function)
    raise InputError("a tool is a function or a JSON schema", where=f"tools, {index}", found=f"{tool!r:.60}")


def _documents(documents: object) -> object:
    if documents is None:
        return None
    if not isinstance(documents, (list, tuple)) or not all(isinstance(item, Mapping) for item in documents):
        raise InputError(
            "documents are mappings with 'title' and 'text'", where="documents", found=f"{documents!r:.60}"
        )
    return list(documents)


def _open_last(template: str, messages: list[Message], which: bool | str) -> tuple[list[Message], str]:
    """Mark the end of the last message, and give the text that it ends with."""
    name = which if isinstance(which, str) else "content"
    last = dict(messages[-1])
    content = last.get(name)
    if content is None:
        raise InputError("the last message has nothing to continue", where=f"continue_final_message: {name}")
    names = [key for key in _REASONING if last.get(key) == content] if name in _REASONING else [name]
    if not any(key in template for key in names):
        raise InputError("the chat template does not use this field", where=f"continue_final_message: {name}")
    if isinstance(content, str):
        last.update(dict.fromkeys(names, content + _CUT))
        return [*messages[:-1], last], content
    parts = [dict(part) if isinstance(part, Mapping) else part for part in content] if isinstance(content, list) else []
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = part["text"]
            part["text"] = text + _CUT
            last[name] = parts
            return [*messages[:-1], last], text
    raise InputError("the last message holds no text to continue", where=f"continue_final_message: {name}")


def _cut(text: str, continued: str) -> str:
    mark = _CUT.strip()
    if mark not in text or continued.strip() not in text:
        raise InputError(
            "the chat template does not show the last message whole, so it cannot be continued",
            where="continue_final_message",
            found=f"{continued!r:.60}",
        )
    end = text.rindex(mark)
    # Where the template has stripped the content, what it would have stripped before the mark goes as well.
    return text[:end] if text.startswith(_CUT, end) else text[:end].rstrip()


def token_mask(encoding: Encoding, prompt: Prompt) -> list[int]:
    """1 for each token of an encoded prompt that the assistant wrote, 0 for each other."""
    mask = [0] * len(encoding.ids)
    for start, end in prompt.generated:
        first, last = encoding.char_to_token(start), encoding.char_to_token(end - 1)
        if first is None:
            break  # cut off
        for index in range(first, len(mask) if last is None else last + 1):
            mask[index] = 1
    return mask


def _take_marks(text: str) -> Prompt:
    spans: list[tuple[int, int]] = []
    kept: list[str] = []
    length = 0
    start: int | None = None
    for piece in re.split(f"([{GENERATED_FROM}{GENERATED_TO}])", text):
        if piece == GENERATED_FROM and start is None:
            start = length
        elif piece == GENERATED_TO and start is not None:
            spans.append((start, length))
            start = None
        elif piece in (GENERATED_FROM, GENERATED_TO):
            raise InputError(
                "a message holds code points that are no characters", where="conversation", found=ascii(piece)
            )
        else:
            kept.append(piece)
            length += len(piece)
    return Prompt("".join(kept), tuple(spans))
