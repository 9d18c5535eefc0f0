"""What the Hub's cache on this machine has of one repository, laid out as the client does.

``snapshots/COMMIT/NAME`` points to ``blobs/ETAG``; ``refs/BRANCH`` holds the commit that a branch had when it was last
asked for; an empty ``.no_exist/COMMIT/NAME`` says that there is no such file
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
"""

from __future__ import annotations

import logging
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Literal

from omniform.core.errors import InputError, brief
from omniform.hub import refusals

log = logging.getLogger("omniform")

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for; two loads that ask for the same may share what they find.

    Attributes:
        name: the repository.
        revision: branch, tag, commit or pull request; None for the main branch.
        token: access token, True for the stored one, False for none.
        cache_dir: where the Hub's files are kept; its standard place by default.
        local_files_only: never ask the network.
        force_download: fetch again what is cached.
        kind: what is kept there: ``"model"``, ``"dataset"``, ``"space"``.
    """

    name: str
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    force_download: bool = False
    kind: str = "model"

    def __post_init__(self) -> None:
        if self.revision is not None and not isinstance(self.revision, str):
            raise InputError(
                "no revision", where="revision", expected="a branch, a tag, a commit or refs/pr/NUMBER",
                found=brief(self.revision),
            )  # fmt: skip
        token = self.token
        fits = isinstance(token, (bool, NoneType)) or (isinstance(token, str) and _TOKEN.fullmatch(token) is not None)
        if not fits:  # and is not shown: it may be one, with a line's end behind it
            found = "an empty text" if token == "" else "a text with spaces, line ends or other than ASCII"
            raise InputError(
                "no token",
                where="token",
                expected="a text such as hf_..., True for the stored one, False for none",
                found=found if isinstance(token, str) else type(token).__name__,
            )


_TOKEN = re.compile(r"[!-~]+")


def folder_named(cache_dir: object) -> str | None:
    """The folder that ``cache_dir`` names; None for the standard one.

    Raises:
        InputError: it is no path.
    """
    if cache_dir is None:
        return None
    if not isinstance(cache_dir, (str, os.PathLike)):
        raise InputError("no folder", where="cache_dir", expected="a path", found=brief(cache_dir))
    return os.fsdecode(cache_dir)


class Kept:
    """A repository's folder in the cache.

    Raises:
        RepoNotFoundError: no repository can have such a name.
    """

    def __init__(self, asked: Asked) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        self.asked = asked
        self.cache = Path(asked.cache_dir or constants.HF_HUB_CACHE).expanduser()
        try:
            self.folder = self.cache / repo_folder_name(repo_id=asked.name, repo_type=asked.kind)
        except ValueError as error:
            raise refusals.refused(error, asked) from error

    def find(self, filename: str, commit: str | None) -> Path | Literal[False] | None:
        """Where a file is cached; False where it is known not to exist; None where nobody has asked yet."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        if commit is None:
            return None
        name, kind = self.asked.name, self.asked.kind
        found = try_to_load_from_cache(name, filename, cache_dir=self.cache, revision=commit, repo_type=kind)
        if found is _CACHED_NO_EXIST:
            return False
        return Path(found) if isinstance(found, str) else None

    def blob(self, sha256: str) -> Path:
        """Where content of this digest lies, or is to lie."""
        return self.folder / "blobs" / sha256

    def lock(self, sha256: str) -> Path:
        """The file that the client locks while it writes that content."""
        return self.cache / ".locks" / self.folder.name / f"{sha256}.lock"

    def names(self, commit: str) -> frozenset[str]:
        """The names of all cached files of a commit."""
        top = self.folder / "snapshots" / commit
        return frozenset(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())

    def holds(self, commit: str) -> bool:
        """Whether anything of a commit is cached."""
        return (self.folder / "snapshots" / commit).is_dir()

    def has_beside(self, filename: str, commit: str | None) -> bool:
        """Whether other files of its folder are cached."""
        if commit is None:
            return False
        folder = (self.folder / "snapshots" / commit / filename).parent
        return folder.is_dir() and any(path.is_file() for path in folder.iterdir())

    def ref(self) -> str | None:
        """The commit that the revision had when it was last asked for."""
        revision = self.asked.revision or "main"
        if ".." in revision.split("/"):
            return None
        try:
            text = (self.folder / "refs" / revision).read_text().strip()
        except (OSError, ValueError):
            return None
        return text if COMMIT.fullmatch(text) else None

    def note_ref(self, commit: str) -> None:
        """Keep in mind what commit the revision has."""
        revision = self.asked.revision or "main"
        if revision != commit and self.ref() != commit:
            self._write(f"refs/{revision}", commit)

    def note_absent(self, filename: str, commit: str) -> None:
        """Keep in mind that there is no such file."""
        self._write(f".no_exist/{commit}/{filename}", "")

    def _write(self, name: str, text: str) -> None:
        # What cannot be noted will be asked for again: no reason to fail.
        path = self.folder / name
        staging = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging.write_text(text)
            os.replace(staging, path)
        except OSError as error:
            log.debug("%s: %s", path, error)
