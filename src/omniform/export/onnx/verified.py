"""Digests of an exported folder's files, made once for as long as a file stays what it is.

A file that was hashed is noted with its size, its times and its inode, in the user's cache folder. As long as those are
the same it is taken for the same. Who can set them back can also write a certificate: this finds what was damaged,
exchanged or mixed up, and keeps nobody out.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast

from omniform.export.onnx.certificates import digest

SETTLED: Final = 2.0
"""Seconds that a file must have been left alone: clocks of file systems are coarse, and a write may go unseen."""

MOST: Final = 2000
"""Files that are noted; of more, the latest."""

VERIFIED: Final = "verified.json"


def noted_in() -> Path:
    """The file in which is noted what was hashed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "omniform" / VERIFIED


class Digests:
    """SHA-256 of files, by what is known of them; :meth:`keep` notes what is new."""

    def __init__(self) -> None:
        self._known = _read(noted_in())
        self._new: dict[str, list[object]] = {}

    def of(self, path: Path) -> str:
        """A file's digest."""
        name, facts = str(path.resolve()), _facts(path)
        known = self._known.get(name)
        if known is not None and known[:-1] == facts:
            return str(known[-1])
        found = digest(path)
        after = _facts(path)
        if after == facts and time.time() - cast(int, facts[1]) / 1e9 > SETTLED:
            self._new[name] = [*facts, found]
        return found

    def keep(self) -> None:
        """Note what was hashed; where nothing can be written it is hashed again the next time."""
        if not self._new:
            return
        path = noted_in()
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole = {**_read(path), **self._new}
            kept = dict(list(whole.items())[-MOST:])
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=VERIFIED)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            Path(name).replace(path)
        self._new.clear()


def _facts(path: Path) -> list[object]:
    told = path.stat()
    return [told.st_size, max(told.st_mtime_ns, told.st_ctime_ns), told.st_mtime_ns, told.st_ino, told.st_dev]


def _read(path: Path) -> dict[str, list[object]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = cast("Mapping[str, object]", found if isinstance(found, dict) else {})
    return {name: entry for name, entry in known.items() if isinstance(entry, list) and len(entry) == 6}
