"""What can be said to the program instead of the model: lines that begin with a slash."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.cli.chat_keyboard import files_like
from omniform.cli.chat_session import Shown, from_json
from omniform.cli.settings import check_setting, read_pair
from omniform.core.batch import Modality
from omniform.core.errors import InputError, RepoError, UnknownNameError
from omniform.core.settings import Effect, misspelt
from omniform.engine.ask import NAMES
from omniform.inputs.audio.load import open_recording
from omniform.inputs.images.load import load_image
from omniform.inputs.videos.load import load_video

if TYPE_CHECKING:
    from omniform.cli.chat import Chat

_COMMAND = re.compile(r"/([A-Za-z?]+)(?:\s+(.*))?", re.DOTALL)

SOUND_RATE = 16000
"""Hz at which a sound is opened to see how long it is."""

LARGEST_FILE = 64 * 2**20
"""Bytes of the largest conversation that is read."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        usage: what follows its name.
        help: what it does.
        run: does it, given what follows its name.
    """

    usage: str
    help: str
    run: Callable[[Chat, str], None]


def run_command_line(chat: Chat, line: str) -> bool:
    """Do what a line asks of the program; False where it is said to the model.

    Raises:
        OmniformError: there is no such command, or it cannot be done.
    """
    found = _COMMAND.fullmatch(line.strip())
    if found is None:
        return False
    name = ALIASES.get(found[1].lower(), found[1].lower())
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"Did you mean /{close[0]}? " if close else ""
        raise UnknownNameError(f"there is no command /{found[1]}", remedy=f"{meant}/help lists them.")
    COMMANDS[name].run(chat, (found[2] or "").strip())
    return True


def completions(chat: Chat, before: str, word: str) -> Sequence[str]:
    """What may stand in the place of a word."""
    if not before.strip():
        return [f"/{name} " for name in COMMANDS if f"/{name}".startswith(word)] if word.startswith("/") else []
    command = before.split()[0].lstrip("/")
    if command == "set":
        used = [name for name, row in chat.partner.table.items() if row.effect is Effect.USED]
        return [f"{name}=" for name in used if name.startswith(word)]
    return list(files_like(word)) if before.startswith("/") and command in (*_LOOKS, "save", "load") else []


def _help(chat: Chat, rest: str) -> None:
    usages = [(f"/{name} {command.usage}".rstrip(), command.help) for name, command in COMMANDS.items()]
    width = max(len(usage) for usage, _ in usages) + 2
    lines = [f"{usage:{width}}{text}" for usage, text in usages]
    more = "A line that ends with \\ goes on. Ctrl-C stops an answer, Ctrl-D ends."
    chat.screen.tell("\n".join([*lines, more]))


def _system(chat: Chat, rest: str) -> None:
    if not rest:
        chat.screen.tell(chat.session.system or "There is no system message.")
        return
    chat.session.system = "" if rest in ('""', "''", "-") else rest
    chat.keep()
    chat.screen.note("the system message is set" if chat.session.system else "there is no system message any more")


def _set(chat: Chat, rest: str) -> None:
    if not rest:
        known = [f"{name} = {value!r}" for name, value in chat.settings.items()]
        chat.screen.tell("\n".join(known) or "The checkpoint's own settings hold; /set NAME=VALUE changes one.")
        return
    name, value = read_pair(rest, "/set")
    if name not in chat.partner.table:
        meant = misspelt(name, chat.partner.table)
        remedy = f"Did you mean {meant}?" if meant else "The Tab key after /set lists them."
        raise InputError(f"there is no setting {name!r:.80}", remedy=remedy)
    check_setting(name, value, chat.partner.table)
    if value is None:
        chat.settings.pop(name, None)
        chat.screen.note(f"{name} is as the checkpoint has it")
        return
    chat.settings[name] = value
    chat.screen.note(f"{name} = {value!r}")


def _show(chat: Chat, rest: str, kind: Modality) -> None:
    """Let a file go with the next question, or with the one that follows it."""
    what = NAMES[kind]
    if kind not in chat.partner.reads:
        raise InputError(f"a {chat.partner.name} reads no {what}s", where=f"/{kind}", remedy="Name one that does.")
    path, question = _path_and_rest(rest)
    if not path:
        raise InputError(f"there is no {what}", where=f"/{kind}", expected=f"/{kind} FILE", found="nothing")
    size = _LOOKS[kind](path)
    if "://" not in path:
        path = os.path.abspath(path)
    chat.media.append(Shown(kind, path))
    chat.screen.note(f"{what} {os.path.basename(path)}, {size}")
    if question:
        chat.ask(question)


def _picture_size(path: str) -> str:
    picture = load_image(path)
    return f"{picture.width} x {picture.height} pixels"


def _sound_size(path: str) -> str:
    with open_recording(path, SOUND_RATE) as recording:
        return "of unknown length" if recording.seconds is None else f"{recording.seconds:.1f} s"


def _video_size(path: str) -> str:
    _, known = load_video(path, num_frames=1)
    return f"{known.width} x {known.height} pixels, {known.total_num_frames} frames"


_LOOKS: Final[Mapping[Modality, Callable[[str], str]]] = {
    "image": _picture_size,
    "audio": _sound_size,
    "video": _video_size,
}


def _path_and_rest(rest: str) -> tuple[str, str]:
    """A file's path, and what follows it; spaces are a part of it where such a file is there."""
    whole = os.path.expanduser(rest.strip("'\""))
    if os.path.isfile(whole):
        return whole, ""
    try:
        words = shlex.split(rest)
    except ValueError:
        words = rest.split()
    if not words:
        return "", ""
    at = rest.find(words[0]) + len(words[0])
    return os.path.expanduser(words[0]), rest[at:].strip("'\" \t\n")


