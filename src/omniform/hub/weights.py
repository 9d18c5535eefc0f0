"""The weights files of a checkpoint as one mapping of keys to tensors: one file or many, safetensors or ``.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from omniform.core.errors import WeightsError
from omniform.hub.consolidated import native_tensors
from omniform.hub.files import Source, read_json
from omniform.hub.old_quantized import old_weights
from omniform.hub.pickles import Pickle, look_into, tensors_in, unloadable
from omniform.weights.safetensors import Entry, Header, header_of, map_tensors, read_header

if TYPE_CHECKING:  # what knows every architecture of such files: not for those who name none
    from omniform.hub.gguf.weights import GgufEntry, GgufWeights

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

FIRST = 4096
"""Bytes that are read of a file on the Hub at first: many a header is no longer, and a second request fetches the rest.
"""

Kind = Literal["safetensors", "bin"]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """A checkpoint's weights files, found and (for safetensors) their headers checked; no data read yet.

    Attributes:
        headers: every safetensors file and its header.
        pickles: every ``.bin`` file.
        index: for sharded checkpoints, which file should hold which key; empty for a single file.
        given: tensors that were handed over instead of files.
        peeked: files that lie on the Hub and are only looked into; their paths are names there.
        gguf: the tensors of GGUF files, whose paths are ``singles``.
        singles: those files.
    """

    headers: Mapping[Path, Header]
    pickles: tuple[Path, ...] = ()
    index: Mapping[str, str] | None = None
    given: Mapping[str, Tensor] | None = None
    peeked: Peeked | None = None
    gguf: GgufWeights | None = None
    singles: tuple[Path, ...] = ()

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.headers, *self.pickles, *self.singles)

    @property
    def nbytes(self) -> int:
        """What all files take."""
        if self.peeked is not None:
            return sum(self.peeked.source.size(path.name) for path in self.paths)
        return sum(path.stat().st_size for path in self.paths)

    def is_mapped(self, key: str) -> bool:
        """Whether a tensor is used where it lies in its file; otherwise it is read into memory as the file is."""
        if self.gguf is not None:
            return self.gguf.is_mapped(key)
        if self.headers:
            found = next(h.entries[key] for h in self.headers.values() if key in h.entries)
            return found.start % found.dtype.itemsize == 0 and found.nbytes > 0
        return self.peeked is not None or all(_is_zip(path) for path in self.pickles)

    def described(self) -> Mapping[str, Entry | GgufEntry | Tensor]:
        """The dtype and shape of every tensor by key. Of safetensors only the headers are looked at.

        The header of a ``.bin`` file is its pickle, so its tensors are mapped, and only old ones, of before 2020, read.
        """
        if self.gguf is not None:
            return self.gguf.entries
        if self.headers:
            return {key: entry for header in self.headers.values() for key, entry in header.entries.items()}
        if self.peeked is not None:
            return {key: entry for pickle in self.peeked.pickles for key, entry in pickle.entries.items()}
        return self.tensors()

    def is_alike(self, one: str, other: str) -> bool:
        """Whether two tensors look the same: of all their numbers, the middle row is read."""
        held = self.described()
        if tuple(held[one].shape) != tuple(held[other].shape):
            return False
        if self.peeked is not None and any(pickle.is_one(one, other) for pickle in self.peeked.pickles):
            return True
        if self.gguf is not None:
            return torch.equal(self.gguf[one], self.gguf[other])
        first, second = self._middle(one), self._middle(other)
        return first is None or second is None or torch.equal(first, second)

    def _middle(self, key: str) -> Tensor | None:
        """The middle row of a tensor; None where nobody can know where it lies."""
        if self.peeked is None and not self.headers:
            tensor = self.tensors()[key]
            return tensor[tensor.shape[0] // 2] if tensor.dim() else tensor
        if self.peeked is not None and self.pickles:
            name, entry = self.peeked.place(key)
        else:
            path, entry = next((p, h.entries[key]) for p, h in self.headers.items() if key in h.entries)
            name = path.name if self.peeked is not None else str(path)
        if entry is None:
            return None
        rows = entry.shape[0] if entry.shape else 1
        width = entry.nbytes // rows if rows else 0
        start = entry.start + rows // 2 * width
        if self.peeked is not None:
            data = self.peeked.source.peek(name, start, start + width)
        else:
            with open(name, "rb") as file:
                file.seek(start)
                data = file.read(width)
        return torch.frombuffer(bytearray(data), dtype=entry.dtype) if data else torch.empty(0, dtype=entry.dtype)

    def tensors(self, dtype: torch.dtype | None = None) -> Mapping[str, Tensor]:
        """All tensors by key. Safetensors are views of mapped memory; ``.bin`` goes through the weights-only loader;
        GGUF's are made one by one as they are asked for.

        Args:
            dtype: what numbers become that no tensor of torch's can hold as they lie in the file.

        Raises:
            WeightsError: a file is damaged, or lacks a tensor that the index promises.
        """
        assert self.peeked is None, "these files are only looked into"
        if self.given is not None:
            return dict(self.given)
        if self.gguf is not None:
            self.gguf.dtype = dtype or torch.float32
            return self.gguf
        merged: dict[str, Tensor] = {}
        held: dict[str, set[str]] = {}
        for path, header in self.headers.items():
            merged.update(map_tensors(path, header))
            held[path.name] = set(header.entries)
        for path in self.pickles:
            loaded = _load_pickle(path)
            merged.update(loaded)
            held[path.name] = set(loaded)
        for key, filename in (self.index or {}).items():
            if key not in held.get(filename, ()):
                raise WeightsError(
                    f"the index promises {key!r} in {filename}, which does not hold it",
                    where=filename,
                    remedy="Download the shard again.",
                )
        return merged


@dataclass(frozen=True, slots=True)
class Peeked:
    """Files on the Hub that are only looked into.

    Attributes:
        source: where they are.
        pickles: what the ``.bin`` files hold.
    """

    source: Source
    pickles: tuple[Pickle, ...] = ()

    def place(self, key: str) -> tuple[str, Entry | None]:
        """The file that holds a tensor, and where in it; None where that cannot be known."""
        pickle = next(pickle for pickle in self.pickles if key in pickle.entries)
        return pickle.name, pickle.placed(key)


def find_weights(
    source: Source, *, variant: str | None = None, use_safetensors: bool | None = None, peek: bool = False
) -> WeightFiles:
    """The weights files of a checkpoint, safetensors first.

    Args:
        peek: look into files on the Hub, headers and no more, instead of fetching them.
        variant: the word in the files' names (``"fp16"``: ``model.fp16.safetensors``); None for plain names.
        use_safetensors: True for safetensors and nothing else, False for ``.bin`` and nothing else.

    Raises:
        RepoError: there are none, or a shard is missing.
        WeightsError: a safetensors header is damaged.
    """
    whole = source.whole()
    if whole is not None:
        return WeightFiles({}, gguf=whole.weights(), singles=whole.paths)
    names: dict[str, Kind] = {SAFETENSORS: "safetensors", PICKLE: "bin"}
    wanted = {n: k for n, k in names.items() if use_safetensors is None or (k == "safetensors") == use_safetensors}
    looked = []
    for name, kind in wanted.items():
        single, index = with_variant(name, variant), with_variant(f"{name}.index.json", variant)
        if peek and source.remote is not None:
            if source.has(single):
                return _peeked(source, [single], kind, None)
        elif (path := source.find(single)) is not None:
            return _files([path], kind, None)
        listing = source.find(index)
        if listing is not None:
            return _sharded(source, listing, kind, peek=peek)
        looked += [single, index]
    old = None if variant is not None or use_safetensors is False else old_weights(source)
    if old is not None and peek and source.remote is not None:
        return _peeked(source, [old], "safetensors", None)
    if old is not None:
        return _files([source.need(old)], "safetensors", None)
    native = None if source.folder is None or variant is not None else native_tensors(source.folder / source.subfolder)
    if native is not None:
        return WeightFiles({}, given=native)
    remedy = None
    if variant is not None or use_safetensors is not None:
        remedy = "Is there another variant, or another kind of file (use_safetensors=None)?"
    raise source.lacks("there are no weights", expected=" or ".join(looked), remedy=remedy)


def with_variant(name: str, variant: str | None) -> str:
    """A file's name with a variant's word in it: ``model.fp16.safetensors``, ``model.safetensors.index.fp16.json``."""
    head, _, tail = name.rpartition(".")
    return name if variant is None else f"{head}.{variant}.{tail}"


def _sharded(source: Source, listing: Path, kind: Kind, *, peek: bool) -> WeightFiles:
    index = read_json(listing).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise WeightsError("the index has no weight_map of keys to file names", where=str(listing))
    names = sorted(set(index.values()))
    for name in names:
        if Path(name).name != name:
            raise WeightsError("the index names a file outside the checkpoint", where=str(listing), found=repr(name))
    is_remote = peek and source.remote is not None
    for name in names:  # before the others are fetched
        if not source.has(name):
            again = "Download it again." if source.remote is None else None
            raise source.lacks("a shard is missing", expected=name, remedy=again)
    found = {} if is_remote else source.fetch(names)
    if is_remote:
        return _peeked(source, names, kind, index)
    return _files([found[name] for name in names], kind, index)


def _peeked(source: Source, names: list[str], kind: Kind, index: Mapping[str, str] | None) -> WeightFiles:
    """The same, of files on the Hub: their headers are read by ranged requests, side by side."""
    if kind == "bin":
        pickles = tuple(look_into(source, name) for name in names)
        if not all(pickle is not None for pickle in pickles):  # of before 2020: their tensors lie between their words
            return _files(list(source.fetch(names).values()), kind, index)
        known = tuple(pickle for pickle in pickles if pickle is not None)
        return WeightFiles({}, tuple(Path(name) for name in names), index, peeked=Peeked(source, known))
    with ThreadPoolExecutor(8, "omniform-hub") as pool:
        headers = dict(zip(names, pool.map(partial(_header, source), names), strict=True))
    return WeightFiles({Path(name): header for name, header in headers.items()}, index=index, peeked=Peeked(source))


def _header(source: Source, name: str) -> Header:
    first = source.peek(name, 0, FIRST)

    def read(start: int, stop: int) -> bytes:
        if stop <= FIRST:
            return first[start:stop]
        return first[start:] + source.peek(name, FIRST, stop)

    return header_of(read, source.size(name), f"{source.name}: {name}")


def _files(paths: list[Path], kind: Kind, index: Mapping[str, str] | None) -> WeightFiles:
    if kind == "safetensors":
        return WeightFiles({path: read_header(path) for path in paths}, index=index)
    return WeightFiles({}, tuple(paths), index)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    # weights_only: the pickle may build tensors and containers and nothing else, so no code of the file's runs.
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises whatever its unpickler met
        raise unloadable(error, str(path)) from error
    return tensors_in(loaded, str(path))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
