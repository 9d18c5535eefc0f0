"""What a training shows: bars on a terminal, plain lines elsewhere, a table in a notebook."""

from __future__ import annotations

import ast
import os
import pickle
import re
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

import omniform
from omniform.train import notebook, progress
from omniform.train.state import TrainerState
from reference import transformers


class Loader:
    def __len__(self) -> int:
        return 4


class Stream:
    def __len__(self) -> int:
        raise TypeError("a stream")


def begun(**more):
    return TrainerState(max_steps=4, num_train_epochs=2, **more)


def play(callback, *, eval_strategy: str = "steps", state=None, loader: object = None, log=None) -> None:
    """Two epochs of two steps, an evaluation after each."""
    args, state = SimpleNamespace(eval_strategy=eval_strategy), state or begun()
    loader = loader or Loader()
    callback.on_train_begin(args, state, None)
    for step in range(1, 5):
        state.global_step, state.epoch = step, step / 2
        callback.on_step_end(args, state, None, lr_scheduler=Rates())
        if step % 2 == 0:
            logs = {"loss": 1 / step, "learning_rate": torch.tensor(5e-5), "total_flos": 1e15, "note": "x" * 200}
            state.log_history.append(logs)
            callback.on_log(args, state, None, logs=dict(logs))
            for _ in range(4):
                callback.on_prediction_step(args, state, None, eval_dataloader=loader)
            metrics = {"eval_loss": 0.25, "eval_f1": {"<cat>": 0.5}, "eval_runtime": 1.0, "epoch": step / 2}
            callback.on_log(args, state, None, logs=dict(metrics))
            callback.on_evaluate(args, state, None, metrics=metrics)
    callback.on_train_end(args, state, None)


class Rates:
    def get_last_lr(self) -> list[float]:
        return [5e-5]


# -- plain lines -------------------------------------------------------------------------------------------------------


def test_names():
    from omniform.utils.notebook import NotebookProgressCallback

    assert omniform.ProgressCallback is progress.ProgressCallback
    assert NotebookProgressCallback is notebook.NotebookProgressCallback


def test_lines_where_there_is_no_terminal(capsys):
    play(progress.ProgressCallback(max_str_len=100))
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("{'loss': '0.5', 'learning_rate': '5e-05', 'note': '[200 letters")
    assert lines[1] == "{'eval_loss': '0.25', 'eval_f1': {'<cat>': 0.5}, 'eval_runtime': '1', 'epoch': '1'}"
    assert not err


def test_other_processes_and_lone_evaluations_say_nothing(capsys):
    play(progress.ProgressCallback(), state=begun(is_world_process_zero=False))
    alone = progress.ProgressCallback()
    alone.on_prediction_step(None, begun(), None, eval_dataloader=Loader())
    alone.on_log(None, begun(), None, logs={"eval_loss": 1.0})
    alone.on_evaluate(None, begun(), None)
    assert capsys.readouterr() == ("", "")


def test_the_numbers_of_lines_are_the_references(capsys):
    logs = {"loss": 0.123456, "epoch": 1.5, "step": 3, "total_flos": 1.0, "text": "short"}
    play_one = [progress.ProgressCallback(), transformers.ProgressCallback()]
    for callback in play_one:
        callback.training_bar = callback.training_bar or SimpleNamespace(write=print)
        callback._training = True
        callback._facts = lambda *args: []
        callback.on_log(None, begun(), None, logs=dict(logs))
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours == theirs


# -- bars --------------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys, io
from types import SimpleNamespace
import omniform.train.progress as progress
progress.EVERY = 0
class Loader:
    def __len__(self): return 4
class Rates:
    def get_last_lr(self): return [5e-5]
