"""Discussions and pull requests of one repository, kept in a file beside it."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from loopback.git import write_whole
from loopback.store import Repository

Record = dict[str, Any]


class Talk:
    """The discussions of a repository; a pull request is one that has a ref, ``refs/pr/N``."""

    def __init__(self, repo: Repository) -> None:
        self.repo = repo
        self._path = repo.folder / "discussions.json"
        self._all: list[Record] = json.loads(self._path.read_text()) if self._path.is_file() else []

    def _save(self) -> None:
        write_whole(self._path, json.dumps(self._all, indent=1).encode())

    def next_number(self) -> int:
        return len(self._all) + 1

    def all(self) -> list[Record]:
        return list(reversed(self._all))

    def get(self, number: int) -> Record | None:
        return self._all[number - 1] if 0 < number <= len(self._all) else None

    def open(self, number: int, author: str, title: str, text: str, base: str | None, draft: bool = False) -> Record:
        """A new discussion, or, where ``base`` names a branch, a pull request whose commits are there already."""
        record: Record = {
            "num": number,
            "title": title,
            "author": author,
            "created": time.time(),
            "status": "draft" if draft else "open",
            "base": base,
            "merged": None,
            "events": [],
        }
        with self.repo.lock:
            self._all.append(record)
            self.comment(record, author, text)
        return record

    def event(self, record: Record, author: str, kind: str, **data: object) -> Record:
        event: Record = {
            "id": uuid.uuid4().hex[:24],
            "type": kind,
            "author": author,
            "created": time.time(),
            "data": data,
        }
        with self.repo.lock:
            record["events"].append(event)
            self._save()
        return event

    def comment(self, record: Record, author: str, text: str) -> Record:
        latest = {"raw": text, "html": text, "updatedAt": time.time(), "author": {"name": author}}
        return self.event(record, author, "comment", edited=False, hidden=False, latest=latest, history=[])

    def change_comment(self, record: Record, comment_id: str, text: str | None) -> Record | None:
        """Another text for a comment; None hides it for good. None comes back where there is no such comment."""
        with self.repo.lock:
            for event in record["events"]:
                if event["id"] == comment_id and event["type"] == "comment":
                    data = event["data"]
                    data["history"].append(dict(data["latest"]))
                    data["latest"]["raw"] = data["latest"]["html"] = text or ""
                    data["edited"], data["hidden"] = text is not None, text is None
                    self._save()
                    found: Record = event
                    return found
        return None

    def status(self, record: Record, author: str, status: str) -> Record:
        record["status"] = status
        return self.event(record, author, "status-change", status=status)

    def rename(self, record: Record, author: str, title: str) -> Record:
        old, record["title"] = record["title"], title
        return self.event(record, author, "title-change", **{"from": old, "to": title})

    def pushed(self, ref: str, author: str, oid: str, title: str) -> None:
        """A commit came to a ref: if it is a pull request's, its discussion says so."""
        number = ref.removeprefix("refs/pr/")
        record = self.get(int(number)) if number != ref and number.isdigit() else None
        if record is not None:
            self.event(record, author, "commit", subject=title, oid=oid)
