"""Who writes a run, so that another process can tell whether it still does."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """A process.

    Attributes:
        host: the machine's name.
        space: where its number means something: another container on the same host counts its own processes.
        pid: its number.
        born: when it was started: the boot and the ticks since then, so that no clock that is set changes it.
    """

    host: str
    space: str
    pid: int
    born: str


def owner() -> Owner:
    """This process."""
    pid = os.getpid()
    return Owner(platform.node(), _space(), pid, born(pid) or "")


def gone(pid: int, since: str) -> bool:
    """Whether a process of this space is no more, or its number is another's."""
    return born(pid) != since


def born(pid: int) -> str | None:
    """When a process was started; None where there is none, or it has ended and nobody has asked how."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        return _born(pid)
    except OSError:
        return None
    # The name, in parentheses, may hold blanks and parentheses; proc(5) counts the fields from 1.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else f"{_boot()}:{fields[19]}"


def _born(pid: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    import psutil

    try:
        found = psutil.Process(pid)
        return None if found.status() == psutil.STATUS_ZOMBIE else f"{found.create_time():.2f}"
    except psutil.Error:
        return None


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "?"


@cache
def _space() -> str:
    try:
        names = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        names = 0
    return hashlib.sha256(f"{platform.node()}:{names}".encode()).hexdigest()
