"""A conversation: what was said, what of it the model still sees, how it is kept. Knows no terminal and no model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from omniform.core.batch import Modality
from omniform.core.errors import InputError, brief

Message = dict[str, object]

KINDS: Mapping[Modality, str] = {"image": "images", "audio": "audio", "video": "videos"}
"""What the files of each kind are called in a conversation's file."""


class Shown(NamedTuple):
    """A file that a question is about: its kind, and its path or address."""

    kind: Modality
    path: str


@dataclass(slots=True)
class Turn:
    """A question and its answer.

    Attributes:
        text: the question.
        media: what it is about.
        answer: None until there is one; what was written so far, where it was interrupted.
    """

    text: str
    media: tuple[Shown, ...] = ()
    answer: str | None = None


@dataclass(slots=True)
class Session:
    """A conversation.

    Attributes:
        system: the system message; "" for none.
        turns: all that was said, the last turn perhaps without an answer.
        first: the oldest turn that the model still sees.
    """

    system: str = ""
    turns: list[Turn] = field(default_factory=list)
    first: int = 0

    @property
    def seen(self) -> list[Turn]:
        """The turns that the model sees."""
        return self.turns[self.first :]

    def forget_oldest(self) -> bool:
        """Let the model see one turn less; False where only the last is left."""
        if len(self.seen) < 2:
            return False
        self.first += 1
        return True

    def clear(self) -> None:
        """Begin anew; the system message stays."""
        self.turns.clear()
        self.first = 0

    def take_back(self) -> Turn | None:
        """Remove the last turn; returns it, or None where there is none."""
        turn = self.turns.pop() if self.turns else None
        self.first = min(self.first, max(0, len(self.turns) - 1))
        return turn

    def messages(self, *, in_parts: bool) -> list[Message]:
        """What the model sees, as templates take it.

        Args:
            in_parts: contents are lists of parts, as models with pictures have them, and not texts.
        """
        found = [_message("system", self.system, (), in_parts)] if self.system else []
        for turn in self.seen:
            found.append(_message("user", turn.text, turn.media, in_parts))
            if turn.answer is not None:
                found.append(_message("assistant", turn.answer, (), in_parts))
        return found

    # -- as files --------------------------------------------------------------------------------------------------

    def as_json(self, more: Mapping[str, object]) -> str:
        """The conversation as JSON, which :func:`from_json` reads.

        Args:
            more: what else is to be noted beside the messages.
        """
        said: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            files = {KINDS[kind]: [m.path for m in turn.media if m.kind == kind] for kind in KINDS}
            said.append(
                {"role": "user", "content": turn.text, **{name: paths for name, paths in files.items() if paths}}
            )
            if turn.answer is not None:
                said.append({"role": "assistant", "content": turn.answer})
        return json.dumps({**more, "messages": said}, ensure_ascii=False, indent=1) + "\n"

    def as_markdown(self, title: str) -> str:
        """The conversation to be read."""
        parts = [f"# {title}"]
        if self.system:
            parts += ["## System", self.system]
        for turn in self.turns:
            parts += ["## You", *map(_link, turn.media), turn.text]
            if turn.answer is not None:
                parts += ["## Model", turn.answer.strip()]
        return "\n\n".join(parts) + "\n"


def _link(shown: Shown) -> str:
    return f"![picture](<{shown.path}>)" if shown.kind == "image" else f"[{shown.kind}](<{shown.path}>)"


def _message(role: str, text: str, media: Sequence[Shown], in_parts: bool) -> Message:
    if not in_parts:
        return {"role": role, "content": text}
    parts: list[Message] = [{"type": shown.kind, shown.kind: shown.path} for shown in media]
    return {"role": role, "content": [*parts, {"type": "text", "text": text}]}


def from_json(text: str, where: str) -> Session:
    """A conversation from JSON: as :meth:`Session.as_json` writes it, or a plain list of messages.

    Raises:
        InputError: it is neither.
    """
    try:
        read: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("this is no JSON", where=where, found=str(error)) from None
    messages = read.get("messages") if isinstance(read, Mapping) else read
    if not isinstance(messages, list):
        raise InputError("this is no conversation", where=where, expected="a list of messages", found=brief(read))
    session = Session()
    for number, message in enumerate(messages):
        _add(session, message, f"{where}, message {number}")
    return session


def _add(session: Session, message: object, where: str) -> None:
    role, content, media = _read(message, where)
    waiting = bool(session.turns) and session.turns[-1].answer is None
    if role == "system" and not session.turns and not session.system:
        session.system = content
    elif role == "user" and not waiting:
        session.turns.append(Turn(content, media))
    elif role == "assistant" and waiting:
        session.turns[-1].answer = content
    else:
        raise InputError(
            "the messages are in no order that can be gone on with",
            where=where,
            expected="a system message at most, then users' and assistants' in turn",
            found=role,
        )


def _read(message: object, where: str) -> tuple[str, str, tuple[Shown, ...]]:
    """Role, text and media of a message."""
    if not isinstance(message, Mapping) or message.get("role") not in ("system", "user", "assistant"):
        raise InputError(
            "this is no message", where=where, expected="a role (system, user, assistant)", found=brief(message)
        )
    content = message.get("content")
    media = [(kind, path) for kind, name in KINDS.items() for path in _listed(message.get(name, []))]
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        told = ((kind, part) for part in parts for kind in KINDS if part.get("type") == kind)
        media = [(kind, part.get(kind, part.get("path"))) for kind, part in told]
        texts = [part.get("text") for part in parts if part.get("type") == "text"]
        content = "\n".join(text for text in texts if isinstance(text, str))
    shown = [Shown(kind, path) for kind, path in media if isinstance(path, str)]
    if not isinstance(content, str) or len(shown) < len(media):
        raise InputError("a message's content is text", where=where, found=brief(message))
    return str(message["role"]), content, tuple(shown)


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else [value]
