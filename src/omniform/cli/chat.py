"""``omniform chat``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from omniform import __version__
from omniform.cli import chat_commands
from omniform.cli.chat_keyboard import Keyboard, PipedLines, TypedLines, unechoed
from omniform.cli.chat_partner import Partner, Question, Reply, pieces
from omniform.cli.chat_screen import Pipe, Screen, screen_for
from omniform.cli.chat_session import Session, Shown, Turn, from_json
from omniform.cli.chat_store import Store, state_folder
from omniform.cli.loading import opened
from omniform.cli.settings import check_setting, drawing
from omniform.core.coded import coding_of
from omniform.core.errors import InputError, OmniformError
from omniform.core.generation import as_settings
from omniform.engine.ask import NAMES
from omniform.hub.bundled import bundled_checkpoint

RETRIED: Mapping[str, object] = {"do_sample": True, "temperature": 0.7, "top_p": 0.9}
"""How an answer is drawn that would otherwise be the same again."""


class Chat:
    """One person, one model, one conversation.

    Args:
        partner: the model.
        screen: where answers are shown.
        store: where the conversation is kept.
        title: what the model is called.
        settings: of how answers are written.

    Attributes:
        session: what was said.
        media: what goes with the next question.
        saved: files that this conversation wrote.
        last_prompt: how many tokens the last prompt had.
        failed: whether a line could not be done.
        over: whether it has ended.
        stop: stops the answer that is being written.
        on_clear: what else is to be forgotten.
    """

    def __init__(self, partner: Partner, screen: Screen, store: Store, title: str, settings: dict[str, object]) -> None:
        self.partner = partner
        self.screen = screen
        self.store = store
        self.title = title
        self.settings = settings
        self.session = Session()
        self.media: list[Shown] = []
        self.saved: set[Path] = set()
        self.last_prompt = 0
        self.failed = False
        self.over = False
        self.on_clear: Callable[[], None] = lambda: None
        self.stop: Callable[[], None] = lambda: None
        self._stopped = False
        self._unanswered: Turn | None = None
        self._noticed = False
        self._retries = 0

    def line(self, text: str) -> None:
        """Do what a line says; a mistake is told, and the conversation goes on."""
        try:
            if not text.strip():
                return
            if not chat_commands.run_command_line(self, text):
                self.ask(text[1:] if text.startswith("//") else text)
        except OmniformError as error:
            self.failed = True
            self.screen.error(error)

    def ask(self, text: str) -> None:
        """Put a question, with the pictures and sounds that wait for one.

        Raises:
            OmniformError: it cannot be answered; it is not a part of the conversation then.
        """
        media, self.media = tuple(self.media), []
        self._answer(Turn(text, media), {})

    def retry(self) -> None:
        """Have the last question answered anew.

        Raises:
            InputError: there is none.
        """
        turn = self._unanswered or self.session.take_back()
        if turn is None:
            raise InputError("nothing was asked yet", where="/retry")
        self._retries += 1
        more: dict[str, object] = {}
        if turn.answer is not None:
            asked = drawing({**as_settings(self.partner.model.generation_config), **self.settings})
            seed = asked.get("seed")
            if asked.get("do_sample") is not True:
                more = dict(RETRIED)
                self.screen.note(f"drawn at a temperature of {more['temperature']}: else it would be the same")
            elif isinstance(seed, int):
                more = {"seed": seed + self._retries}
        self._answer(Turn(turn.text, turn.media), more, before=turn)

    def clear(self) -> None:
        """Begin anew, and forget what was kept."""
        self.session.clear()
        self.media.clear()
        self._unanswered, self.last_prompt = None, 0
        self.on_clear()
        self.store.clear()
        if self.session.system:
            self.keep()

    def take(self, session: Session) -> None:
        """Go on with another conversation.

        Raises:
            InputError: there are pictures or sounds in it that the model does not read.
        """
        held = {shown.kind for turn in session.turns for shown in turn.media} - self.partner.reads
        for kind in sorted(held):
            what = f"there are {NAMES[kind]}s in it, and a {self.partner.name} reads none"
            raise InputError(what, where="conversation")
        if session.turns and session.turns[-1].answer is None:
            self._unanswered = session.turns.pop()
        self.session = session

    def keep(self) -> None:
        """Keep the conversation for the next start."""
        self.store.write(self.session.as_json({"model": self.title}))

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, turn: Turn, more: Mapping[str, object], before: Turn | None = None) -> None:
        """Have a turn answered; ``before``: the one it stands for, which comes back if nothing comes of it."""
        session, first = self.session, self.session.first
        session.turns.append(turn)
        self._unanswered = None
        reply, given = Reply(), {**self.settings, **more}
        try:
            with self._stoppable():
                question = self.partner.question(session, self.partner.longest(given) or 1)
                self._tell(question)
                self._show(question, drawing(self.partner.settings(given, question)), reply)
            turn.answer = reply.text
        finally:
            if (not turn.answer and reply.reason != "stop") or turn.answer is None:
                session.turns.pop()
                session.first = min(first, max(0, len(session.turns) - 1))
                if before is not None and before.answer is not None:
                    session.turns.append(before)
                else:
                    self._unanswered = turn
        self.keep()

    def _tell(self, question: Question) -> None:
        if self.partner.form.notice and not self._noticed:
            self._noticed = True
            self.screen.note(self.partner.form.notice)
        if question.dropped:
            oldest = "oldest turn is" if question.dropped == 1 else f"{question.dropped} oldest turns are"
            self.screen.note(f"the window of {self.partner.window} tokens is full: the {oldest} not read any more")

    def _show(self, question: Question, settings: Mapping[str, object], reply: Reply) -> None:
        """Show an answer while it is written."""
        handle = self.partner.ask(question, settings)
        self.stop = handle.cancel
        if self._stopped:
            handle.cancel()
        shown = self.screen.answer(thinking=question.thinking)
        try:
            with unechoed():
                for text in pieces(handle, reply):
                    shown.push(text)
        finally:
            shown.close()
        self.last_prompt = reply.prompt_tokens
        self.screen.stats([line for line in (told(reply), ending(reply)) if line])

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let the first Ctrl-C stop the answer, which then ends as others do; the second ends whatever there is."""
        if isinstance(self.screen, Pipe) or threading.current_thread() is not threading.main_thread():
            yield
            return

        def stopped(number: int, frame: object) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._stopped = True
            self.stop()

        self._stopped, self.stop = False, lambda: None

        before = signal.signal(signal.SIGINT, stopped)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def told(reply: Reply) -> str:
    """What an answer took, in a line; "" for none."""
    if not reply.tokens:
        return ""
    parts = [f"{reply.tokens} token{'' if reply.tokens == 1 else 's'}"]
    if reply.speed is not None:
        parts.append(f"{reply.speed:.1f} tokens/s")
    parts.append(f"first after {reply.first:.2f} s")
    parts.append(f"{reply.reused} of {reply.prompt_tokens} prompt tokens reused")
    return " · ".join(parts)


