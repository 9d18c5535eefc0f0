"""Commits, each in a clean worktree and an environment of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omniform.bench.contender import ContenderError


@dataclass(frozen=True, slots=True)
class Built:
    """An environment of a commit: its whole name, and the interpreter."""

    sha: str
    python: Path


class Commits:
    """Environments of the commits of a repository."""

    def __init__(self, repo: Path, cache: Path | None = None) -> None:
        self.repo = repo

    def environment(self, commit: str, *, say: Callable[[str], object] = lambda line: None) -> Built:
        """Of a commit."""
        raise ContenderError("commits are not built yet")
