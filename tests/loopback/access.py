"""What a route is given, and who may do what with a repository, in the Hub's statuses and codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loopback.people import Role, Token
from loopback.store import Kind, NoRevisionError, Repository
from loopback.wire import Answer, RefusedError, Request

if TYPE_CHECKING:
    from loopback.hub import Hub

PREFIX: Final[dict[Kind, str]] = {"model": "", "dataset": "datasets/", "space": "spaces/"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request, who makes it, the repository that it is about, and what of the path follows its name."""

    hub: Hub
    request: Request
    token: Token | None
    found: Repository | None
    rest: tuple[str, ...]

    @property
    def repo(self) -> Repository:
        assert self.found is not None
        return self.found

    @property
    def role(self) -> Role | None:
        """What the caller may do with the repository as its owner or one of an organisation."""
        if self.token is None:
            return None
        return self.hub.people.role_in(self.token.user, self.repo.owner)

    def user(self) -> Token:
        """Who calls, if it is somebody.

        Raises:
            RefusedError: 401, nobody in particular.
        """
        if self.token is None:
            raise RefusedError(401, "Invalid username or password.")
        return self.token

    def see(self) -> Repository:
        """A repository that the caller may know of: a public one, or one of their own.

        Raises:
            RefusedError: 401 to nobody in particular, 404 to a user, as for one that is not there.
        """
        if self.found is not None and (not self.found.settings.private or self.role is not None):
            return self.found
        raise no_repository(self.token)

    def read(self) -> Repository:
        """A repository whose files the caller may have.

        Raises:
            RefusedError: as ``see``; and 401 or 403 of code ``GatedRepo``.
        """
        repo = self.see()
        if repo.settings.gated and self.role is None and not (self.token and self.token.user in repo.settings.accepted):
            words = f"Access to {repo.kind} {repo.name} is restricted"
            if self.token is None:
                how = "You must have access to it and be authenticated to access it. Please log in."
                raise RefusedError(401, f"{words}. {how}", "GatedRepo")
            where = f"{self.hub.address}/{PREFIX[repo.kind]}{repo.name}"
            how = f"Visit {where} to ask for access."
            raise RefusedError(403, f"{words} and you are not in the authorized list. {how}", "GatedRepo")
        return repo

    def write(self) -> Repository:
        """A repository that the caller may change.

        Raises:
            RefusedError: as ``see``; 401 without a token, 403 with one that may not.
        """
        repo = self.see()
        token = self.user()
        may_write(token)
        if self.role not in ("write", "admin"):
            raise RefusedError(403, f"You don't have the required permissions to push to {repo.kind}s/{repo.name}.")
        return repo

    def propose(self) -> Repository:
        """A repository that the caller may open discussions and pull requests of: any that they see."""
        repo = self.see()
        may_write(self.user())
        return repo

    def commit(self, revision: str) -> str:
        """The commit that a revision of the repository names.

        Raises:
            RefusedError: 404 of code ``RevisionNotFound``.
        """
        try:
            return self.repo.head(revision)
        except NoRevisionError:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None


def may_write(token: Token) -> None:
    if token.role == "read":
        raise RefusedError(403, "Forbidden: you must use a write token to upload to a repository.")


def no_repository(token: Token | None) -> RefusedError:
    if token is None:
        return RefusedError(401, "Invalid username or password.", "RepoNotFound")
    return RefusedError(404, "Repository not found", "RepoNotFound")


Route = Callable[[Call], Answer]
ROUTES: dict[tuple[str, str], Route] = {}
"""(method, name of the action) to what answers; the part of a path after a repository's name begins with the action."""

ALONE: dict[tuple[str, str], Route] = {}
"""The same for paths that are about no one repository."""


def on(method: str, action: str) -> Callable[[Route], Route]:
    def note(route: Route) -> Route:
        ROUTES[method, action] = route
        return route

    return note


def alone(method: str, path: str) -> Callable[[Route], Route]:
    def note(route: Route) -> Route:
        ALONE[method, path] = route
        return route

    return note
