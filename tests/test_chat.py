"""``omniform chat``: the conversation, its commands, the pipe and the terminal, with tiny models."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import select
import signal
import sys
import threading
import time

import pytest
from PIL import Image

from checkpoints import picture_checkpoint, text_checkpoint
from omniform.cli import chat as chatting
from omniform.cli.chat_partner import Partner
from omniform.cli.chat_screen import MarkdownTerminal, Pipe, Thoughts, markdown, screen_for, visible, whole_blocks
from omniform.cli.chat_screen import Terminal as PlainTerminal
from omniform.cli.chat_session import Shown, Turn, from_json
from omniform.cli.chat_store import Store
from omniform.cli.main import main
from omniform.core.errors import InputError
from reference import omniform


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory):
    folder = text_checkpoint(tmp_path_factory.mktemp("chat"), chat=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 160}))
    return str(folder)


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory):
    """One whose answers can be so long that somebody has time to stop them."""
    folder = text_checkpoint(tmp_path_factory.mktemp("long"), chat=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40_000}))
    return str(folder)


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    return str(text_checkpoint(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def seeing_folder(tmp_path_factory):
    return str(picture_checkpoint(tmp_path_factory.mktemp("seeing")))


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def piped(capsys, monkeypatch, text, *arguments):
    """What ``omniform chat`` makes of standard input: its code, output and errors."""
    data = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    try:
        code = main(["chat", *arguments])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


def answer(folder, prompt, new=4):
    tokenizer = omniform.AutoTokenizer.from_pretrained(folder)
    model = omniform.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text=prompt, return_tensors="pt")["input_ids"]
    written = model.generate(input_ids=ids, max_new_tokens=new)[0, ids.shape[1] :]
    return tokenizer.decode(written, skip_special_tokens=True)


# -- the pipe --------------------------------------------------------------------------------------------------------


def test_each_line_is_answered_with_the_ones_before_it(capsys, monkeypatch, chat_folder):
    code, out, err = piped(capsys, monkeypatch, "hi\n\nyou\n", chat_folder, "--max-new-tokens", "4")
    first = answer(chat_folder, "user: hi answer:")
    second = answer(chat_folder, f"user: hi assistant: {first} user: you answer:")
    assert (code, err) == (0, "")
    assert out == f"{first.lstrip()}\n{second.lstrip()}\n"


def test_mistakes_are_told_and_the_rest_goes_on(capsys, monkeypatch, chat_folder):
    lines = "/foo\n/sytem x\nhi\n/set top_p=7\n/set tempreature=1\n/image x.png\n"
    code, out, err = piped(capsys, monkeypatch, lines, chat_folder, "--max-new-tokens", "2")
    assert code == 2 and out.count("\n") == 1
    told = err.splitlines()
    assert len(told) == 5 and all(line.startswith("omniform: error: ") for line in told)
    assert "no command /foo" in told[0] and "Did you mean /system?" in told[1] and "mean temperature?" in told[3]
    assert "reads no pictures" in told[4]


def test_bytes_that_are_no_text(capsys, monkeypatch, chat_folder):
    code, _, err = piped(capsys, monkeypatch, b"\xff\xfe\n", chat_folder)
    assert code == 2 and "UTF-8" in err and err.count("\n") == 1


def test_no_template_is_said_once(capsys, monkeypatch, plain_folder):
    code, out, err = piped(capsys, monkeypatch, "hi\nyou\n", plain_folder, "--max-new-tokens", "3")
    assert code == 0 and err.count("no chat template") == 1
    assert out.startswith(answer(plain_folder, "User: hi\nAssistant:", 3).lstrip() + "\n")


def test_names_that_are_no_checkpoints(capsys, monkeypatch, tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    for name in (tmp_path / "model.gguf", tmp_path):
        code, _, err = piped(capsys, monkeypatch, "hi\n", str(name))
        assert code == 2 and "the GGUF file is cut short" in err and "model.gguf" in err
    code, _, err = piped(capsys, monkeypatch, "hi\n", str(tmp_path / "other.gguf"))
    assert code == 2 and "there is no such file" in err
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    code, _, err = piped(capsys, monkeypatch, "hi\n", str(tmp_path))
    assert code == 2 and "several models" in err and "model.gguf, other.gguf" in err
    code, _, err = piped(capsys, monkeypatch, "hi\n", "a", "--model", "b")
    assert code == 2 and "two models" in err


def test_a_full_window_drops_the_oldest_turns_and_keeps_the_system_message(capsys, monkeypatch, chat_folder):
    lines = "".join(f"line number {n}\n" for n in range(8))
    code, out, err = piped(capsys, monkeypatch, lines, chat_folder, "--max-new-tokens", "4", "--system", "be kind")
    assert code == 0 and out.count("\n") >= 8
    assert "the window of 160 tokens is full" in err
    code, out, err = piped(capsys, monkeypatch, "x" * 200 + "\nhi\n", chat_folder, "--max-new-tokens", "4")
    assert code == 2 and "longer than the model's window" in err and out.count("\n") == 1


def test_pictures(capsys, monkeypatch, seeing_folder, tmp_path):
    Image.new("RGB", (13, 9), (200, 40, 10)).save(tmp_path / "a picture.png")
    lines = f"/image {tmp_path}/a picture.png\nhi\n/image {tmp_path}/none.png\n/image\nyou\n"
    code, out, err = piped(capsys, monkeypatch, lines, seeing_folder, "--max-new-tokens", "2")
    assert code == 2 and out.count("\n") == 2
    assert "picture a picture.png, 13 x 9 pixels" in err and "none.png" in err and "/image FILE" in err


def test_saved_and_loaded(capsys, monkeypatch, chat_folder, tmp_path):
    lines = f"/system be kind\nhi\n/save {tmp_path}/c.json\n/save {tmp_path}/c.md\n/save {tmp_path}/c.txt\n"
    code, out, err = piped(capsys, monkeypatch, lines, chat_folder, "--max-new-tokens", "3")
    assert code == 2 and err.count("error") == 1 and "a .json or .md file" in err
    said = json.loads((tmp_path / "c.json").read_text())["messages"]
    assert [m["role"] for m in said] == ["system", "user", "assistant"] and said[2]["content"].strip() == out.strip()
    assert "## You\n\nhi\n" in (tmp_path / "c.md").read_text()
    more = f"/load {tmp_path}/c.json\nyou\n/save {tmp_path}/c.json\n/load {tmp_path}/c.md\n/load {tmp_path}\n"
    code, again, err = piped(capsys, monkeypatch, more, chat_folder, "--max-new-tokens", "3")
    assert "did not write" in err and "Markdown is for reading" in err and err.count("error") == 3
    prompt = f"system: be kind user: hi assistant: {said[2]['content']} user: you answer:"
    assert again == answer(chat_folder, prompt, 3).lstrip() + "\n"


def test_kept_across_starts(capsys, monkeypatch, chat_folder, state):
    asked = (chat_folder, "--max-new-tokens", "4")
    piped(capsys, monkeypatch, "hi\n", *asked)
    assert not state.exists()  # a pipe keeps nothing unless it is asked to
    _, first, _ = piped(capsys, monkeypatch, "hi\n", *asked, "--history")
    kept = next(state.rglob("conversation.json"))
    assert kept.stat().st_mode & 0o77 == 0 and kept.parent.stat().st_mode & 0o77 == 0
    _, second, err = piped(capsys, monkeypatch, "you\n", *asked, "--history")
    assert "going on with the last turn" in err
    whole = json.loads(kept.read_text())["messages"]
    assert [m["content"] for m in whole[::2]] == ["hi", "you"]
    assert second == answer(chat_folder, f"user: hi assistant: {whole[1]['content']} user: you answer:").lstrip() + "\n"
    piped(capsys, monkeypatch, "/clear\n", *asked, "--history")
    assert not kept.exists()
    kept.write_text("{broken")
    _, out, err = piped(capsys, monkeypatch, "hi\n", *asked, "--history")
    assert out == first and "this is no JSON" in err and kept.with_suffix(".damaged.json").read_text() == "{broken"


# -- the conversation ------------------------------------------------------------------------------------------------


class Notes:
    """A screen that notes what it shows."""

    def __init__(self):
        self.answers, self.notes, self.errors, self.told = [], [], [], []

    def answer(self, *, thinking):
        self.answers.append("")
        return self

    def push(self, text):
        self.answers[-1] += text

    def close(self):
        pass

    def note(self, text):
        self.notes.append(text)

    def stats(self, lines):
        self.notes += lines

    def tell(self, text):
        self.told.append(text)

    def error(self, error):
        self.errors.append(str(error))


@pytest.fixture(scope="module")
def partner(chat_folder):
    model = omniform.AutoModelForCausalLM.from_pretrained(chat_folder)
    return Partner(model, omniform.AutoTokenizer.from_pretrained(chat_folder))


@pytest.fixture
def talk(partner):
    return chatting.Chat(partner, Notes(), Store(None), "tiny", {"max_new_tokens": 4})


def test_what_was_read_is_not_read_again(talk):
    talk.line("something rather long to begin with")
    talk.line("and more")
    reused, read = map(int, re.search(r"(\d+) of (\d+) prompt tokens reused", talk.screen.notes[-2]).groups())
    # The template writes "answer:" before an answer and "assistant:" before an old one: so far it is the same.
    assert reused >= len("user: something rather long to begin with ") // 8 * 8 and read > reused


def test_undo_and_retry(talk):
    talk.line("/undo")
    talk.line("/retry")
    assert len(talk.screen.errors) == 2
    talk.line("one")
    talk.line("two")
    first = talk.screen.answers[1]
    talk.line("/retry")
    assert any("drawn" in note for note in talk.screen.notes) and len(talk.session.turns) == 2
    talk.line("/undo")
    assert [turn.text for turn in talk.session.turns] == ["one"] and "two" in talk.screen.notes[-1]
    talk.line("two")
    assert talk.screen.answers[-1] == first


def test_an_answer_that_is_stopped_stays(talk):
    seen = threading.Event()

    class Stopping(Notes):
        def push(self, text):
            super().push(text)
            seen.set()
            talk.stop()

    talk.screen, talk.settings = Stopping(), {"max_new_tokens": 100, "min_new_tokens": 100}
    talk.line("go on and on")
    assert seen.is_set() and "stopped" in talk.screen.notes[-1]
    kept = talk.session.turns[-1].answer
    assert kept == talk.screen.answers[0] and 0 < len(kept) < 100
    talk.line("/retry")
    assert len(talk.session.turns) == 1


def test_settings(talk):
    talk.line("/set")
    for setting in ("temperature=0.5", "stop_strings=a b", "top_k = 3", "max-new-tokens=2"):
        talk.line(f"/set {setting}")
    assert not talk.screen.errors and talk.settings["max_new_tokens"] == 2 and talk.settings["top_k"] == 3
    for mistake in ("temperature=-1", "top_k=x", "nothing", "=3", "logits_processor=1"):
        talk.line(f"/set {mistake}")
    assert len(talk.screen.errors) == 5
    talk.line("/set temperature=None")
    assert "temperature" not in talk.settings
    talk.line("/tokens")
    talk.line("/help")
    assert "/retry" in talk.screen.told[-1]


def test_a_slash_is_not_always_a_command(talk):
    for line in ("/etc/passwd holds what?", "//help", " / "):
        talk.line(line)
    assert [turn.text for turn in talk.session.turns] == ["/etc/passwd holds what?", "/help", " / "]


@pytest.mark.parametrize(
    "bad", ["3", "{}", '[{"role": "tool"}]', '[{"role": "assistant", "content": "x"}]', '[{"role": "user"}]', "[1]"]
)
def test_files_that_are_no_conversation(bad):
    with pytest.raises(InputError, match=r"c\.json"):
        from_json(bad, "c.json")


def test_conversations_of_others_are_read():
    parts = [{"type": "image", "path": "a.png"}, {"type": "text", "text": "what?"}]
    session = from_json(json.dumps([{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]), "x")
    assert session.turns == [Turn("what?", (Shown("image", "a.png"),), "a")]
    assert from_json(session.as_json({}), "x") == session
    assert session.messages(in_parts=True)[0]["content"][0] == {"type": "image", "image": "a.png"}


# -- the screen ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 50])
def test_thoughts_are_told_from_words(size):
    text = "before <think>it < thinks</think> said </thin> x<think>on"
    thoughts, found = Thoughts(), {True: "", False: ""}
    for at in range(0, len(text), size):
        for thinking, part in thoughts.push(text[at : at + size]):
            found[thinking] += part
    for thinking, part in thoughts.rest():
        found[thinking] += part
    assert found == {True: "it < thinkson", False: "before  said </thin> x"}
    begun = Thoughts(thinking=True)
    assert list(begun.push("a</think>b")) == [(True, "a"), (False, "b")]


def test_blocks_are_whole_when_nothing_changes_them():
    assert whole_blocks("one\n\ntwo") == 5
    assert whole_blocks("one\n\n") == 0 and whole_blocks("- a\n\n  more") == 0
    text = "```\na\n\nb\n```\n\nend"
    assert whole_blocks(text[:-6]) == 0 and text[whole_blocks(text) :] == "end"


def test_markdown_shows_lines_and_tags_as_they_are():
    from rich.console import Console

    output = io.StringIO()
    Console(file=output, width=40).print(markdown("a\nb <div> List<int>\n\n- **c**"))
    shown = [line.strip() for line in output.getvalue().splitlines()]
    assert shown == ["a", "b <div> List<int>", "", "• c"]


def test_nothing_an_answer_holds_commands_the_terminal():
    assert visible("a\x1b[2Jb\x07\u202ec\td\r\ne") == "a\ufffd[2Jb\ufffd\ufffdc\td\ne"


# -- the terminal ----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard output that says it is a terminal."""

    def isatty(self):
        return True


