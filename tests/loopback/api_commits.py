"""Changing a repository: preupload, commit, and the uploads of large files."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

from loopback.access import PREFIX, Call, on
from loopback.cards import check_card
from loopback.lfs import UploadError
from loopback.store import (
    Add,
    AddLarge,
    BadChangeError,
    Change,
    Copy,
    Delete,
    DeleteFolder,
    MovedOnError,
    NoFileError,
    NoRevisionError,
    Repository,
)
from loopback.wire import Answer, RefusedError, as_json


def _rows(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise RefusedError(400, "a list of objects is needed")
    return cast("list[dict[str, object]]", value)


def _ignored(path: str, rules: str) -> bool:
    """Whether .gitignore's rules leave a file out: the last rule that matches counts."""
    out = False
    for line in rules.splitlines():
        rule = line.strip()
        if not rule or rule.startswith("#"):
            continue
        keep, rule = rule.startswith("!"), rule.lstrip("!")
        only, rule = rule.endswith("/"), rule.strip("/")
        parts = path.split("/")
        heads = ["/".join(parts[:n]) for n in range(1, len(parts) + (0 if only else 1))]
        names = heads if "/" in rule or line.strip().startswith("/") else [head.rsplit("/", 1)[-1] for head in heads]
        if any(fnmatch.fnmatchcase(name, rule) for name in names):
            out = not keep
    return out


def may_push(call: Call, revision: str) -> Repository:
    """A repository that the caller may change there: as one of its people, or by a pull request of their own."""
    repo = call.see()
    number = revision.removeprefix("refs/pr/")
    found = call.hub.talk(repo).get(int(number)) if number.isdigit() and number != revision else None
    if call.request.flag("create_pr") or (found is not None and found["author"] == call.user().user):
        return call.propose()
    return call.write()


@on("POST", "preupload")
def preupload(call: Call) -> Answer:
    """How each file is to come, and what is there under its name."""
    revision = "/".join(call.rest[1:])
    repo, given = may_push(call, revision), call.request.json()
    commit = call.commit(revision)
    there = repo.files(commit)
    rules = given.get("gitIgnore")
    if rules is None and ".gitignore" in there:
        rules = repo.data(there[".gitignore"]).decode(errors="replace")
    files = []
    for row in _rows(given.get("files")):
        path, size = str(row["path"]), int(str(row["size"]))
        large = repo.is_large(commit, path, size, call.hub.large)
        known = there.get(path)
        files.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": _ignored(path, str(rules)) if rules else False,
                "oid": None if known is None else known.large.sha256 if known.large else known.oid,
            }
        )
    return as_json({"files": files, "commitOid": commit})


def _changes(lines: Iterable[Mapping[str, object]]) -> Iterator[Change]:
    for line in lines:
        key, value = line.get("key"), cast("dict[str, str]", line.get("value") or {})
        if key == "file":
            text = value["content"]
            try:
                coded = value.get("encoding") == "base64"
                data = base64.b64decode(text, validate=True) if coded else text.encode()
            except (binascii.Error, ValueError):
                raise RefusedError(400, f"{value['path']}: its content is no base64") from None
            yield Add(value["path"], data)
        elif key == "lfsFile":
            yield AddLarge(value["path"], value["oid"])
        elif key == "deletedFile":
            yield Delete(value["path"])
        elif key == "deletedFolder":
            yield DeleteFolder(value["path"])
        elif key == "copyFile":
            yield Copy(value["path"], value["srcPath"], value.get("srcRevision"))
        else:
            raise RefusedError(400, f"unknown operation {key!r}")


@on("POST", "commit")
def commit(call: Call) -> Answer:
    """Operations, one a line, make one commit; nothing happens before the last line has come."""
    pull, revision = call.request.flag("create_pr"), "/".join(call.rest[1:])
    repo, author = may_push(call, revision), call.user().user
    base = call.commit(revision)
    try:
        lines = [json.loads(line) for line in call.request.body.read().splitlines() if line.strip()]
    except ValueError:
        raise RefusedError(400, "a line of the body is no JSON") from None
    if not lines or lines[0].get("key") != "header" or not lines[0]["value"].get("summary"):
        raise RefusedError(400, "the first line must be the header, with a summary")
    header = cast("dict[str, str]", lines[0]["value"])
    changes = list(_changes(lines[1:]))
    for change in changes:
        if isinstance(change, Add) and change.path == "README.md":
            errors = check_card(change.data.decode(errors="replace"), repo.kind).errors
            if errors:
                raise RefusedError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    number = call.hub.talk(repo).next_number() if pull else None
    ref = f"refs/pr/{number}" if pull else _ref(repo, revision)
    title, message = header["summary"], header.get("description") or ""
    oid = _make(repo, changes, ref, base, author, title, message, header.get("parentCommit"))
    place = f"{call.hub.address}/{PREFIX[repo.kind]}{repo.name}"
    found: dict[str, object] = {
        "success": True,
        "commitOid": oid,
        "commitUrl": f"{place}/commit/{oid}",
        "hookOutput": "",
    }
    if number is not None:
        call.hub.talk(repo).open(number, author, title, message, base=f"refs/heads/{revision}")
        found["pullRequestUrl"] = f"{place}/discussions/{number}"
    else:
        call.hub.talk(repo).pushed(ref, author, oid, title)
    return as_json(found)


