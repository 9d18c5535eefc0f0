"""Sending saved files to the Hub: one commit, of what the repository does not have yet, or nothing.

Whatever is pushed is first saved as ``save_pretrained`` saves it, and compared with the branch as it is. Large files
go first, to the Hub's store of objects, where they are found by their digests: a push that was cut goes on with those
that are missing. The commit comes last and names the one that it was compared with, so that nobody's work in between
is overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from omniform.core.errors import (
    InputError,
    OfflineError,
    RepoError,
    RevisionError,
    UnknownArgumentError,
    WriteRefusedError,
    brief,
    check_arguments,
)
from omniform.core.files import write_text
from omniform.core.kinds import switch
from omniform.core.logs import get_logger
from omniform.core.pushing import PushOptions, SaveOptions, SendOptions
from omniform.hub.folders import files_in, folder_of, room
from omniform.hub.refusals import refused
from omniform.hub.stale import stale_beside

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi

CARD: Final = "README.md"

_TRIES: Final = 3
"""So often a push is compared anew with a branch that moved meanwhile."""

_SAVED: Final = ("max_shard_size", "variant", "safe_serialization")
_GONE: Final[Mapping[str, str]] = {
    "repo_url": "The repository is named by repo_id: 'owner/name'.",
    "organization": "It is the first part of repo_id: 'organization/name'.",
    "repo_path_or_name": "The repository is named by repo_id: 'owner/name'.",
    "repo_name": "The repository is named by repo_id: 'owner/name'.",
}
"""Arguments of older releases, and what stands for them now."""


class Savable(Protocol):
    """What writes its files into a folder; of the options it is given those that were asked for."""

    def save_pretrained(self, save_directory: Path, **options: object) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """Where files go on the Hub, and what their commit says; see :class:`~omniform.core.pushing.SendOptions`."""

    repo_id: str
    commit_message: str | None = None
    commit_description: str | None = None
    private: bool | None = None
    token: str | bool | None = None
    revision: str | None = None
    create_pr: bool = False
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The repository, by the name that messages of errors ask for."""
        return self.repo_id


def push(saved: Savable, repo_id: str, **options: object) -> CommitInfo:
    """Save something and commit the files; see :meth:`omniform.core.pushing.PushToHub.push_to_hub`."""
    callee = f"{type(saved).__name__}.push_to_hub"
    _refuse_old(callee, options)
    check_arguments(callee, options, PushOptions.__annotations__)
    _switch("use_temp_dir", options.pop("use_temp_dir", None))
    how = {name: options.pop(name) for name in _SAVED if options.get(name) is not None}
    sending = _sending(repo_id, {name: value for name, value in options.items() if name not in _SAVED})
    api = _api(sending)
    with room("omniform-push") as place:
        folder = place / sending.repo_id.rpartition("/")[2]
        saved.save_pretrained(folder, **how)
        return _send(api, saved, folder, files_in(folder), sending)


def sending_of(
    push_to_hub: object, save_directory: object, given: Mapping[str, object], known: Iterable[str] = ()
) -> Sending | None:
    """What ``save_pretrained`` is told of the Hub; None where nothing is to go there.

    Args:
        given: the keywords that it does not know itself.
        known: others that it takes.

    Raises:
        InputError: a value that an option cannot have; a folder that no repository can be named after.
        RepoError: there is no token, or nothing may be sent.
        UnknownArgumentError: another keyword.
    """
    _refuse_old("save_pretrained", given)
    check_arguments("save_pretrained", given, ("push_to_hub", *SaveOptions.__annotations__, *known))
    if not _switch("push_to_hub", push_to_hub):
        return None
    name = given.get("repo_id")
    options = {key: value for key, value in given.items() if key in SendOptions.__annotations__}
    if name is None:
        name = Path(os.path.abspath(folder_of(save_directory))).name
    sending = _sending(name, options)
    _api(sending)  # before anything is written
    return sending


def send(saved: object, folder: Path, names: Iterable[str], sending: Sending) -> CommitInfo:
    """Commit files of a folder, which others may lie in, to the Hub.

    Args:
        saved: what was saved there; it tells what the model card says.
        names: the files, relative to the folder.

    Raises:
        RepoError: the Hub refuses, or cannot be reached; the branch is as it was.
    """
    return _send(_api(sending), saved, folder, names, sending)


# ---- what is asked for


