"""Threads beside the caller end with the interpreter, and take nothing down with them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from checkpoints import text_checkpoint

FETCHING = """
import sys
from omniform.core.background import Background
from threading import Event
import torch
stopped, begun = Event(), Event()
def work():
    x = torch.ones(200, 200)
    while not stopped.is_set():
        x = x @ x  # comes back from native code at any time
        begun.set()
thread = Background(work, stopped.set, "test")
begun.wait()
sys.exit(3)
"""

FORKED = """
import os, sys
import omniform
engine = omniform.Engine(omniform.AutoModelForCausalLM.from_pretrained(sys.argv[1]))
handles = [engine.submit([5, 6, 7], max_new_tokens=40) for _ in range(40)]
next(iter(handles[0]))
child = os.fork()  # both end while the engine is at work
if not child:
    sys.exit(3)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [FETCHING, FORKED], ids=["fetching", "forked"])
def test_the_program_s_exit_code_stands(tmp_path, program):
    folder = str(text_checkpoint(tmp_path))
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, timeout=300, text=True)
        assert (done.returncode, done.stderr) == (3, "")
