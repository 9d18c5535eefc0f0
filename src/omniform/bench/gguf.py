"""A checkpoint as a GGUF file, for llama.cpp: made by omniform's own ``quantize``, and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from omniform.bench.config import BackendConfig
from omniform.bench.contender import ContenderError
from omniform.bench.made import cache_folder

IN_A_FILE: Final = "gguf:"
"""What a ``quantize`` begins with whose model is a GGUF file, of whichever backend."""

FLOATS: Final = {"auto": "BF16", "bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def gguf_of(model: str, backend: BackendConfig) -> str:
    """The file of a model in a backend's format, made where it is not there yet.

    Raises:
        ContenderError: it cannot be made.
    """
    if model.endswith(".gguf"):
        return model
    kind = (backend.quantize or "").removeprefix(IN_A_FILE) or FLOATS.get(backend.dtype, backend.dtype)
    folder = cache_folder() / "gguf"
    named = hashlib.sha256(f"{model} {changed(Path(model))}".encode()).hexdigest()[:16]
    file = folder / f"{named}-{kind}.gguf"
    if file.is_file():
        return str(file)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{file.stem}.{os.getpid()}.gguf"
    command = [sys.executable, "-m", "omniform", "quantize", model, "--to", f"gguf:{kind}", "--save", str(unfinished)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not unfinished.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        unfinished.unlink(missing_ok=True)
        raise ContenderError(f"no GGUF file can be made of {model}: {last}")
    os.replace(unfinished, file)
    return str(file)


def changed(path: Path) -> float:
    """When a checkpoint's files were last written to."""
    files = path.glob("*") if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
