"""Finding the files of a checkpoint, in a folder or on the Hub (through huggingface_hub and its cache)."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omniform.core.errors import ConfigError, InputError, RepoError

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
        token: access token, True for the stored one, False for none.
        cache_dir: where the Hub's files are kept; its standard place by default.
        local_files_only: never ask the network.
        force_download: fetch again what is cached.
        subfolder: folder inside the repository.
    """

    name: str
    folder: Path | None = None
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""

    def find(self, filename: str) -> Path | None:
        """The local path of a file; None if the checkpoint has no such file.

        Raises:
            RepoError: the folder or repository does not exist or cannot be reached.
        """
        if self.folder is not None:
            path = self.folder / self.subfolder / filename
            return path if _is(path.is_file) else None
        return self._download(filename)

    def need(self, filename: str) -> Path:
        """The local path of a file that must be there."""
        path = self.find(filename)
        if path is None:
            raise RepoError(f"there is no {filename}", where=self.name, remedy="Is this a checkpoint's folder?")
        return path

    def files(self, filenames: tuple[str, ...]) -> dict[str, Path]:
        """Those of the named files that exist."""
        found = ((name, self.find(name)) for name in filenames)
        return {name: path for name, path in found if path is not None}

    def _download(self, filename: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        try:
            path = hf_hub_download(
                self.name,
                filename,
                subfolder=self.subfolder or None,
                revision=self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only or not hub_answers(),
                force_download=self.force_download,
            )
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
            self._check_cached(filename, error)
            return None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError as error:
            raise RepoError(
                "the repository is gated", where=self.name, remedy="Accept its terms on the Hub, then pass token=..."
            ) from error
        except errors.RevisionNotFoundError as error:
            raise RepoError("there is no such revision", where=self.name, found=self.revision) from error
        except errors.RepositoryNotFoundError as error:
            raise self._missing() from error
        except Exception as error:  # whatever the transport beneath huggingface_hub raises, which differs by release
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise RepoError("the repository cannot be read", where=self.name, found=first) from error
        return Path(path)

    def _check_cached(self, filename: str, error: Exception) -> None:
        # A file known not to exist in a cached revision is simply absent; anything else is unknown while offline.
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        folder = f"{self.subfolder}/" if self.subfolder else ""
        cached, config = (
            try_to_load_from_cache(self.name, folder + name, cache_dir=self.cache_dir, revision=self.revision)
            for name in (filename, "config.json")
        )
        if cached is _CACHED_NO_EXIST or isinstance(config, str):
            return
        raise RepoError(
            "the Hub cannot be reached and the file is not cached",
            where=self.name,
            found=f"no {filename}",
            remedy="Check the name and the connection, or pass the path of a folder.",
        ) from error

    def _missing(self) -> RepoError:
        return RepoError(
            "there is no such folder here and no such repository on the Hub",
            where=self.name,
            remedy="Check the spelling; a private repository needs token=...",
        )


def hub_answers() -> bool:
    """Whether the Hub can be asked; what is found holds for a minute.

    huggingface_hub itself tries for minutes, file after file, and says so each time; here nobody waits for more than
    :data:`PATIENCE` seconds, and what is cached is used. True where it is not to be asked at all: then it says so.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    endpoint, now = constants.ENDPOINT, time.monotonic()
    with _ASKING:
        known = _ANSWERS.get(endpoint)
        if known is None or now - known[1] > 60:
            known = _ANSWERS[endpoint] = (_answers(endpoint), time.monotonic())
        return known[0]


PATIENCE = 6.0
"""Seconds after which a Hub that has not answered is taken to be out of reach."""

_ANSWERS: dict[str, tuple[bool, float]] = {}
_ASKING = threading.Lock()


def _answers(endpoint: str) -> bool:
    """Whether a server answers anything at all."""
    from huggingface_hub import get_session

    found: list[bool] = []

    def ask() -> None:
        # Whatever the transport beneath huggingface_hub raises, which differs by release, means no answer.
        with contextlib.suppress(Exception):
            get_session().head(endpoint, timeout=PATIENCE / 2)
            found.append(True)

    # Looking up a name has no time limit of its own, hence the thread.
    asking = threading.Thread(target=ask, name="omniform-hub", daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return bool(found)


def locate(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Source:
    """The source that ``name`` means: a folder if one exists, else a Hub id.

    Raises:
        RepoError: it looks like a path and nothing is there.
        InputError: it is no name at all.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InputError("this names no checkpoint", expected="a folder or a Hub id", found=repr(name))
    text = os.fspath(name)
    path = Path(os.path.expanduser(text))
    if _is(path.is_dir):
        return Source(name=text, folder=path, subfolder=subfolder)
    if _is(path.is_file) and path.suffix == ".json":
        return Source(name=text, folder=path.parent, subfolder=subfolder)
    exists = _is(path.exists)
    if not text or exists or text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text:
        raise RepoError(
            "this is a file, not a checkpoint's folder" if exists else "there is no such folder",
            where=text or "(an empty name)",
        )
    return Source(
        name=text,
        revision=revision,
        token=token,
        cache_dir=None if cache_dir is None else os.fspath(cache_dir),
        local_files_only=local_files_only,
        force_download=force_download,
        subfolder=subfolder,
    )


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
