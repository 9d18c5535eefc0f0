"""The loopback Hub: a server for the real ``huggingface_hub`` client, with everything it keeps in a folder.

hub = Hub(folder).start()
hub.upload("ann/tiny", some_folder)
with hub.connected(cache=other_folder):
    AutoModel.from_pretrained("ann/tiny")
assert hub.log.count("HEAD") == 1
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from loopback import api_files, api_people, api_repos, api_talk, cards
from loopback.access import ALONE, ROUTES, Call, no_repository
from loopback.api_commits import lfs_batch, lfs_verify, take_upload
from loopback.api_files import serve_large
from loopback.client import connected, environment
from loopback.faults import Faults
from loopback.log import Log
from loopback.people import People, Token
from loopback.store import Add, AddLarge, Change, Delete, Gate, Kind, NoFileError, Repository, Settings, Store
from loopback.talk import Talk
from loopback.wire import Answer, RefusedError, Request, Server
from loopback.xet import Xet, answer_xet, is_xet

_ROUTES: Final = (api_files, api_people, api_repos, api_talk, cards)  # each notes its routes when it is imported
_ON_SITE: Final = ("resolve", "raw", "info", "HEAD", "objects")  # all else is under /api
_KINDS: Final[dict[str, Kind]] = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Hub:
    """A Hub of one's own.

    ``faults`` are what is to go wrong, ``log`` what was asked, ``people`` who there is, ``store`` what it keeps.
    ``token`` is the write token of ``user``, who is there from the start.

    Args:
        folder: where repositories are kept; one that was used before is taken up again.
        port: 0 takes a free one. The storage behind the Hub (uploads, large files) has a free port of its own, as the
            real one has a host of its own.
        page: rows in a page of a list.
        part: bytes in a part of an upload.
        large: files of more bytes go beside git, whatever their names.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        user: str = "ann",
        page: int = 1000,
        part: int = 64 << 20,
        large: int = 10 << 20,
    ) -> None:
        self.page, self.part, self.large, self.user = page, part, large, user
        self.store, self.people = Store(folder), People(folder / "people.json")
        self.token, self.read_token = self.people.token(user), self.people.token(user, "read")
        self.faults, self.log, self.xet = Faults(), Log(), Xet(folder / "xet")
        self._talks: dict[tuple[Kind, str], Talk] = {}
        self._front = Server("127.0.0.1", port, "hub", self._answer, self.faults, self.log)
        self._storage = Server("127.0.0.1", 0, "cdn", self._answer_storage, self.faults, self.log)

    # The server

    @property
    def address(self) -> str:
        """What ``HF_ENDPOINT`` is set to."""
        return self._front.address

    @property
    def cdn(self) -> str:
        """Where large files come from and go to."""
        return self._storage.address

    @property
    def trouble(self) -> list[str]:
        """Tracebacks of this server's own mistakes."""
        return self._front.trouble + self._storage.trouble

    def start(self) -> Hub:
        self._front.start()
        self._storage.start()
        return self

    def stop(self) -> None:
        self._front.stop()
        self._storage.stop()

    def __enter__(self) -> Hub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Its clients

    def environment(self, home: Path, *, token: str | None = None, **more: str) -> dict[str, str]:
        """The environment of a process that is to use this Hub, with a home folder of its own (see ``client``)."""
        return environment(self.address, home, token, more)

    @contextmanager
    def connected(
        self, *, cache: Path, token: str | None = None, offline: bool = False, xet: bool = False
    ) -> Iterator[Hub]:
        """Let the client of this process use this Hub (see ``client``)."""
        with connected(self.address, cache, token, offline, xet):
            yield self

    @contextmanager
    def watch(self) -> Iterator[Log]:
        """A log of a block's requests."""
        with self.log.watch() as log:
            yield log

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """A block in which nothing may be asked."""
        with self.log.watch() as log:
            yield
        assert not log.requests, f"nothing should have been asked, but:\n{log}"

    # What it holds

    def repo(self, name: str, kind: Kind = "model") -> Repository:
        """Raises: KeyError."""
        found = self.store.get(kind, name)
        if found is None:
            raise KeyError(name)
        return found

    def create(
        self,
        name: str,
        *,
        kind: Kind = "model",
        private: bool = False,
        gated: Gate = False,
        accepted: tuple[str, ...] = (),
    ) -> Repository:
        """A repository, if there is none of that name yet, with these settings."""
        repo = self.store.get(kind, name)
        if repo is None:
            repo = self.store.create(
                kind, name, self.user, Settings(private=private, gated=gated, accepted=list(accepted))
            )
        return repo

    def upload(
        self,
        name: str,
        files: Path | Mapping[str, bytes | str | Path | None],
        *,
        kind: Kind = "model",
        revision: str = "main",
        message: str = "files",
        author: str | None = None,
        private: bool = False,
        gated: Gate = False,
        accepted: tuple[str, ...] = (),
        large: bool | None = None,
    ) -> str:
        """Commit files here, without any client; the repository and the branch are made where they are missing.

        Args:
            files: a folder, or contents by path; None deletes a file.
            revision: a branch, or a full ref (``refs/pr/1``).
            large: keep them beside git (True), in git (False), or as the Hub would (None).

        Returns:
            The commit.
        """
        repo = self.create(name, kind=kind, private=private, gated=gated, accepted=accepted)
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path for path in sorted(files.rglob("*")) if path.is_file()}
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        base = repo.git.ref(ref) or repo.head("main")
        changes: list[Change] = []
        for path, content in files.items():
            if content is None:
                changes.append(Delete(path))
                continue
            data = (
                content.read_bytes()
                if isinstance(content, Path)
                else content.encode()
                if isinstance(content, str)
                else content
            )
            beside = repo.is_large(base, path, len(data), self.large) if large is None else large
            changes.append(AddLarge(path, repo.lfs.adopt(data).sha256) if beside else Add(path, data))
        return repo.commit(changes, ref=ref, base=base, author=author or self.user, title=message)

    def tag(self, name: str, tag: str, revision: str = "main", kind: Kind = "model") -> None:
        repo = self.repo(name, kind)
        repo.git.set_ref(f"refs/tags/{tag}", repo.head(revision))

    def move(self, old: str, new: str, kind: Kind = "model") -> None:
        self.rename(self.repo(old, kind), new)

    def read(self, name: str, path: str, revision: str = "main", kind: Kind = "model") -> bytes:
        """What a file holds."""
        repo = self.repo(name, kind)
        return repo.data(repo.file(repo.head(revision), path))

    def paths(self, name: str, revision: str = "main", kind: Kind = "model") -> list[str]:
        repo = self.repo(name, kind)
        return list(repo.files(repo.head(revision)))

    def titles(self, name: str, revision: str = "main", kind: Kind = "model") -> list[str]:
        """Titles of the commits, newest first."""
        repo = self.repo(name, kind)
        return [commit.title for commit in repo.git.history(repo.head(revision))]

    def talk(self, repo: Repository) -> Talk:
        with self.store.lock:
            key = (repo.kind, repo.name)
            if key not in self._talks:
                self._talks[key] = Talk(repo)
            return self._talks[key]

    def forget(self, repo: Repository) -> None:
        self._talks.pop((repo.kind, repo.name), None)
        self.store.delete(repo)

    def rename(self, repo: Repository, name: str) -> None:
        self._talks.pop((repo.kind, repo.name), None)
        self.store.move(repo, name)

    # What becomes of a request

    def _answer(self, request: Request) -> Answer:
        token = self.people.whose(request.asked.token) if request.asked.token is not None else None
        if request.headers.get("Authorization") and token is None:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        parts = request.segments
        alone = ALONE.get((request.method, "/".join(parts)))
        if alone is not None:
            return alone(Call(self, request, token, None, ()))
        if len(parts) > 1 and parts[0] == "api" and parts[1] in _KINDS:
            kind, rest = _KINDS[parts[1]], parts[2:]
            if not rest:
                return api_repos.listing(Call(self, request, token, None, ()), kind)
            return self._in_repo(request, token, kind, rest, "api")
        if len(parts) > 3 and parts[:2] == ("api", "users"):
            return api_people.overview(Call(self, request, token, None, ()), parts[2])
        if parts[0] in _KINDS:
            return self._in_repo(request, token, _KINDS[parts[0]], parts[1:], "site")
        return self._in_repo(request, token, "model", parts, "site")

    def _in_repo(self, request: Request, token: Token | None, kind: Kind, parts: tuple[str, ...], side: str) -> Answer:
        name, rest = self._split(kind, parts)
        git = name.endswith(".git")
        name = name.removesuffix(".git")
        call = Call(self, request, token, self.store.get(kind, name), rest)
        if call.found is None and (now := self.store.moved(kind, name)) is not None:
            return self._redirect(request, kind, name, now)
        if git and rest[:3] == ("info", "lfs", "objects") and request.method == "POST":
            return lfs_batch(call) if rest[3:] == ("batch",) else lfs_verify(call)
        route = ROUTES.get((request.method, rest[0] if rest else ""))
        if route is None or (side == "site") != (bool(rest) and rest[0] in _ON_SITE):
            if call.found is None:
                raise no_repository(call.token)
            raise RefusedError(404, f"The loopback Hub has no {request.method} {request.asked.path}")
        try:
            return route(call)
        except NoFileError as error:
            raise RefusedError(404, f"Entry not found: {error}", "EntryNotFound") from None

    def _split(self, kind: Kind, parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The name of a repository, of one part or of two, and what follows it."""
        actions = {action for _, action in ROUTES if action} | {"info"}
        if len(parts) == 1 or (parts[1] in actions and self.store.get(kind, "/".join(parts[:2])) is None):
            return parts[0], parts[1:]
        return "/".join(parts[:2]), parts[2:]

    def _redirect(self, request: Request, kind: Kind, old: str, new: str) -> Answer:
        raw, _, query = request.asked.raw.partition("?")
        target = raw.replace(f"/{old}", f"/{new}", 1) + (f"?{query}" if query else "")
        return Answer(307, b"", {"Location": target, "X-Error-Message": f"{kind} {old} has moved to {new}"})

    def _answer_storage(self, request: Request) -> Answer:
        """``/cdn/models/ann/tiny/SHA256/name`` and the like: no token, who has the address may."""
        if is_xet(request):
            return answer_xet(self, request)
        parts = request.segments
        at = next((n for n, part in enumerate(parts) if len(part) == 64), 0)
        kind = _KINDS.get(parts[1]) if len(parts) > 1 else None
        repo = self.store.get(kind, "/".join(parts[2:at])) if kind else None
        if repo is None:
            raise RefusedError(403, "AccessDenied")
        call = Call(self, request, None, repo, parts[at:])
        if parts[0] == "cdn" and request.method in ("GET", "HEAD"):
            return serve_large(call)
        if (request.method, parts[0]) in (("PUT", "upload"), ("PUT", "part"), ("POST", "complete")):
            return take_upload(call)
        raise RefusedError(405, "MethodNotAllowed")
