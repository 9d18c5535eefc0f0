"""What a backend is."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from urllib.error import URLError
from urllib.request import urlopen

from ..job import Job, RefusedError
from .costs import Cost

Told = Callable[[], object]
"""Called whenever a step's tokens are there."""

Answering = Callable[[Any, int, Told], object]
"""Answers a prompt with so many tokens, and returns when all are there."""


def unheard() -> None:
    """Nobody listens."""


READY = 300.0
"""Seconds that a server has to load its model."""


def ready(url: str, path: str, process: subprocess.Popen[str]) -> str:
    """A server's address, as soon as it answers there.

    Raises:
        RefusedError: it ended, or does not answer in time.
    """
    until = time.monotonic() + READY
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RefusedError(f"the server ended with status {process.returncode}")
        with contextlib.suppress(URLError, OSError), urlopen(f"{url}{path}", timeout=10) as answer:
            if answer.status == 200:
                return url
        time.sleep(0.1)
    raise RefusedError(f"the server was not ready within {READY:.0f} s")


def ended(process: subprocess.Popen[str] | None) -> None:
    """A server is over."""
    if process is not None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()


class Backend:
    """A library that holds a model.

    Attributes:
        CAN: the methods that it has, which scenarios ask for by name.
        PACKAGES: whose versions are told.
    """

    CAN: ClassVar[frozenset[str]] = frozenset({"nothing"})
    PACKAGES: ClassVar[tuple[str, ...]] = ()

    def __init__(self, job: Job) -> None:
        self.job = job
        self.options: Mapping[str, Any] = job.backend
        self.device = str(self.options.get("device") or "cpu")

    def prepare(self) -> None:
        """Import what is needed, and set the number of threads."""

    def load(self, task: str = "text-generation") -> None:
        """Load the model."""

    def cost(self) -> Cost | None:
        """What a step comes to; None where that is not known."""
        return None

    def computes(self) -> str:
        """The kind of numbers that the model computes with, by torch's name."""
        return "float32"

    def vocabulary(self) -> int:
        """How many tokens there are."""
        cost = self.cost()
        return 1000 if cost is None else cost.vocabulary

    def forward(self, inputs: Mapping[str, Any]) -> object:
        """One pass over a batch."""
        raise NotImplementedError

    def tensors(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Lists as what :meth:`forward` is given."""
        raise RefusedError(f"{self.options['kind']} takes no rows of mixed length")

    def rows(self, modality: str, batch: int, length: int, picture: int) -> dict[str, Any]:
        """What :meth:`forward` is given: token ids, or pictures."""
        raise NotImplementedError

    def shaped(self, shapes: Mapping[str, Sequence[int]], batch: int) -> dict[str, Any]:
        """What :meth:`forward` is given: random numbers, by name and the shape of a row."""
        raise RefusedError(f"{self.options['kind']} makes no inputs by their shapes")

    def told(self, output: object) -> list[float]:
        """Some numbers of what :meth:`forward` gave, the same ones of everyone's; none where they are not known."""
        return []

    def write(
        self, prompts: Sequence[Sequence[int]], new: int, told: Told = unheard, beams: int = 1
    ) -> list[list[int]]:
        """Answer prompts, so many tokens each, whatever they are."""
        raise NotImplementedError

    def answering(self) -> Answering:
        """An engine, which may be asked from many threads."""
        raise NotImplementedError

    def served(self) -> str:
        """The address of a server of the model, which answers as OpenAI's does."""
        raise NotImplementedError

    def pipeline(self, task: str) -> Callable[..., Any]:
        """A pipeline."""
        raise NotImplementedError

    def reader(self, modality: str) -> Callable[[Sequence[Any]], object]:
        """What turns inputs of a modality into what the model is given."""
        raise NotImplementedError

    def train(self) -> Any:
        """The model, ready to be trained."""
        raise NotImplementedError

    def export(self, form: str, folder: str) -> None:
        """Write the model in another format."""
        raise NotImplementedError

    def end(self) -> None:
        """Give back what was taken."""

    def wait(self) -> None:
        """Until the device has done what it was told."""
