"""The weights files of a checkpoint as one mapping of keys to tensors: one file or many, safetensors or ``.bin``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from omniform.core.errors import RepoError, WeightsError
from omniform.hub.files import Source, read_json
from omniform.weights.safetensors import Entry, Header, map_tensors, read_header

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"

Kind = Literal["safetensors", "bin"]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """A checkpoint's weights files, found and (for safetensors) their headers checked; no data read yet.

    Attributes:
        headers: every safetensors file and its header.
        pickles: every ``.bin`` file.
        index: for sharded checkpoints, which file should hold which key; empty for a single file.
        given: tensors that were handed over instead of files.
    """

    headers: Mapping[Path, Header]
    pickles: tuple[Path, ...] = ()
    index: Mapping[str, str] | None = None
    given: Mapping[str, Tensor] | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.headers, *self.pickles)

    def is_mapped(self, key: str) -> bool:
        """Whether a tensor is used where it lies in its file; otherwise it is read into memory as the file is."""
        if self.headers:
            found = next(h.entries[key] for h in self.headers.values() if key in h.entries)
            return found.start % found.dtype.itemsize == 0 and found.nbytes > 0
        return all(_is_zip(path) for path in self.pickles)

    def described(self) -> Mapping[str, Entry | Tensor]:
        """The dtype and shape of every tensor by key. Of safetensors only the headers are looked at.

        The header of a ``.bin`` file is its pickle, so its tensors are mapped, and only old ones, of before 2020, read.
        """
        if self.headers:
            return {key: entry for header in self.headers.values() for key, entry in header.entries.items()}
        return self.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by key. Safetensors are views of mapped memory; ``.bin`` goes through the weights-only loader.

        Raises:
            WeightsError: a file is damaged, or lacks a tensor that the index promises.
        """
        if self.given is not None:
            return dict(self.given)
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


def find_weights(source: Source, *, variant: str | None = None, use_safetensors: bool | None = None) -> WeightFiles:
    """The weights files of a checkpoint, safetensors first.

    Args:
        variant: the word in the files' names (``"fp16"``: ``model.fp16.safetensors``); None for plain names.
        use_safetensors: True for safetensors and nothing else, False for ``.bin`` and nothing else.

    Raises:
        RepoError: there are none, or a shard is missing.
        WeightsError: a safetensors header is damaged.
    """
    names: dict[str, Kind] = {SAFETENSORS: "safetensors", PICKLE: "bin"}
    wanted = {n: k for n, k in names.items() if use_safetensors is None or (k == "safetensors") == use_safetensors}
    looked = []
    for name, kind in wanted.items():
        single, index = with_variant(name, variant), with_variant(f"{name}.index.json", variant)
        path = source.find(single)
        if path is not None:
            return _files([path], kind, None)
        listing = source.find(index)
        if listing is not None:
            return _sharded(source, listing, kind)
        looked += [single, index]
    remedy = None
    if variant is not None or use_safetensors is not None:
        remedy = "Is there another variant, or another kind of file (use_safetensors=None)?"
    raise RepoError("there are no weights", where=source.name, expected=" or ".join(looked), remedy=remedy)


def with_variant(name: str, variant: str | None) -> str:
    """A file's name with a variant's word in it: ``model.fp16.safetensors``, ``model.safetensors.index.fp16.json``."""
    head, _, tail = name.rpartition(".")
    return name if variant is None else f"{head}.{variant}.{tail}"


def _sharded(source: Source, listing: Path, kind: Kind) -> WeightFiles:
    index = read_json(listing).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
        raise WeightsError("the index has no weight_map of keys to file names", where=str(listing))
    paths = []
    for name in sorted(set(index.values())):
        if Path(name).name != name:
            raise WeightsError("the index names a file outside the checkpoint", where=str(listing), found=repr(name))
        path = source.find(name)
        if path is None:
            raise RepoError("a shard is missing", where=source.name, expected=name, remedy="Download it again.")
        paths.append(path)
    return _files(paths, kind, index)


def _files(paths: list[Path], kind: Kind, index: Mapping[str, str] | None) -> WeightFiles:
    if kind == "safetensors":
        return WeightFiles({path: read_header(path) for path in paths}, index=index)
    return WeightFiles({}, tuple(paths), index)


def _load_pickle(path: Path) -> dict[str, Tensor]:
    # weights_only: the pickle may build tensors and containers and nothing else, so no code of the file's runs.
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises whatever its unpickler met
        raise WeightsError(
            "the file cannot be loaded by the weights-only loader",
            where=str(path),
            found=str(error).split("\n")[0][:200],
            remedy="It is damaged, or holds more than tensors; such files are never run.",
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, dict) or not all(isinstance(k, str) for k in loaded):
        raise WeightsError("the file holds no mapping of names to tensors", where=str(path))
    return {key: tensor for key, tensor in loaded.items() if isinstance(tensor, Tensor)}


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"
