"""What the Hub's client raises, as errors of ours: one table for reading, writing and fetching code."""

from __future__ import annotations

import errno
import json
from importlib import import_module
from types import ModuleType
from typing import Protocol

from omniform.core.errors import (
    GatedRepoError,
    OfflineError,
    RepoError,
    RepoNotFoundError,
    RevisionError,
    WriteRefusedError,
)

LONGEST_PAUSE = 10.0
"""Seconds that we wait of our own accord where the Hub says to come back later."""

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Asked(Protocol):
    """What the Hub was asked for: a :class:`~omniform.hub.files.Source`, for one."""

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str | None: ...


def refused(error: BaseException, asked: Asked | str, *, file: str | None = None) -> RepoError:
    """The error of ours that says what the client's error means.

    Args:
        error: whatever huggingface_hub, or the transport beneath it, raised. To be named as the cause.
        asked: the source, or the repository's name.
        file: the file in question, if it was about one.
    """
    if isinstance(error, RepoError):
        return error
    where = asked if isinstance(asked, str) else asked.name
    revision = None if isinstance(asked, str) else asked.revision
    for says in (_of_the_client, _of_the_answer, _of_the_disk, _of_the_wire):
        found = says(error, where, revision, file)
        if found is not None:
            return found
    return RepoError("the repository cannot be read", where=_at(where, file), found=first_line(error))


def status(error: BaseException) -> int | None:
    """The HTTP status that an error stands for; None for errors without an answer."""
    response = _response(error)
    return None if response is None else response.status_code


def pause(error: BaseException, usual: float) -> float | None:
    """Seconds after which the same request may well succeed; None where asking again is of no use.

    Args:
        usual: what to wait where the Hub does not say.
    """
    code = status(error)
    if code is None:
        return usual if is_cut(error) else None
    if code == 429 or code in (500, 502, 503, 504, 408):
        told = retry_after(error)
        if told is None:
            return usual
        return told if told <= LONGEST_PAUSE else None
    return None


def retry_after(error: BaseException) -> float | None:
    """Seconds that the Hub says to wait."""
    response = _response(error)
    told = None if response is None else response.headers.get("retry-after")
    return float(told) if told is not None and told.strip().isdigit() else None


def is_cut(error: BaseException) -> bool:
    """Whether the Hub was reached and the connection broke: worth another try."""
    return isinstance(error, _kinds("RemoteProtocolError", "ReadError", "WriteError", "CloseError"))


def is_unreachable(error: BaseException) -> bool:
    """Whether nobody answered. A request that cannot be made (of an address or a token that is none) says nothing."""
    if isinstance(error, _kinds("LocalProtocolError", "UnsupportedProtocol")):
        return False
    return isinstance(error, (*_kinds("TransportError"), ConnectionError, TimeoutError))


def commit_told(error: BaseException) -> str | None:
    """The commit that an answer of "no such file" speaks of."""
    response = _response(error)
    return None if response is None else response.headers.get("x-repo-commit")


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


# ---- the table


