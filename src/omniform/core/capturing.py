"""What a program logs or prints for a while, as text: the tools that scripts take from the ecosystem's test helpers."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import TracebackType
from typing import Self, TextIO


class CaptureLogger:
    """Within ``with``, what a logger says is kept; ``out`` has it afterwards."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger
        self.io = io.StringIO()
        self.sh = logging.StreamHandler(self.io)
        self.out = ""

    def __enter__(self) -> Self:
        self.logger.addHandler(self.sh)
        return self

    def __exit__(self, *trouble: object) -> None:
        self.logger.removeHandler(self.sh)
        self.out = self.io.getvalue()

    def __repr__(self) -> str:
        return f"captured: {self.out}\n"


class LoggingLevel:
    """Within ``with``, omniform lets through what is at least so important."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.before = level

    def __enter__(self) -> None:
        root = logging.getLogger("omniform")
        self.before = root.level
        root.setLevel(self.level)

    def __exit__(self, *trouble: object) -> None:
        logging.getLogger("omniform").setLevel(self.before)


class CaptureStd:
    """Within ``with``, what is printed is kept; ``out`` and ``err`` have it afterwards.

    Args:
        out: whether stdout is kept.
        err: whether stderr is.
        replay: whether it is printed afterwards all the same.
    """

    def __init__(self, out: bool = True, err: bool = True, replay: bool = True) -> None:
        self.replay = replay
        self.kept = {name: io.StringIO() for name, wanted in (("stdout", out), ("stderr", err)) if wanted}
        self.before: dict[str, TextIO] = {}
        self.out = self.err = ""

    def __enter__(self) -> Self:
        self.before = {name: vars(sys)[name] for name in self.kept}
        for name, kept in self.kept.items():
            setattr(sys, name, kept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, stream in self.before.items():
            setattr(sys, name, stream)
            if self.replay:
                stream.write(self.kept[name].getvalue())
        if "stdout" in self.kept:
            self.out = re.sub(r"^.*\r", "", self.kept["stdout"].getvalue(), flags=re.MULTILINE)
        if "stderr" in self.kept:
            self.err = self.kept["stderr"].getvalue()


class CaptureStdout(CaptureStd):
    """:class:`CaptureStd` of stdout alone."""

    def __init__(self, replay: bool = True) -> None:
        super().__init__(err=False, replay=replay)


class CaptureStderr(CaptureStd):
    """:class:`CaptureStd` of stderr alone."""

    def __init__(self, replay: bool = True) -> None:
        super().__init__(out=False, replay=replay)


__all__ = ["CaptureLogger", "CaptureStd", "CaptureStderr", "CaptureStdout", "LoggingLevel"]
