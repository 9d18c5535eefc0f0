"""Large files beside git: kept once under their SHA-256, uploaded whole or in parts, named in git by a pointer.

Formats: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_POINTER: Final = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]+)\n"
)


class UploadError(Exception):
    """What arrived is not what was announced."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What git holds in a large file's place."""

    sha256: str
    size: int

    def data(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @staticmethod
    def read(data: bytes) -> Pointer | None:
        found = _POINTER.fullmatch(data)
        return Pointer(found[1].decode(), int(found[2])) if found else None


class LargeFiles:
    """The large files of one repository."""

    def __init__(self, folder: Path) -> None:
        self.objects, self.incoming = folder / "objects", folder / "incoming"

    def path(self, sha256: str) -> Path:
        return self.objects / sha256[:2] / sha256[2:4] / sha256

    def holds(self, sha256: str) -> bool:
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        return self.path(sha256).stat().st_size

    def all(self) -> Iterator[str]:
        yield from sorted(path.name for path in self.objects.rglob("*") if path.is_file())

    def begin(self) -> str:
        """The name of an upload in parts."""
        upload = uuid.uuid4().hex
        (self.incoming / upload).mkdir(parents=True)
        return upload

    def has_upload(self, upload: str) -> bool:
        return re.fullmatch(r"[0-9a-f]{32}", upload) is not None and (self.incoming / upload).is_dir()

    def put_part(self, upload: str, number: int, pieces: Iterable[bytes]) -> str:
        """Keep one part; its ETag."""
        path, digest = self.incoming / upload / f"{number:06}", hashlib.md5()
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def complete(self, upload: str, sha256: str, etags: Sequence[str]) -> None:
        """Join the parts into the file of that digest.

        Raises:
            UploadError: parts are missing, changed, or are not that file's.
        """
        folder = self.incoming / upload
        parts = sorted(path for path in folder.iterdir() if path.suffix == "" and path.name.isdigit())
        found = [hashlib.md5(path.read_bytes()).hexdigest() for path in parts]
        if found != [etag.strip('"') for etag in etags]:
            raise UploadError(f"{len(etags)} parts were named and {len(found)} arrived, or they are others")
        whole = folder / "whole"
        digest = hashlib.sha256()
        with whole.open("wb") as file:
            for path in parts:
                data = path.read_bytes()
                digest.update(data)
                file.write(data)
        if digest.hexdigest() != sha256:
            whole.unlink()
            raise UploadError(f"the parts make a file of SHA-256 {digest.hexdigest()}, not {sha256}")
        self._keep(whole, sha256)
        shutil.rmtree(folder)

    def put(self, sha256: str, pieces: Iterable[bytes]) -> None:
        """Keep a file that arrives as a whole.

        Raises:
            UploadError: it has another digest.
        """
        self.incoming.mkdir(parents=True, exist_ok=True)
        part, digest = self.incoming / f"{uuid.uuid4().hex}.single", hashlib.sha256()
        try:
            with part.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256:
                raise UploadError(f"a file of SHA-256 {digest.hexdigest()} arrived, not {sha256}")
            self._keep(part, sha256)
        finally:
            part.unlink(missing_ok=True)

    def _keep(self, path: Path, sha256: str) -> None:
        self.path(sha256).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.path(sha256))

    def adopt(self, data: bytes) -> Pointer:
        """Keep a file that was not uploaded but made here."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.holds(sha256):
            self.put(sha256, [data])
        return Pointer(sha256, len(data))
