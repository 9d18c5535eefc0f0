"""What the user has said may run: ``$HF_HOME/omniform/trust.json``, with the texts that were accepted beside it."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

from omniform.core.errors import ConfigError, brief
from omniform.hub.code.closure import File, digest_of, digests
from omniform.hub.code.copies import hf_home
from omniform.hub.code.imports import legible
from omniform.hub.files import read_json

log = logging.getLogger("omniform")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Files that the user has accepted.

    Attributes:
        files: the digest of each by its path.
        commit: which commit they were first seen in; empty for a folder.
        date: when they were accepted, in UTC.
    """

    files: Mapping[str, str]
    commit: str = ""
    date: str = ""

    @property
    def digest(self) -> str:
        """One digest of all."""
        return digest_of(self.files)

    def holds(self, files: Mapping[str, str]) -> bool:
        """Whether all these files are among them, unchanged."""
        return all(self.files.get(path) == sha256 for path, sha256 in files.items())


_SESSION: dict[str, list[Accepted]] = {}
"""What was accepted where the store cannot be written: it holds for this process."""


def store() -> Path:
    """The file of what was accepted. What another user has accepted, in a home that is shared, is not one's own."""
    path = hf_home() / "omniform" / "trust.json"
    try:
        owner = path.stat().st_uid
    except OSError:
        return path
    return path if owner in (0, os.geteuid()) else path.with_name(f"trust.{os.geteuid()}.json")


def accepted(key: str) -> list[Accepted]:
    """The versions of a repository's code that were accepted, the latest last."""
    return [*_read().get(key, []), *_SESSION.get(key, [])]


def everything() -> dict[str, list[Accepted]]:
    """All that was accepted, by repository or folder."""
    return {key: accepted(key) for key in sorted({*_read(), *_SESSION})}


def accept(key: str, files: Iterable[File], commit: str) -> Accepted:
    """Remember files as accepted."""
    texts = list(files)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    said = Accepted(digests(texts), commit, now)
    try:
        for file in texts:
            _keep(file)
        with _locked():
            known = _read()
            before = [one for one in known.get(key, []) if not said.holds(one.files) or one.commit != commit]
            known[key] = [*before, said]
            _write(known)
    except OSError as error:
        log.warning("%s: it is not remembered what you accept: %s", store(), error.strerror)
        _SESSION.setdefault(key, []).append(said)
    return said


def forget(key: str) -> bool:
    """Take back what was accepted of a repository; whether there was anything.

    Raises:
        ConfigError: the store cannot be written.
    """
    there = bool(_SESSION.pop(key, None))
    if key not in _read():
        return there
    try:
        with _locked():
            known = _read()
            there |= known.pop(key, None) is not None
            _write(known)
    except OSError as error:
        raise ConfigError("the file cannot be written", where=str(store()), found=error.strerror) from error
    return there


def text_of(sha256: str) -> str | None:
    """The text of a file that was accepted; None where it is not kept."""
    import hashlib

    path = store().parent / "code" / sha256
    try:
        text = path.read_bytes()
    except OSError:
        return None
    return legible(text) if hashlib.sha256(text).hexdigest() == sha256 else None


def _keep(file: File) -> None:
    path = store().parent / "code" / file.sha256
    if not path.exists():
        _replace(path, file.text)


def _locked() -> AbstractContextManager[object]:
    from filelock import FileLock

    store().parent.mkdir(parents=True, exist_ok=True)
    return FileLock(store().with_suffix(".lock"))


def _read() -> dict[str, list[Accepted]]:
    path = store()
    try:
        if not path.exists():
            return {}
        raw = read_json(path).get("repositories")
        return {key: [_one(one) for one in found] for key, found in cast("dict[str, list[object]]", raw).items()}
    except (ConfigError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise ConfigError(
            "the record of what you trust is damaged",
            where=str(path),
            found=brief(error),
            remedy="Delete it; you will be asked again.",
        ) from error


def _one(raw: object) -> Accepted:
    said = cast("dict[str, object]", raw)
    files = cast("dict[str, object]", said["files"])
    if not files or not all(isinstance(sha, str) and re.fullmatch("[0-9a-f]{64}", sha) for sha in files.values()):
        raise ValueError("digests that are none")
    return Accepted(cast("dict[str, str]", files), str(said["commit"]), str(said["date"]))


def _write(known: Mapping[str, list[Accepted]]) -> None:
    raw = {
        key: [{"digest": one.digest, "commit": one.commit, "date": one.date, "files": dict(one.files)} for one in found]
        for key, found in known.items()
    }
    _replace(store(), json.dumps({"version": 1, "repositories": raw}, indent=1).encode())


def _replace(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        staging.write_bytes(text)
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
