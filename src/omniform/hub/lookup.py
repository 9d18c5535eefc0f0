"""The ecosystem's functions that look for files in a folder or a repository: ``cached_file`` and its kin."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import file_exists as file_exists
from huggingface_hub import get_token as get_token
from huggingface_hub import login as login
from huggingface_hub import logout as logout

from omniform.core.errors import (
    GatedRepoError,
    InputError,
    OfflineError,
    RepoError,
    RepoNotFoundError,
    RevisionError,
    check_arguments,
)
from omniform.hub import refusals
from omniform.hub.files import Source
from omniform.hub.kept import COMMIT, Asked, folder_named
from omniform.hub.remote import Remote, remote

Name = str | os.PathLike[str]

TEMPLATES = "additional_chat_templates"
"""The folder of further chat templates, each in a file of its own."""

_OLD = ("resume_download", "_commit_hash", "use_auth_token", "local_dir_use_symlinks", "_from_auto", "_from_pipeline")


def cached_file(path_or_repo_id: Name, filename: str, **kwargs: object) -> str | None:
    """The local path of one file, fetched if it has to be; keywords, errors and None as :func:`cached_files`."""
    found = cached_files(path_or_repo_id, [filename], **kwargs)  # type: ignore[arg-type]
    return None if found is None else found[0]


def cached_files(
    path_or_repo_id: Name,
    filenames: Sequence[str],
    cache_dir: Name | None = None,
    force_download: bool = False,
    proxies: dict[str, str] | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    repo_type: str | None = None,
    user_agent: str | dict[str, str] | None = None,
    _raise_exceptions_for_gated_repo: bool = True,
    _raise_exceptions_for_missing_entries: bool = True,
    _raise_exceptions_for_connection_errors: bool = True,
    tqdm_class: type | None = None,
    **old: object,
) -> list[str] | None:
    """The local paths of several files, fetched side by side if they have to be.

    Args:
        path_or_repo_id: a folder or a Hub id.
        filenames: below the subfolder.
        cache_dir, force_download, token, revision, local_files_only, subfolder: as ``from_pretrained`` takes them.
        proxies: refused; they are set in the environment.
        repo_type: ``"dataset"`` or ``"space"`` for others than models.
        user_agent, tqdm_class: accepted, and without effect.
        _raise_exceptions_for_gated_repo: False gives None where one may not read.
        _raise_exceptions_for_missing_entries: False leaves out what does not exist.
        _raise_exceptions_for_connection_errors: False gives None where the Hub does not answer as it should.
        old: keywords of older releases, without effect.

    Returns:
        The paths of those that exist, in their order; None where there are none. A ``config.json`` that is asked for
        alone may be missing.

    Raises:
        RepoError: there is no such repository, revision or file; it may not be read, or cannot be reached.
        UnknownArgumentError: another keyword.
    """
    check_arguments("cached_files", old, _OLD)
    _refuse_proxies(proxies)
    source = _source(
        path_or_repo_id,
        Asked(
            name=os.fspath(path_or_repo_id),
            revision=revision,
            token=old.get("use_auth_token", token) if token is None else token,  # type: ignore[arg-type]
            cache_dir=folder_named(cache_dir),
            local_files_only=local_files_only,
            force_download=force_download,
            kind=repo_type or "model",
        ),
        subfolder or "",
    )
    try:
        found = source.files(filenames)
        if source.remote is not None:
            _check_known(source.remote, [source.path_of(name) for name in filenames if name not in found])
    except (RepoNotFoundError, RevisionError):
        raise
    except GatedRepoError:
        if _raise_exceptions_for_gated_repo:
            raise
        return None
    except OfflineError:
        if not _raise_exceptions_for_connection_errors:
            return None
        if _raise_exceptions_for_missing_entries:
            raise
        return _what_is_cached(source, filenames)
    except RepoError as error:
        if _raise_exceptions_for_connection_errors or refusals.status(error.__cause__ or error) is None:
            raise
        return None
    missing = [name for name in filenames if name not in found]
    is_config = source.remote is None or len(filenames) == 1
    needed = [name for name in missing if not (is_config and name == "config.json")]
    if needed and _raise_exceptions_for_missing_entries:
        raise source.lacks(f"there is no {' and no '.join(needed)}")
    return [str(found[name]) for name in filenames if name in found] or None


def has_file(
    path_or_repo: Name,
    filename: str,
    revision: str | None = None,
    proxies: dict[str, str] | None = None,
    token: bool | str | None = None,
    *,
    local_files_only: bool = False,
    cache_dir: Name | None = None,
    repo_type: str | None = None,
    **old: object,
) -> bool:
    """Whether a folder or a repository has a file; nothing is fetched. Where the Hub cannot tell, the cache does.

    Raises:
        RepoError: there is no such repository or revision, or it may not be read.
    """
    check_arguments("has_file", old, _OLD)
    _refuse_proxies(proxies)
    asked = Asked(
        name=os.fspath(path_or_repo),
        revision=revision,
        token=token,
        cache_dir=folder_named(cache_dir),
        local_files_only=local_files_only,
        kind=repo_type or "model",
    )
    try:
        return _source(path_or_repo, asked, "").has(filename)
    except (GatedRepoError, RepoNotFoundError, RevisionError):
        raise
    except RepoError:
        return False


def list_repo_templates(
    repo_id: str,
    *,
    local_files_only: bool,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
) -> list[str]:
    """The files of further chat templates that a repository has: ``["tool_use.jinja"]``.

    Raises:
        RepoError: there is no such repository or revision, or it may not be read.
    """
    asked = Asked(
        name=repo_id,
        revision=revision,
        token=token,
        cache_dir=folder_named(cache_dir),
        local_files_only=local_files_only,
    )
    try:
        names = _source(repo_id, asked, TEMPLATES).listing()
    except (GatedRepoError, RepoNotFoundError, RevisionError):
        raise
    except RepoError:
        return []
    return sorted(name for name in names if name.endswith(".jinja") and "/" not in name)


def extract_commit_hash(resolved_file: str | None, commit_hash: str | None) -> str | None:
    """The commit that a file in the cache is of; ``commit_hash`` if one is known already."""
    if resolved_file is None or commit_hash is not None:
        return commit_hash
    found = re.search(r"snapshots/([^/]+)/", Path(resolved_file).as_posix())
    return found[1] if found is not None and COMMIT.fullmatch(found[1]) else None


def is_offline_mode() -> bool:
    """Whether the Hub is not to be asked (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _source(name: Name, asked: Asked, subfolder: str) -> Source:
    if os.path.isdir(name):
        return Source(name=asked.name, folder=Path(name), subfolder=subfolder)
    return Source(name=asked.name, revision=asked.revision, subfolder=subfolder, remote=remote(asked))


def _check_known(there: Remote, missing: Sequence[str]) -> None:
    """Raise where nobody could be asked whether files exist."""
    for name in missing:
        if there.is_offline and not there.knows(name):
            raise refusals.offline(there.name, name)


def _what_is_cached(source: Source, filenames: Sequence[str]) -> list[str] | None:
    if source.remote is None:
        return None
    found = (source.remote.cached(source.path_of(name)) for name in filenames)
    return [str(path) for path in found if path is not None] or None


def _refuse_proxies(proxies: object) -> None:
    if proxies:
        raise InputError("proxies are set in the environment (HTTPS_PROXY)", where="proxies", found=repr(proxies)[:200])
