"""What commands with a model begin with: find it, say what is being waited for, load it and its processor."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from omniform.architectures.model import Model
from omniform.core.errors import RepoError
from omniform.engine.calls import Reader
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import load_as_saved
from omniform.hub.files import locate
from omniform.hub.remote import together

PATIENCE = 1.0
"""Seconds of loading after which the user is told what is going on."""


def opened(name: str | os.PathLike[str], *, dtype: str) -> tuple[Model, Reader]:
    """A checkpoint's model, as the class that it was saved as, and its processor or tokenizer.

    Raises:
        OmniformError: there is no such checkpoint, or it cannot be loaded.
    """
    refuse_gguf(name)
    with together():
        source = locate(name)
        if source.folder is None:
            source.need("config.json")  # what cannot be had is told before anybody waits
        with progress(f"loading {name}"):
            return load_as_saved(name, dtype=dtype), cast(Reader, AutoProcessor.from_pretrained(name))


def refuse_gguf(name: str | os.PathLike[str]) -> None:
    """Say what to do about a GGUF file, or a folder that holds nothing else.

    Raises:
        RepoError: this is one.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        folder, file = path.parent, path.name
    elif path.is_dir() and not (path / "config.json").is_file() and (found := sorted(path.glob("*.gguf"))):
        folder, file = path, found[0].name
    else:
        return
    if not (folder / file).is_file():
        raise RepoError("no such file", where=str(path))
    made = f"{path.with_suffix('').name}-unpacked"
    loads = f"from_pretrained({str(folder)!r}, gguf_file={file!r})"
    raise RepoError(
        "GGUF files are not read yet",
        where=str(path),
        expected="a folder with config.json and safetensors",
        remedy="Unpack it once (pip install transformers gguf), then name the folder instead: python -c "
        f'"import transformers as t; t.AutoModelForCausalLM.{loads}.save_pretrained({made!r}); '
        f't.AutoTokenizer.{loads}.save_pretrained({made!r})"',
    )


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Say on stderr what is being waited for, once it has taken a while, and how long it took."""
    done = threading.Event()
    started = time.perf_counter()

    def watch() -> None:
        if not done.wait(PATIENCE):
            print(f"omniform: {what} ...", end="", file=sys.stderr, flush=True)
            while not done.wait(1.0):
                print(".", end="", file=sys.stderr, flush=True)
            print(f" {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
