"""A repository on the Hub, as one load sees it: one commit, its list of files, what the cache has of it.

A branch is asked for once, with a HEAD of the first file that is wanted; the commit that answers is the commit of every
other file, so that a branch that moves meanwhile mixes nothing. By commit, what is cached, and what is known not to
exist, needs no request at all. A Hub that does not answer is noticed by the first request and left alone for a minute.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from omniform.hub.blobs import Blob, complete

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

log = logging.getLogger("omniform")

T = TypeVar("T")

PATIENCE = 6.0
"""Seconds after which a Hub that has not answered is taken to be out of reach."""

QUIET = 60.0
"""Seconds for which it is then left alone."""

TRIES = (0.3, 1.0, 2.0)
"""Seconds between tries where the Hub answers that it is in trouble, or the connection breaks."""

SIDE_BY_SIDE = 8
"""So many files are fetched at once."""

_SILENT: dict[str, float] = {}
"""Hubs that did not answer, and until when they are left alone."""

_COMMIT = re.compile("[0-9a-f]{40}")


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
    """

    name: str
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | None = None
    local_files_only: bool = False
    force_download: bool = False


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
        self._lock = threading.RLock()
        self._commit: str | None = None
        self._is_resolved = self._is_met = self._is_listed = False
        self._is_offline = asked.local_files_only
        self._listing: Mapping[str, Listed] | None = None
        self._unlisted = 0
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
        folder = self._storage / "snapshots" / (self._commit or "none")
        return frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    @property
    def listed(self) -> frozenset[str] | None:
        """The same, if it is known already."""
        return None if self._listing is None else frozenset(self._listing)

    @property
    def is_offline(self) -> bool:
        """Whether the Hub is not to be asked, or does not answer."""
        from huggingface_hub import constants

        silent = _SILENT.get(constants.ENDPOINT, 0.0) > time.monotonic()
        return self._is_offline or constants.HF_HUB_OFFLINE or silent

    def has(self, filename: str) -> bool:
        """Whether there is such a file, without fetching it."""
        self.commit(filename)
        found = self._cached(filename)
        if found is not None or self.is_offline:
            return bool(found)
        known = self._known()
        return filename in known if known is not None else self._meet(filename)

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
            self._check_absent(filename)
            return None
        with self._lock:
            self._unlisted += 1
            known = self._known() if self._unlisted > 1 else self._listing
        if known is not None and filename not in known:
            self._mark_absent(filename)
            return None
        if not self._is_met and not self._meet(filename):
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
            return self._asking(lambda: self._range(filename, start, stop))
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
        from huggingface_hub import constants, get_session, hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]
            build_hf_headers,
            hf_raise_for_status,
        )

        url = hf_hub_url(self.name, filename, revision=self._commit or self.revision)
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
        blob = self._storage / "blobs" / listed.sha256 if listed is not None and listed.sha256 else None
        return blob if blob is not None and blob.is_file() else None

    # ---- the cache

    @property
    def _storage(self) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = Path(self.asked.cache_dir or constants.HF_HUB_CACHE).expanduser()
        try:
            return cache / repo_folder_name(repo_id=self.name, repo_type="model")
        except ValueError as error:  # no repository's name
            raise refusals.refused(error, self) from error

    def _cached(self, filename: str) -> Path | Literal[False] | None:
        """Where a file is cached; False where it is known not to exist; None where nobody has asked yet."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        if self._commit is None:
            return None
        if self.asked.force_download and filename not in self._fetched:
            return None
        found = try_to_load_from_cache(self.name, filename, cache_dir=self._storage.parent, revision=self._commit)
        if found is _CACHED_NO_EXIST:
            return False
        return Path(found) if isinstance(found, str) else None

    def _check_absent(self, filename: str) -> None:
        """Where nobody can be asked, a file is taken for absent if others of its folder are cached; raise otherwise."""
        folder = (self._storage / "snapshots" / self._commit / filename).parent if self._commit else None
        is_known = self._listing is not None and filename not in self._listing
        if not is_known and (folder is None or not folder.is_dir() or not any(p.is_file() for p in folder.iterdir())):
            raise refusals.offline(self.name, filename)

    def _ref(self) -> str | None:
        """The commit that a branch had when it was last asked for."""
        if self.revision is not None and ".." in self.revision.split("/"):
            return None
        try:
            text = (self._storage / "refs" / (self.revision or "main")).read_text().strip()
        except (OSError, ValueError):
            return None
        return text if _COMMIT.fullmatch(text) else None

    def _note_ref(self, commit: str) -> None:
        revision = self.revision or "main"
        if revision != commit and self._ref() != commit:
            self._write(f"refs/{revision}", commit)

    def _mark_absent(self, filename: str) -> None:
        self._fetched.add(filename)
        self._write(f".no_exist/{self._commit}/{filename}", "")

    def _write(self, name: str, text: str) -> None:
        # As the client lays its cache out. What cannot be noted will be asked for again: no reason to fail.
        path = self._storage / name
        staging = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            staging.write_text(text)
            os.replace(staging, path)
        except OSError as error:
            log.debug("%s: %s", path, error)

    # ---- asking

    def _find_commit(self, filename: str) -> str | None:
        if self.revision is not None and _COMMIT.fullmatch(self.revision):
            return self.revision
        if self.is_offline:
            return self._ref()
        self._meet(filename)
        return self._commit

    def _meet(self, filename: str) -> bool:
        """Ask for what the Hub knows of a file, and so of the commit; False where there is no such file."""
        from huggingface_hub import errors

        try:
            found = self._asking(lambda: self._head(filename))
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

    def _head(self, filename: str) -> HfFileMetadata:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        url = hf_hub_url(self.name, filename, revision=self._commit or self.revision)
        return within(PATIENCE, lambda: get_hf_file_metadata(url, token=self.asked.token, timeout=PATIENCE - 1))

    def _settle(self, commit: str) -> None:
        self._is_met = True
        if self._commit is None:
            self._commit = commit
            self._note_ref(commit)

    def _unanswered(self, error: Exception) -> bool:
        """Go on with what is cached where the Hub does not help; raise where that is nothing."""
        from huggingface_hub import constants, errors

        silent = refusals.is_unreachable(error)
        if silent and not constants.HF_HUB_OFFLINE:
            _SILENT[constants.ENDPOINT] = time.monotonic() + QUIET
        known = self._commit or self._ref()
        is_gone = isinstance(error, (errors.RevisionNotFoundError, errors.HFValidationError))
        if is_gone or self.asked.force_download or (known is None and not silent):
            raise refusals.refused(error, self) from error
        if known is None:
            raise refusals.offline(self.name, None) from error
        if not self._is_offline:
            log.warning("%s: what is cached is used, since the Hub cannot be asked (%s)", self.name, said(error))
        self._is_offline = True
        self._commit = known
        return False

    def _known(self) -> Mapping[str, Listed] | None:
        """All files of the commit, asked for once; None where the Hub cannot tell."""
        from huggingface_hub import HfApi, constants
        from huggingface_hub.hf_api import RepoFile

        def ask() -> dict[str, Listed]:
            entries = HfApi().list_repo_tree(
                self.name, recursive=True, revision=self._commit, token=self.asked.token
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
            path = self._asking(lambda: self._download(filename, forced))
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
            token=self.asked.token,
            cache_dir=self._storage.parent,
            force_download=forced,
        )

    def _blob(self, filename: str, listed: Listed) -> Blob:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        assert listed.sha256 is not None
        return Blob(
            url=hf_hub_url(self.name, filename, revision=self._commit),
            path=self._storage / "blobs" / listed.sha256,
            lock=self._storage.parent / ".locks" / self._storage.name / f"{listed.sha256}.lock",
            size=listed.size,
            sha256=listed.sha256,
            headers={**build_hf_headers(token=self.asked.token), **PLAIN},
            name=filename,
        )

    def _asking(self, ask: Callable[[], T]) -> T:
        """What a request gives, tried again a few times where that may help."""
        for usual in TRIES:
            try:
                return ask()
            except Exception as error:
                wait = refusals.pause(error, usual)
                if wait is None:
                    raise
                log.debug("%s: %s; asked again in %s s", self.name, error, wait)
            time.sleep(wait)
        return ask()

    def _tell_new_name(self, location: str) -> None:
        found = _PLACE.match(location)
        if found is not None and unquote(found[1]) != self.name and self.name not in _RENAMED:
            _RENAMED.add(self.name)
            log.warning("%s is called %s by now", self.name, unquote(found[1]))


PLAIN = {"Accept-Encoding": "identity"}
"""Bytes are wanted as they lie in the file."""

_PLACE = re.compile(r"https?://[^/]+/((?:[^/]+/)?[^/]+)/resolve/")
_RENAMED: set[str] = set()


def said(error: BaseException) -> str:
    """An error in a few words."""
    return refusals.first_line(error)[:200]


def within(seconds: float, ask: Callable[[], T]) -> T:
    """What a call gives, if it does within so many seconds: looking up a name has no limit of its own.

    Raises:
        TimeoutError: it does not.
    """
    found: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            found.append(ask())
        except Exception as error:
            failed.append(error)

    asking = threading.Thread(target=work, name="omniform-hub", daemon=True)
    asking.start()
    asking.join(seconds)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return found[0]
