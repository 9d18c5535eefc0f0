"""A GGUF file as the folder that it stands for: ``config.json``, a tokenizer's files, and the weights by their keys."""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Final

from omniform.core.errors import RepoError, WeightsError
from omniform.hub.gguf.config import architecture_of, check_tensors, config_of, settings_of
from omniform.hub.gguf.facts import Facts
from omniform.hub.gguf.vocabulary import tokenizer_config, tokenizer_json
from omniform.hub.gguf.weights import GgufWeights
from omniform.weights.gguf.reader import GgufFile, read_gguf

ENDING: Final = ".gguf"
_SHARD: Final = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class GgufFolder:
    """What a model's GGUF file holds, as the files of a checkpoint.

    The files are written when they are asked for, into a folder of this process that goes when it ends.

    Args:
        paths: the file, or all files that a model was split into, in their order.

    Raises:
        WeightsError: one is damaged, or they are no parts of one model.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        files = tuple(read_gguf(path) for path in paths)
        _check_shards(files)
        self.facts = Facts(files)
        self._folder: Path | None = None

    @cached_property
    def config(self) -> Mapping[str, object]:
        """What ``config.json`` holds."""
        config = config_of(self.facts)
        check_tensors(self.facts, config)
        return config

    def weights(self) -> GgufWeights:
        """The tensors by the checkpoint's keys."""
        return GgufWeights(self.facts, architecture_of(self.facts))

    @property
    def names(self) -> frozenset[str]:
        """The names of the files."""
        return frozenset(self._writers)

    def find(self, name: str) -> Path | None:
        """A file, written if it is not there yet; None if there is none of this name."""
        writer = self._writers.get(name)
        if writer is None:
            return None
        path = self._made() / name
        if not path.is_file():
            text = writer()
            part = path.with_name(f"{name}.part")
            try:
                part.write_text(text, encoding="utf-8")
                part.replace(path)
            except OSError as error:
                raise RepoError("no file can be written here", where=str(path), found=error.strerror) from error
        return path

    @cached_property
    def _writers(self) -> Mapping[str, Callable[[], str]]:
        facts = self.facts
        found: dict[str, Callable[[], str]] = {
            "config.json": lambda: _json(self.config),
            "generation_config.json": lambda: _json(settings_of(facts)),
        }
        if "tokenizer.ggml.tokens" in facts.metadata:
            found["tokenizer.json"] = lambda: tokenizer_json(facts)
            found["tokenizer_config.json"] = lambda: _json(tokenizer_config(facts))
        return found

    def _made(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="omniform-gguf-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def opened(path: Path) -> GgufFolder:
    """A model's file, or the first of those that it was split into; read once while it stays the same.

    Raises:
        RepoError: it cannot be read, or a part is missing.
        WeightsError: it is damaged.
    """
    paths = _shards(path)
    try:
        stats = [one.stat() for one in paths]
    except OSError as error:
        raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error
    return _opened(paths, tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats))


@lru_cache(maxsize=4)
def _opened(paths: tuple[Path, ...], state: object) -> GgufFolder:
    return GgufFolder(paths)


def shard_names(name: str) -> list[str]:
    """The names of all files that a model was split into, given one; of a whole one its own."""
    found = _SHARD.search(name)
    if found is None:
        return [name]
    count = int(found[2])
    return [f"{name[: found.start()]}-{number:05d}-of-{count:05d}{ENDING}" for number in range(1, count + 1)]


def _shards(path: Path) -> tuple[Path, ...]:
    names = shard_names(path.name)
    for name in names:
        if not path.with_name(name).is_file():
            raise RepoError("a part of the model is missing", where=str(path.parent), expected=name)
    return tuple(path.with_name(name) for name in names)


def _check_shards(files: tuple[GgufFile, ...]) -> None:
    seen: dict[str, Path] = {}
    for number, file in enumerate(files):
        count = file.metadata.get("split.count", 1)
        if (count or 1) != len(files) or file.metadata.get("split.no", 0) != number:
            raise WeightsError(
                "this is not the part of a model that its name says",
                where=str(file.path),
                expected=f"part {number} of {len(files)}",
                found=f"part {file.metadata.get('split.no', 0)} of {count}",
            )
        for name in file.tensors:
            if name in seen:
                raise WeightsError(f"tensor {name!r} is in two files", where=str(file.path), found=str(seen[name]))
            seen[name] = file.path