def run(breaks=False):
    state = SimpleNamespace(is_world_process_zero=True, global_step=0, max_steps=4, tokens_read=0, epoch=0.0,
                            num_train_epochs=2)
    callback = progress.ProgressCallback()
    callback.on_train_begin(None, state, None)
    for step in range(1, 5):
        state.global_step, state.epoch, state.tokens_read = step, step / 2, 1000 * step
        callback.on_step_end(None, state, None, lr_scheduler=Rates())
        if step == 2:
            callback.on_log(None, state, None, logs={"loss": 0.5})
            print("a print of the user's")
            callback.on_prediction_step(None, state, None, eval_dataloader=Loader())
            if breaks:
                raise RuntimeError("broke off")
            callback.on_evaluate(None, state, None)
    callback.on_train_end(None, state, None)
run()
print("after it")
sys.stdout, kept = io.StringIO(), sys.stdout
run()
sys.stdout, out = kept, sys.stdout.getvalue()
print("=====", repr(out), "=====", sep="\\n")
os.environ["TERM"] = "dumb"
run()
print("=====")
os.environ.update(TERM="xterm", COLUMNS="60")
run(breaks=True)
"""


@pytest.fixture(scope="module")
def sent() -> list[str]:
    """What a terminal is sent: bars, with stdout in a file (and what that holds), dumb, narrow and breaking off."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    known = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "30", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **known})
    os.close(slave)
    read = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:  # its end
            break
        if not more:
            break
        read += more
    os.close(master)
    process.wait(timeout=300)
    return read.decode().split("=====")


def plain(sent: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent).replace("\r", "\n")


def test_bars_on_a_terminal(sent):
    first, after, _ = sent[0].partition("after it")
    lines = plain(first).splitlines()
    last = [line for line in lines if line.startswith("Training")][-1]
    assert "4/4 100%" in last
    assert "━" in last
    for fact in ("loss 0.5", "tokens/s", "epoch 2.00/2", "lr 5e-05", "steps/s"):
        assert fact in last
    assert any("2/4  50%" in line and "left" in line for line in lines)
    assert any(line.startswith("Evaluating") and "1/4  25%" in line for line in lines)
    assert not lines[-1].startswith("Evaluating")
    assert "{'loss': '0.5'}" in lines
    assert "a print of the user's" in lines
    assert after
    assert first.rindex("\x1b[?25h") > first.rindex("\x1b[?25l")  # the cursor is shown


def test_reports_go_into_files_and_bars_to_the_terminal(sent):
    assert "Training" in sent[0].partition("after it")[2]
    assert ast.literal_eval(plain(sent[1]).strip()) == "{'loss': '0.5'}\na print of the user's\n"


def test_a_terminal_without_a_cursor_has_lines(sent):
    assert plain(sent[2]).split("\n")[1:] == ["", "{'loss': '0.5'}", "", "a print of the user's", "", ""]


def test_a_narrow_terminal_and_a_training_that_breaks_off(sent):
    lines = [line for line in plain(sent[3]).splitlines() if line.startswith(("Training", "Evaluating"))]
    assert max(map(len, lines)) <= 60
    assert "RuntimeError: broke off" in sent[3]
    assert sent[3].rindex("\x1b[?25h") > sent[3].rindex("\x1b[?25l")


def test_without_rich_there_are_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert progress.on_a_terminal()
    monkeypatch.setattr(progress, "installed", lambda name: False)
    assert not progress.on_a_terminal()


def test_clock_and_rates():
    told = {5: "0:05", 65: "1:05", 3661: "1:01:01", 90000: "1 d 01:00", -1: "0:00"}
    assert {seconds: progress.clock(seconds) for seconds in told} == told
    rates = {0.5: "0.50", 37.2: "37", 12345: "12.3k", 4.1e6: "4.1M", 2e9: "2.0G"}
    assert {rate: progress.short(rate) for rate in rates} == rates
    assert progress.length(Loader()) == 4
    assert progress.length(Stream()) == progress.length(None) == 0


def test_callbacks_pickle():
    for one in (progress.ProgressCallback(max_str_len=7), notebook.NotebookProgressCallback()):
        assert vars(pickle.loads(pickle.dumps(one))) == vars(one)


