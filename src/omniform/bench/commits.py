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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Final

from omniform.bench.building import BuildError, Building, clean, last
from omniform.bench.contender import ContenderError
from omniform.bench.kernels import CHECK, NO_COMPILER, fitting, kernels, lay
from omniform.bench.made import cache_folder

BUILDING: Final = ".building-"
FORMAT: Final = "2"
"""Part of an environment's name: another one when a new version of this lays other files into it."""
AS_IT_STANDS: Final = "."
"""For a commit: the working tree, with what is not committed."""
NOTE: Final = "note.txt"
"""In an environment: what is to be said of all that is measured with it."""
PIP: Final = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input")
NOBODY: Final = {
    "GIT_AUTHOR_NAME": "omniform bench", "GIT_AUTHOR_EMAIL": "bench@localhost", "GIT_AUTHOR_DATE": "@946684800 +0000",
    "GIT_COMMITTER_NAME": "omniform bench", "GIT_COMMITTER_EMAIL": "bench@localhost",
    "GIT_COMMITTER_DATE": "@946684800 +0000",
}  # fmt: skip
"""Who commits what is not committed: at the same moment always, so that one state has one hash."""


@dataclass(frozen=True, slots=True)
class Built:
    """An environment of a commit.

    Attributes:
        sha: the commit's whole name.
        python: the interpreter.
        note: what is to be said of all that is measured with it; empty for nothing.
    """

    sha: str
    python: Path
    note: str = ""


