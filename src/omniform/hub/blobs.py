"""Fetching one large file into the Hub's cache: resumed where it broke off, checked against its digest.

The client itself begins anew whenever a process has ended, and checks sizes only. So what it keeps as
``blobs/<sha256>`` is written here, from ranged requests; the client then finds it complete and points to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omniform.core.errors import RepoError
from omniform.hub import refusals

log = logging.getLogger("omniform")

TRIES = 4
"""So often in a row a connection may break, or be refused, without a byte having come."""

PIECE = 2**20
"""Bytes that are hashed at once where a file is read again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One file's content.

    Attributes:
        url: where it comes from.
        path: where it goes.
        lock: the file that the client locks while it writes there.
        size: its bytes.
        sha256: its digest.
        headers: of the requests.
        name: what it is called to the user.
        where: the same, with the repository, in errors.
    """

    url: str
    path: Path
    lock: Path
    size: int
    sha256: str
    headers: Mapping[str, str]
    name: str
    where: str


def complete(blob: Blob, *, fresh: bool) -> None:
    """Have a file's content in its place; what an earlier attempt has left is gone on with.

    Args:
        fresh: fetch it again though it is there.

    Raises:
        RepoError: what came is not what was announced; nothing of it is kept.
        OSError: the disk is full, or not to be written; nothing is kept.
        Exception: what the client raises, after some tries; what has come is kept.
    """
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    for folder in (blob.path.parent, blob.lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    partial = blob.path.with_name(f"{blob.path.name}.incomplete")
    with WeakFileLock(blob.lock):
        if fresh:
            partial.unlink(missing_ok=True)
        elif blob.path.exists():
            return
        resumed = partial.exists()
        digest = _filled(blob, partial)
        if digest != blob.sha256 and resumed:  # what lay there may have been the fault
            partial.unlink()
            digest = _filled(blob, partial)
        if digest != blob.sha256:
            partial.unlink()
            raise RepoError(
                "the file that came is another than the one that was announced",
                where=blob.where,
                expected=f"sha256 {blob.sha256}",
                found=f"sha256 {digest}",
                remedy="Nothing of it was kept. Try again.",
            )
        os.replace(partial, blob.path)


def _filled(blob: Blob, partial: Path) -> str:
    """Fill the file to its end; its digest."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    filling = _Filling(blob, partial)
    shown = blob.name if len(blob.name) <= 40 else f"...{blob.name[-37:]}"
    # disable=None: shown where somebody looks at a terminal and has not switched bars off.
    with tqdm(  # type: ignore[no-untyped-call]
        total=blob.size, initial=filling.have, desc=shown, unit="B", unit_scale=True, disable=None,
        name="huggingface_hub.http_get",
    ) as bar:  # fmt: skip
        left = TRIES
        while filling.have < blob.size:
            before = filling.have
            problem: Exception | None = None
            try:
                filling.go_on(bar)
            except Exception as error:
                problem = error
                if isinstance(error, OSError) and error.errno in refusals.DISK:
                    partial.unlink(missing_ok=True)
                    raise
            if filling.have >= blob.size:
                break
            # An answer that ends before the file does is no accident of the line: it is not asked for without end.
            left = TRIES if problem is not None and filling.have > before else left - 1
            wait = 0.5 if problem is None else refusals.pause(problem, 2.0 ** (TRIES - left) / 4)
            if problem is not None and (wait is None or left <= 0):
                raise problem
            if left <= 0:
                raise OSError(f"Consistency check failed: {filling.have} of {blob.size} bytes came")
            log.info("%s: broke off after %d of %d bytes; going on there", blob.name, filling.have, blob.size)
            time.sleep(wait or 0.0)
    return filling.digest.hexdigest()


class _Bar(Protocol):
    def update(self, n: float) -> object: ...


class _Filling:
    """A file on its way: how much of it has come, and the digest of that."""

    def __init__(self, blob: Blob, partial: Path) -> None:
        self.blob, self.partial = blob, partial
        self._begin()
        if partial.exists() and partial.stat().st_size <= blob.size:
            with partial.open("rb") as file:
                while piece := file.read(PIECE):
                    self.digest.update(piece)
                    self.have += len(piece)

    def _begin(self) -> None:
        self.have, self.digest = 0, hashlib.sha256()

    def go_on(self, bar: _Bar) -> None:
        """Fetch what is missing, as far as the connection holds."""
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

        headers = dict(self.blob.headers)
        if self.have:
            headers["Range"] = f"bytes={self.have}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.blob.url, headers=headers, timeout=timeout) as answer:
            hf_raise_for_status(answer)
            if answer.status_code != 206 and self.have:  # this server sends the whole file again
                bar.update(-self.have)
                self._begin()
            with self.partial.open("r+b" if self.have else "wb", buffering=0) as file:
                file.seek(self.have)
                for piece in answer.iter_bytes():
                    if self.have + len(piece) > self.blob.size:
                        raise OSError(f"Consistency check failed: more than {self.blob.size} bytes came")
                    written = 0
                    while written < len(piece):
                        written += file.write(piece[written:])
                    self.digest.update(piece)
                    self.have += len(piece)
                    bar.update(len(piece))