def _sending(repo_id: object, options: Mapping[str, object]) -> Sending:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    wrong = InputError("this names no repository", where="repo_id", expected="'owner/name'", found=brief(repo_id))
    if not isinstance(repo_id, str) or not repo_id:
        raise wrong
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise wrong from error
    given = dict(options)
    old = given.pop("use_auth_token", None)
    for name in ("commit_message", "commit_description", "revision"):
        if not (given.get(name) is None or (isinstance(given[name], str) and given[name])):
            raise InputError("no text", where=name, expected="a string", found=brief(given[name]))
    token = old if given.get("token") is None else given["token"]
    if not isinstance(token, (str, bool, type(None))):
        raise InputError("no token", where="token", expected="a string, True or None", found=type(token).__name__)
    private = given.get("private")
    tags = given.get("tags") or ()
    tags = (tags,) if isinstance(tags, str) else tags
    if not (isinstance(tags, (list, tuple)) and all(isinstance(tag, str) and tag.strip() for tag in tags)):
        raise InputError("no tags", where="tags", expected="strings", found=brief(tags))
    return Sending(
        repo_id=repo_id,
        commit_message=cast("str | None", given.get("commit_message")),
        commit_description=cast("str | None", given.get("commit_description")),
        private=None if private is None else switch("private", private),
        token=token,
        revision=cast("str | None", given.get("revision")),
        create_pr=_switch("create_pr", given.get("create_pr")),
        tags=tuple(tags),
    )


def _switch(name: str, value: object) -> bool:
    return switch(name, False if value is None else value)


def _refuse_old(callee: str, given: Iterable[str]) -> None:
    for name in given:
        if name in _GONE:
            raise UnknownArgumentError(f"{callee} has no argument {name!r} any more", remedy=_GONE[name])


def _api(sending: Sending) -> HfApi:
    """The client, for a token that there is.

    Raises:
        RepoError: there is none, or nothing is to be asked of the network.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise OfflineError("nothing can be sent while offline", where=sending.repo_id, found="HF_HUB_OFFLINE=1")
    token = get_token() if sending.token in (None, True) else sending.token
    if not token:
        raise WriteRefusedError(
            "nothing is sent to the Hub without a token",
            where=sending.repo_id,
            remedy="Pass token=..., set HF_TOKEN, or run `hf auth login`.",
        )
    return HfApi(token=token, library_name="omniform")


# ---- the repository


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch as it was looked at.

    Attributes:
        name: of the branch, or of a pull request's.
        exists: whether it does; a new one begins where main is.
        commit: its last one, or main's.
        files: their paths.
    """

    name: str
    exists: bool
    commit: str
    files: tuple[str, ...]


def _send(api: HfApi, saved: object, folder: Path, names: Iterable[str], sending: Sending) -> CommitInfo:
    names = tuple(names)
    try:
        sending = replace(sending, repo_id=_repository(api, sending))
        for left in reversed(range(_TRIES)):
            try:
                return _commit(api, saved, folder, names, sending)
            except Exception as error:
                if not (left and _moved(error)):
                    raise
        raise AssertionError("the last try returns or raises")
    except (RepoError, InputError):
        raise
    except ValueError as error:  # the client has asked the Hub about the card
        from omniform.hub import cards

        if CARD not in str(error):
            raise refused(error, sending) from error
        raise cards.invalid(error) from error
    except Exception as error:  # whatever the transport beneath huggingface_hub raises, which differs by release
        raise refused(error, sending) from error


def _repository(api: HfApi, sending: Sending) -> str:
    """The full name of the repository, which is made where there is none; of a renamed one, the name it has now."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if "/" in sending.repo_id:
        try:
            return str(api.model_info(sending.repo_id).id)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            pass  # or one that this token may not see, which making it will tell
    return str(api.create_repo(sending.repo_id, private=sending.private, exist_ok=True).repo_id)


def _moved(error: Exception) -> bool:
    """Whether somebody committed to the branch between our look at it and our commit."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code == 412


