"""Writing files into a folder: beside it first, then swapped in, so that a crash leaves the old one whole."""

from __future__ import annotations

import glob
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omniform.core.errors import InputError, RepoError, brief


def replace_files(
    target: Path, write: Callable[[Path], None], *, stale: Callable[[str], bool] | None = None
) -> list[str]:
    """Write files into ``target`` all at once: after a crash it holds either all of the old or all of the new.

    The new files are written to a folder beside the target, which then takes over (as hard links) the target's other
    files and changes places with it in one step. A folder that cannot change places (a mount point, the working
    directory, one in a folder that may not be written) gets the finished files one by one, each of them at once.

    Args:
        write: writes the new files into the folder it is given.
        stale: names of old files that must not stay beside the new ones.

    Returns:
        The files written, as paths in the folder (``"model.safetensors"``, ``"chat_templates/x.jinja"``).
    """
    target = Path(os.path.realpath(os.path.expanduser(target)))
    if target.exists() and not target.is_dir():
        raise RepoError("this is a file, not a folder", where=str(target))
    movable = not target.exists() or _is_movable(target)
    beside = target.parent if movable else target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(beside, target.name)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-{os.getpid()}-", dir=beside))
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target), found=error.strerror) from error
    try:
        write(staging)
        written = files_in(staging)
        mode = _usual_mode(staging)
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(mode)
            sync(path)
        stale = stale or (lambda name: False)
        if not movable:
            _move_into(target, staging, stale)
        elif target.exists():
            _take_over(target, staging, stale)
            shutil.copymode(target, staging)
            exchange(staging, target)
        else:
            staging.chmod(mode | (mode & 0o444) >> 2)  # who may read a folder may enter it
            staging.rename(target)
        sync(target.parent)
        return written
    except OSError as error:
        raise RepoError(
            "the folder cannot be written", where=str(target), found=error.strerror or str(error)
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_file(target: Path, write: Callable[[Path], None]) -> None:
    """Write one file at once: after a crash there is the old one or the new one, and nothing else.

    Args:
        write: writes it under the path that it is given, beside the target.

    Raises:
        RepoError: the file cannot be written (a full disk, a folder in its place).
    """
    target = Path(os.path.realpath(os.path.expanduser(target)))
    if target.is_dir():
        raise RepoError("this is a folder, not a file", where=str(target))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(target.parent, target.name)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise RepoError("the folder cannot be written", where=str(target.parent), found=error.strerror) from error
    try:
        write(staging / target.name)
        sync(staging / target.name)
        os.replace(staging / target.name, target)
        sync(target.parent)
    except OSError as error:
        found = error.strerror or str(error)
        raise RepoError("the file cannot be written", where=str(target), found=found) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def folder_of(save_directory: object) -> Path:
    """A folder's name as a path.

    Raises:
        InputError: it is no name.
    """
    if not isinstance(save_directory, (str, os.PathLike)) or not os.fspath(save_directory):
        raise InputError("no folder", where="save_directory", expected="a path", found=brief(save_directory))
    return Path(os.path.expanduser(os.fspath(save_directory)))


def files_in(folder: Path) -> list[str]:
    """All files in a folder and below it, as paths in it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@contextmanager
def room(name: str) -> Iterator[Path]:
    """A folder in the system's place for temporary files, gone afterwards.

    What processes that were killed left there under the same name goes with it.

    Raises:
        RepoError: none can be made.
    """
    try:
        beside = Path(tempfile.gettempdir())
        _clean(beside, name)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-{os.getpid()}-", dir=beside))
    except OSError as error:
        raise RepoError("no folder for temporary files can be made", where=name, found=str(error)) from error
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _clean(beside: Path, name: str) -> None:
    """Remove what saves to the same target left behind that were killed."""
    for left in beside.glob(f".{glob.escape(name)}-*-*"):
        found = re.fullmatch(rf"\.{re.escape(name)}-(\d+)-[a-z0-9_]{{8}}", left.name)
        if found and not _is_alive(int(found[1])):
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to somebody else
        return True
    return True


def _is_movable(folder: Path) -> bool:
    # Whoever works inside the folder would be left in one that no longer exists.
    inside = Path.cwd().is_relative_to(folder)
    return not inside and not os.path.ismount(folder) and os.access(folder.parent, os.W_OK | os.X_OK)


def _move_into(target: Path, staging: Path, stale: Callable[[str], bool]) -> None:
    new = {path.name for path in staging.iterdir()}
    for name in sorted(new):
        if _is_merged(target / name, staging / name):
            _move_into(target / name, staging / name, lambda name: False)
            continue
        if (target / name).is_dir():
            shutil.rmtree(target / name)
        os.replace(staging / name, target / name)
    for old in target.iterdir():
        if stale(old.name) and old.name not in new:
            old.unlink()


def _is_merged(old: Path, new: Path) -> bool:
    """Whether a folder's other files stay beside new ones: code is put into folders that are not the saver's own."""
    return old.is_dir() and not old.is_symlink() and new.is_dir() and any(new.rglob("*.py"))


def _take_over(target: Path, staging: Path, stale: Callable[[str], bool]) -> None:
    for old in target.iterdir():
        new = staging / old.name
        if _is_merged(old, new):
            _take_over(old, new, lambda name: False)
        if new.exists() or stale(old.name):
            continue
        if old.is_symlink():
            new.symlink_to(os.readlink(old))
        elif old.is_dir():
            shutil.copytree(old, new, symlinks=True, copy_function=_link)
        else:
            _link(old, new)


def _link(old: str | Path, new: str | Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # not every file system has hard links
        shutil.copy2(old, new)


def exchange(staging: Path, target: Path) -> None:
    if _exchanged_by_kernel(staging, target):
        return
    # Elsewhere than on Linux: two renames. The old folder is whole at every moment, under one name or the other.
    old = target.with_name(f"{staging.name}-old")
    target.rename(old)
    staging.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged_by_kernel(staging: Path, target: Path) -> bool:
    import ctypes

    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of renameat2(2)
    return bool(rename(here, os.fsencode(staging), here, os.fsencode(target), swap) == 0)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _usual_mode(folder: Path) -> int:
    # Asking for the umask means setting it, for all threads; a new file tells as well.
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode
