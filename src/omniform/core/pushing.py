"""``push_to_hub``: what every object that saves itself into a folder has, done on a higher floor."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, Unpack, cast

from omniform.core.upstairs import upstairs

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class SendOptions(TypedDict, total=False):
    """Where files go on the Hub, and what their commit says.

    Attributes:
        commit_message: the commit's first line; by default what is uploaded.
        commit_description: what else it says.
        private: whether a repository that is made now is seen by its owners only; None as the account is set.
        token: the access token; None or True for the stored one.
        revision: the branch, made where it does not exist, or a pull request (``"refs/pr/3"``); main by default.
        create_pr: open a pull request with the commit.
        tags: added to those of the model card.
        use_auth_token: an old name of ``token``.
    """

    commit_message: str | None
    commit_description: str | None
    private: bool | None
    token: str | bool | None
    revision: str | None
    create_pr: bool
    tags: str | Sequence[str] | None
    use_auth_token: str | bool | None


class PushOptions(SendOptions, total=False):
    """The options of :meth:`PushToHub.push_to_hub`.

    Attributes:
        max_shard_size: bytes of weights per file, of models.
        variant: a word in the names of the weights' files, of models.
        safe_serialization: True.
        use_temp_dir: without effect; files are always written to a folder of their own first.
    """

    max_shard_size: int | str | None
    variant: str | None
    safe_serialization: bool
    use_temp_dir: bool | None


class SaveOptions(SendOptions, total=False):
    """What ``save_pretrained(folder, push_to_hub=True)`` takes besides.

    Attributes:
        repo_id: the repository; by default one of the folder's name.
    """

    repo_id: str | None


class PushToHub:
    """What can be saved into a folder can be sent to the Hub; see :func:`omniform.hub.push.push`."""

    def push_to_hub(self, repo_id: str, **options: Unpack[PushOptions]) -> CommitInfo:
        """Save it and commit the files to a repository on the Hub, which is made where there is none.

        What the repository has already is not sent again, and files of an earlier push that would be read instead of
        these are removed by the same commit. Nothing on the branch changes before all files are there.

        Args:
            repo_id: ``"owner/name"``; without an owner, the token's.

        Returns:
            The commit, as huggingface_hub tells it (``oid``, ``commit_url``, ``pr_url``, ...).

        Raises:
            InputError: no repository's name, or a value that an option cannot have.
            RepoError: the token may not write there, there is no such revision, the Hub cannot be reached, or files
                cannot be written here.
            UnknownArgumentError: another keyword.
        """
        return cast("CommitInfo", upstairs("hub.push:push")(self, repo_id, **options))

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> object:
        """Save it to a folder.

        Raises:
            NotImplementedError: a class of the user's own, that says not how.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it is saved: give it a save_pretrained")


PushToHubMixin = PushToHub
"""The ecosystem's name: a base for classes of the user's own that have a ``save_pretrained``."""
