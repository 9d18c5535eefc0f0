"""What a measurement was made on, and with."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "omniform",
    "transformers",
    "torch",
    "tokenizers",
    "safetensors",
    "numpy",
    "llama-cpp-python",
    "ik-llama-cpp-python",
)
# Instructions that decide how fast bfloat16 is.
EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def machine(device: str) -> dict[str, Any]:
    """The processor, the memory, the accelerator if one is used, and how busy all is before the start."""
    described: dict[str, Any] = {
        "system": platform.platform(),
        "cpu": _from("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu_family_model": f"{_from('/proc/cpuinfo', 'cpu family')}/{_from('/proc/cpuinfo', 'model')}",
        "cpu_extensions": [name for name in EXTENSIONS if name in _from("/proc/cpuinfo", "flags").split()],
        "cores": os.cpu_count(),
        "memory": _from("/proc/meminfo", "MemTotal"),
        "load_average": os.getloadavg()[0],
    }
    if device != "cpu":
        import torch

        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
    return described


def kind() -> str:
    """Which aims hold here: ``avx512`` for AVX-512 with instructions for bfloat16, ``avx2`` for AVX2 and no AVX-512."""
    extensions = _from("/proc/cpuinfo", "flags").split()
    if "avx512_bf16" in extensions:
        return "avx512"
    return "avx2" if "avx2" in extensions and "avx512f" not in extensions else ""


def _from(path: str, name: str) -> str:
    """The value of a line ``name : value`` of one of Linux's own files; empty where there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def software() -> dict[str, str | None]:
    """Versions of Python and of the packages that matter; None for those that are not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str:
    """The checkout's commit, marked where files differ from it; ``unknown`` outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def today() -> str:
    """The date and the time, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