def test_screens(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert isinstance(screen_for(Terminal(), markdown=True)[0], MarkdownTerminal)
    assert isinstance(screen_for(io.StringIO(), markdown=True)[0], Pipe)
    monkeypatch.setitem(sys.modules, "rich.console", None)  # the extra is not installed
    screen, remark = screen_for(Terminal(), markdown=True)
    assert type(screen) is PlainTerminal and "omniform[chat]" in remark
    assert screen_for(Terminal(), markdown=False)[1] == ""


def test_a_terminal_without_markdown_dims_thoughts(capsys):
    shown = PlainTerminal(colours=True).answer(thinking=True)
    for piece in (" so", " it\x1b", " is</thi", "nk>Yes", "."):
        shown.push(piece)
    shown.close()
    out = capsys.readouterr().out
    assert re.sub(r"\x1b\[[02]m", "", out) == "so it\ufffd isYes.\n" and out.endswith("Yes.\n")
    assert out.index("\x1b[2m") < out.index("so") and "\x1b[2mYes" not in out


def test_markdown_as_it_grows_is_drawn_again_and_then_left(monkeypatch):
    from rich.console import Console

    screen = MarkdownTerminal.__new__(MarkdownTerminal)
    output = Terminal()
    screen.console = Console(file=output, force_terminal=True, width=40, height=6, highlight=False)
    shown = screen.answer(thinking=False)
    items = "\n".join(f"- item {n}" for n in range(12))
    text = f"# Title\n\nsome **bold** text\n\n{items}\n\n```py\nx = 1\n```\nend"
    for at in range(0, len(text), 7):
        shown._next = 0.0
        shown.push(text[at : at + 7])
    shown.close()
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue().split("\x1b[2K")[-1])
    assert "end" in plain and "**" not in output.getvalue().rpartition("bold")[0][-30:]
    assert output.getvalue().count("Title") < 6  # blocks that are whole are not drawn again


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo terminals")
def test_a_person_at_a_terminal(long_folder, state):
    with Person(long_folder, "--max-new-tokens", "6", "--plain") as person:
        person.sees("Ctrl-D ends")
        person.sees("> ")
        person.types("half a line")
        person.sees("half a line")
        person.interrupts("/quit or Ctrl-D ends")
        person.sees("> ")
        person.types("hi 你好 🦊\r")
        person.sees("prompt tokens reused")
        person.types("/nonsense\r")
        person.sees("no command /nonsense")
        person.types("\x1b[200~two\nlines\x1b[201~\r")
        person.sees("prompt tokens reused")
        for line in ("/set max_new_tokens=30000", "/set min_new_tokens=30000"):
            person.types(f"{line}\r")
            person.sees(" = 30000")
        person.types("go on\r")
        person.sees("go on")
        person.sees_words()
        person.interrupts("stopped")
        person.sees("> ")
        person.types("\x04")
        assert person.leaves() == 0
    kept = json.loads(next(state.rglob("conversation.json")).read_text())["messages"]
    assert [m["content"] for m in kept if m["role"] == "user"][:2] == ["hi 你好 🦊", "two\nlines"]
    assert next(state.rglob("lines")).read_text().splitlines()[0].endswith("hi 你好 🦊")
    with Person(long_folder, "--max-new-tokens", "6") as person:
        person.sees("going on with the last")
        person.sees("> ")
        person.types("/quit\r")
        assert person.leaves() == 0


