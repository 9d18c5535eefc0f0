"""A repository on the Hub, as one load sees it: one commit, its list of files, what the cache has of it.

A branch is asked for once, with a HEAD of the first file that is wanted; the commit that answers is the commit of every
other file, so that a branch that moves meanwhile mixes nothing. By commit, what is cached, and what is known not to
exist, needs no request at all. A Hub that does not answer is noticed by the first request and left alone for a minute.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote

from omniform.core.errors import OfflineError
from omniform.hub import refusals
from omniform.hub.asking import PATIENCE, fell_silent, is_silent, patiently, within
from omniform.hub.blobs import Blob, complete
from omniform.hub.kept import COMMIT, Kept
from omniform.hub.kept import Asked as Asked

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

log = logging.getLogger("omniform")

T = TypeVar("T")

LARGE = 2**20
"""Bytes of a file that is not fetched before its digest is known."""

SIDE_BY_SIDE = 8
"""So many files are fetched at once."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a commit, as the Hub lists it.

    Attributes:
        size: its bytes.
        sha256: of its content, for large files.
        is_chunked: whether the Hub keeps it in chunks that its client fetches by a way of its own (xet).
    """

    size: int
    sha256: str | None
    is_chunked: bool


_TOGETHER: ContextVar[dict[Asked, Remote] | None] = ContextVar("omniform_together", default=None)


@contextmanager
def together() -> Iterator[None]:
    """Loads within this share what they find out: one request for a branch, however many parts come from it."""
    if _TOGETHER.get() is not None:
        yield
        return
    token = _TOGETHER.set({})
    try:
        yield
    finally:
        _TOGETHER.reset(token)


def remote(asked: Asked) -> Remote:
    """The repository that is asked for: the one that a load around this has opened already, if there is one."""
    shared = _TOGETHER.get()
    if shared is None:
        return Remote(asked)
    return shared.setdefault(asked, Remote(asked))


class Remote:
    """A repository on the Hub at one commit, found when the first file is wanted."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.name, self.revision = asked.name, asked.revision
        self._kept = Kept(asked)
        self._lock = threading.RLock()
        self._commit: str | None = None
        self._is_resolved = self._is_met = self._is_listed = False
        self._is_offline = asked.local_files_only
        self._listing: Mapping[str, Listed] | None = None
        self._fetched: set[str] = set()
        self._sizes: dict[str, int] = {}

    # ---- what is there

    def commit(self, filename: str = "config.json") -> str | None:
        """The commit that all files come from; None where nothing is cached and nobody can be asked.

        Args:
            filename: the file to ask for, if the Hub has to be asked.

        Raises:
            RepoError: there is no such repository or revision, or it may not be read.
        """
        with self._lock:
            if not self._is_resolved:
                self._commit = self._find_commit(filename)
                self._is_resolved = True
            return self._commit

    def listing(self) -> frozenset[str]:
        """The names of all files of the commit; of those that are cached, where the Hub cannot be asked."""
        self.commit()
        known = self._known()
        if known is not None:
            return frozenset(known)
        return frozenset() if self._commit is None else self._kept.names(self._commit)

    @property
    def listed(self) -> frozenset[str] | None:
        """The same, if it is known already."""
        return None if self._listing is None else frozenset(self._listing)

    @property
    def is_offline(self) -> bool:
        """Whether the Hub is not to be asked, or does not answer."""
        from huggingface_hub import constants

        return self._is_offline or constants.HF_HUB_OFFLINE or is_silent()

    def has(self, filename: str) -> bool:
        """Whether there is such a file, without fetching it."""
        self.commit(filename)
        found = self._cached(filename)
        if found is not None:
            return bool(found)
        if filename in self._sizes or self.is_offline:
            return filename in self._sizes
        known = self._known() if self._is_met else None
        if known is None:
            return self._meet(filename)
        if filename not in known:
            self._mark_absent(filename)  # the next load need not ask
        return filename in known

    def knows(self, filename: str) -> bool:
        """Whether it is known, without asking, that there is such a file, or that there is none."""
        return self._listing is not None or self._cached(filename) is not None

    def folder(self, top: str) -> list[str]:
        """The names of all files below a folder (``"part/"``); from the cache where that has some, or knows of none."""
        commit = self.commit(f"{top}config.json")
        if self._listing is None and commit is not None and not self.asked.force_download:
            cached = [name for name in self._kept.names(commit) if name.startswith(top)]
            if cached or self.is_offline or self._kept.find(top.rstrip("/"), commit) is False:
                return cached
        found = [name for name in self.listing() if name.startswith(top)]
        if not found and self._listing is not None:
            self._mark_absent(top.rstrip("/"))
        return found

    def cached(self, filename: str) -> Path | None:
        """Where a file is cached, if it is."""
        return self._cached(filename) or None

    # ---- whole files

    def path(self, filename: str) -> Path | None:
        """Where a file lies on this machine, fetched if it has to be; None if there is no such file.

        Raises:
            RepoError: it cannot be known, or not be had.
        """
        self.commit(filename)
        if self.asked.force_download and self.is_offline:
            raise OfflineError("the Hub is not asked, so nothing is fetched again", where=self.name, found=filename)
        found = self._cached(filename)
        if found is not None:
            return found or None
        if self.is_offline:
            if not self.knows(filename) and not self._kept.has_beside(filename, self._commit):
                raise refusals.offline(self.name, filename)
            return None
        if not self._is_met and not self._meet(filename):
            return self.path(filename) if self.is_offline else None
        known = self._listing
        if known is None and self._sizes.get(filename, LARGE) >= LARGE:
            known = self._known()
        if known is not None and filename not in known:
            self._mark_absent(filename)
            return None
        return self._fetch(filename, None if known is None else known[filename])

    def paths(self, filenames: Sequence[str]) -> dict[str, Path]:
        """Those of the files that exist, fetched side by side.

        Raises:
            RepoError: one of them cannot be had; what was begun beside it is finished first.
        """
        if filenames:
            self.commit(filenames[0])
        missing = [name for name in filenames if self._cached(name) is None]
        if len(missing) > 1 and not self.is_offline:
            self._known()
            with ThreadPoolExecutor(SIDE_BY_SIDE, "omniform-hub") as pool:
                jobs = [pool.submit(self.path, name) for name in missing]
                for job in jobs:
                    if job.exception() is not None:
                        pool.shutdown(wait=False, cancel_futures=True)
                for job in jobs:
                    if not job.cancelled():
                        job.result()
        found = {name: self.path(name) for name in filenames}
        return {name: path for name, path in found.items() if path is not None}

    # ---- parts of files

    def peek(self, filename: str, start: int, stop: int) -> bytes:
        """Some bytes of a file, from the cache or by one ranged request; fewer where the file ends before.

        Raises:
            RepoError: there is no such file, or it cannot be had.
        """
        local = self._at_hand(filename)
        if local is not None:
            with local.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)
        if self.is_offline:
            raise refusals.offline(self.name, filename)
        try:
            return patiently(lambda: self._range(filename, start, stop), self.name)
        except Exception as error:
            raise refusals.refused(error, self, file=filename) from error

    def size(self, filename: str) -> int:
        """The bytes of a file; raises as :meth:`peek`."""
        local = self._at_hand(filename)
        if local is not None:
            return local.stat().st_size
        if self._listing is not None and filename in self._listing:
            return self._listing[filename].size
        if filename not in self._sizes and (self.is_offline or not self._meet(filename)):
            raise refusals.offline(self.name, filename)
        return self._sizes[filename]

    def _range(self, filename: str, start: int, stop: int) -> bytes:
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        url = self._url(filename)
        headers = {**build_hf_headers(token=self.asked.token), **PLAIN, "Range": f"bytes={start}-{stop - 1}"}
        held = b""
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
            if answer.status_code == 416:  # it begins behind the file's end
                return b""
            hf_raise_for_status(answer)
            told = answer.headers.get("content-range", "").rpartition("/")[2]
            if told.isdigit():
                self._sizes[filename] = int(told)
            skipped = start if answer.status_code == 200 else 0  # this server knows no ranges: nothing behind is read
            for piece in answer.iter_bytes(2**16):
                held += piece
                if len(held) >= skipped + stop - start:
                    break
        return held[skipped : skipped + stop - start]

    def _at_hand(self, filename: str) -> Path | None:
        self.commit(filename)
        found = self._cached(filename)
        if found:
            return found
        listed = (self._listing or {}).get(filename)
        blob = self._kept.blob(listed.sha256) if listed is not None and listed.sha256 else None
        return blob if blob is not None and blob.is_file() else None

    def _cached(self, filename: str) -> Path | Literal[False] | None:
        if self.asked.force_download and filename not in self._fetched:
            return None
        return self._kept.find(filename, self._commit)

    # ---- asking

    def _mark_absent(self, filename: str) -> None:
        self._fetched.add(filename)
        if self._commit is not None:
            self._kept.note_absent(filename, self._commit)

    def _find_commit(self, filename: str) -> str | None:
        if self.revision is not None and COMMIT.fullmatch(self.revision):
            return self.revision
        if self.is_offline:
            return self._kept.ref()
        self._meet(filename)
        return self._commit

    def _meet(self, filename: str) -> bool:
        """Ask for what the Hub knows of a file, and so of the commit; False where there is no such file."""
        from huggingface_hub import errors

        try:
            found = patiently(lambda: self._head(filename), self.name)
        except errors.LocalEntryNotFoundError as error:
            return self._unanswered(error)
        except errors.EntryNotFoundError as error:
            commit = refusals.commit_told(error)
            if commit is None:
                raise refusals.refused(error, self, file=filename) from error
            self._settle(commit)
            self._mark_absent(filename)
            return False
        except Exception as error:
            return self._unanswered(error)
        if found.commit_hash is None:
            raise refusals.refused(errors.FileMetadataError("no X-Repo-Commit header"), self, file=filename)
        self._settle(found.commit_hash)
        if found.size is not None:
            self._sizes[filename] = found.size
        self._tell_new_name(found.location)
        return True

    def _url(self, filename: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.name, filename, revision=self._commit or self.revision, repo_type=self.asked.kind)

    def _head(self, filename: str) -> HfFileMetadata:
        from huggingface_hub import get_hf_file_metadata

        url = self._url(filename)
        return within(PATIENCE, lambda: get_hf_file_metadata(url, token=self.asked.token, timeout=PATIENCE - 1))

    def _settle(self, commit: str) -> None:
        self._is_met = True
        if self._commit is None:
            self._commit = commit
            self._kept.note_ref(commit)

    def _unanswered(self, error: Exception) -> bool:
        """Go on with what is cached where the Hub does not help; raise where that is nothing."""
        from huggingface_hub import errors

        silent = refusals.is_unreachable(error)
        if silent:
            fell_silent()
        known = self._commit or self._kept.ref()
        known = known if known is not None and self._kept.holds(known) else None
        told = (errors.RevisionNotFoundError, errors.HFValidationError, errors.LocalTokenNotFoundError)
        is_gone = isinstance(error, told)
        if is_gone or self.asked.force_download or (known is None and not silent):
            raise refusals.refused(error, self) from error
        if known is None:
            raise refusals.offline(self.name, None) from error
        if not self._is_offline:
            log.warning(
                "%s: what is cached is used, since the Hub cannot be asked (%s)",
                self.name,
                refusals.first_line(error)[:200],
            )
        self._is_offline = True
        self._commit = known
        return False

    def _known(self) -> Mapping[str, Listed] | None:
        """All files of the commit, asked for once; None where the Hub cannot tell."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import RepoFile

        def ask() -> dict[str, Listed]:
            entries = HfApi().list_repo_tree(
                self.name, recursive=True, revision=self._commit, token=self.asked.token, repo_type=self.asked.kind
            )  # fmt: skip
            chunks = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
            return {
                entry.path: Listed(
                    entry.size,
                    None if entry.lfs is None else entry.lfs.sha256,
                    chunks and entry.xet_hash is not None,
                )
                for entry in entries
                if isinstance(entry, RepoFile)
            }

        with self._lock:
            if not self._is_listed and self._commit is not None and not self.is_offline:
                self._is_listed = True
                try:
                    self._listing = within(2 * PATIENCE, ask)
                except Exception as error:  # a mirror without this call: files are asked for one by one
                    log.debug("%s: no list of files: %s", self.name, error)
            return self._listing

    def _fetch(self, filename: str, listed: Listed | None) -> Path | None:
        from huggingface_hub import errors

        forced = self.asked.force_download
        try:
            if listed is not None and listed.sha256 is not None and not listed.is_chunked:
                complete(self._blob(filename, listed), fresh=forced)
                forced = False
            path = patiently(lambda: self._download(filename, forced), self.name)
        except errors.LocalEntryNotFoundError as error:
            raise refusals.refused(error.__cause__ or error, self, file=filename) from error
        except errors.EntryNotFoundError:
            self._mark_absent(filename)
            return None
        except Exception as error:
            raise refusals.refused(error, self, file=filename) from error
        self._fetched.add(filename)
        return Path(path)

    def _download(self, filename: str, forced: bool) -> str:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(
            self.name,
            filename,
            revision=self._commit or self.revision,
            repo_type=self.asked.kind,
            token=self.asked.token,
            cache_dir=self._kept.cache,
            force_download=forced,
        )

    def _blob(self, filename: str, listed: Listed) -> Blob:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        assert listed.sha256 is not None
        return Blob(
            url=self._url(filename),
            path=self._kept.blob(listed.sha256),
            lock=self._kept.lock(listed.sha256),
            size=listed.size,
            sha256=listed.sha256,
            headers={**build_hf_headers(token=self.asked.token), **PLAIN},
            name=filename,
            where=f"{self.name}: {filename}",
        )

    def _tell_new_name(self, location: str) -> None:
        found = _PLACE.match(location)
        if found is not None and unquote(found[1]) != self.name and self.name not in _RENAMED:
            _RENAMED.add(self.name)
            log.warning("%s is called %s by now", self.name, unquote(found[1]))


PLAIN = {"Accept-Encoding": "identity"}
"""Bytes are wanted as they lie in the file."""

_PLACE = re.compile(r"https?://[^/]+/((?:[^/]+/)?[^/]+)/resolve/")
_RENAMED: set[str] = set()
