"""Commits, each built once into an environment of its own, and kept.

A commit is checked out into a worktree, installed from there without its dependencies, and the worktree is taken away
again. What it depends on comes from the environment that runs this: a ``.pth`` file names its folders, so that two
commits are measured with the same torch. An environment gets its name when it is whole, in one step: one that is half
built is never used.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from omniform.bench.contender import ContenderError
from omniform.bench.made import cache_folder

LAST_LINES: Final = 6
"""Of what git or pip said, told where they failed."""
PATIENCE: Final = 3600.0
"""Seconds after which a build is given up."""
BUILDING: Final = ".building-"


@dataclass(frozen=True, slots=True)
class Built:
    """An environment of a commit: its whole name, and the interpreter."""

    sha: str
    python: Path


class Commits:
    """Environments of the commits of a repository.

    Args:
        repo: a folder of it.
        cache: where they are kept; under :func:`~omniform.bench.made.cache_folder` by default.
    """

    def __init__(self, repo: Path, cache: Path | None = None) -> None:
        self.repo = repo
        self.folder = (cache or cache_folder()).resolve() / "commits"

    def environment(self, commit: str, *, say: Callable[[str], object] = lambda line: None) -> Built:
        """The environment of a commit, built where it is not there yet.

        Args:
            commit: as git understands it: a branch, a tag, ``HEAD~3``, a hash.
            say: told what is going on.

        Raises:
            ContenderError: there is no such commit, or it does not build; with git's or pip's last words.
        """
        sha = self.resolve(commit)
        # What it shares is part of what it is.
        mark = hashlib.sha256("\n".join([sys.version, *_shared()]).encode()).hexdigest()[:8]
        folder = self.folder / f"{sha}-{mark}"
        python = folder / "bin" / "python"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / ".lock"):
                if not python.exists():
                    say(f"building {commit} ({sha[:12]})")
                    self._build(sha, commit, folder)
        except OSError as error:
            raise ContenderError(f"{commit} cannot be built: {error.strerror}: {error.filename}") from None
        return Built(sha, python)

    def resolve(self, commit: str) -> str:
        """The whole hash of a commit.

        Raises:
            ContenderError: there is none, or no repository.
        """
        done = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
        sha = done.stdout.strip()
        if done.returncode != 0 or not re.fullmatch(r"[0-9a-f]{40,64}", sha):
            inside = self._git("rev-parse", "--git-dir")
            if inside.returncode != 0:
                raise ContenderError(f"{self.repo.resolve()} is no git repository: {_last(inside)}")
            raise ContenderError(f"there is no commit {commit!r} in {self.repo.resolve()}")
        return sha

    def _git(self, *words: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(["git", "-C", str(self.repo), *words], capture_output=True, text=True,
                                  errors="replace", stdin=subprocess.DEVNULL)  # fmt: skip
        except OSError as error:
            raise ContenderError(f"git cannot be started: {error.strerror}") from None

    def _build(self, sha: str, commit: str, folder: Path) -> None:
        """Build, and give the whole its name."""
        for left in self.folder.glob(f"*{BUILDING}*"):  # of a build that was cut off: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        self._git("worktree", "prune")
        work = Path(tempfile.mkdtemp(prefix=f"{sha[:12]}{BUILDING}", dir=self.folder))
        source, made = work / "source", work / "env"
        try:
            done = self._git("worktree", "add", "--force", "--detach", str(source), sha)
            if done.returncode != 0:
                raise ContenderError(f"{commit} cannot be checked out: {_last(done)}")
            self._share_objects(source)
            _run(commit, [sys.executable, "-m", "venv", "--without-pip", str(made)])
            packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(made), "platbase": str(made)}))
            ready = ["--no-build-isolation"] if _can_build(source) else []
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
            _run(commit, [*pip, "--no-deps", *ready, "--target", str(packages), str(source)])
            packages.mkdir(parents=True, exist_ok=True)
            (packages / "_shared.pth").write_text("\n".join(_shared()) + "\n", encoding="utf-8")
            os.replace(made, folder)
        finally:
            self._git("worktree", "remove", "--force", str(source))
            shutil.rmtree(work, ignore_errors=True)
            self._git("worktree", "prune")

    def _share_objects(self, source: Path) -> None:
        """Kernels that two commits have in common are compiled once: objects are named by what they are made of."""
        if (source / "native" / "build.py").is_file() and not (source / "build").exists():
            objects = self.folder.parent / "objects"
            objects.mkdir(parents=True, exist_ok=True)
            (source / "build").symlink_to(objects, target_is_directory=True)


def _shared() -> list[str]:
    """The folders of packages of the environment that runs this."""
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


def _can_build(source: Path) -> bool:
    """Whether all that a build needs is installed here; else pip fetches it."""
    try:
        named = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
        for one in named:
            version(re.split(r"[^\w.-]", str(one).strip(), maxsplit=1)[0])
    except (OSError, ValueError, KeyError, TypeError, PackageNotFoundError):
        return False
    return True


def _run(commit: str, command: Sequence[str]) -> None:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, env=own,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ContenderError(f"{commit} was not built within {PATIENCE:.0f} s") from None
    if done.returncode != 0:
        raise ContenderError(f"{commit} does not build: {_last(done)}")


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:]) or f"status {done.returncode}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock goes with whoever holds it."""
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
