"""Conversations to prompts, by the template that comes with a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from secrets import token_hex
from typing import Any, Final

from tokenizers import Encoding

from omniform.core.errors import InputError, listed, nearest
from omniform.inputs.text.options import EncodeOptions
from omniform.inputs.text.schema import function_schema
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import Prompt, compile_template, run_template

log = logging.getLogger("omniform")

Message = dict[str, object]
Tool = Mapping[str, object] | Callable[..., object]

NOTHING: Final = object()
"""Null, for the few templates that ask whether something is null; what is None is left out of a message."""

_TAG = "CONTINUE_FINAL_MESSAGE_TAG"  # written with a space behind it, to see whether the template strips content
_REASONING = ("reasoning_content", "thinking", "reasoning")


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


def choose_template(templates: ChatTemplates, asked: str | None, has_tools: bool) -> str:
    """The template to use.

    Args:
        templates: those of the tokenizer.
        asked: the name of one of them, or the source of another.
        has_tools: whether there are tools, which a template named ``tool_use`` is for.

    Raises:
        InputError: there is none, or it is not clear which.
    """
    if asked is not None and not isinstance(asked, str):
        raise InputError("a chat template is text", where="chat_template", found=shown(asked))
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
    """One conversation or a batch of them, and whether it was a batch.

    Raises:
        InputError: it is empty, or a message is no mapping.
    """
    if not isinstance(conversation, (list, tuple)) or not conversation:
        raise InputError(
            "there is no message" if isinstance(conversation, (list, tuple)) else "this is no conversation",
            where="conversation",
            expected="a list of messages, or a list of such lists",
            found="an empty list" if isinstance(conversation, (list, tuple)) else shown(conversation),
        )
    many = isinstance(conversation[0], (list, tuple))
    chats = conversation if many else [conversation]
    return [
        _read_chat(chat, f"conversation {index}" if many else "conversation") for index, chat in enumerate(chats)
    ], many


def shown(value: object) -> str:
    """The beginning of a foreign value and what it is, for an error."""
    try:
        text = repr(value)
    except Exception:  # a foreign object's own mistake
        text = "a value"
    return f"{text[:60]} ({type(value).__name__})"


def _read_chat(chat: object, where: str) -> list[Message]:
    if not isinstance(chat, (list, tuple)) or not chat:
        raise InputError("a conversation is a list of messages", where=where, found=shown(chat))
    messages = []
    for index, raw in enumerate(chat):
        if is_dataclass(raw) and not isinstance(raw, type):
            raw = {part.name: vars(raw)[part.name] for part in fields(raw)}
        if not isinstance(raw, Mapping):
            raise InputError(
                "a message is a mapping",
                where=f"{where}, message {index}",
                expected="{'role': ..., 'content': ...}",
                found=shown(raw),
            )
        given = {str(name): value for name, value in raw.items() if value is not None}
        message: Message = {name: None if value is NOTHING else value for name, value in given.items()}
        if not isinstance(message.get("role"), str):
            raise InputError(
                "a message has no role",
                where=f"{where}, message {index}",
                expected="a 'role' that is text: 'user', 'assistant', 'system'",
                found=shown(raw.get("role")),
            )
        thought = next((message[name] for name in _REASONING if name in message), None)
        if thought is not None:
            # Templates disagree on the name of what a model thinks before it answers.
            message = {"thinking": thought, **message, "reasoning_content": thought}
        messages.append(message)
    return messages


def render_chats(template: str, chats: Sequence[list[Message]], options: ChatOptions) -> list[Prompt]:
    """Render conversations.

    Args:
        template: the jinja source.
        chats: as :func:`read_conversations` gives them.
        options: see :class:`ChatOptions`.

    Raises:
        ConfigError: the template is malformed, or does what templates may not.
        InputError: it refuses the messages, or a message, a tool or an option is malformed.
    """
    which = options.continue_final_message
    if not isinstance(which, (bool, str)):
        raise InputError("this is true, false or a field's name", where="continue_final_message", found=shown(which))
    if which and options.add_generation_prompt:
        raise InputError(
            "a prompt either continues the last message or begins another",
            where="continue_final_message",
            remedy="Leave add_generation_prompt out.",
        )
    warn_unread(template, options.variables)
    variables = {
        **options.variables,
        "tools": read_tools(options.tools),
        "documents": _documents(options.documents),
        "add_generation_prompt": options.add_generation_prompt,
    }
    return [_render(template, messages, variables, options) for messages in chats]


def _render(template: str, messages: list[Message], variables: Mapping[str, object], options: ChatOptions) -> Prompt:
    which = options.continue_final_message
    if not which:
        return run_template(template, {**variables, "messages": messages}, track=options.track)
    tag = f"{_TAG}_{token_hex(8)} " if _TAG in str(messages) else f"{_TAG} "
    opened, continued = _open_last(template, messages, which, tag)
    return Prompt(_cut(run_template(template, {**variables, "messages": opened}).text, continued, tag))


def warn_unread(template: str, variables: Mapping[str, object]) -> None:
    """Say which variables the template never reads: templates differ in what they know, and names are misspelt."""
    names = compile_template(template).names
    unread = tuple(name for name in variables if name not in names and not name.endswith("_token"))
    if unread:
        _warn_once(template, unread)


@lru_cache(256)  # a loop over conversations is told once
def _warn_once(template: str, unread: tuple[str, ...]) -> None:
    close = [hint for name in unread if (hint := nearest(name, _ARGUMENTS)).startswith("Did")]
    hints = "".join(f". {hint}" for hint in dict.fromkeys(close))
    log.warning("the chat template reads no %s%s", listed(map(repr, unread)), hints)


_ARGUMENTS = (
    *("tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize", "padding"),
    *("truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
)


def read_more(options: EncodeOptions | None) -> EncodeOptions:
    """Further options of the tokenizer's call.

    Raises:
        InputError: they are no mapping.
    """
    if options is not None and not isinstance(options, Mapping):
        raise InputError("options come as a mapping", where="tokenizer_kwargs", found=shown(options))
    return options or {}


def read_tools(tools: object) -> list[object] | None:
    """Tools as schemas.

    Raises:
        InputError: they are no list, or one of them is neither a function nor a schema.
    """
    if tools is None:
        return None
    if not isinstance(tools, (list, tuple)):
        raise InputError("tools come as a list", where="tools", expected="a list of them", found=shown(tools))
    return [_tool(tool, index) for index, tool in enumerate(tools)]


def _tool(tool: object, index: int) -> object:
    if isinstance(tool, Mapping):
        return tool
    if callable(tool) and not isinstance(tool, type):
        function: Callable[..., Any] = tool
        return function_schema(function)
    raise InputError("a tool is a function or a JSON schema", where=f"tools, {index}", found=shown(tool))


def _documents(documents: object) -> object:
    if documents is None:
        return None
    if not isinstance(documents, (list, tuple)) or not all(isinstance(item, Mapping) for item in documents):
        raise InputError("documents are mappings with 'title' and 'text'", where="documents", found=shown(documents))
    return list(documents)


def _open_last(template: str, messages: list[Message], which: bool | str, tag: str) -> tuple[list[Message], str]:
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
        content = str.__str__(content)
        last.update(dict.fromkeys(names, content + tag))
        return [*messages[:-1], last], content
    listed = content if isinstance(content, (list, tuple)) else []
    parts = [dict(part) if isinstance(part, Mapping) else part for part in listed]
    for part in reversed(parts):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text = part["text"]
            part["text"] = str.__str__(text) + tag
            last[name] = parts
            return [*messages[:-1], last], text
    raise InputError("the last message holds no text to continue", where=f"continue_final_message: {name}")


def _cut(text: str, continued: str, tag: str) -> str:
    mark = tag.strip()
    if mark not in text or continued.strip() not in text:
        raise InputError(
            "the chat template does not show the last message whole, so it cannot be continued",
            where="continue_final_message",
            found=f"{continued!r:.60}",
        )
    end = text.rindex(mark)
    # Where the template has stripped the content, what it would have stripped before the mark goes as well.
    return text[:end] if text.startswith(tag, end) else text[:end].rstrip()


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
