"""Finding the files of a checkpoint, in a folder or on the Hub (through huggingface_hub and its cache)."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from omniform.core.errors import ConfigError, InputError, RepoError
from omniform.hub.kept import Asked, folder_named
from omniform.hub.lock import pinned
from omniform.hub.remote import Remote, remote
from omniform.hub.used import used

if TYPE_CHECKING:  # which builds tokenizers: not for those who name no such file
    from omniform.hub.gguf.folder import GgufFolder

GGUF = ".gguf"
"""The end of the names of files that are a whole checkpoint each."""

Name = str | os.PathLike[str]

LARGEST_JSON = 64 * 2**20
"""Configs, indices and templates beyond this many bytes are refused."""

DEEPEST_JSON = 100
"""Objects and lists within one another beyond this many are refused: what walks a config may recurse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a checkpoint's files are.

    Attributes:
        name: what the user asked for: a folder or a Hub id.
        folder: the local folder; None for the Hub.
        revision: branch, tag or commit on the Hub.
        subfolder: folder inside the repository.
        remote: the repository on the Hub; None for folders.
        gguf: the one file that is the checkpoint, in the folder or in the repository; None where all files are.
    """

    name: str
    folder: Path | None = None
    revision: str | None = None
    subfolder: str = ""
    remote: Remote | None = None
    gguf: str | None = None

    def whole(self) -> GgufFolder | None:
        """What the one file holds that is the checkpoint; None where all files are.

        Raises:
            RepoError: there is no such file.
            WeightsError: it is damaged.
        """
        if self.gguf is None:
            return None
        from omniform.hub.gguf.folder import opened, shard_names

        plain = replace(self, gguf=None)
        return opened(plain.fetch(shard_names(self.gguf))[self.gguf])

    @property
    def commit(self) -> str | None:
        """The commit that the files come from; None for folders, and where nothing is cached and nobody can be asked.

        Raises:
            RepoError: there is no such repository or revision, or it may not be read.
        """
        return None if self.remote is None else self.remote.commit(self.path_of("config.json"))

    def places(self) -> dict[str, object]:
        """The keywords that find the same repository again; of a folder, none that matters."""
        one: dict[str, object] = {} if self.gguf is None else {"gguf_file": self.gguf}
        if self.remote is None:
            return {"revision": self.revision, **one}
        asked = self.remote.asked
        return {
            "revision": asked.revision, "token": asked.token, "cache_dir": asked.cache_dir,
            "local_files_only": asked.local_files_only, "force_download": asked.force_download, **one,
        }  # fmt: skip

    def listing(self) -> frozenset[str]:
        """The names of all files in the subfolder, those in folders of it included (``"code/model.py"``).

        One request for each load of a repository; where the Hub cannot be asked, what is cached.

        Raises:
            RepoError: as :attr:`commit`.
        """
        if (whole := self.whole()) is not None:
            return whole.names
        if self.remote is not None:
            inside = self.path_of("")
            self.remote.commit(f"{inside}config.json")
            return frozenset(name.removeprefix(inside) for name in self.remote.listing() if name.startswith(inside))
        assert self.folder is not None
        top = self.folder / self.subfolder
        return frozenset(path.relative_to(top).as_posix() for path in top.rglob("*") if _is(path.is_file))

    def find(self, filename: str) -> Path | None:
        """The local path of a file, fetched if it has to be; None if the checkpoint has no such file.

        Raises:
            RepoError: the folder or repository does not exist or cannot be reached.
        """
        if (whole := self.whole()) is not None:
            return whole.find(filename)
        if self.remote is not None:
            path = self.remote.path(self.path_of(filename))
        else:
            path = self._local(filename)
        if path is not None:
            used(self, filename, path)
        return path

    def has(self, filename: str) -> bool:
        """Whether there is such a file; nothing is fetched. Raises as :meth:`find`."""
        if (whole := self.whole()) is not None:
            return filename in whole.names
        if self.remote is not None:
            return self.remote.has(self.path_of(filename))
        return self._local(filename) is not None

    def inside(self, folder: str, ending: str) -> list[str]:
        """The names of the files in a folder of it that end like this, fetched or not. Raises as :meth:`find`.

        Of a commit that is cached with this folder, or known to have none, the Hub is not asked.
        """
        if self.gguf is not None:
            return []
        if self.remote is not None:
            top = self.path_of(f"{folder}/")
            return sorted(
                n[len(top) :] for n in self.remote.folder(top) if n.endswith(ending) and "/" not in n[len(top) :]
            )
        assert self.folder is not None
        found = (self.folder / self.subfolder / folder).glob(f"*{ending}")
        return sorted(path.name for path in found)

    def need(self, filename: str) -> Path:
        """The local path of a file that must be there."""
        path = self.find(filename)
        if path is None:
            raise self.lacks(f"there is no {filename}", remedy="Is this a checkpoint's folder?")
        return path

    def files(self, filenames: Sequence[str]) -> dict[str, Path]:
        """Those of the named files that exist, fetched side by side. Raises as :meth:`find`."""
        if (whole := self.whole()) is not None:
            return {name: path for name in filenames if (path := whole.find(name)) is not None}
        if self.remote is not None:
            fetched = self.remote.paths([self.path_of(name) for name in filenames])
            found = {name: fetched[inside] for name in filenames if (inside := self.path_of(name)) in fetched}
        else:
            found = {name: path for name in filenames if (path := self._local(name)) is not None}
        for name, path in found.items():
            used(self, name, path)
        return found

    def fetch(self, filenames: Sequence[str]) -> dict[str, Path]:
        """The named files, side by side.

        Raises:
            RepoError: one does not exist, or as :meth:`find`.
        """
        found = self.files(filenames)
        for name in filenames:
            if name not in found:
                raise self.lacks(f"there is no {name}")
        return found

    def gathered(self, names: Sequence[str]) -> dict[str, Path]:
        """Those of the named files that exist; all files of a folder, where its name ends with ``/``."""
        inside = [f"{name}{file}" for name in names if name.endswith("/") for file in self.inside(name[:-1], "")]
        return self.files([*(name for name in names if not name.endswith("/")), *inside]) if names else {}

    def peek(self, filename: str, start: int, stop: int) -> bytes:
        """Some bytes of a file, by one ranged request or from disk; fewer where the file ends before.

        Raises:
            RepoError: there is no such file, or as :meth:`find`.
        """
        if self.remote is not None and self.gguf is None:
            held = self.remote.peek(self.path_of(filename), start, stop)
            used(self, filename, None)
            return held
        path = self.need(filename)
        try:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        except OSError as error:
            raise RepoError("the file cannot be read", where=str(path), found=error.strerror) from error

    def size(self, filename: str) -> int:
        """The bytes of a file. Raises as :meth:`peek`."""
        if self.remote is not None and self.gguf is None:
            return self.remote.size(self.path_of(filename))
        return self.need(filename).stat().st_size

    def lacks(self, problem: str, *, expected: str | None = None, remedy: str | None = None) -> RepoError:
        """The error for files that are not there, with what is."""
        names: list[str] | None = None
        if (whole := self.whole()) is not None:
            names = sorted(whole.names)
        elif self.folder is not None:
            with contextlib.suppress(OSError):
                names = sorted(path.name for path in (self.folder / self.subfolder).iterdir())
        elif self.remote is not None and self.remote.listed is not None:
            names = sorted(self.listing())
        elif self.remote is not None and self.remote.is_offline:
            remedy = "The Hub was not asked; it may have it."
        found = None if names is None else f"{', '.join(names[:12])}{', ...' * (len(names) > 12)}" or "an empty folder"
        return RepoError(problem, where=self._where(), expected=expected, found=found, remedy=remedy)

    def _where(self) -> str:
        revision = "" if self.revision is None else f" ({self.revision})"
        if self.gguf is not None and not self.name.endswith(self.gguf):
            return f"{self.name}{revision}, {self.gguf}"
        return f"{self.name}{revision}{f', {self.subfolder}' if self.subfolder else ''}"

    def path_of(self, filename: str) -> str:
        """A file's name in the repository, the subfolder included; it has one spelling: ``./part/`` is ``part``."""
        folder = posixpath.normpath(self.subfolder.replace(os.sep, "/")) if self.subfolder else "."
        return filename if folder == "." else f"{folder}/{filename}"

    def _local(self, filename: str) -> Path | None:
        assert self.folder is not None
        path = self.folder / self.subfolder / filename
        if _is(path.is_file):
            return path
        if filename == "config.json" and _is(path.with_name("params.json").is_file):
            from omniform.hub.consolidated import native_config

            return native_config(path.parent)
        return None


