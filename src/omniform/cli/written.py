"""Files that commands write: asked for before anybody waits, and there whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from omniform.core.errors import InputError, RepoError

if TYPE_CHECKING:
    from PIL.Image import Image


def target_of(name: str, endings: Collection[str], *, where: str, what: str) -> Path:
    """The file that is to be written.

    Args:
        name: what the user calls it.
        endings: one of which it has to have, ``".wav"``, in any letters.
        where: the option, for messages.
        what: is written, for messages: ``"a picture"``.

    Raises:
        InputError: it ends in something else.
        RepoError: its folder is not there, or it is one itself.
    """
    target = Path(name).expanduser()
    if target.is_dir():
        raise RepoError("this is a folder, not a file", where=str(target))
    if target.suffix.lower() not in endings:
        raise InputError(
            f"no kind of file for {what}", where=where, expected=f"a file {', '.join(endings)}", found=name
        )
    if not target.parent.is_dir():
        raise RepoError("there is no such folder", where=str(target.parent))
    return target


@contextlib.contextmanager
def replaced(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when it is finished, and leaves nothing behind where it is not.

    Raises:
        RepoError: it cannot be written.
    """
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    except OSError as error:
        raise RepoError("the file cannot be written", where=str(target), found=error.strerror) from None
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except BaseException as error:
        os.unlink(beside)
        if isinstance(error, OSError) and not isinstance(error, RepoError):
            raise RepoError("the file cannot be written", where=str(target), found=error.strerror) from None
        raise


def save_picture(picture: Image, target: Path) -> None:
    """Write a picture, of the kind that the target's ending says.

    Raises:
        RepoError: it cannot be written.
    """
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
    kind = kinds.get(target.suffix.lower(), target.suffix[1:].upper())
    data = io.BytesIO()
    try:
        picture.save(data, kind, **({"quality": 92} if kind in ("JPEG", "WEBP") else {}))
    except (OSError, ValueError) as error:
        raise RepoError("the drawing cannot be written", where=str(target), found=str(error)) from None
    with replaced(target) as file:
        file.write(data.getbuffer())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
