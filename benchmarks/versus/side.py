"""What a library must be able to do to be measured, and the chats about pictures that every library is asked."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from .workloads import Job

Message = dict[str, Any]

Run = Callable[[list[list[int]], int], list[list[int]]]
"""Answers prompts, each with so many new tokens, greedily; the answers without their prompts."""


class RefusedError(Exception):
    """The library does not do what it is asked for, and says so."""


class Side(Protocol):
    """A library. Nothing is imported before :meth:`prepare`."""

    def prepare(self) -> None:
        """Import what loading needs."""

    def load(self, dtype: str = "auto") -> None:
        """Load the benchmark's checkpoint."""

    def write(self, prompt: list[int], new: int) -> list[int]:
        """Answer one prompt greedily with ``new`` tokens."""

    def batch(self) -> Run:
        """A fresh way to answer many prompts, with empty caches; which one, the job's contender says."""

    def load_chats(self) -> None:
        """Load the bundled checkpoint and its processor instead."""

    def chat(self, chats: list[Chat]) -> list[list[str]]:
        """Go through conversations, each turn with the answers before it; the answers."""

    def load_encoder(self, name: str) -> None:
        """Load one of the encoders' checkpoints instead, in bfloat16."""

    def encode(self, inputs: dict[str, Any]) -> Any:
        """The last hidden states of a batch; shape [B, T, D]."""

    def facts(self) -> dict[str, Any]:
        """What else is known after a run."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Questions about one picture."""

    picture: Any
    questions: list[str]

    def messages(self, answers: list[str]) -> list[Message]:
        """The conversation up to the question that follows these answers."""
        said: list[Message] = []
        for turn, question in enumerate(self.questions[: len(answers) + 1]):
            parts: list[Message] = [{"type": "text", "text": question}]
            if turn == 0:
                parts.insert(0, {"type": "image", "image": self.picture})
            said.append({"role": "user", "content": parts})
            if turn < len(answers):
                said.append({"role": "assistant", "content": [{"type": "text", "text": answers[turn]}]})
        return said


QUESTIONS = (
    "Describe the picture.",
    "How many shapes are there?",
    "What colour is the background?",
    "Is there a circle?",
    "What is at the top?",
)


def draw_chats(job: Job, count: int, name: str) -> list[Chat]:
    """Chats about scenes drawn by ``examples/scenes/draw.py``, a picture for each."""
    from draw import Finish, draw_scene, render

    chats = []
    for number in range(count):
        chance = random.Random(f"{name} {number}")
        picture = render(draw_scene(chance), Finish(side=chance.randint(96, 320)), chance)
        chats.append(Chat(picture, chance.sample(QUESTIONS, job.sizes.turns)))
    return chats