def locate(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    gguf_file: str | None = None,
) -> Source:
    """The source that ``name`` means: a folder if one exists, a file that is a whole checkpoint, else a Hub id.

    Args:
        gguf_file: the one file in it that is the checkpoint.

    Raises:
        RepoError: it looks like a path and nothing is there; the run is frozen, and this is not locked.
        InputError: it is no name at all.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InputError("this names no checkpoint", expected="a folder or a Hub id", found=repr(name))
    text = os.fspath(name)
    path = Path(os.path.expanduser(text))
    one = _one_file(gguf_file)
    if _is(path.is_dir):
        return Source(name=text, folder=path, subfolder=subfolder, gguf=one)
    if _is(path.is_file) and path.suffix.lower() == GGUF and one in (None, path.name):
        return Source(name=text, folder=path.parent, gguf=path.name)
    if _is(path.is_file) and path.suffix == ".json":
        return Source(name=text, folder=path.parent, subfolder=subfolder)
    exists = _is(path.exists)
    if path.suffix.lower() == GGUF and not exists:
        raise RepoError("there is no such file", where=text)
    if not text or exists or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise RepoError(
            "this is a file, not a checkpoint's folder" if exists else "there is no such folder",
            where=text or "(an empty name)",
        )
    revision = pinned(text, revision)
    asked = Asked(
        name=text,
        revision=revision,
        token=token,
        cache_dir=folder_named(cache_dir),
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return Source(name=text, revision=revision, subfolder=subfolder, remote=remote(asked), gguf=one)


def _one_file(name: object) -> str | None:
    if name is None:
        return None
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise InputError("this names no file", where="gguf_file", expected="a file's name", found=repr(name))
    text = str(os.fspath(name))
    if os.path.isabs(text) or ".." in Path(text).parts:
        raise InputError("no file inside the checkpoint", where="gguf_file", expected="a relative path", found=text)
    return text


def _is(test: Callable[[], bool]) -> bool:
    # A name that is too long for the file system, or a folder that may not be entered, names nothing here.
    try:
        return test()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file.

    Raises:
        ConfigError: it is not UTF-8, not JSON, not an object, or absurdly large.
    """
    value = _read_value(path)
    if not isinstance(value, dict):
        raise ConfigError("the file holds no JSON object", where=str(path), found=type(value).__name__)
    return value


def read_json_list(path: Path) -> list[object]:
    """A JSON list from a file; raises as :func:`read_json`."""
    value = _read_value(path)
    if not isinstance(value, list):
        raise ConfigError("the file holds no JSON list", where=str(path), found=type(value).__name__)
    return value


def _read_value(path: Path) -> object:
    where = str(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise ConfigError(
                "the file is absurdly large", where=where, expected=f"up to {LARGEST_JSON} bytes", found=f"{size} bytes"
            )
        value: object = json.loads(path.read_bytes())
    except OSError as error:
        raise RepoError("the file cannot be read", where=where, found=error.strerror) from error
    except (ValueError, RecursionError) as error:
        found = str(error) if not isinstance(error, UnicodeDecodeError) else "bytes that are not UTF-8"
        raise ConfigError("the file is not JSON", where=where, found=found) from None
    if isinstance(value, (dict, list)) and _deeper(value, DEEPEST_JSON):
        raise ConfigError("the file is nested absurdly deep", where=where, expected=f"at most {DEEPEST_JSON} levels")
    return value


def _deeper(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        inner = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [child for children in inner for child in children]
    return bool(level)
