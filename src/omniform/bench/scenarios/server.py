"""A server, asked over HTTP: its process, its protocol and its streams are part of what is measured."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..backends.base import Backend
from ..job import Job
from .base import Kind, Scenario, Values, at_least
from .engine import ARRIVING, arrived

TEXT = "the a small large red blue cat house runs sees of and to in why how what tree river cloud stone"


@dataclass(frozen=True, kw_only=True)
class Server(Scenario):
    """Chats of one question each, streamed, at the moments of a Poisson process.

    Attributes:
        requests: of a sample.
        rate: requests a second; 0 for all at once.
        words: of the longest question.
        new_tokens: of every answer.
    """

    requests: int = 8
    rate: float = 4.0
    words: int = 24
    new_tokens: int = 16
    NEEDS: ClassVar[tuple[str, ...]] = ("serve",)
    GIVES: ClassVar[dict[str, Kind]] = ARRIVING

    def check(self) -> None:
        """There are requests, at a rate that is none below zero."""
        at_least(1, requests=self.requests, words=self.words, new_tokens=self.new_tokens)
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}, and must be 0 or more")

    def begin(self, backend: Backend, job: Job) -> Callable[[], Values]:
        """Start the server, and wait until it answers."""
        url = backend.served()
        turns = itertools.count()

        def ask(prompt: object, new: int, told: Callable[[], object]) -> None:
            chat(url, str(prompt), new, told)

        def sample() -> Values:
            name, chance = str(next(turns)), random.Random("words")
            counts = [chance.randint(max(1, self.words // 4), self.words) for _ in range(self.requests)]
            texts = [
                " ".join([name, *random.Random(f"{name} {k}").choices(TEXT.split(), k=n)]) for k, n in enumerate(counts)
            ]
            return arrived(ask, texts, self.new_tokens, self.rate, job)

        return sample


def chat(url: str, text: str, new: int, told: Callable[[], object]) -> None:
    """Ask a question over HTTP, and hear the pieces of its answer.

    Raises:
        RuntimeError: the server refuses.
    """
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    place = urlsplit(url)
    connection = HTTPConnection(str(place.hostname), place.port, timeout=600)
    body = {"model": "model", "messages": [{"role": "user", "content": text}], "max_tokens": new, "temperature": 0,
            "stream": True, "min_tokens": new, "ignore_eos": True}  # fmt: skip
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"the server says {response.status}: {response.read(500).decode(errors='replace')}")
        while line := response.readline():
            if line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
                told()
    finally:
        connection.close()
