"""The Hub's cache on this machine: what it holds, when it was last used, and what may go."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omniform.core.errors import InputError, RepoError

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy, HFCacheInfo

STALE: Final = 3600.0
"""Seconds after which a download that nobody goes on with is taken to be given up."""

_AGES: Final = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Revision:
    """One commit of a repository in the cache.

    Attributes:
        commit: which.
        refs: the branches and tags that were it when they were last asked for.
        nbytes: bytes of its files, those shared with other commits included.
        files: how many there are.
        last_used: seconds since 1970.
    """

    commit: str
    refs: tuple[str, ...]
    nbytes: int
    files: int
    last_used: float


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository in the cache.

    Attributes:
        name: its Hub id.
        kind: ``"model"``, ``"dataset"`` or ``"space"``.
        folder: where it is.
        nbytes: bytes of its files on disk, each once.
        last_used: seconds since 1970.
        revisions: its commits, the last used first.
        unfinished: downloads that broke off.
    """

    name: str
    kind: str
    folder: Path
    nbytes: int
    last_used: float
    revisions: tuple[Revision, ...]
    unfinished: tuple[Path, ...] = ()


@dataclass(slots=True)
class Pruning:
    """What is to go.

    Attributes:
        revisions: repositories and the commits in them.
        unfinished: downloads that broke off.
        nbytes: bytes that become free.
    """

    revisions: list[tuple[Repository, Revision]] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    nbytes: int = 0


def scan(cache_dir: str | os.PathLike[str] | None = None) -> tuple[list[Repository], list[str]]:
    """The repositories in the cache, the last used first, and what is wrong with entries that are none.

    Raises:
        RepoError: the cache cannot be read.
    """
    info = _scanned(cache_dir)
    if info is None:
        return [], []
    found = []
    for repo in info.repos:
        revisions = [
            Revision(
                r.commit_hash, tuple(sorted(r.refs)), r.size_on_disk, len(r.files), _used(r.files, r.last_modified)
            )
            for r in repo.revisions
        ]
        revisions.sort(key=lambda r: r.last_used, reverse=True)
        last = max((r.last_used for r in revisions), default=repo.last_accessed)
        unfinished = tuple(sorted((repo.repo_path / "blobs").glob("*.incomplete")))
        found.append(
            Repository(
                repo.repo_id, repo.repo_type, repo.repo_path, repo.size_on_disk, last, tuple(revisions), unfinished
            )
        )
    return sorted(found, key=lambda r: r.last_used, reverse=True), [str(warning) for warning in info.warnings]


def _scanned(cache_dir: str | os.PathLike[str] | None) -> HFCacheInfo | None:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        return scan_cache_dir(None if cache_dir is None else Path(cache_dir))
    except CacheNotFound:
        return None
    except (OSError, ValueError) as error:
        raise RepoError("the cache cannot be read", where=str(cache_dir or "HF_HUB_CACHE"), found=str(error)) from error


def _used(files: Sequence[object] | frozenset[object], otherwise: float) -> float:
    from huggingface_hub import CachedFileInfo

    times = [file.blob_last_accessed for file in files if isinstance(file, CachedFileInfo)]
    return max(times, default=otherwise)


def touch(path: Path) -> None:
    """Note that a cached file is used now: many file systems do not keep that by themselves (noatime)."""
    try:
        stat = path.stat()
        if time.time() - stat.st_atime > 60:
            os.utime(path, ns=(time.time_ns(), stat.st_mtime_ns))
    except OSError:  # a cache that may only be read
        return


def chosen(
    repositories: Sequence[Repository],
    *,
    names: Sequence[str] = (),
    unused_for: float | None = None,
    larger_than: int | None = None,
    keep: frozenset[str] = frozenset(),
) -> Pruning:
    """What a pruning takes.

    Without any condition: commits that no branch and no tag stands for any longer, and downloads that broke off.

    Args:
        names: these repositories whole, by Hub id or a pattern as ``org/*``.
        unused_for: commits that nobody used for so many seconds.
        larger_than: commits of repositories that take more bytes than this.
        keep: commits that stay in any case.
    """
    from fnmatch import fnmatchcase

    pruning = Pruning()
    now = time.time()
    matched = [r for r in repositories if not names or any(fnmatchcase(r.name, name) for name in names)]
    for name in names:
        if not any(fnmatchcase(r.name, name) for r in repositories):
            raise InputError("the cache holds no such repository", found=name)
    plain = not names and unused_for is None and larger_than is None
    for repo in matched:
        pruning.unfinished += [path for path in repo.unfinished if now - _changed(path) > STALE or names]
        if larger_than is not None and repo.nbytes <= larger_than:
            continue
        for revision in repo.revisions:
            old = unused_for is None or now - revision.last_used > unused_for
            if revision.commit not in keep and old and not (plain and revision.refs):
                pruning.revisions.append((repo, revision))
    pruning.nbytes = sum(path.stat().st_size for path in pruning.unfinished if path.exists())
    return pruning


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def prune(pruning: Pruning, cache_dir: str | os.PathLike[str] | None = None, *, dry: bool = False) -> int:
    """Delete what was chosen; returns the bytes that become free.

    Args:
        dry: delete nothing, only count.

    Raises:
        RepoError: a file cannot be deleted.
    """
    freed = sum(path.stat().st_size for path in pruning.unfinished if path.exists())
    for strategy in _strategies(pruning, _scanned(cache_dir)):
        freed += strategy.expected_freed_size
        if dry:
            continue
        strategy.execute()
        # The client only logs what it could not delete.
        for path in (*strategy.repos, *strategy.snapshots, *strategy.blobs):
            if os.path.lexists(path):
                raise RepoError("this cannot be deleted", where=str(path), found="it is still there")
    if not dry:
        for path in pruning.unfinished:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise RepoError("this cannot be deleted", where=str(path), found=error.strerror) from error
    return freed


def _strategies(pruning: Pruning, info: HFCacheInfo | None) -> Iterator[DeleteCacheStrategy]:
    """How to delete, repository by repository: one that was renamed has the same commits under both names."""
    if info is None:
        return
    for repo in info.repos:
        commits = [revision.commit for owner, revision in pruning.revisions if owner.folder == repo.repo_path]
        if commits:
            yield replace(info, repos=frozenset({repo})).delete_revisions(*commits)


def seconds(text: str) -> float:
    """A time as ``30d``, ``12h``, ``2w`` or ``90m``.

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([mhdw])", text.strip())
    if found is None:
        raise InputError("no time", expected="a number with m, h, d or w: 30d", found=repr(text))
    return float(found[1]) * _AGES[found[2]]


def ago(moment: float, now: float | None = None) -> str:
    """How long ago a moment was, in words."""
    past = max(0.0, (time.time() if now is None else now) - moment)
    for name, unit in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if past >= unit:
            count = int(past // unit)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "just now"


def leaves(pruning: Pruning) -> Iterator[str]:
    """What goes, a line each."""
    for repo, revision in pruning.revisions:
        refs = f" ({', '.join(revision.refs)})" if revision.refs else ""
        yield f"{repo.name} {revision.commit[:12]}{refs}"
    for path in pruning.unfinished:
        yield f"unfinished: {path.parent.parent.name}/{path.name[:20]}..."
