"""Files and what is known of them: resolve and the CDN, trees, paths, refs, history, branches and tags."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import quote as quoted
from urllib.parse import parse_qs, quote, urlencode

from loopback.access import Call, on
from loopback.git import RefError
from loopback.store import File, NoFileError, Repository
from loopback.wire import Answer, RefusedError, as_json

_FORMATTED = "formatted"


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def paged(call: Call, rows: Sequence[object], size: int) -> Answer:
    """A page of a list, and where the next one is."""
    start = int(call.request.first("cursor", "0") or "0")
    answer = as_json(list(rows[start : start + size]))
    if start + size < len(rows):
        query = {name: values for name, values in call.request.query.items() if name != "cursor"}
        query["cursor"] = [str(start + size)]
        path = "/".join(quote(part, safe="") for part in call.request.segments)
        answer.headers["Link"] = f'<{call.hub.address}/{path}?{urlencode(query, True)}>; rel="next"'
    return answer


# Contents


def _resolve(call: Call) -> Answer:
    repo = call.read()
    if len(call.rest) < 3:
        raise RefusedError(404, "a revision and a file are needed")
    revision, parts = call.rest[1], call.rest[2:]
    if revision == "refs" and len(parts) > 2:
        revision, parts = "/".join((revision, *parts[:2])), parts[2:]
    commit, path = call.commit(revision), "/".join(parts)
    try:
        file = repo.file(commit, path)
    except NoFileError:
        raise RefusedError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit) from None
    name = quoted(path.rsplit("/", 1)[-1])
    headers = {"X-Repo-Commit": commit, "Content-Disposition": f'inline; filename="{name}"'}
    if file.large is None:
        headers |= {"ETag": f'"{file.oid}"', "Content-Type": "text/plain; charset=utf-8"}
        return Answer(200, repo.data(file), headers, ranged=True)
    sha256 = file.large.sha256
    headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
    key = f"{repo.kind}s/{quote(repo.name)}/{sha256}/{quote(path.rsplit('/', 1)[-1])}"
    headers |= {"Location": f"{call.hub.cdn}/cdn/{key}", "ETag": f'"{sha256}"'}
    return Answer(302, b"", headers)


on("GET", "resolve")(_resolve)
on("HEAD", "resolve")(_resolve)
on("GET", "raw")(_resolve)


def serve_large(call: Call) -> Answer:
    """What the CDN sends: a large file, to whoever has its address."""
    repo, (sha256, name) = call.repo, call.rest
    if not repo.lfs.holds(sha256):
        raise RefusedError(403, "AccessDenied")
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Answer(200, repo.lfs.path(sha256), {"ETag": f'"{sha256}"', "Content-Type": kind}, ranged=True)


def _git(call: Call) -> Answer:
    """What ``git clone`` asks for, by git's plain protocol: refs and loose objects (large files come as pointers).

    Source: https://git-scm.com/docs/http-protocol
    """
    try:
        git = call.read().git
    except RefusedError as error:
        if error.status == 401:
            error.headers["WWW-Authenticate"] = 'Basic realm="loopback"'
        raise
    path = "/".join(call.rest)
    if path == "info/refs":
        names = {
            f"{under}/{name}": oid for under in ("refs/heads", "refs/tags") for name, oid in git.refs(under).items()
        }
        return Answer(200, "".join(f"{oid}\t{name}\n" for name, oid in sorted(names.items())).encode())
    if path == "HEAD":
        return Answer(200, b"ref: refs/heads/main\n")
    if re.fullmatch(r"objects/[0-9a-f]{2}/[0-9a-f]{38}", path) and (git.folder / path).is_file():
        return Answer(200, git.folder / path)
    raise RefusedError(404, "Not Found")


for _action in ("info", "HEAD", "objects"):
    on("GET", _action)(_git)


# Lists


def _last(repo: Repository, commit: str, path: str) -> dict[str, object]:
    last = repo.touched_by(commit, path)
    return {"id": last.oid, "title": last.title, "date": moment(last.date)}


def _file_row(call: Call, commit: str, file: File, expand: bool) -> dict[str, object]:
    row: dict[str, object] = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.large is not None:
        row["lfs"] = {"oid": file.large.sha256, "size": file.size, "pointerSize": len(file.large.data())}
    if expand:
        row["lastCommit"] = _last(call.repo, commit, file.path)
    return row


def _folder_row(call: Call, commit: str, path: str, oid: str, expand: bool) -> dict[str, object]:
    row: dict[str, object] = {"type": "directory", "oid": oid, "size": 0, "path": path}
    return row | ({"lastCommit": _last(call.repo, commit, path)} if expand else {})


@on("GET", "tree")
def tree(call: Call) -> Answer:
    repo = call.see()
    commit = call.commit(call.rest[1] if len(call.rest) > 1 else "main")
    folder = "/".join(call.rest[2:]).strip("/")
    recursive, expand = call.request.flag("recursive"), call.request.flag("expand")
    folders, files = repo.folders(commit), repo.files(commit)
    if folder and folder not in folders:
        raise RefusedError(404, f"{folder} does not exist on {call.rest[1]}", "EntryNotFound", X_Repo_Commit=commit)
    start = f"{folder}/" if folder else ""

    def inside(path: str) -> bool:
        return path.startswith(start) and (recursive or "/" not in path[len(start) :])

    rows = [_folder_row(call, commit, path, oid, expand) for path, oid in folders.items() if inside(path)]
    rows += [_file_row(call, commit, file, expand) for file in files.values() if inside(file.path)]
    rows.sort(key=lambda row: str(row["path"]))
    return paged(call, rows, call.hub.page if not expand else min(50, call.hub.page))


@on("POST", "paths-info")
def paths_info(call: Call) -> Answer:
    repo = call.see()
    commit = call.commit(call.rest[1] if len(call.rest) > 1 else "main")
    if "json" in call.request.headers.get("Content-Type", ""):
        given = call.request.json()
        asked = given.get("paths", [])
        paths = [str(path) for path in asked] if isinstance(asked, list) else [str(asked)]
        expand = given.get("expand") is True
    else:
        form = parse_qs(call.request.body.read().decode(), True)
        paths, expand = form.get("paths", []), form.get("expand", ["false"])[0].lower() == "true"
    if len(paths) > 1000:
        raise RefusedError(413, "too many parameters")
    folders, files = repo.folders(commit), repo.files(commit)
    rows = [_file_row(call, commit, files[path], expand) for path in paths if path in files]
    rows += [_folder_row(call, commit, path, folders[path], expand) for path in paths if path in folders]
    return as_json(rows)


@on("GET", "commits")
def commits(call: Call) -> Answer:
    repo = call.see()
    head = call.commit("/".join(call.rest[1:]) or "main")
    formatted = _FORMATTED in call.request.query.get("expand[]", []) + call.request.query.get("expand", [])
    rows = []
    for commit in repo.git.history(head):
        row: dict[str, object] = {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author, "avatar": ""}],
            "date": moment(commit.date),
            "parents": list(commit.parents),
        }
        rows.append(row | ({_FORMATTED: {"title": commit.title, "message": commit.message}} if formatted else {}))
    answer = paged(call, rows, call.hub.page)
    answer.headers["X-Total-Count"] = str(len(rows))
    return answer


# Refs


@on("GET", "refs")
def refs(call: Call) -> Answer:
    git = call.see().git

    def rows(under: str) -> list[dict[str, str]]:
        named = git.refs(under).items()
        return [{"name": name, "ref": f"{under}/{name}", "targetCommit": oid} for name, oid in named]

    found: dict[str, object] = {"branches": rows("refs/heads"), "tags": rows("refs/tags"), "converts": []}
    if call.request.flag("include_prs"):
        pulls = git.refs("refs/pr").items()
        found["pullRequests"] = [{"name": f"refs/pr/{n}", "ref": f"refs/pr/{n}", "targetCommit": o} for n, o in pulls]
    return as_json(found)


def _name_ref(call: Call, name: str, oid: str) -> Answer:
    repo = call.repo
    with repo.lock:
        if repo.git.ref(name) is not None:
            raise RefusedError(409, f"Reference {name} already exists")
        try:
            repo.git.set_ref(name, oid)
        except RefError as error:
            raise RefusedError(400, f"Invalid reference: {error}") from None
    return as_json({"success": True})


@on("POST", "branch")
def make_branch(call: Call) -> Answer:
    call.write()
    name, given = "/".join(call.rest[1:]), call.request.json()
    if name.startswith("refs/"):
        raise RefusedError(400, f"Invalid reference for a branch: {name}")
    return _name_ref(call, f"refs/heads/{name}", call.commit(str(given.get("startingPoint") or "main")))


@on("DELETE", "branch")
def drop_branch(call: Call) -> Answer:
    repo, name = call.write(), "/".join(call.rest[1:])
    if name == "main":
        raise RefusedError(403, "Cannot delete the main branch")
    with repo.lock:
        if repo.git.ref(f"refs/heads/{name}") is None:
            raise RefusedError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        repo.git.delete_ref(f"refs/heads/{name}")
    return as_json({"success": True})


@on("POST", "tag")
def make_tag(call: Call) -> Answer:
    call.write()
    return _name_ref(call, f"refs/tags/{call.request.json().get('tag')}", call.commit("/".join(call.rest[1:])))


@on("DELETE", "tag")
def drop_tag(call: Call) -> Answer:
    repo, name = call.write(), "/".join(call.rest[1:])
    with repo.lock:
        if repo.git.ref(f"refs/tags/{name}") is None:
            raise RefusedError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        repo.git.delete_ref(f"refs/tags/{name}")
    return as_json({"success": True})
