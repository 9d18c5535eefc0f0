"""Repositories as wholes: made, dropped, moved, set, listed, described."""

from __future__ import annotations

import contextlib
import json
import re
import struct
from collections.abc import Mapping
from typing import Any, Final, cast

import yaml

from loopback.access import PREFIX, Call, alone, may_write, no_repository, on
from loopback.api_files import moment, paged
from loopback.cards import metadata_of
from loopback.store import KINDS, File, Kind, NoFileError, Repository, Settings
from loopback.wire import Answer, RefusedError, as_json, open_body

_NAME: Final = re.compile(r"(?!.*(--|\.\.|\.git$|\.ipynb$))[A-Za-z0-9_][\w.-]{0,95}(?<![-.])")
_BYTES: Final = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def _kind(value: object) -> Kind:
    if value in (None, ""):
        return "model"
    if value not in KINDS:
        raise RefusedError(400, f"{value!r} is no type of repository")
    return value


def _name(call: Call, given: Mapping[str, object]) -> str:
    owner, name = given.get("organization") or call.user().user, str(given.get("name"))
    if not _NAME.fullmatch(name) or len(f"{owner}/{name}") > 96:
        raise RefusedError(400, f"Invalid repo name: {name!r}")
    return f"{owner}/{name}"


def _must_admit(call: Call, namespace: str) -> None:
    token = call.user()
    may_write(token)
    if call.hub.people.role_in(token.user, namespace) not in ("write", "admin"):
        raise RefusedError(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')


def _private(given: Mapping[str, object]) -> bool | None:
    if "visibility" in given:
        return given["visibility"] == "private"
    return cast("bool", given["private"]) if isinstance(given.get("private"), bool) else None


@alone("POST", "api/repos/create")
def create(call: Call) -> Answer:
    given = call.request.json()
    kind, name = _kind(given.get("type")), _name(call, given)
    _must_admit(call, name.split("/")[0])
    url = f"{call.hub.address}/{PREFIX[kind]}{name}"
    with call.hub.store.lock:
        if call.hub.store.get(kind, name) is not None:
            return as_json({"error": f"You already created this {kind} repo", "url": url, "name": name}, 409)
        sdk = str(given["sdk"]) if given.get("sdk") else None
        settings = Settings(private=bool(_private(given)), sdk=sdk)
        call.hub.store.create(kind, name, call.user().user, settings)
    return as_json({"url": url, "name": name, "id": name, "private": settings.private})


def _of_own(call: Call, kind: Kind, name: str) -> Repository:
    found = call.hub.store.get(kind, name)
    token = call.user()
    role = call.hub.people.role_in(token.user, name.split("/")[0])
    if found is None or (found.settings.private and role is None):
        raise no_repository(token)
    may_write(token)
    if role not in ("write", "admin"):
        raise RefusedError(403, f"You don't have the required permissions on {kind}s/{name}.")
    return found


@alone("DELETE", "api/repos/delete")
def delete(call: Call) -> Answer:
    given = call.request.json()
    call.hub.forget(_of_own(call, _kind(given.get("type")), _name(call, given)))
    return as_json({"success": True})


@alone("POST", "api/repos/move")
def move(call: Call) -> Answer:
    given = call.request.json()
    kind, old, new = _kind(given.get("type")), str(given.get("fromRepo")), str(given.get("toRepo"))
    repo = _of_own(call, kind, old)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        raise RefusedError(400, f"Invalid repo name: {new!r}")
    _must_admit(call, new.split("/")[0])
    if call.hub.store.get(kind, new) is not None:
        raise RefusedError(409, f"{new} already exists")
    call.hub.rename(repo, new)
    return as_json({"success": True})


@on("POST", "duplicate")
def duplicate(call: Call) -> Answer:
    repo, given = call.read(), call.request.json()
    name = str(given.get("repository") or f"{call.user().user}/{repo.name.rsplit('/', 1)[-1]}")
    _must_admit(call, name.split("/")[0])
    url = f"{call.hub.address}/{PREFIX[repo.kind]}{name}"
    if call.hub.store.get(repo.kind, name) is not None:
        return as_json({"error": f"{name} already exists", "url": url}, 409)
    copy = call.hub.store.copy(repo, name)
    copy.settings.private = bool(_private(given)) if _private(given) is not None else repo.settings.private
    copy.settings.gated, copy.settings.accepted = False, []
    copy.save_settings()
    return as_json({"url": url})


@on("POST", "super-squash")
def squash(call: Call) -> Answer:
    """One commit in place of a branch's history."""
    repo, branch = call.write(), "/".join(call.rest[1:])
    head = repo.git.ref(f"refs/heads/{branch}")
    if head is None:
        raise RefusedError(400 if branch.startswith("refs/") else 404, f"Invalid rev id: {branch}", "RevisionNotFound")
    title = str(call.request.json().get("message") or "Super-squash")
    repo.git.set_ref(
        f"refs/heads/{branch}", repo.git.write_commit(repo.git.commit(head).tree, (), call.user().user, title)
    )
    return as_json({"success": True})


@alone("GET", "api/settings/repositories")
def storage(call: Call) -> Answer:
    """What the caller's own repositories take."""
    rows = []
    for kind in KINDS:
        for repo in call.hub.store.all(kind):
            head = repo.git.ref("refs/heads/main")
            if repo.owner != call.user().user or head is None:
                continue
            size = sum(file.size for file in repo.files(head).values())
            seen = "private" if repo.settings.private else "public"
            row = {"id": repo.name, "type": kind, "visibility": seen, "storage": size, "storagePercent": 0}
            rows.append(row | {"updatedAt": moment(repo.git.commit(head).date)})
    return paged(call, rows, call.hub.page)


@on("PUT", "settings")
def settings(call: Call) -> Answer:
    repo, given = call.write(), call.request.json()
    private = _private(given)
    if private is not None:
        repo.settings.private = private
    if "gated" in given:
        if given["gated"] not in ("auto", "manual", False):
            raise RefusedError(400, '"gated" must be one of [auto, manual, false]')
        repo.settings.gated = given["gated"]
    repo.save_settings()
    return as_json({"private": repo.settings.private, "gated": repo.settings.gated})


@on("POST", "user-access-request")
def grant(call: Call) -> Answer:
    """Let somebody through the gate, or not any more (``status``: accepted or rejected)."""
    repo, given = call.write(), call.request.json()
    user = str(given.get("user"))
    if call.rest[1:] not in (("grant",), ("handle",)) or user not in call.hub.people.users:
        raise RefusedError(404, f"User {user!r} not found")
    others = [name for name in repo.settings.accepted if name != user]
    accepted = call.rest[1] == "grant" or given.get("status") == "accepted"
    repo.settings.accepted = [*others, user] if accepted else others
    repo.save_settings()
    return as_json({"success": True})


@on("GET", "user-access-request")
def requests(call: Call) -> Answer:
    repo = call.write()
    names = repo.settings.accepted if call.rest[1:] == ("accepted",) else []
    when = moment(repo.settings.created)
    return as_json(
        [{"requestId": name, "user": {"user": name}, "status": "accepted", "timestamp": when} for name in names]
    )


@on("GET", "auth-check")
def auth_check(call: Call) -> Answer:
    if call.rest[1:] == ("write",):
        call.write()
    else:
        call.read()
    return as_json({"success": True})


# What is told of a repository


def _load(repo: Repository, commit: str, path: str) -> object:
    try:
        return json.loads(repo.data(repo.file(commit, path)))
    except (NoFileError, ValueError):
        return None


def card_of(repo: Repository, commit: str) -> dict[str, object]:
    with contextlib.suppress(NoFileError, yaml.YAMLError):
        found = metadata_of(repo.data(repo.file(commit, "README.md")).decode(errors="replace"))
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items()}
    return {}


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [] if value is None else [str(value)]


