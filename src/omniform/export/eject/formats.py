"""Laying out Python text as ``ruff format`` does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from omniform.core.errors import OmniformError

WIDTH = 120

MENDED = "I,UP034,C4,PIE,RET,SIM,RUF100"
"""Rules of ruff that it mends by itself."""


def formatted(text: str) -> str:
    """The text as ruff lays it out, where ruff is there (extra ``eject``); otherwise as it is.

    Raises:
        OmniformError: the text is no Python.
    """
    program = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if program is None:
        return text
    usual = ["--isolated", "--line-length", str(WIDTH), "--stdin-filename", "ejected.py", "-"]
    mended = ["check", "--fix", "--exit-zero", "--quiet", "--select", MENDED]
    for how in (mended, ["format"]):
        done = subprocess.run([program, *how, *usual], input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OmniformError("what was written is no Python", found=done.stderr.strip()[:300])
        text = done.stdout
    return text
