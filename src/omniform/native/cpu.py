"""Which compiled variant a processor can run."""

from __future__ import annotations

import ctypes
import enum
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

LIB = Path(__file__).resolve().parent / "lib"
"""Where the compiled variants lie."""


class Cpu(enum.IntFlag):
    """What a processor can do: ``native/cpu.h``."""

    V3 = 1
    AVX_VNNI = 2
    V4 = 4
    V4_VNNI = 8
    V4_BF16 = 16
    AMX = 32
    NEON = 256
    DOTPROD = 512
    I8MM = 1024
    BF16 = 2048


NEEDS: dict[str, Cpu] = {
    "amx": Cpu.V4 | Cpu.V4_VNNI | Cpu.V4_BF16 | Cpu.AMX,
    "v4-bf16": Cpu.V4 | Cpu.V4_VNNI | Cpu.V4_BF16,
    "v4": Cpu.V4,
    "v3-vnni": Cpu.V3 | Cpu.AVX_VNNI,
    "v3": Cpu.V3,
    "neon-bf16": Cpu.NEON | Cpu.DOTPROD | Cpu.I8MM | Cpu.BF16,
    "neon": Cpu.NEON,
}
"""The variants, the best first, and what each is compiled for."""


def path_of(name: str) -> Path:
    """The shared object of a variant, or of ``cpu``, which asks the processor."""
    return LIB / f"omniform_{name}{'.dylib' if sys.platform == 'darwin' else '.so'}"


def features() -> Cpu:
    """What this processor can do, as it says itself; nothing where the object that asks is not there.

    Raises:
        OSError: the object is there and cannot be loaded.
    """
    path = path_of("cpu")
    if not path.is_file():
        return Cpu(0)
    ask = opened(path).of_cpu_features
    ask.restype = ctypes.c_uint32
    return Cpu(ask())


def opened(path: Path) -> ctypes.CDLL:
    """A shared object, loaded if it is there to its end: the system would map what is missing, and be killed by it.

    The last thing in an ELF file is the table of its sections, whose place and size stand in its first 64 bytes.

    Raises:
        OSError: it cannot be loaded.
    """
    with path.open("rb") as file:
        first = file.read(64)
    if sys.platform != "darwin":
        if len(first) < 64 or first[:4] != b"\x7fELF":
            raise OSError(f"{path}: not a shared object")
        (table,) = struct.unpack_from("<Q", first, 40)
        size, count = struct.unpack_from("<HH", first, 58)
        if path.stat().st_size < table + size * count:
            raise OSError(f"{path}: cut short")
    return ctypes.CDLL(str(path))


def available_threads() -> int:
    """How many threads of this process can run at once: its affinity, and what its cgroup is given."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return count if quota is None else max(1, min(count, quota))


def _quota(root: Path = Path("/")) -> int | None:
    """Whole processors that this process's control groups may use, rounded up; None where nothing bounds it.

    A group may use what it is given and what each group above it is given. Inside a container, where the names of
    groups may be those of the host, the groups that are not there are passed over.
    """
    shares = [share for group in _groups(root) if (share := _share(group)) is not None]
    return None if not shares else max(1, math.ceil(min(shares)))


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that bound this process's time, and of all above them; see cgroups(7)."""
    mounted = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/", "0:cpu:/"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for mount in ("", "unified") if not controllers else ("cpu", "cpu,cpuacct", "cpuacct,cpu"):
            for depth in range(len(parts), -1, -1):
                yield mounted.joinpath(mount, *parts[:depth])


def _share(group: Path) -> float | None:
    """Processors that one group is given; None where it says nothing, or what is no number."""
    try:
        if (group / "cpu.max").is_file():
            limit, period = (group / "cpu.max").read_text().split()
        else:
            limit, period = ((group / f"cpu.cfs_{each}_us").read_text() for each in ("quota", "period"))
        share = int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None