def _config(repo: Repository, commit: str) -> dict[str, object]:
    found = _load(repo, commit, "config.json")
    names = ("architectures", "model_type", "auto_map", "tokenizer_config", "quantization_config")
    return {name: found[name] for name in names if name in found} if isinstance(found, dict) else {}


def _tags(repo: Repository, commit: str) -> list[str]:
    """What the Hub makes of a card and of the files: the tags that repositories are found by."""
    card, files = card_of(repo, commit), repo.files(commit)
    tags = _texts(card.get("library_name"))
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in files) else []
    tags += _texts(_config(repo, commit).get("model_type"))
    tags += [text for name in ("pipeline_tag", "tags", "language") for text in _texts(card.get(name))]
    for name in ("dataset", "base_model", "license"):
        tags += [f"{name}:{text}" for text in _texts(card.get("datasets" if name == "dataset" else name))]
    return list(dict.fromkeys([*tags, "region:us"]))


def _siblings(call: Call, files: Mapping[str, File], blobs: bool) -> list[dict[str, object]]:
    rows = []
    for path, file in files.items():
        row: dict[str, object] = {"rfilename": path}
        if blobs:
            row |= {"size": file.size, "blobId": file.oid}
            if file.large is not None:
                row["lfs"] = {"sha256": file.large.sha256, "size": file.size, "pointerSize": len(file.large.data())}
        rows.append(row)
    return rows


