"""Which numbers of which file a tensor is, told without reading them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from torch import Tensor

from omniform.weights.pages import span_of, written

PAGE = os.sysconf("SC_PAGESIZE")


def origin_of(source: Tensor) -> str | None:
    """The file, the place in it, shape and dtype; None where it is no file's, or was written to since it was mapped.

    A file of the Hub's cache goes by the digest that it is named by, others by path, inode and time of change. Linux
    tells what is mapped; elsewhere nothing is.
    """
    if source.device.type != "cpu" or not source.is_contiguous() or not source.numel():
        return None
    begin, nbytes = span_of(source)
    first, behind = begin // PAGE * PAGE, -(-(begin + nbytes) // PAGE) * PAGE
    try:
        found = _mapping(begin, begin + nbytes)
        if found is None or written([(first, behind - first)]):
            return None
        path, offset = found
        now = os.stat(path)
    except OSError:
        return None
    name = Path(path).name
    file = name if re.fullmatch("[0-9a-f]{64}", name) else f"{path} {now.st_ino} {now.st_mtime_ns}"
    return f"{file} {now.st_size} {offset} {tuple(source.shape)} {source.dtype}"


def _mapping(begin: int, end: int) -> tuple[str, int] | None:
    """The file that some memory is mapped from, and the place in it; None where it is not one file's."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            first, last = (int(x, 16) for x in words[0].split("-"))
            if first <= begin < last:
                path = words[5].strip() if len(words) > 5 else ""
                if end > last or not path.startswith("/") or path.endswith(" (deleted)"):
                    return None
                return path, int(words[2], 16) + begin - first
    return None