def ending(reply: Reply) -> str:
    """What is to be said of the way an answer ended; "" for nothing."""
    if reply.reason == "cancelled":
        return "stopped; /retry asks again" if reply.text else "stopped before the first word; /retry asks again"
    if reply.reason == "length":
        return "cut at its longest; /set max_new_tokens=N allows more"
    return "" if reply.text.strip() else "the model had nothing to say"


def chat_command(
    name: str | None,
    settings: dict[str, object],
    *,
    dtype: str,
    quantize: str | None = None,
    system: str | None,
    history: bool | None,
    markdown: bool,
    cache_dtype: str | None = None,
) -> bool:
    """Talk to a model until there is no more to say; whether all lines could be done.

    Args:
        name: a folder or a Hub id; None for the bundled checkpoint.
        settings: of how answers are written.
        quantize: what weights become as they are loaded.
        system: the system message.
        history: whether conversations are kept across starts; None for at a terminal only.
        markdown: whether answers are shown as Markdown, where there is a terminal.
        cache_dtype: how keys and values are kept.
    """
    coding_of(cache_dtype)  # a mistake is told before anybody waits
    chosen = bundled_checkpoint() if name is None else name
    model, reader = opened(chosen, dtype=dtype, quantize=quantize)
    partner = Partner(model, reader, cache_dtype)
    typed = sys.stdin.isatty()
    screen, remark = screen_for(sys.stdout, markdown=markdown)
    kept = typed if history is None else history
    store = Store(state_folder(os.fspath(chosen)) if kept else None)
    title = os.path.basename(os.fspath(chosen).rstrip("/")) if os.path.isdir(chosen) else os.fspath(chosen)
    for setting, value in settings.items():
        check_setting(setting, value, partner.table)
    chat = Chat(partner, screen, store, title, settings)
    if name is None:
        screen.note(f"no model was named: {title} answers, which comes with omniform")
    if typed:
        _greet(chat, remark)
    _recall(chat)
    if system is not None:
        chat.session.system = system
    keyboard: Keyboard = PipedLines()
    if typed:
        lines = TypedLines(lambda: store.lines, lambda before, word: chat_commands.completions(chat, before, word))
        chat.on_clear, keyboard = lines.forget, lines
    _talk(chat, keyboard, typed=typed)
    return typed or not chat.failed


def _greet(chat: Chat, remark: str) -> None:
    model = chat.partner.model
    size = f"{model.num_parameters() / 1e6:.0f}M parameters, {str(model.dtype).removeprefix('torch.')}"
    window = "no end to its window" if chat.partner.window is None else f"a window of {chat.partner.window} tokens"
    chat.screen.note(f"omniform {__version__} · {chat.title} ({chat.partner.name}, {size}, {window})")
    chat.screen.note("/help lists commands; Ctrl-C stops an answer, Ctrl-D ends")
    if "image" in chat.partner.reads:
        chat.screen.note("/image FILE shows it a picture")
    if "audio" in chat.partner.reads:
        chat.screen.note("/audio FILE has it hear a sound")
    if "video" in chat.partner.reads:
        chat.screen.note("/video FILE shows it a video")
    if remark:
        chat.screen.note(remark)


def _recall(chat: Chat) -> None:
    """Go on with what was kept."""
    kept = chat.store.read()
    if kept is None:
        return
    try:
        chat.take(from_json(kept, "the last conversation"))
    except InputError as error:
        chat.store.set_aside()
        chat.screen.error(error)
        return
    count = len(chat.session.turns)
    if count:
        turns = "the last turn" if count == 1 else f"the last {count} turns"
        chat.screen.note(f"going on with {turns}; /clear begins anew")


def _talk(chat: Chat, keyboard: Keyboard, *, typed: bool) -> None:
    while not chat.over:
        try:
            text = keyboard.read()
            if text is None:
                if typed:
                    print()
                return
            chat.line(text)
        except KeyboardInterrupt:
            if not typed:
                raise
            print()
            chat.screen.note("/quit or Ctrl-D ends")