def _header(repo: Repository, file: File) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file; none of a file that is none."""
    body = repo.lfs.path(file.large.sha256) if file.large else repo.data(file)
    with open_body(body) as data, contextlib.suppress(ValueError, struct.error, OverflowError):
        found = json.loads(data.read(min(struct.unpack("<Q", data.read(8))[0], 1 << 27)))
        return found if isinstance(found, dict) else {}
    return {}


def _safetensors(repo: Repository, files: Mapping[str, File]) -> dict[str, object] | None:
    counts: dict[str, int] = {}
    for path, file in files.items():
        if not path.endswith(".safetensors") or "/" in path:
            continue
        for name, tensor in _header(repo, file).items():
            if name != "__metadata__" and tensor["dtype"] in _BYTES:
                size = (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // _BYTES[tensor["dtype"]]
                counts[tensor["dtype"]] = counts.get(tensor["dtype"], 0) + size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


@on("GET", "safetensors-metadata")
def safetensors_metadata(call: Call) -> Answer:
    """The headers of all shards that an index names."""
    repo, path = call.read(), "/".join(call.rest[1:])
    head = call.commit("main")
    index = _load(repo, head, path)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise RefusedError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=head)
    shards = sorted(set(index["weight_map"].values()))
    headers = {shard: _header(repo, repo.file(head, shard)) for shard in shards}
    return as_json({"index": {"metadata": index.get("metadata")}, "headers": headers})


def describe(call: Call, repo: Repository, commit: str, full: bool = True) -> dict[str, object]:
    """Everything known of a repository at a commit."""
    card, files = card_of(repo, commit), repo.files(commit)
    found: dict[str, object] = {
        "_id": commit[:24],
        "id": repo.name,
        "private": repo.settings.private,
        "tags": _tags(repo, commit),
        "downloads": 0,
        "likes": 0,
        "lastModified": moment(repo.git.commit(commit).date),
        "createdAt": moment(repo.settings.created),
        "author": repo.owner,
        "sha": commit,
        "gated": repo.settings.gated,
        "disabled": False,
        "siblings": _siblings(call, files, call.request.flag("blobs")),
        "usedStorage": sum(file.size for file in files.values()),
    }
    if card:
        found["cardData"] = json.loads(json.dumps(card, default=str))
    if repo.kind == "model":
        found["modelId"] = repo.name
        found["config"] = _config(repo, commit)
        for name in ("pipeline_tag", "library_name", "model-index", "mask_token"):
            if name in card:
                found[name] = card[name]
        if full and (weights := _safetensors(repo, files)):
            found["safetensors"] = weights
    if repo.kind == "space":
        found["sdk"] = repo.settings.sdk
    return found


def info(call: Call) -> Answer:
    """``model_info`` and its like: at a revision, with all of it or with the properties that are asked for."""
    repo = call.see()
    found = describe(call, repo, call.commit("/".join(call.rest[1:]) or "main"))
    wanted = call.request.query.get("expand", []) + call.request.query.get("expand[]", [])
    if wanted:
        found = {name: value for name, value in found.items() if name in ("_id", "id", *wanted)}
    return as_json(found)


on("GET", "")(info)
on("GET", "revision")(info)


def listing(call: Call, kind: Kind) -> Answer:
    """``list_models`` and its like."""
    query = call.request
    search, author = query.first("search").lower(), query.first("author")
    wanted = query.query.get("filter", []) + query.query.get("pipeline_tag", [])
    rows = []
    for repo in call.hub.store.all(kind):
        mine = call.token is not None and call.hub.people.role_in(call.token.user, repo.owner) is not None
        head = repo.git.ref("refs/heads/main")
        if head is None or (repo.settings.private and not mine) or (author and repo.owner != author):
            continue
        if search not in repo.name.lower() or not set(wanted) <= set(_tags(repo, head)):
            continue
        row = describe(call, repo, head, full=False)
        keys = [
            "_id",
            "id",
            "modelId",
            "private",
            "tags",
            "downloads",
            "likes",
            "createdAt",
            "pipeline_tag",
            "library_name",
        ]
        keys += ["author", "sha", "lastModified", "gated", "disabled", "siblings"] if query.flag("full") else []
        keys += [name for name in ("cardData", "config") if query.flag(name)]
        keys += query.query.get("expand", [])
        rows.append({name: value for name, value in row.items() if name in keys})
    if query.first("sort") in ("lastModified", "createdAt"):
        rows.sort(key=lambda row: str(row.get(query.first("sort"))), reverse=True)
    limit = int(query.first("limit", "0") or "0")
    return paged(call, rows[: limit or None], call.hub.page)
