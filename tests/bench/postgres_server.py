"""A real PostgreSQL for the tests: the system's, or that of the package ``pgserver``, on a socket in a folder."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

USER, PASSWORD = "bencher", "s3cret-w0rd"

_names = itertools.count()


def _binaries() -> Path | None:
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if debian:
        return debian[-1].parent
    package = importlib.util.find_spec("pgserver")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "pginstall" / "bin"


BINARIES = _binaries()

WHY_NOT = None if BINARIES is not None and os.name == "posix" else "there is no PostgreSQL here"


class Server:
    """A running server.

    Attributes:
        folder: where its socket and its data are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def url(self, database: str, *, password: str = PASSWORD, user: str = USER) -> str:
        return f"postgresql://{user}:{password}@/{database}?host={self.folder}"

    def database(self) -> str:
        """The URL of a new one."""
        import psycopg

        name = f"bench{next(_names)}"
        with psycopg.connect(host=str(self.folder), user=USER, password=PASSWORD, dbname="postgres") as connection:
            connection.autocommit = True
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextlib.contextmanager
def postgres() -> Iterator[Server]:
    """The server; it ends with the context."""
    assert BINARIES is not None
    # pytest's own folders let nobody else in, and the server does not run as root. Sockets have short names.
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as name:
        folder = Path(name)
        other = _other_user(folder)
        binaries = _reachable(BINARIES, folder, other)
        (folder / "password").write_text(PASSWORD)
        _own(folder, other)
        data = folder / "data"
        words = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8")
        made = subprocess.run(
            [binaries / "initdb", "-D", data, "--locale=C", *words], capture_output=True, text=True, cwd=folder, **other
        )
        assert made.returncode == 0, made.stderr
        settings = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=50")
        said = (folder / "log").open("wb")
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *(word for one in settings for word in ("-c", one))],
            stdout=said, stderr=said, cwd=folder, start_new_session=True, **other,
        )  # fmt: skip
        try:
            _await(folder, process)
            yield Server(folder)
        finally:
            process.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            process.wait(60)
            said.close()


def _other_user(folder: Path) -> dict[str, object]:
    """How a process is started that may not be root."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def _own(folder: Path, other: dict[str, object]) -> None:
    if other:
        folder.chmod(0o755)
        for one in (folder, folder / "password"):
            os.chown(one, 65534, 65534)


def _reachable(binaries: Path, folder: Path, other: dict[str, object]) -> Path:
    """The programs, or a copy of them where that user may not go, such as below /root."""
    try:
        folder.chmod(0o755)
        subprocess.run([binaries / "initdb", "--version"], check=True, capture_output=True, cwd=folder, **other)
        return binaries
    except (OSError, subprocess.CalledProcessError):
        package = binaries.parents[1]
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, folder / "copy" / part.name)
        return folder / "copy" / package.name / binaries.parent.name / binaries.name


def _await(folder: Path, process: subprocess.Popen[bytes]) -> None:
    import psycopg

    end = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(host=str(folder), user=USER, password=PASSWORD, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
