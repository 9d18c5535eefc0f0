"""Laying out Python text as ``ruff format`` does."""

from __future__ import annotations

import subprocess
import sys

from omniform.core.errors import OmniformError

WIDTH = 120


def formatted(text: str) -> str:
    """The text as the formatter lays it out.

    Raises:
        OmniformError: ruff is not installed, or the text is no Python.
    """
    command = [sys.executable, "-m", "ruff", "format", "--isolated", "--line-length", str(WIDTH), "--stdin-filename"]
    try:
        done = subprocess.run([*command, "ejected.py", "-"], input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise OmniformError("the formatter cannot be run", found=str(error)) from error
    if done.returncode:
        missing = "No module named ruff" in done.stderr
        raise OmniformError(
            "the formatter is not installed" if missing else "what was written is no Python",
            found=None if missing else done.stderr.strip()[:300],
            remedy="pip install 'omniform[eject]'" if missing else None,
        )
    return done.stdout
