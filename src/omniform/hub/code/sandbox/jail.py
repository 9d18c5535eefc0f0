"""Where a stranger's code is run: Linux namespaces, made by bubblewrap or by util-linux.

What runs in there sees a few folders (the system's libraries, Python, this package, the checkpoint), read-only, an
empty ``/tmp`` in memory and no network; it is another user to itself, without capabilities and without the means to
gain any (user_namespaces(7), pivot_root(2), prctl(2) PR_SET_NO_NEW_PRIVS).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from omniform.core.errors import SandboxError

SCRATCH: Final = 2**30
"""Bytes that code in the sandbox may write, in memory, gone with it."""

SYSTEM: Final = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
    "/etc/alternatives", "/etc/localtime", "/sys/devices/system/cpu", "/sys/devices/system/node",
)  # fmt: skip
"""What every program needs to see of a system; neither passwords nor anybody's settings."""

SCRIPT: Final = Path(__file__).with_name("jail.sh")

FIRST: Final = 'echo 1000 >/proc/self/oom_score_adj || :; exec "$@"'
"""Run before anything else, by sh: where the machine's memory runs out, what is in the sandbox is killed first."""


class Jail(Protocol):
    """A way to run a command in there; what runs ends with the *thread* that started it (prctl(2) PR_SET_PDEATHSIG)."""

    def command(self, argv: Sequence[str], readable: Sequence[Path], mount_point: Path) -> list[str]:
        """The command to run instead.

        Args:
            argv: what is to run in there.
            readable: files and folders that it may read, besides the system's.
            mount_point: an empty folder.
        """
        ...


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """By bubblewrap (https://github.com/containers/bubblewrap), which Flatpak is built on."""

    program: str

    def command(self, argv: Sequence[str], readable: Sequence[Path], mount_point: Path) -> list[str]:
        """See :class:`Jail`."""
        shown: list[str] = []
        for path in visible([*map(Path, SYSTEM), *readable]):
            shown += ["--ro-bind", str(path), str(path)]
        links = [name for name in SYSTEM if Path(name).is_symlink() and Path(name).parent == Path("/")]
        for name in links:
            shown += ["--symlink", os.readlink(name), name]
        return [
            "sh", "-c", FIRST, "sh",
            self.program, "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev", "--size", str(SCRATCH), "--perms", "0700",
            "--tmpfs", "/tmp", *shown, "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/",
            "--chdir", "/tmp", "--", *argv,
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Namespaces:
    """By util-linux (unshare, mount, pivot_root, setpriv), which every Linux machine has."""

    program: str
    setpriv: str = "setpriv"

    def command(self, argv: Sequence[str], readable: Sequence[Path], mount_point: Path) -> list[str]:
        """See :class:`Jail`."""
        shown = [str(path) for path in visible([*map(Path, SYSTEM), *readable])]
        return [
            "sh", "-c", FIRST, "sh", self.setpriv, "--pdeathsig", "KILL", "--",
            self.program, "--user", "--map-root-user", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork",
            "--kill-child", "--", "sh", str(SCRIPT), str(SCRATCH), str(mount_point), *shown, "--", *argv,
        ]  # fmt: skip


def visible(paths: Sequence[Path]) -> list[Path]:
    """Those that exist, without links in the root folder and without what lies in one of the others.

    Raises:
        SandboxError: with one of them the user's home, or what else is private, would be seen.
    """
    found: list[Path] = []
    for path in sorted({_below_links(Path(os.path.abspath(path))) for path in paths}):
        root_link = path.is_symlink() and path.parent == Path("/")
        if path.exists() and not root_link and not any(path.is_relative_to(other) for other in found):
            _refuse_private(path)
            found.append(path)
    return found


def _below_links(path: Path) -> Path:
    """A path that does not begin with a link: of ``/bin/python`` what it is in ``/usr``, where ``/bin`` leads."""
    if len(path.parts) < 3:
        return path
    top = Path(*path.parts[:2])
    return top.resolve().joinpath(*path.parts[2:]) if top.is_symlink() else path


def _refuse_private(path: Path) -> None:
    """Raise :class:`SandboxError` if a folder holds what nobody in a sandbox is to see: a home, its tokens, sockets."""
    if any(path.is_relative_to(system) for system in SYSTEM):
        return
    homes = (Path.home(), Path(os.path.expanduser(os.environ.get("HF_HOME", "~"))))
    private = {Path("/tmp"), Path("/dev"), Path("/proc"), Path("/run"), Path(tempfile.gettempdir())}
    private |= {Path(os.path.realpath(home)) for home in homes}
    for held in sorted(private - {Path("/")}):
        if held.is_relative_to(path):
            raise SandboxError(
                "with this folder the code would see more than its checkpoint",
                where=str(path),
                expected="a folder of the checkpoint's own",
                found=f"one that holds {held} too",
                remedy="Move the checkpoint into a folder of its own.",
            )


def python_folders() -> list[Path]:
    """What this interpreter needs to see to start, and to import omniform and what is installed beside it."""
    import site

    package = Path(__file__).resolve().parents[3]
    installed = [*site.getsitepackages(), *(entry for entry in sys.path if entry.endswith(("-packages", ".zip")))]
    prefixes = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.exec_prefix), Path(sys.base_exec_prefix)}
    program = Path(sys.executable)
    return [*prefixes, *{prefix.resolve() for prefix in prefixes}, *map(Path, installed), package, *_links(program)]