def _of_the_client(error: BaseException, where: str, revision: str | None, file: str | None) -> RepoError | None:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return _gated(error, where)
    if isinstance(error, errors.RevisionNotFoundError):
        return RevisionError(
            "there is no such revision",
            where=where,
            expected="a branch, a tag, a commit or refs/pr/NUMBER",
            found=repr(revision) if revision is not None else "no main branch",
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return offline(where, file)
    if isinstance(error, errors.EntryNotFoundError):
        return RepoError(f"there is no {file or 'such file'}", where=where, found=first_line(error))
    if isinstance(error, errors.DisabledRepoError):
        return RepoError("the repository cannot be read: it is disabled", where=where, found=_told(error))
    if isinstance(error, errors.RepositoryNotFoundError):
        return missing(where)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return RepoError(
            "no token is stored on this machine", where=where, found=first_line(error), remedy="Run hf auth login."
        )
    if isinstance(error, UnicodeEncodeError):  # names are quoted, so it is a token out of the environment
        return RepoError(
            "the token is no text that can be sent",
            where=where,
            expected="ASCII",
            remedy="Run hf auth login, or set HF_TOKEN anew.",
        )
    if isinstance(error, errors.HFValidationError):
        return RepoNotFoundError(
            "this is neither a folder here nor the name of a repository",
            where=where or "(an empty name)",
            expected="a folder, NAME or OWNER/NAME",
            found=first_line(error),
        )
    if isinstance(error, (errors.FileMetadataError, json.JSONDecodeError, KeyError)):
        return RepoError(
            "this server does not answer as a Hub does",
            where=_at(where, file),
            found=first_line(error),
            remedy="Is HF_ENDPOINT, or a proxy, set to another server?",
        )
    return None


def _gated(error: BaseException, where: str) -> RepoError:
    told = _told(error)
    waits = any(word in told.lower() for word in ("awaiting", "pending"))
    if waits:
        return GatedRepoError(
            "the repository is gated, and its owners have not let you in yet",
            where=where,
            found=told,
            remedy="Wait until they accept the request that you made of the Hub.",
        )
    return GatedRepoError(
        "the repository is gated",
        where=where,
        found=told,
        remedy="Accept its terms on the Hub, then pass token=..., or run hf auth login.",
    )


def missing(where: str) -> RepoError:
    """No such repository, or none that this token may know of."""
    return RepoNotFoundError(
        "there is no such folder here and no such repository on the Hub",
        where=where,
        remedy="Check the spelling; a private repository needs token=... of somebody who may read it.",
    )


def offline(where: str, file: str | None) -> RepoError:
    """Nothing can be asked, and the file is not there."""
    return OfflineError(
        "the Hub cannot be reached and the file is not cached",
        where=where,
        found=f"no {file}" if file else None,
        remedy="Check the name and the connection, or pass the path of a folder.",
    )


def _of_the_answer(error: BaseException, where: str, revision: str | None, file: str | None) -> RepoError | None:
    del revision
    code, response = status(error), _response(error)
    if code is None or response is None:
        return None
    writes = str(response.request.method).upper() in WRITES
    if code in (401, 403) and writes:
        return WriteRefusedError(
            "the Hub does not let this token write",
            where=_at(where, file),
            found=_told(error),
            remedy="Make a token with write access (settings/tokens on the Hub), then hf auth login or token=...",
        )
    if code == 401:
        return RepoError(
            "the Hub does not know this token",
            where=where,
            found=_told(error),
            remedy="Run hf auth login, or pass another token=... (False for none).",
        )
    if code == 403:
        remedy = "Pass a token=... of somebody who may read it."
        return RepoError(
            "this may not be read with this token", where=_at(where, file), found=_told(error), remedy=remedy
        )
    if code == 429:
        told = retry_after(error)
        when = "a while" if told is None else f"{told:.0f} seconds"
        return RepoError(
            "the Hub is asked too often from here",
            where=_at(where, file),
            found=_told(error),
            remedy=f"Wait {when} and try again; with a token more is allowed.",
        )
    if code >= 500:
        return RepoError(
            f"the repository cannot be {'written' if writes else 'read'}: the Hub is in trouble",
            where=_at(where, file),
            found=_told(error),
            remedy="It was asked several times; try again later.",
        )
    return RepoError(
        f"the repository cannot be {'written' if writes else 'read'}", where=_at(where, file), found=_told(error)
    )


_ELSEWHERE = ("the cache folder cannot be written", "Pass cache_dir=..., or set HF_HOME to a folder of yours.")
DISK: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("there is no room left on the disk", "Make room, or pass cache_dir=... (HF_HOME) on another disk."),
    errno.EDQUOT: ("there is no room left on the disk", "Make room, or pass cache_dir=... (HF_HOME) on another disk."),
    errno.EFBIG: ("the file is larger than may be written here", "Pass cache_dir=... (HF_HOME) on another disk."),
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.EROFS: _ELSEWHERE,
    errno.ENOTDIR: _ELSEWHERE,
    errno.EEXIST: _ELSEWHERE,
    errno.ENOENT: _ELSEWHERE,
}
"""What the system's refusals mean."""


def _of_the_disk(error: BaseException, where: str, revision: str | None, file: str | None) -> RepoError | None:
    del revision
    if not isinstance(error, OSError) or error.errno not in DISK:
        return None
    problem, remedy = DISK[error.errno]
    folder = f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return RepoError(problem, where=_at(where, file), found=folder, remedy=remedy)


def _of_the_wire(error: BaseException, where: str, revision: str | None, file: str | None) -> RepoError | None:
    del revision
    if "Consistency check failed" in str(error):
        return RepoError(
            "the file that came is another than the one that was announced",
            where=_at(where, file),
            found=first_line(error),
            remedy="Nothing of it was kept. Try again.",
        )
    if is_cut(error):
        return RepoError(
            "the connection to the Hub broke, several times",
            where=_at(where, file),
            found=f"{type(error).__name__}: {first_line(error)}",
            remedy="What has come is kept. Try again.",
        )
    return None


# ---- looking into errors


class _Response(Protocol):
    status_code: int
    headers: _Headers
    request: _Request


class _Headers(Protocol):
    def get(self, name: str) -> str | None: ...


class _Request(Protocol):
    method: str


def _response(error: BaseException) -> _Response | None:
    from huggingface_hub.errors import HfHubHTTPError

    return error.response if isinstance(error, HfHubHTTPError) else None  # type: ignore[return-value]


def _told(error: BaseException) -> str:
    """What the server says, in a line, with its status."""
    from huggingface_hub.errors import HfHubHTTPError

    code = status(error)
    said = error.server_message if isinstance(error, HfHubHTTPError) else None
    text = (" ".join(said.split()) if said else first_line(error)).rstrip(".")
    return text if code is None or str(code) in text else f"{code}: {text}"


def _at(where: str, file: str | None) -> str:
    return where if file is None else f"{where}: {file}"


def _kinds(*names: str) -> tuple[type[BaseException], ...]:
    """Classes of errors of the transport that this release of huggingface_hub is built on, whatever its name."""
    held = vars(_transport())
    return tuple(held[name] for name in names if name in held)


def _transport() -> ModuleType:
    from huggingface_hub import errors

    return import_module(vars(errors)["HTTPError"].__module__.split(".")[0])