def _ref(repo: Repository, revision: str) -> str:
    if revision.startswith("refs/"):
        return revision
    if repo.git.ref(f"refs/heads/{revision}") is None:
        raise RefusedError(400, f"{revision} is no branch: nothing can be committed to it")
    return f"refs/heads/{revision}"


def _make(
    repo: Repository,
    changes: list[Change],
    ref: str,
    base: str,
    author: str,
    title: str,
    message: str,
    parent: str | None,
) -> str:
    try:
        return repo.commit(changes, ref=ref, base=base, author=author, title=title, message=message, parent=parent)
    except MovedOnError:
        raise RefusedError(412, "A commit has happened since. Please refresh and try again.") from None
    except NoFileError as error:
        raise RefusedError(404, f"A file with this name doesn't exist: {error}", "EntryNotFound") from None
    except NoRevisionError as error:
        raise RefusedError(404, f"Invalid rev id: {error}", "RevisionNotFound") from None
    except BadChangeError as error:
        raise RefusedError(400, str(error)) from None


# Large files: https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md


def lfs_batch(call: Call) -> Answer:
    """Where to send (or to get) each large file; none for those that are there already."""
    given = call.request.json()
    transfers = given.get("transfers")
    in_parts = isinstance(transfers, list) and "multipart" in transfers
    if given.get("operation") == "download":
        repo = call.read()
    else:
        repo = call.propose()
    objects = []
    for row in _rows(given.get("objects")):
        sha256, size = str(row.get("oid")), int(str(row.get("size")))
        found: dict[str, object] = {"oid": sha256, "size": size}
        key = f"{repo.kind}s/{repo.name}/{sha256}"
        if given.get("operation") == "download":
            if repo.lfs.holds(sha256):
                found["actions"] = {"download": {"href": f"{call.hub.cdn}/cdn/{key}/{sha256}"}}
            else:
                found["error"] = {"code": 404, "message": "Object does not exist"}
        elif not repo.lfs.holds(sha256):
            verify = {"href": f"{call.hub.address}/{PREFIX[repo.kind]}{repo.name}.git/info/lfs/objects/verify"}
            upload: dict[str, object] = {"href": f"{call.hub.cdn}/upload/{key}"}
            if in_parts and size > call.hub.part:
                name = repo.lfs.begin()
                count = -(-size // call.hub.part)
                header = {str(n): f"{call.hub.cdn}/part/{key}/{name}/{n}" for n in range(1, count + 1)}
                upload = {
                    "href": f"{call.hub.cdn}/complete/{key}/{name}",
                    "header": {"chunk_size": str(call.hub.part), **header},
                }
            found["actions"] = {"upload": upload, "verify": verify}
        objects.append(found)
    answer = as_json({"transfer": "multipart" if in_parts else "basic", "objects": objects})
    answer.headers["Content-Type"] = "application/vnd.git-lfs+json"
    return answer


def lfs_verify(call: Call) -> Answer:
    repo, given = call.see(), call.request.json()
    sha256 = str(given.get("oid"))
    if not repo.lfs.holds(sha256):
        raise RefusedError(404, "Object does not exist")
    if repo.lfs.size(sha256) != given.get("size"):
        raise RefusedError(422, "the object is of another size")
    return as_json({"success": True})


def take_upload(call: Call) -> Answer:
    """What the storage behind the Hub takes: a file, a part of one, the news that all parts have come."""
    what, repo = call.request.segments[0], call.repo
    sha256, *more = call.rest
    try:
        if what == "upload":
            repo.lfs.put(sha256, call.request.body.pieces())
            return Answer(200, b"", {"ETag": f'"{sha256[:32]}"'})
        if not repo.lfs.has_upload(more[0]):
            raise RefusedError(404, "NoSuchUpload: The specified upload does not exist")
        if what == "part":
            etag = repo.lfs.put_part(more[0], int(more[1]), call.request.body.pieces())
            return Answer(200, b"", {"ETag": f'"{etag}"'})
        parts = sorted(_rows(call.request.json().get("parts")), key=lambda row: int(str(row["partNumber"])))
        repo.lfs.complete(more[0], sha256, [str(row["etag"]) for row in parts])
    except UploadError as error:
        raise RefusedError(400, str(error)) from None
    return as_json({"success": True})