class Commits:
    """Environments of the commits of a repository.

    Args:
        repo: a folder of it.
        cache: where they are kept; under :func:`~omniform.bench.made.cache_folder` by default.
    """

    def __init__(self, repo: Path, cache: Path | None = None) -> None:
        self.repo = repo
        self.cache = (cache or cache_folder()).resolve()
        self.folder = self.cache / "commits"
        self._building = Building()

    def environment(self, commit: str, *, cpu: str = "", say: Callable[[str], object] = lambda line: None) -> Built:
        """The environment of a commit, built where it is not there yet.

        Args:
            commit: as git understands it: a branch, a tag, ``HEAD~3``, a hash; or ``.`` for the working tree as it
                stands, but for files that git ignores.
            cpu: a variant of kernels that is to be there beside the best one, as ``OMNIFORM_CPU`` names it.
            say: told what is going on.

        Raises:
            ContenderError: there is no such commit, or it does not build; with git's or pip's last words.
        """
        sha = self.resolve(commit)
        variants = fitting(cpu)
        # What it shares is part of what it is.
        mark = hashlib.sha256("\n".join([FORMAT, sys.version, *_shared(), *variants]).encode()).hexdigest()[:8]
        folder = self.folder / f"{sha}-{mark}"
        python = folder / "bin" / "python"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _locked(self.folder / ".lock", say):
                if not python.exists():
                    say(f"building {commit} ({sha[:12]})")
                    self._build(sha, folder, variants, say)
                return Built(sha, python, (folder / NOTE).read_text(encoding="utf-8"))
        except BuildError as error:
            raise ContenderError(f"{commit} does not build: {error}") from None
        except OSError as error:
            raise ContenderError(f"{commit} cannot be built in {self.folder}: {error.strerror or error}") from None

    def resolve(self, commit: str) -> str:
        """The whole hash of a commit.

        Raises:
            ContenderError: there is none, or no repository.
        """
        if commit == AS_IT_STANDS:
            return self._as_it_stands()
        done = self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
        sha = done.stdout.strip()
        if done.returncode != 0 or not re.fullmatch(r"[0-9a-f]{40,64}", sha):
            inside = self._git("rev-parse", "--git-dir")
            if inside.returncode != 0:
                raise ContenderError(f"{self.repo.resolve()} is no git repository: {_last(inside)}")
            raise ContenderError(f"there is no commit {commit!r} in {self.repo.resolve()}")
        return sha

    def _as_it_stands(self) -> str:
        """A commit of the working tree, which no branch names; HEAD where nothing differs from it."""
        head = self.resolve("HEAD")
        with tempfile.TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}  # the repository's own stays as it is
            tree = ""
            for words in (("read-tree", head), ("add", "--all", ":/"), ("write-tree",)):
                done = self._git(*words, variables=index)
                if done.returncode != 0:
                    raise ContenderError(f"the working tree of {self.repo.resolve()} cannot be read: {_last(done)}")
                tree = done.stdout.strip()
        if tree == self._git("rev-parse", f"{head}^{{tree}}").stdout.strip():
            return head
        made = self._git("commit-tree", tree, "-p", head, "-m", "The working tree as it stood", variables=NOBODY)
        if made.returncode != 0:
            raise ContenderError(f"the working tree of {self.repo.resolve()} cannot be kept: {_last(made)}")
        return made.stdout.strip()

    def _git(self, *words: str, variables: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        # No hook of the repository's own runs: it would see a worktree that is nobody's.
        command = ["git", "-C", str(self.repo), "-c", f"core.hooksPath={os.devnull}", *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                                  env={**clean(), **(variables or {})})  # fmt: skip
        except OSError as error:
            raise ContenderError(f"git cannot be started: {error.strerror}") from None

    def _build(self, sha: str, folder: Path, variants: tuple[str, ...], say: Callable[[str], object]) -> None:
        """Build, and give the whole its name."""
        for left in self.folder.glob(f"*{BUILDING}*"):  # of a build that was cut off: nobody else holds the lock
            shutil.rmtree(left, ignore_errors=True)
        self._git("worktree", "prune")
        work = Path(tempfile.mkdtemp(prefix=f"{sha[:12]}{BUILDING}", dir=self.folder))
        source, made = work / "source", work / "env"
        try:
            done = self._git("worktree", "add", "--force", "--detach", str(source), sha)
            if done.returncode != 0:
                raise BuildError(f"it cannot be checked out: {_last(done)}")
            self._share_objects(source)
            self._building.run([sys.executable, "-m", "venv", "--without-pip", str(made)])
            packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(made), "platbase": str(made)}))
            tree = self._git("rev-parse", "--verify", "--quiet", f"{sha}:native").stdout.strip()
            own = kernels(source, tree, variants, self.cache / "kernels", self._building, say)
            self._install(source, packages, own)
            python = made / "bin" / "python"
            note = self._checked(python) if (packages / "omniform" / "native").is_dir() else ""
            if note and own is not None:  # these are not what it would have taken: the hook compiles all
                say(f"its kernels are compiled again: {note}")
                shutil.rmtree(packages)
                self._install(source, packages, None)
                note = self._checked(python)
            (made / NOTE).write_text(f"it runs without its kernels: {note}" if note else "", encoding="utf-8")
            os.replace(made, folder)
        finally:
            self._git("worktree", "remove", "--force", str(source))
            shutil.rmtree(work, ignore_errors=True)
            self._git("worktree", "prune")

    def _install(self, source: Path, packages: Path, own: Path | None) -> None:
        """Install a checkout into a folder, with kernels that are compiled already where there are some."""
        tools = self._tools(source)
        pip = [*PIP, "--no-deps", "--no-compile", *(() if tools is None else ("--no-build-isolation",))]
        variables = dict(NO_COMPILER) if own is not None else {}
        self._building.run([*pip, "--target", str(packages), str(source)],
                           variables | ({"PYTHONPATH": str(tools)} if tools else {}))  # fmt: skip
        packages.mkdir(parents=True, exist_ok=True)
        (packages / "_shared.pth").write_text("\n".join(_shared()) + "\n", encoding="utf-8")
        if own is not None:
            lay(own, packages)
        self._lend(packages)
        with suppress(BuildError):  # a file that does not compile is told by whoever imports it
            self._building.run([sys.executable, "-m", "compileall", "-q", str(packages)])

    def _tools(self, source: Path) -> Path | str | None:
        """Where what builds a checkout is installed: here (an empty text), or in a folder, where it is fetched once.

        None where that fails: pip may know better.
        """
        try:
            told = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))
            named = [str(one) for one in told["build-system"]["requires"]]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with suppress(PackageNotFoundError):
            for one in named:
                version(re.split(r"[^\w.-]", one.strip(), maxsplit=1)[0])
            return ""
        folder = self.cache / "tools" / hashlib.sha256("\n".join([sys.version, *named]).encode()).hexdigest()[:16]
        if not folder.is_dir():
            unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
            try:
                self._building.run([*PIP, "--target", str(unfinished), *named])
                os.replace(unfinished, folder)
            except BuildError:
                return None
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
        return folder

    def _lend(self, packages: Path) -> None:
        """Files that the commit that was built last has, too, come with what Python compiled of them."""
        others = [path for path in self.folder.iterdir() if (path / NOTE).is_file()]
        if not others:
            return
        last_built = max(others, key=lambda path: path.stat().st_ctime)
        there = Path(sysconfig.get_path("purelib", "venv", {"base": str(last_built), "platbase": str(last_built)}))
        for file in packages.rglob("*.py"):
            other = there / file.relative_to(packages)
            kept = Path(cache_from_source(str(other)))
            if kept.is_file() and other.is_file() and other.read_bytes() == file.read_bytes():
                made = Path(cache_from_source(str(file)))
                made.parent.mkdir(exist_ok=True)
                shutil.copyfile(kept, made)
                moment = other.stat()  # which the compiled file holds
                os.utime(file, ns=(moment.st_atime_ns, moment.st_mtime_ns))

    def _checked(self, python: Path) -> str:
        """Why an environment's omniform does not use its kernels; empty where it does."""
        free = {"OMNIFORM_NATIVE": "", "OMNIFORM_CPU": ""}
        try:
            self._building.run([str(python), "-c", CHECK], free)
        except BuildError as error:
            return str(error)
        return ""

    def _share_objects(self, source: Path) -> None:
        """Kernels that two commits have in common are compiled once: objects are named by what they are made of."""
        if (source / "native" / "build.py").is_file() and not (source / "build").exists():
            objects = self.cache / "objects"
            objects.mkdir(parents=True, exist_ok=True)
            (source / "build").symlink_to(objects, target_is_directory=True)


def _shared() -> list[str]:
    """The folders of packages of the environment that runs this."""
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return last(done.stderr or done.stdout) or f"status {done.returncode}"


@contextmanager
def _locked(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    """One process at a time; the lock goes with whoever holds it."""
    with path.open("w") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that builds in {path.parent}")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
