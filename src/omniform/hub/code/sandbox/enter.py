"""From a call of ``from_pretrained(..., trust_remote_code="sandbox")`` to what was loaded in a sandbox."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from omniform.core.errors import InputError, RepoError, brief, listed
from omniform.hub.code.closure import Files, Repository
from omniform.hub.code.reference import Reference
from omniform.hub.code.sandbox.jail import jail
from omniform.hub.code.sandbox.remote import Sandboxed, load_in_sandbox
from omniform.hub.files import Source
from omniform.hub.weights import find_weights

log = logging.getLogger("omniform")

_WEIGHTS: Final = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx(_data)?|gguf|ot|tflite|npz|mlmodel|pb|index(\.[\w-]+)?\.json"
    r"|png|jpe?g|gif|webp|bmp|mp[34]|wav|flac|ogg|pdf|zip|tar|gz|7z|parquet|arrow)",
    re.IGNORECASE,
)
"""Files that weigh much, or show and hold examples; of these only the weights that loading takes are fetched."""


def sandboxed(
    auto: str, source: Source, asked: Reference, rest: Mapping[str, object], code_revision: str | None = None
) -> Sandboxed:
    """Load what an Auto class is asked for in a sandbox, from files that are fetched here.

    Args:
        auto: the Auto class's name.
        source: the checkpoint.
        asked: the class that it names.
        rest: the call's keywords that do not say where to look.
        code_revision: which version of the code.

    Raises:
        SandboxError: this machine has none; the code failed in there.
        InputError: a keyword that cannot be passed.
        RepoError: a file cannot be had.
    """
    jail()  # before anything is fetched
    if rest.get("config") is not None:
        raise InputError(
            "a config cannot be passed into a sandbox",
            where="config",
            found=brief(type(rest["config"]).__name__),
            remedy="Change its keys by keyword.",
        )
    if code_revision is not None and source.folder is None:
        raise InputError("the code in a sandbox is the checkpoint's own", where="code_revision", found=code_revision)
    log.warning("%s: %s runs in a sandbox, without network, home folder and disk", source.name, asked)
    given = {name: value for name, value in rest.items() if value is not None}
    if source.subfolder:
        given["subfolder"] = source.subfolder
    folder = source.folder
    readable: list[Path] = []
    found = _files(source, rest, weights=auto.startswith("AutoModel"))
    if folder is not None:
        readable += _linked(folder)
    else:
        folder = _snapshot(found)
        readable.append(folder.parents[1])  # what the snapshot's links lead to
    cache = None
    if asked.repo is not None and asked.repo != source.name:
        cache = _code_elsewhere(source, asked)
        readable.append(cache)
    return load_in_sandbox(auto, folder, given, readable, cache=None if cache is None else cache.parent)


def _linked(folder: Path) -> list[Path]:
    """What links in a folder lead to and may be seen: the files of a repository, if this is one in the Hub's cache.

    Other links are not followed: whoever made the folder may have pointed them at anything of the user's.
    """
    real = Path(os.path.realpath(folder))
    blobs = real.parents[1] / "blobs" if real.parent.name == "snapshots" else None
    shown = [blobs] if blobs is not None and blobs.is_dir() and not blobs.is_symlink() else []
    links = [path for path in real.rglob("*") if path.is_symlink()]
    targets = {path: Path(os.path.realpath(path)) for path in links}
    out = [path for path, to in targets.items() if not any(to.is_relative_to(seen) for seen in (real, *shown))]
    if out:
        names = listed(path.relative_to(real).as_posix() for path in out)
        log.warning("%s: links that lead out of it are not followed into the sandbox: %s", folder, names)
    return shown


def _files(source: Source, rest: Mapping[str, object], *, weights: bool) -> Mapping[str, Path]:
    """What the code may read of a checkpoint, fetched, by path in the repository; whoever watches is told of it."""
    whole = replace(source, subfolder="")
    inside = source.path_of("")
    names = [name for name in whole.listing() if not _WEIGHTS.fullmatch(name) and not name.startswith(".")]
    found = whole.fetch(sorted(name for name in names if name.startswith(inside) or name.endswith(".py")))
    if weights:
        variant, safe = rest.get("variant"), rest.get("use_safetensors")
        find_weights(
            source,
            variant=variant if isinstance(variant, str) else None,
            use_safetensors=safe if isinstance(safe, bool) else None,
        )
    return found


def _snapshot(found: Mapping[str, Path]) -> Path:
    """The folder in the cache in which a repository's files lie."""
    name, path = next(iter(found.items()))
    return path.parents[len(Path(name).parts) - 1]


def _code_elsewhere(source: Source, asked: Reference) -> Path:
    """The folder in the cache of another repository, its code fetched, which a checkpoint names."""
    assert asked.repo is not None
    home = Repository.elsewhere(asked.repo, source)
    files = Files(home)
    files.add(home.entry(asked.file))
    path = home.path(asked.file)
    if path is None:
        raise RepoError("there is no such file of code", where=f"{asked.repo}: {asked.file}")
    return path.parents[len(Path(asked.file).parts) + 1]