class Person:
    """Somebody at a pseudo terminal."""

    def __init__(self, *arguments):
        import pty

        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", LC_ALL="C.UTF-8")
            os.execv(sys.executable, [sys.executable, "-m", "omniform", "chat", *arguments])
        self.seen, self.over = "", False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.close(self.terminal)
        if not self.over:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def types(self, keys):
        os.write(self.terminal, keys.encode())

    def sees(self, text):
        """Wait until a text is shown; what stands before it counts no more."""
        assert self.shows(text, 90), self.seen

    def shows(self, text, seconds):
        """Whether a text is shown within some seconds; what stands before it counts no more."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if time.monotonic() > deadline:
                return False
            if select.select([self.terminal], [], [], 0.5)[0]:
                self.seen += os.read(self.terminal, 65536).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]
        return True

    def interrupts(self, text):
        """Press Ctrl-C, again if need be: Python misses a signal that comes just before it waits for the next key."""
        for times in range(10):
            self.types("\x03")
            if self.shows(text, 5):
                time.sleep(times)  # what was pressed too often is over before anything else is typed
                return
        raise AssertionError(self.seen)

    def sees_words(self):
        """Wait until more is shown than a prompt and the line that was typed, drawn once more."""
        while len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\s", "", self.seen)) < 60:
            self.seen += os.read(self.terminal, 65536).decode(errors="replace")

    def leaves(self):
        """Wait for the end; returns the exit code."""
        with contextlib.suppress(OSError):  # how a terminal says that nobody is there any more
            while os.read(self.terminal, 65536):
                pass
        self.over = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