def _links(program: Path) -> list[Path]:
    """A program and the links on the way to its file."""
    found = [program]
    while found[-1].is_symlink() and len(found) < 10:
        found.append(Path(os.path.normpath(found[-1].parent / os.readlink(found[-1]))))
    return found


def jail() -> Jail:
    """The way that works on this machine.

    Raises:
        SandboxError: none does, and why.
    """
    found = _found()
    if isinstance(found, str):
        raise SandboxError(
            "this machine has no sandbox for a checkpoint's code",
            where='trust_remote_code="sandbox"',
            expected="Linux with bubblewrap, or with user namespaces and util-linux",
            found=found,
            remedy="Read the code and use trust_remote_code=True, or run in a container of your own.",
        )
    return found


@functools.cache
def _found() -> Jail | str:
    """The first way in which a command runs, or why none does."""
    if sys.platform != "linux":
        return f"{sys.platform}, which has no namespaces"
    ways: list[Jail] = []
    if program := shutil.which("bwrap"):
        ways.append(Bubblewrap(program))
    tools = {name: _tool(name) for name in ("unshare", "setpriv", "pivot_root", "mount")}
    if all(tools.values()):
        ways.append(Namespaces(str(tools["unshare"]), str(tools["setpriv"])))
    reasons = [] if ways else [f"no {' and no '.join(sorted(n for n, path in tools.items() if path is None))}"]
    for way in ways:
        reason = _refusal(way)
        if reason is None:
            return way
        reasons.append(f"{type(way).__name__.lower()}: {reason}")
    return "; ".join(reasons)


def _tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")


def _refusal(way: Jail) -> str | None:
    """Why a way does not work here; None where it does."""
    with tempfile.TemporaryDirectory(prefix="omniform-") as folder:
        command = way.command(["true"], (), Path(folder))
        try:
            done = subprocess.run(command, capture_output=True, timeout=20, env=bare_environment(), check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    if done.returncode == 0:
        return None
    words = done.stderr.decode(errors="replace").strip().splitlines()
    return words[-1] if words else f"exit code {done.returncode}"


def bare_environment() -> dict[str, str]:
    """What is told in there of the environment: no tokens, no addresses, no home."""
    kept = ("LANG", "LC_ALL", "LC_CTYPE", "TZ", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    told = {name: os.environ[name] for name in kept if name in os.environ}
    return {
        **told,
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "USER": "nobody",
        "HF_HOME": "/tmp/huggingface",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
