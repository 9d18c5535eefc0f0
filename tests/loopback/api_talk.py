"""Discussions and pull requests over the wire."""

from __future__ import annotations

import difflib

from loopback.access import Call, on
from loopback.api_files import moment
from loopback.store import MovedOnError
from loopback.talk import Record, Talk
from loopback.wire import Answer, RefusedError, as_json


def _talk(call: Call) -> Talk:
    return call.hub.talk(call.see())


def _record(call: Call) -> Record:
    number = call.rest[1]
    found = _talk(call).get(int(number)) if number.isdigit() else None
    if found is None:
        raise RefusedError(404, "Discussion not found")
    return found


def _event(event: Record) -> Record:
    data = dict(event["data"])
    if "latest" in data:
        data["latest"] = data["latest"] | {"updatedAt": moment(data["latest"]["updatedAt"])}
    author = {"name": event["author"], "type": "user"}
    return {
        "id": event["id"],
        "type": event["type"],
        "author": author,
        "createdAt": moment(event["created"]),
        "data": data,
    }


def _head(call: Call, record: Record) -> Record:
    return {
        "num": record["num"],
        "title": record["title"],
        "author": {"name": record["author"], "type": "user"},
        "createdAt": moment(record["created"]),
        "status": record["status"],
        "repo": {"name": call.repo.name, "type": call.repo.kind},
        "isPullRequest": record["base"] is not None,
        "numComments": sum(event["type"] == "comment" for event in record["events"]),
    }


@on("GET", "discussions")
def discussions(call: Call) -> Answer:
    if len(call.rest) > 1:
        return _details(call)
    rows = _talk(call).all()
    kind, status, author = (call.request.first(name) for name in ("type", "status", "author"))
    if kind in ("discussion", "pull_request"):
        rows = [row for row in rows if (row["base"] is not None) == (kind == "pull_request")]
    if status in ("open", "closed"):
        rows = [row for row in rows if (row["status"] in ("open", "draft")) == (status == "open")]
    if author:
        rows = [row for row in rows if row["author"] == author]
    size = min(50, call.hub.page)
    start = int(call.request.first("p", "0")) * size
    page = [_head(call, row) for row in rows[start : start + size]]
    return as_json({"discussions": page, "count": len(rows), "start": start})


def _details(call: Call) -> Answer:
    record = _record(call)
    found = _head(call, record) | {"events": [_event(event) for event in record["events"]]}
    if record["base"] is not None:
        git = call.repo.git
        head, base = git.ref(f"refs/pr/{record['num']}"), git.ref(record["base"])
        found["changes"] = {"base": record["base"], "mergeCommitId": record["merged"]}
        clash = call.repo.conflicts(base, head) if head and base and record["merged"] is None else []
        found["filesWithConflicts"] = clash
        if call.request.flag("diff") and head and base:
            found["diff"] = _diff(call, base, head)
    return as_json(found)


def _diff(call: Call, base: str, head: str) -> str:
    before, after = call.repo.files(base), call.repo.files(head)
    lines: list[str] = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        lines.append(f"diff --git a/{path} b/{path}\n")
        texts = [
            call.repo.git.read(files[path].oid).decode(errors="replace").splitlines(True) if path in files else []
            for files in (before, after)
        ]
        lines += difflib.unified_diff(texts[0], texts[1], f"a/{path}", f"b/{path}")
    return "".join(lines)


@on("POST", "discussions")
def change(call: Call) -> Answer:
    call.propose()
    if len(call.rest) == 1:
        return _open(call)
    record, what = _record(call), call.rest[2] if len(call.rest) > 2 else ""
    changes = {"comment": _comment, "status": _status, "title": _title, "merge": _merge}
    if what not in changes:
        raise RefusedError(404, f"nothing is known of {what!r}")
    return changes[what](call, record)


def _open(call: Call) -> Answer:
    given, talk, author = call.request.json(), _talk(call), call.user().user
    title = str(given.get("title", ""))
    if not 3 <= len(title) <= 200:
        raise RefusedError(400, "the title must be 3 to 200 characters long")
    with call.repo.lock:
        number, base = talk.next_number(), None
        if given.get("pullRequest"):
            base = "refs/heads/main"
            call.repo.git.set_ref(f"refs/pr/{number}", call.commit("main"))
        talk.open(number, author, title, str(given.get("description") or ""), base, draft=base is not None)
    return as_json({"num": number, "url": f"{call.hub.address}/{call.repo.name}/discussions/{number}"})


def _must_own(call: Call, record: Record) -> None:
    if record["author"] != call.user().user:
        call.write()


def _comment(call: Call, record: Record) -> Answer:
    talk, author = _talk(call), call.user().user
    if len(call.rest) == 3:
        return as_json({"newMessage": _event(talk.comment(record, author, str(call.request.json().get("comment"))))})
    _must_own(call, record)
    text = str(call.request.json().get("content")) if call.rest[-1] == "edit" else None
    found = talk.change_comment(record, call.rest[3], text)
    if found is None:
        raise RefusedError(404, "Comment not found")
    return as_json({"updatedComment": _event(found)})


def _status(call: Call, record: Record) -> Answer:
    _must_own(call, record)
    talk, author, given = _talk(call), call.user().user, call.request.json()
    if given.get("status") not in ("open", "closed") or record["status"] == "merged":
        raise RefusedError(400, f"the status cannot become {given.get('status')!r}")
    if given.get("comment"):
        talk.comment(record, author, str(given["comment"]))
    return as_json({"newStatus": _event(talk.status(record, author, str(given["status"])))})


def _title(call: Call, record: Record) -> Answer:
    _must_own(call, record)
    title = str(call.request.json().get("title"))
    return as_json({"newTitle": _event(_talk(call).rename(record, call.user().user, title))})


def _merge(call: Call, record: Record) -> Answer:
    repo, talk, author, given = call.write(), _talk(call), call.user().user, call.request.json()
    if record["base"] is None or record["status"] in ("merged", "closed"):
        raise RefusedError(400, "only an open pull request can be merged")
    title = f"{record['title']} (#{record['num']})"
    try:
        record["merged"] = repo.merge(record["base"], call.commit(f"refs/pr/{record['num']}"), author, title)
    except MovedOnError as error:
        raise RefusedError(409, f"This pull request has conflicts: {error}") from None
    if given.get("comment"):
        talk.comment(record, author, str(given["comment"]))
    return as_json({"mergeCommitId": record["merged"], "newStatus": _event(talk.status(record, author, "merged"))})
