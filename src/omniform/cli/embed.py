"""``omniform embed``."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from omniform.cli.loading import progress
from omniform.cli.written import replaced, target_of
from omniform.core.errors import InputError, RepoError
from omniform.embeddings.embedder import Embedder

STDIN: Final = "-"
STDOUT: Final = "-"

AT_ONCE: Final = 4096
"""So many vectors are held before they are written."""

FORMATS: Final = (".jsonl", ".npy")

Vectors = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Item:
    """A text and where it is from: a file, and the number of its line where lines are embedded one by one."""

    text: str
    file: str
    line: int | None = None

    def named(self) -> dict[str, object]:
        """Where it is from, for people and programs."""
        return {"file": self.file} if self.line is None else {"file": self.file, "line": self.line}


def embed_command(
    files: Sequence[str],
    name: str,
    *,
    prompt: str | None,
    prompt_name: str | None,
    output: str,
    dim: int | None,
    normalize: bool,
    by_line: bool,
    batch_size: int,
    dtype: str,
) -> None:
    """Read all texts, load the model, write a vector for each; what is wrong is told before anything is written.

    Args:
        files: names of text files, ``-`` for standard input.
        name: the model.
        prompt, prompt_name, batch_size: as for :meth:`Embedder.encode`.
        output: ``-`` for JSON lines on standard output, or a file, ``.jsonl`` or ``.npy``.
        dim: so many numbers of each vector.
        normalize: whether vectors get the length 1.
        by_line: a vector for each line that is not empty, instead of one for each file.
        dtype: what it is computed with.
    """
    check_output(output)
    items = [item for file in files for item in _items(file, by_line)]
    if not items:
        raise InputError("there is nothing to embed", where=", ".join(files)[:200], expected="lines of text")
    with progress(f"loading {name}"):
        model = Embedder(name, model_kwargs={"dtype": dtype})
    texts = [item.text for item in items]

    def vectors() -> Iterator[Vectors]:
        for start in range(0, len(texts), AT_ONCE):
            some: object = texts[start : start + AT_ONCE]
            yield cast(Vectors, model.encode(
                some, prompt_name, prompt=prompt, batch_size=batch_size, normalize_embeddings=normalize,
                truncate_dim=dim,
            ))  # fmt: skip

    found = vectors()
    first = next(found)  # a mistake is told by now, in its one line
    if output == STDOUT:
        _write_lines(sys.stdout.buffer, items, first, found)
        return
    with replaced(Path(os.path.expanduser(output))) as file:
        if output.endswith(".npy"):
            _write_array(file, len(items), first, found)
        else:
            _write_lines(file, items, first, found)


def check_output(output: str) -> None:
    """Refuse what could not be written, before anybody waits."""
    if output == STDOUT:
        return
    target_of(output, FORMATS, where="--output", what="vectors")


def _items(file: str, by_line: bool) -> Iterator[Item]:
    try:
        raw = sys.stdin.buffer.read() if file == STDIN else Path(os.path.expanduser(file)).read_bytes()
    except OSError as error:
        raise RepoError("the file cannot be read", where=file, found=error.strerror) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is none"
        raise InputError("the file is not UTF-8 text", where=file, found=found) from None
    if not by_line:
        yield Item(text, file)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield Item(line.rstrip("\r"), file, number)


def _write_lines(file: BinaryIO, items: Sequence[Item], first: Vectors, rest: Iterator[Vectors]) -> None:
    left = iter(items)
    for vectors in itertools.chain((first,), rest):
        for vector, item in zip(vectors, left, strict=False):
            # The fewest digits that mean the same number, which a float64 would write out to the last.
            numbers = [float(str(number)) for number in vector]
            file.write(json.dumps({**item.named(), "embedding": numbers}, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _write_array(file: BinaryIO, many: int, first: Vectors, rest: Iterator[Vectors]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False,
              "shape": (many, first.shape[1])}  # fmt: skip
    np.lib.format.write_array_header_1_0(file, header)
    file.write(np.ascontiguousarray(first).tobytes())
    for some in rest:
        file.write(np.ascontiguousarray(some).tobytes())