def _retry(chat: Chat, rest: str) -> None:
    chat.retry()


def _undo(chat: Chat, rest: str) -> None:
    turn = chat.session.take_back()
    if turn is None:
        raise InputError("nothing was said yet", where="/undo")
    chat.keep()
    chat.screen.note(f"taken back: {_beginning(turn.text)}")


def _clear(chat: Chat, rest: str) -> None:
    chat.clear()
    chat.screen.note("the conversation begins anew" + (", with the system message" if chat.session.system else ""))


def _tokens(chat: Chat, rest: str) -> None:
    partner, session = chat.partner, chat.session
    messages = [("system", session.system)] if session.system else []
    for turn in session.seen:
        messages += [("you", turn.text), ("model", turn.answer or "")]
    lines = [f"{partner.count(text) if text else 0:7}  {who}: {_beginning(text)}" for who, text in messages]
    whole = sum(int(line.split()[0]) for line in lines)
    window = f" of a window of {partner.window}" if partner.window is not None else ""
    beyond = f"; {session.first} older turns are not read any more" if session.first else ""
    last = f"; the last prompt had {chat.last_prompt} tokens" if chat.last_prompt else ""
    chat.screen.tell("\n".join([*lines, f"{whole:7}  tokens of text{window}{beyond}{last}"]))


def _save(chat: Chat, rest: str) -> None:
    path = _file(rest, "/save")
    texts: Mapping[str, Callable[[], str]] = {
        ".json": lambda: chat.session.as_json({"model": chat.title, "settings": chat.settings}),
        ".md": lambda: chat.session.as_markdown(f"Conversation with {chat.title}"),
    }
    make = texts.get(path.suffix.lower())
    if make is None:
        raise InputError("conversations are saved as JSON or Markdown", where=str(path), expected="a .json or .md file")
    if path.exists() and path not in chat.saved:
        raise InputError("there is such a file, which this conversation did not write", where=str(path))
    try:
        path.write_text(make(), encoding="utf-8", errors="replace")
    except OSError as error:
        raise RepoError("the file cannot be written", where=str(path), found=error.strerror or str(error)) from None
    chat.saved.add(path)
    chat.screen.note(f"saved: {path}")


def _load(chat: Chat, rest: str) -> None:
    path = _file(rest, "/load")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError("the file is too large to be a conversation", where=str(path))
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror or str(error)) from None
    except ValueError:
        raise InputError("the file is not UTF-8 text", where=str(path)) from None
    if path.suffix.lower() == ".md":
        raise InputError("Markdown is for reading", where=str(path), expected="a .json file that /save has written")
    session = from_json(text, str(path))
    chat.take(session)
    chat.keep()
    chat.screen.note(f"{_turns(len(session.turns))} from {path}")


def _file(rest: str, where: str) -> Path:
    if not rest:
        raise InputError("there is no file", where=where, expected=f"{where} FILE", found="nothing")
    return Path(os.path.expanduser(rest.strip("'\""))).absolute()


def _quit(chat: Chat, rest: str) -> None:
    chat.over = True


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


COMMANDS: Final[Mapping[str, Command]] = {
    "help": Command("", "list the commands", _help),
    "system": Command("[TEXT]", 'set or show the system message; "" takes it away', _system),
    "set": Command("[NAME=VALUE]", "set how answers are written, or show it; None resets", _set),
    "image": Command("FILE [QUESTION]", "show a picture with the next line", partial(_show, kind="image")),
    "audio": Command("FILE [QUESTION]", "have a sound heard with the next line", partial(_show, kind="audio")),
    "video": Command("FILE [QUESTION]", "show a video with the next line", partial(_show, kind="video")),
    "retry": Command("", "have the last question answered anew", _retry),
    "undo": Command("", "take the last question and its answer back", _undo),
    "clear": Command("", "begin anew, and forget what was kept", _clear),
    "tokens": Command("", "how long the conversation is", _tokens),
    "save": Command("FILE", "save the conversation: .json to go on with, .md to read", _save),
    "load": Command("FILE", "go on with a saved conversation", _load),
    "quit": Command("", "end; so does Ctrl-D", _quit),
}

ALIASES: Final[Mapping[str, str]] = {"exit": "quit", "q": "quit", "bye": "quit", "?": "help", "h": "help"}