def _commit(api: HfApi, saved: object, folder: Path, names: tuple[str, ...], sending: Sending) -> CommitInfo:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from omniform.hub import cards

    branch = _look(api, sending)
    card = _card(api, saved, folder, names, branch, sending)
    operations = _operations(folder, names, card, branch.files)
    if not branch.exists:
        # Everything that can fail comes before the branch does.
        additions = [operation for operation in operations if isinstance(operation, CommitOperationAdd)]
        cards.check(card)
        api.preupload_lfs_files(sending.repo_id, additions, free_memory=False)
        api.create_branch(sending.repo_id, branch=branch.name, exist_ok=True)
    gone = [operation.path_in_repo for operation in operations if isinstance(operation, CommitOperationDelete)]
    sent = ", ".join(sorted({*names, CARD}))
    get_logger().info("%s: %s%s", sending.repo_id, sent, f"; removed: {', '.join(gone)}" if gone else "")
    made = api.create_commit(
        sending.repo_id,
        operations,
        commit_message=sending.commit_message or _message(saved),
        commit_description=sending.commit_description,
        revision=branch.name,
        create_pr=sending.create_pr,
        parent_commit=branch.commit,
    )
    _keep(folder / CARD, card)
    return made


def _look(api: HfApi, sending: Sending) -> Branch:
    """The branch that is asked for; one that does not exist is described by main.

    Raises:
        RepoError: the revision is none that can be committed to.
    """
    name, exists = sending.revision or "main", True
    if sending.revision is not None:
        refs = api.list_repo_refs(sending.repo_id, include_pull_requests=True)
        requests = {ref.ref for ref in refs.pull_requests or ()}
        exists = name in {ref.name for ref in refs.branches} | requests
        tag = name in {ref.name for ref in refs.tags}
        if not exists and (tag or not _is_branch_name(name)):
            raise RevisionError(
                "this revision cannot be committed to",
                where=sending.repo_id,
                expected="a branch or an open pull request",
                found=f"the tag {name}" if tag else name,
            )
    info = api.model_info(sending.repo_id, revision=name if exists else None)
    assert info.sha is not None
    return Branch(name, exists, info.sha, tuple(file.rfilename for file in info.siblings or ()))


def _is_branch_name(name: str) -> bool:
    """Whether a branch may be made under this name: git's rules, and none that reads as a commit or a pull request."""
    from huggingface_hub import constants

    parts = name.split("/")
    spoilt = any(part.startswith(".") or part.endswith((".", ".lock")) or not part for part in parts)
    strange = ".." in name or "@{" in name or name == "@" or any(c in " ~^:?*[\\" or ord(c) < 33 for c in name)
    taken = name.startswith(("refs/", "-")) or constants.REGEX_COMMIT_OID.fullmatch(name) is not None
    return not (spoilt or strange or taken)


def _operations(
    folder: Path, names: Iterable[str], card: str, there: Iterable[str]
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    names = sorted({*names} - {CARD})
    stale = stale_beside([*names, CARD], there)
    return [
        CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()),
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names),
        *(CommitOperationDelete(path_in_repo=name, is_folder=False) for name in stale),
    ]


def _card(api: HfApi, saved: object, folder: Path, names: Iterable[str], branch: Branch, sending: Sending) -> str:
    """The model card: the repository's and the folder's words, and what is known besides."""
    from omniform.hub import cards

    path = folder / CARD
    local = _text(path.read_bytes(), str(path)) if path.is_file() else None
    remote = _remote_card(api, sending.repo_id, branch.commit) if CARD in branch.files else None
    files = {*names, *branch.files}
    return cards.merged(saved, sending.repo_id, sending.tags, files=files, remote=remote, local=local)


def _keep(path: Path, card: str) -> None:
    """Put the card that was pushed into the folder, so that it is what the Hub has."""
    write_text(path, card, "the model card")


def _remote_card(api: HfApi, repo_id: str, commit: str) -> str:
    with room("omniform-push") as place:
        path = api.hf_hub_download(repo_id, CARD, revision=commit, cache_dir=place)
        return _text(Path(path).read_bytes(), f"{repo_id}: {CARD}")


def _text(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "the model card is no text that the Hub accepts", where=where, expected="UTF-8", found=str(error)
        ) from error


_KINDS: Final = {
    "Config": "config",
    "Model": "model",
    "Tokenizer": "tokenizer",
    "FeatureExtractor": "feature extractor",
    "Processor": "processor",
}


def _message(saved: object) -> str:
    """The commit's first line, in the ecosystem's words, which go by the class."""
    name = type(saved).__name__
    return f"Upload {next((words for kind, words in _KINDS.items() if kind in name), name)}"
