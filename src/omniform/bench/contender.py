"""A contender in a process of its own, from the side of whoever started it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from omniform.bench.config import BackendConfig
from omniform.bench.job import Job

CHILD: Final = Path(__file__).with_name("child.py")
LAST_LINES: Final = 5
"""Of what a process printed, told where it failed."""

THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                  "RAYON_NUM_THREADS")  # fmt: skip


class ContenderError(Exception):
    """A contender cannot go on; says why in a sentence."""


class Process:
    """A contender's process.

    Args:
        backend: what it is.
        job: what it is to do.
        timeout: seconds after which it is given up, of each step.
        python: the interpreter.
        paths: folders that the interpreter looks for packages in, in place of those of this process.
    """

    def __init__(
        self, backend: BackendConfig, job: Job, *, timeout: float, python: str, paths: list[str] | None = None
    ) -> None:
        self.timeout = timeout
        self._rest = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        reading, writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [python, str(CHILD), str(writing)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                env=_environment(backend, job.threads, paths),
                start_new_session=True,  # Ctrl-C is for the one that started it, which ends it
            )
        except OSError as error:
            os.close(reading)
            raise ContenderError(f"{python} cannot be started: {error.strerror}") from None
        finally:
            os.close(writing)
        self._answers = reading
        try:
            self.ask("job", job=job.told())
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, do: str, timeout: float | None = None, **how: Any) -> dict[str, Any]:
        """Let it do a step, and wait for what it says.

        Raises:
            ContenderError: it cannot, it died, or it does not answer.
        """
        given = {"do": do, **({"job": how["job"]} if "job" in how else {"how": how})}
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: told below
            self._process.stdin.write((json.dumps(given) + "\n").encode())
            self._process.stdin.flush()
        answer = json.loads(self._line(self.timeout if timeout is None else timeout))
        if "error" in answer:
            raise ContenderError(answer["error"])
        told: dict[str, Any] = answer["ok"]
        return told

    def _line(self, timeout: float) -> bytes:
        until = time.monotonic() + timeout
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = until - time.monotonic()
                if left <= 0:
                    self.kill()
                    raise ContenderError(f"no answer within {timeout:.0f} s{self._said()}")
                if not waiting.select(left):
                    continue
                piece = os.read(self._answers, 1 << 16)
                if not piece:
                    raise ContenderError(self._how_it_ended())
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.returncode
        if code is not None and code < 0:
            with suppress(ValueError):
                name = signal.Signals(-code).name
                why = ": where nobody did it, memory ran out" if -code == signal.SIGKILL else ""
                return f"its process was killed by {name}{why}{self._said()}"
        return f"its process ended with status {code}{self._said()}"

    def _said(self) -> str:
        with suppress(OSError, ValueError):
            self._log.seek(max(self._log.seek(0, os.SEEK_END) - 4096, 0))
            lines = self._log.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
            if lines:
                return f"; its last words: {' | '.join(line.strip() for line in lines)}"
        return ""

    def close(self) -> None:
        """Let it end; kill it where it does not."""
        if self._process.poll() is None:
            with suppress(ContenderError, OSError, ValueError):
                self.ask("end", timeout=20)
            with suppress(OSError, ValueError):
                assert self._process.stdin is not None
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        self.kill()

    def kill(self) -> None:
        """End it and all that it started, now."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(OSError):
            os.close(self._answers)
        self._answers = -1
        with suppress(OSError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.close()


def _environment(backend: BackendConfig, threads: int, paths: list[str] | None) -> dict[str, str]:
    """The variables of a contender's process: the same for all, but for what its config says."""
    own = {**os.environ, **dict.fromkeys(THREADS, str(threads))}
    own |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    own.pop("PYTHONDONTWRITEBYTECODE", None)  # who was installed is compiled; who runs from sources is to be, too
    if paths is not None:
        own["PYTHONPATH"] = os.pathsep.join(paths)
    elif backend.python is None:
        # Where this process found omniform, however it was told to.
        root = str(Path(__file__).resolve().parents[2])
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    else:
        own.pop("PYTHONPATH", None)
    return {**own, **backend.env}


def interpreter(backend: BackendConfig) -> str:
    """The interpreter of a contender.

    Raises:
        ContenderError: there is no such file.
    """
    if backend.python is None:
        return sys.executable
    path = Path(backend.python).expanduser()
    if not path.is_file():
        raise ContenderError(f"there is no interpreter {backend.python}")
    return str(path)
