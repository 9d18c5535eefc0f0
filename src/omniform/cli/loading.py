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
from omniform.core.errors import RepoError, listed
from omniform.engine.calls import Reader
from omniform.hub.auto_inputs import AutoProcessor
from omniform.hub.checkpoint import load_as_saved
from omniform.hub.files import GGUF, locate
from omniform.hub.gguf.folder import shard_names
from omniform.hub.remote import together

PATIENCE = 1.0
"""Seconds of loading after which the user is told what is going on."""


def opened(name: str | os.PathLike[str], *, dtype: str, quantize: str | None = None) -> tuple[Model, Reader]:
    """A checkpoint's model, as the class that it was saved as, and its processor or tokenizer.

    Args:
        quantize: what its weights become as they are loaded; see :func:`loading_options`.

    Raises:
        OmniformError: there is no such checkpoint, or it cannot be loaded.
    """
    name, options = only_file(name), loading_options(dtype, quantize)
    with together():
        source = locate(name)
        if source.folder is None:
            source.need("config.json")  # what cannot be had is told before anybody waits
        with progress(f"loading {name}"):
            return load_as_saved(name, **options), cast(Reader, AutoProcessor.from_pretrained(name))


def loading_options(dtype: str, quantize: str | None) -> dict[str, object]:
    """The keywords of ``from_pretrained`` that ``--dtype`` and ``--quantize`` stand for.

    Raises:
        InputError: there is no such target, or it learns from texts, for which ``omniform quantize`` is.
    """
    if quantize is None:
        return {"dtype": dtype}
    from omniform.export.quantizing import on_loading

    return on_loading(quantize, dtype)


def only_file(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The one GGUF file of a folder that holds no other checkpoint; any other name as it is.

    Raises:
        RepoError: there are several.
    """
    path = Path(name).expanduser()
    if not path.is_dir() or (path / "config.json").is_file():
        return name
    found = sorted(path.glob(f"*{GGUF}"))
    wholes = list(dict.fromkeys(shard_names(file.name)[0] for file in found))
    if len(wholes) > 1:
        raise RepoError(
            "the folder holds several models", where=str(path), found=listed(wholes), remedy="Name one of the files."
        )
    return path / wholes[0] if wholes else name


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
