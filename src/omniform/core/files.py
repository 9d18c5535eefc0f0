"""Files that are whole at every moment: written beside their place, then moved there in one step."""

from __future__ import annotations

import os
from pathlib import Path

from omniform.core.errors import RepoError


def write_text(path: Path, text: str, what: str = "the file") -> None:
    """Write a text file, UTF-8 with its line ends as they stand, so that whoever reads never finds half of it.

    Args:
        what: is written, for the error.

    Raises:
        RepoError: it cannot be written; what stood there before still does.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            staging.write_bytes(text.encode())
            os.replace(staging, path)
        finally:
            staging.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        found = error.strerror if isinstance(error, OSError) else error
        raise RepoError(f"{what} cannot be written", where=str(path), found=found) from error
