"""What happens once in a process: importing, loading, the first answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

from ..backends.base import Backend
from ..job import Job
from .base import SECONDS, Kind, Scenario, Values, at_least, tokens


@dataclass(frozen=True, kw_only=True)
class Import(Scenario):
    """Importing a backend.

    Attributes:
        beyond: what is imported before the clock starts; empty for nothing.
        name: what is then asked of the library, which may import more of it: ``LlavaForConditionalGeneration``.
    """

    beyond: str = "torch"
    name: str = ""
    NEEDS: ClassVar[tuple[str, ...]] = ("prepare",)
    GIVES: ClassVar[dict[str, Kind]] = {"import.latency": SECONDS}
    FRESH: ClassVar[bool] = True

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Import what does not count."""
        if self.beyond:
            import_module(self.beyond)

        def sample() -> Values:
            started = job.now()
            backend.prepare()
            if self.name:
                getattr(import_module(str(backend.options["kind"])), self.name)
            return {"import.latency": job.now() - started}

        return sample


@dataclass(frozen=True, kw_only=True)
class Load(Scenario):
    """From a checkpoint on the disk to a model in memory, in a process that has imported its library."""

    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("prepare", "load")
    GIVES: ClassVar[dict[str, Kind]] = {"load.latency": SECONDS}
    FRESH: ClassVar[bool] = True

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Import."""
        backend.prepare()

        def sample() -> Values:
            started = job.now()
            backend.load(self.task)
            backend.wait()
            return {"load.latency": job.now() - started}

        return sample


@dataclass(frozen=True, kw_only=True)
class FirstAnswer(Scenario):
    """From nothing to the first token: importing, loading, reading a prompt.

    Attributes:
        prompt_tokens: of the prompt.
        beyond: what is imported before the clock starts; empty for nothing.
    """

    prompt_tokens: int = 16
    beyond: str = ""
    task: str = "text-generation"
    NEEDS: ClassVar[tuple[str, ...]] = ("prepare", "load", "write")
    GIVES: ClassVar[dict[str, Kind]] = {
        "first_answer.latency": SECONDS,
        "import.latency": SECONDS,
        "load.latency": SECONDS,
        "first_token.latency": SECONDS,
    }
    FRESH: ClassVar[bool] = True

    def check(self) -> None:
        """There is a prompt."""
        at_least(1, prompt_tokens=self.prompt_tokens)

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Import what does not count."""
        if self.beyond:
            import_module(self.beyond)

        def sample() -> Values:
            started = job.now()
            backend.prepare()
            imported = job.now()
            backend.load(self.task)
            backend.wait()
            loaded = job.now()
            backend.write([tokens("first", self.prompt_tokens, backend.vocabulary())], 1)
            backend.wait()
            ended = job.now()
            return {
                "first_answer.latency": ended - started,
                "import.latency": imported - started,
                "load.latency": loaded - imported,
                "first_token.latency": ended - loaded,
            }

        return sample
