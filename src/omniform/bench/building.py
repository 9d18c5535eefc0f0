"""Commands that build something, ended with all that they started when whoever waits for them is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

LAST_LINES: Final = 6
"""Of what git or pip said, told where they failed."""
PATIENCE: Final = 3600.0
"""Seconds after which a build is given up."""


class BuildError(Exception):
    """A command failed; holds its last lines."""


class Building:
    """Runs commands.

    Args:
        patience: seconds after which one is given up.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.patience = patience

    def run(self, command: Sequence[str], variables: Mapping[str, str] | None = None) -> str:
        """Run a command to its end.

        Args:
            variables: added to the environment.

        Returns:
            What it printed.

        Raises:
            BuildError: it failed, or took too long.
        """
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
                errors="replace", env={**clean(), **(variables or {})},
                start_new_session=sys.platform != "win32",  # so that compilers that it starts can be ended with it
            )  # fmt: skip
        except OSError as error:
            raise BuildError(f"{command[0]} cannot be started: {error.strerror}") from None
        try:
            out, said = process.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            _end(process)
            raise BuildError(f"it took more than {self.patience:.0f} s") from None
        except BaseException:
            _end(process)
            raise
        if process.returncode != 0:
            raise BuildError(last(said or out) or f"status {process.returncode}")
        return out


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(OSError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def clean() -> dict[str, str]:
    """This process's variables, without those that lead a build or git elsewhere: a hook of git sets ``GIT_DIR``."""
    led = ("PYTHONPATH", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
    return {name: value for name, value in os.environ.items() if name not in led}


def last(text: str) -> str:
    """The last lines of what was said, in one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:])
