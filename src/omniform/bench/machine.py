"""What a measurement was made on, and with."""

from __future__ import annotations

import os
import platform
import socket
import sys
from functools import cache
from pathlib import Path
from typing import Final

from omniform.bench.nvml import Nvml

EXTENSIONS: Final = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Instructions that decide how fast numbers of few bits are."""


@cache
def facts() -> dict[str, object]:
    """Facts about this machine: ``cpu``, ``cores``, ``memory`` (bytes), ``gpu``, ``os``, ``host``, ``extensions``."""
    flags = _line("/proc/cpuinfo", "flags") or _line("/proc/cpuinfo", "Features")
    found: dict[str, object] = {
        "cpu": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory": memory(),
        "os": platform.platform(),
        "host": socket.gethostname(),
        "extensions": [name for name in EXTENSIONS if name in flags.split()],
    }
    gpus = Nvml.names()
    if gpus:
        found["gpu"] = gpus[0] if len(set(gpus)) == 1 and len(gpus) == 1 else ", ".join(gpus)
    return found


def cores() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory; 0 where that cannot be told."""
    words = _line("/proc/meminfo", "MemTotal").split()
    return int(words[0]) * 1024 if words else 0


def own_versions() -> dict[str, str]:
    """Versions of Python and of omniform here."""
    return {"python": platform.python_version(), "omniform": str(sys.modules["omniform"].__version__)}


def _line(path: str, name: str) -> str:
    """The value of a line ``name : value`` of one of Linux's own files; empty where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