# -- notebooks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cell(monkeypatch):
    """A cell's outputs; each is the list of what it has shown."""
    shown: list[list[str]] = []

    class Output:
        def __init__(self, code: str) -> None:
            self.codes = [code]
            shown.append(self.codes)

        def update(self, code: str) -> None:
            self.codes.append(code)

    display = ModuleType("IPython.display")
    display.HTML = lambda code: code
    display.display = lambda code, display_id=None: Output(code)
    ipython = ModuleType("IPython")
    ipython.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def rows(code: str) -> list[list[str]]:
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", re.sub(r"\s*\n\s*", "", line)) for line in re.split("</tr>", code)][:-1]


@pytest.mark.parametrize("strategy", ["steps", "epoch", "no"])
def test_the_table_is_the_references(cell, strategy):
    from importlib import reload

    from transformers.utils import notebook as theirs

    theirs = reload(theirs)  # with this IPython
    args = transformers.TrainingArguments(eval_strategy=strategy, output_dir="x", report_to="none")
    for callback in (notebook.NotebookProgressCallback(), theirs.NotebookProgressCallback()):
        state = begun()
        callback.on_train_begin(args, state, None)
        for step in (1, 2, 3, 4):
            state.global_step, state.epoch = step, step / 2
            callback.on_step_end(args, state, None)
            if step % 2 == 0:
                state.log_history.append({"loss": 1 / step})
                callback.on_log(args, state, None, logs={"loss": 1 / step})
                if strategy != "no":
                    for _ in range(4):
                        callback.on_prediction_step(args, state, None, eval_dataloader=Loader())
                    metrics = {"eval_loss": 0.5, "eval_top_acc": 1, "eval_runtime": 2.0, "eval_steps_per_second": 1.0,
                               "eval_samples_per_second": 1.0, "epoch": step / 2}  # fmt: skip
                    callback.on_evaluate(args, state, None, metrics=metrics)
        callback.on_train_end(args, state, None)
    ours, reference = (rows(codes[-1]) for codes in cell)
    assert ours == reference
    assert ours[0][:2] == ["Epoch" if strategy == "epoch" else "Step", "Training Loss"]
    assert len(ours) == 3


def test_a_notebook_shows_bars_and_names_as_they_are(cell):
    play(notebook.NotebookProgressCallback())
    ((*codes, last),) = cell
    assert '<progress value="4" max="4"' in last
    assert "Epoch 2/2" in last
    assert "F1 &lt;cat&gt;" in last
    assert any(code.count("<progress") == 2 for code in codes)
    assert last.count("<progress") == 1
    cell.clear()
    alone = notebook.NotebookProgressCallback()
    for _ in range(4):
        alone.on_prediction_step(None, begun(), None, eval_dataloader=Loader())
    alone.on_prediction_step(None, begun(), None, eval_dataloader=Stream())
    alone.on_evaluate(SimpleNamespace(eval_strategy="no"), begun(), None, metrics={"eval_loss": 0.5})
    assert cell[0][-1] == ""  # the bar is taken away
    assert rows(cell[1][0]) == [["Step", "Training Loss", "Validation Loss"], ["0", "No log", "0.500000"]]


def test_small_tools_are_the_references(cell):
    from transformers.utils import notebook as theirs

    for seconds in (0, 59, 60, 3599, 3600, 90061.5):
        assert notebook.format_time(seconds) == theirs.format_time(seconds)
    table = [["a", "b"], [1, 0.5], ["x", torch.tensor(0.25)]]
    assert rows(notebook.text_to_html_table(table)) == [["a", "b"], ["1", "0.500000"], ["x", "0.250000"]]
    bar = notebook.NotebookProgressBar(10, prefix="p", leave=False)
    bar.update(1, comment="c")
    bar.update(10)
    assert cell == [[cell[0][0], cell[0][1], ""]]


def test_a_notebook_is_known_without_importing_anything(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not notebook.is_in_notebook()
    ipython = ModuleType("IPython")
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    for shell, found in ((None, False), ({}, False), ({"IPKernelApp": {}}, True)):
        ipython.get_ipython = lambda shell=shell: None if shell is None else SimpleNamespace(config=shell)
        assert notebook.is_in_notebook() is found
