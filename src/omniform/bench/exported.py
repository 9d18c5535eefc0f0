"""A checkpoint as an exported folder, for onnxruntime: made by omniform's own ``export``, and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from omniform.bench.config import BackendConfig
from omniform.bench.contender import ContenderError
from omniform.bench.gguf import changed
from omniform.bench.made import cache_folder

FLOATS: Final = {"auto": "fp32", "float32": "fp32", "float16": "fp16"}
"""What of ``dtype`` a graph can compute with, by the exporter's names."""


def onnx_of(model: str, backend: BackendConfig) -> str:
    """The exported folder of a model, made where it is not there yet; a folder of graphs, or a graph, as it is.

    Raises:
        ContenderError: it cannot be made.
    """
    path = Path(model).expanduser()
    if path.suffix == ".onnx" or any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx")):
        return model
    dtype = FLOATS.get(backend.dtype, backend.dtype)
    named = hashlib.sha256(f"{model} {changed(path)}".encode()).hexdigest()[:16]
    folder = cache_folder() / "onnx" / "-".join(filter(None, (named, dtype, backend.quantize)))
    if (folder / "certificate.json").is_file():
        return str(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "omniform", "export", model, str(unfinished), "--dtype", dtype]
    command += ["--quantize", backend.quantize] if backend.quantize else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0 or not (unfinished / "certificate.json").is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        shutil.rmtree(unfinished, ignore_errors=True)
        raise ContenderError(f"{model} cannot be exported to ONNX: {last}")
    try:
        unfinished.rename(folder)
    except OSError:  # somebody else was faster
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(folder)
